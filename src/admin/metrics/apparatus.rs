//! Metrics that one apparatus reports of itself, and of the volumes and disks that it serves.

use super::text::{Family, Labels, Text, counter, gauge, histogram, seconds};
use crate::rpc::message::{ApparatusMetrics, IoFigures, Latency};

/// Number of buckets, which end at 2^0 to 2^25 microseconds (34 s). They are the same from the first sample on, so that their rates can
/// be compared.
const BOUNDS: u32 = 26;

/// Adds the metrics of one apparatus.
pub fn of_apparatus(text: &mut Text, figures: &ApparatusMetrics) {
    let name = figures.name.as_str();
    now(text, figures);
    memory(text, figures);
    so_far(text, figures);
    for (volume, io) in &figures.volumes {
        let labels = [("apparatus", name), ("volume", volume.as_str())];
        let buckets = if figures.volumes.len() <= ApparatusMetrics::ALL_VOLUMES {
            BOUNDS
        } else {
            0
        };
        of_io(text, &VOLUME, &labels, io, buckets);
        let parked = gauge(
            "apparatus_volume_requests_parked",
            "Requests to a volume that wait for a hold or a fence to end.",
        );
        let count = figures.parked_by_volume.get(volume);
        text.add(parked, &labels, count.copied().unwrap_or(0));
        let waiting = gauge(
            "apparatus_volume_requests_waiting",
            "Requests to a volume that have been served for two seconds and are not done.",
        );
        let count = figures.waiting.get(volume).map(|waiting| waiting.requests);
        text.add(waiting, &labels, count.unwrap_or(0));
    }
    for (disk, io) in &figures.disks {
        of_io(text, &DISK, &[("apparatus", name), ("disk", disk)], io, BOUNDS);
    }
}

fn now(text: &mut Text, figures: &ApparatusMetrics) {
    let gauges = [
        (
            gauge("apparatus_generation", "Number of the table that it serves by."),
            figures.generation.0,
        ),
        (
            gauge(
                "apparatus_oldest_generation",
                "Oldest table that a request in flight uses.",
            ),
            figures.oldest.0,
        ),
        (
            gauge("apparatus_term", "Highest term that it has obeyed."),
            figures.term.0,
        ),
        (
            gauge(
                "apparatus_incarnation",
                "Number of its life: one more after each fence and each start.",
            ),
            figures.incarnation.0,
        ),
        (
            gauge("apparatus_requests_in_flight", "Requests being served."),
            figures.in_flight,
        ),
        (
            gauge(
                "apparatus_requests_parked",
                "Requests that wait for a hold or a fence to end.",
            ),
            figures.parked,
        ),
        (
            gauge("apparatus_parked_bytes", "Write data of requests that wait."),
            figures.parked_bytes,
        ),
        (gauge("apparatus_holds", "Holds in place."), figures.holds),
        (
            gauge("apparatus_threads", "Threads that read host requests."),
            figures.threads,
        ),
        (
            gauge("apparatus_jobs_running", "Jobs that it works on."),
            figures.jobs.len() as u64,
        ),
    ];
    let labels = [("apparatus", figures.name.as_str())];
    gauges
        .into_iter()
        .for_each(|(family, value)| text.add(family, &labels, value));
}

fn memory(text: &mut Text, figures: &ApparatusMetrics) {
    let gauges = [
        (
            gauge(
                "apparatus_memory_needed_bytes",
                "Memory that it may need by its limits.",
            ),
            figures.memory.needs,
        ),
        (
            gauge(
                "apparatus_memory_limit_bytes",
                "Memory limit of its cgroup, or the memory of the machine.",
            ),
            figures.memory.most,
        ),
        (
            gauge(
                "apparatus_memory_is_shared",
                "Whether others may fill the memory that it is limited to.",
            ),
            figures.memory.is_shared().into(),
        ),
    ];
    let labels = [("apparatus", figures.name.as_str())];
    gauges
        .into_iter()
        .for_each(|(family, value)| text.add(family, &labels, value));
}

fn so_far(text: &mut Text, figures: &ApparatusMetrics) {
    let labels = [("apparatus", figures.name.as_str())];
    let parked = counter(
        "apparatus_requests_parked_total",
        "Requests that have waited for a hold or a fence to end.",
    );
    text.add(parked, &labels, figures.ever_parked);
    let longest = gauge(
        "apparatus_longest_parked_seconds",
        "Longest that a request has waited for a hold or a fence to end.",
    );
    text.add(longest, &labels, seconds(figures.longest_parked_us));
    let uptime = gauge("apparatus_uptime_seconds", "For how long it has run.");
    text.add(uptime, &labels, seconds(figures.uptime_us));
}

/// The metric families for I/O on volumes or on disks.
struct IoFamilies {
    reads: Family,
    read_bytes: Family,
    writes: Family,
    written_bytes: Family,
    flushes: Family,
    errors: Family,
    duration: Family,
}

const VOLUME: IoFamilies = IoFamilies {
    reads: counter("apparatus_volume_reads_total", "Reads of a volume finished."),
    read_bytes: counter("apparatus_volume_read_bytes_total", "Bytes read from a volume."),
    writes: counter(
        "apparatus_volume_writes_total",
        "Writes, punches and zeroings of a volume finished.",
    ),
    written_bytes: counter(
        "apparatus_volume_written_bytes_total",
        "Bytes written to a volume.",
    ),
    flushes: counter("apparatus_volume_flushes_total", "Flushes of a volume finished."),
    errors: counter(
        "apparatus_volume_errors_total",
        "Requests to a volume that ended in an I/O error.",
    ),
    duration: histogram(
        "apparatus_volume_request_duration_seconds",
        "How long requests to a volume took, by operation.",
    ),
};

const DISK: IoFamilies = IoFamilies {
    reads: counter("apparatus_disk_reads_total", "Reads of a disk finished."),
    read_bytes: counter("apparatus_disk_read_bytes_total", "Bytes read from a disk."),
    writes: counter(
        "apparatus_disk_writes_total",
        "Writes, punches and zeroings of a disk finished.",
    ),
    written_bytes: counter("apparatus_disk_written_bytes_total", "Bytes written to a disk."),
    flushes: counter("apparatus_disk_flushes_total", "Flushes of a disk finished."),
    errors: counter("apparatus_disk_errors_total", "I/O errors of a disk."),
    duration: histogram(
        "apparatus_disk_request_duration_seconds",
        "How long requests to a disk took, by operation.",
    ),
};

/// Adds I/O metrics, with `buckets` buckets of each histogram and the one that counts all.
fn of_io(text: &mut Text, families: &IoFamilies, labels: Labels<'_>, io: &IoFigures, buckets: u32) {
    text.add(families.reads, labels, io.reads);
    text.add(families.read_bytes, labels, io.read_bytes);
    text.add(families.writes, labels, io.writes);
    text.add(families.written_bytes, labels, io.written_bytes);
    text.add(families.flushes, labels, io.flushes);
    text.add(families.errors, labels, io.errors);
    for (operation, took) in [
        ("read", &io.read_latency),
        ("write", &io.write_latency),
        ("flush", &io.flush_latency),
    ] {
        let labels: Vec<_> = labels.iter().copied().chain([("operation", operation)]).collect();
        latency(text, families.duration, &labels, took, buckets);
    }
}

/// Adds a histogram. Bucket i counts requests below 2^i microseconds; Prometheus requires each bucket to count all up to its bound.
fn latency(text: &mut Text, family: Family, labels: Labels<'_>, took: &Latency, buckets: u32) {
    let mut counts = took.counts.iter();
    let mut below: u64 = 0;
    for power in 0..buckets {
        below = below.saturating_add(counts.next().copied().unwrap_or(0));
        let bound = seconds(1 << power);
        let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
        text.sample(family, "_bucket", &labels, below);
    }
    let all = counts.fold(below, |sum, count| sum.saturating_add(*count));
    let infinite: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
    text.sample(family, "_bucket", &infinite, all);
    text.sample(family, "_sum", labels, seconds(took.sum_us));
    text.sample(family, "_count", labels, all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_writes_and_flushes_are_distinguished() {
        let mut text = Text::default();
        let took = |sum_us| Latency {
            sum_us,
            counts: vec![0, 1],
        };
        let io = IoFigures {
            read_latency: took(1),
            write_latency: took(2),
            flush_latency: took(3),
            ..IoFigures::default()
        };
        of_io(&mut text, &DISK, &[("disk", "d")], &io, BOUNDS);
        let output = text.finish();
        for (operation, seconds) in [("read", "0.000001"), ("write", "0.000002"), ("flush", "0.000003")] {
            let labels = format!("{{disk=\"d\",operation=\"{operation}\"");
            for line in [
                format!("_duration_seconds_sum{labels}}} {seconds}\n"),
                format!("_duration_seconds_bucket{labels},le=\"0.000002\"}} 1\n"),
            ] {
                assert!(output.contains(&line), "{line} in {output}");
            }
        }
        assert_eq!(
            output
                .matches("# TYPE apparatus_disk_request_duration_seconds")
                .count(),
            1
        );
    }

    #[test]
    fn buckets_add_up() {
        let mut text = Text::default();
        let mut counts = vec![0; 30];
        (counts[1], counts[2], counts[29]) = (2, 3, 7);
        let took = Latency { counts, sum_us: 12 };
        latency(&mut text, VOLUME.duration, &[("volume", "v")], &took, BOUNDS);
        let output = text.finish();
        for line in [
            "_bucket{volume=\"v\",le=\"0.000001\"} 0\n",
            "_bucket{volume=\"v\",le=\"0.000002\"} 2\n",
            "_bucket{volume=\"v\",le=\"0.000004\"} 5\n",
            "_bucket{volume=\"v\",le=\"33.554432\"} 5\n",
            "_bucket{volume=\"v\",le=\"+Inf\"} 12\n",
            "_sum{volume=\"v\"} 0.000012\n",
            "_count{volume=\"v\"} 12\n",
        ] {
            assert!(output.contains(line), "{line} in {output}");
        }
    }

    #[test]
    fn of_many_volumes_histograms_have_no_more_than_their_sums() {
        let io = IoFigures {
            reads: 2,
            read_latency: Latency {
                sum_us: 3,
                counts: vec![0, 2],
            },
            ..IoFigures::default()
        };
        let output = |count: usize| {
            let volumes = (0..count)
                .map(|number| (format!("v{number}"), io.clone()))
                .collect();
            let figures = ApparatusMetrics {
                name: "a".into(),
                volumes,
                ..ApparatusMetrics::default()
            };
            let mut text = Text::default();
            of_apparatus(&mut text, &figures);
            text.finish()
        };
        let few = output(ApparatusMetrics::ALL_VOLUMES);
        let many = output(ApparatusMetrics::ALL_VOLUMES + 1);
        assert!(many.len() < few.len() / 3, "{} of {}", many.len(), few.len());
        let labels = "apparatus=\"a\",volume=\"v7\",operation=\"read\"";
        for line in [
            format!("_bucket{{{labels},le=\"+Inf\"}} 2\n"),
            format!("_sum{{{labels}}} 0.000003\n"),
            format!("_count{{{labels}}} 2\n"),
        ] {
            assert!(many.contains(&line) && few.contains(&line), "{line}");
        }
        assert!(!many.contains("le=\"0.0"));
    }
}
