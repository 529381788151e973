//! Figures as Prometheus text: of a whole pool, or of one apparatus that serves its own.

use super::apparatus::{self, State};
use super::job;
use super::view::PoolView;
use crate::error::Result;
use crate::pool::dir::PoolDir;
use crate::store::{MemberState, Store};
use crate::wire::message::{Figures, IoFigures};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// What Prometheus has to know of a kind of figure before its first sample.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: "gauge",
        help,
    }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: "counter",
        help,
    }
}

/// Labels of a sample.
type Labels<'a> = &'a [(&'static str, &'a str)];

/// Samples by family: the text format wants those of a family together.
#[derive(Default)]
pub struct Text {
    families: BTreeMap<&'static str, (Family, String)>,
}

impl Text {
    fn add(&mut self, family: Family, labels: Labels<'_>, value: impl Display) {
        self.sample(family, "", labels, value);
    }

    fn sample(&mut self, family: Family, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let (_, samples) = self
            .families
            .entry(family.name)
            .or_insert((family, String::new()));
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(samples, "{}{suffix}{labels} {value}", family.name);
    }

    /// All of it.
    #[must_use]
    pub fn finish(&self) -> String {
        let mut text = String::new();
        for (family, samples) in self.families.values() {
            let Family { name, kind, help } = family;
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        text
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Microseconds as seconds, exactly, whatever the locale.
fn seconds(micros: u64) -> String {
    let (whole, part) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{whole}.{part:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The pool, its disks, volumes and jobs, and each apparatus with what it tells of itself.
///
/// # Errors
/// The store's.
pub fn of_pool(pool: &PoolDir, store: &mut dyn Store) -> Result<Text> {
    let mut text = Text::default();
    let view = PoolView::load(store)?;
    header(&mut text, &view);
    view.disks.iter().for_each(|disk| of_disk(&mut text, &view, disk));
    for volume in &view.volumes {
        let labels = [("volume", volume.record.name.as_str())];
        text.add(
            gauge("apparatus_volume_size_bytes", "Size of a volume."),
            &labels,
            volume.record.size,
        );
        let segments = gauge("apparatus_volume_segments", "Segments of a volume.");
        text.add(segments, &labels, volume.segments.len());
    }
    for view in apparatus::list(pool, store)? {
        of_member(&mut text, &view);
    }
    jobs(&mut text, store)?;
    let unfinished = gauge(
        "apparatus_changes_unfinished",
        "Changes that are prepared or not yet hardened.",
    );
    text.add(unfinished, &[], store.unfinished()?.len());
    Ok(text)
}

fn header(text: &mut Text, view: &PoolView) {
    let uuid = view.header.uuid.to_string();
    text.add(gauge("apparatus_pool_info", "The pool."), &[("pool", &uuid)], 1);
    let generation = gauge("apparatus_pool_generation", "Number of the current table.");
    text.add(generation, &[], view.header.generation);
    text.add(
        gauge("apparatus_pool_layout", "Hardened changes of the layout."),
        &[],
        view.header.layout,
    );
    text.add(
        counter("apparatus_pool_term_total", "Arbitrations so far."),
        &[],
        view.header.term,
    );
    let extent = gauge("apparatus_pool_extent_bytes", "Unit of allocation.");
    text.add(extent, &[], view.header.extent_size.bytes());
}

fn of_disk(text: &mut Text, view: &PoolView, disk: &super::view::DiskView) {
    let labels = [("disk", disk.record.name.as_str())];
    let usage = disk.usage;
    text.add(
        gauge("apparatus_disk_size_bytes", "Usable size of a disk."),
        &labels,
        usage.size,
    );
    text.add(
        gauge("apparatus_disk_used_bytes", "Bytes of volumes and of the label."),
        &labels,
        usage.used,
    );
    let reserved = gauge(
        "apparatus_disk_reserved_bytes",
        "Bytes kept for changes and jobs.",
    );
    text.add(reserved, &labels, usage.reserved);
    let quarantined = gauge(
        "apparatus_disk_quarantined_bytes",
        "Freed bytes that some apparatus may still use.",
    );
    text.add(quarantined, &labels, usage.quarantined);
    text.add(
        gauge("apparatus_disk_free_bytes", "Bytes that nobody has."),
        &labels,
        usage.free,
    );
    let allocate = gauge(
        "apparatus_disk_allocate",
        "1 if new volumes may be placed on the disk.",
    );
    text.add(allocate, &labels, u8::from(disk.record.allocate));
    let sound = super::disk::fault(&disk.record, &view.header).is_none();
    text.add(
        gauge("apparatus_disk_up", "1 if the disk opens and its label is right."),
        &labels,
        u8::from(sound),
    );
}

fn of_member(text: &mut Text, view: &apparatus::View) {
    let name = view.member.name.as_str();
    let labels = [("apparatus", name)];
    let up = gauge("apparatus_up", "1 if the apparatus serves.");
    text.add(up, &labels, u8::from(view.state == State::Serving));
    let fenced = gauge(
        "apparatus_fenced",
        "1 if the apparatus is out of the control range.",
    );
    text.add(
        fenced,
        &labels,
        u8::from(view.member.state == MemberState::Fenced),
    );
    if let Some(figures) = &view.figures {
        of_apparatus(text, figures);
    }
}

fn jobs(text: &mut Text, store: &mut dyn Store) -> Result<()> {
    for view in job::list(store)?
        .iter()
        .filter(|view| job::wants_work(view.record.state))
    {
        let id = view.record.id.to_string();
        let labels = [("job", id.as_str()), ("subject", view.subject.as_str())];
        text.add(
            gauge("apparatus_job_done_bytes", "Bytes that a job has moved."),
            &labels,
            view.done,
        );
        text.add(
            gauge("apparatus_job_total_bytes", "Bytes that a job has to move."),
            &labels,
            view.total,
        );
        let copied = counter("apparatus_job_copied_bytes_total", "Bytes that a job has copied.");
        text.add(copied, &labels, view.record.copied);
        let held = counter(
            "apparatus_job_held_requests_total",
            "Host requests that a job has held.",
        );
        text.add(held, &labels, view.record.held);
        let longest = gauge("apparatus_job_longest_hold_seconds", "Longest hold of a job.");
        text.add(longest, &labels, seconds(view.record.longest_hold_us));
    }
    Ok(())
}

/// One apparatus, from what it tells of itself.
pub fn of_apparatus(text: &mut Text, figures: &Figures) {
    let labels = [("apparatus", figures.name.as_str())];
    let mut now = |name, help, value: u64| text.add(gauge(name, help), &labels, value);
    now(
        "apparatus_generation",
        "Number of the table that it serves by.",
        figures.generation.0,
    );
    now(
        "apparatus_oldest_generation",
        "Oldest table that a request in flight uses.",
        figures.oldest.0,
    );
    now(
        "apparatus_term",
        "Highest term that it has obeyed.",
        figures.term.0,
    );
    now(
        "apparatus_incarnation",
        "Number of its life.",
        figures.incarnation.0,
    );
    now(
        "apparatus_requests_in_flight",
        "Requests being served.",
        figures.in_flight,
    );
    now(
        "apparatus_requests_held",
        "Requests that wait for a hold to end.",
        figures.parked,
    );
    now(
        "apparatus_held_bytes",
        "Write data of requests that wait for a hold to end.",
        figures.parked_bytes,
    );
    now("apparatus_holds", "Holds in place.", figures.holds);
    now(
        "apparatus_threads",
        "Threads that read host requests.",
        figures.threads,
    );
    let held = counter(
        "apparatus_requests_held_total",
        "Requests that have waited for a hold to end.",
    );
    text.add(held, &labels, figures.ever_parked);
    let longest = gauge(
        "apparatus_longest_held_seconds",
        "Longest that a request has waited for a hold.",
    );
    text.add(longest, &labels, seconds(figures.longest_parked_us));
    text.add(
        gauge("apparatus_uptime_seconds", "Since when it has run."),
        &labels,
        seconds(figures.uptime_us),
    );
    for (name, io) in &figures.volumes {
        of_io(
            text,
            &VOLUME,
            &[("apparatus", &figures.name), ("volume", name)],
            io,
        );
    }
    for (name, io) in &figures.disks {
        of_io(text, &DISK, &[("apparatus", &figures.name), ("disk", name)], io);
    }
}

/// The families of I/O on one sort of thing.
struct IoFamilies {
    reads: Family,
    read_bytes: Family,
    writes: Family,
    written_bytes: Family,
    flushes: Family,
    errors: Family,
    duration: Family,
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: "histogram",
        help,
    }
}

const VOLUME: IoFamilies = IoFamilies {
    reads: counter("apparatus_volume_reads_total", "Reads finished."),
    read_bytes: counter("apparatus_volume_read_bytes_total", "Bytes read."),
    writes: counter(
        "apparatus_volume_writes_total",
        "Writes, punches and zeroings finished.",
    ),
    written_bytes: counter("apparatus_volume_written_bytes_total", "Bytes written."),
    flushes: counter("apparatus_volume_flushes_total", "Flushes finished."),
    errors: counter(
        "apparatus_volume_errors_total",
        "Requests that ended in an I/O error.",
    ),
    duration: histogram(
        "apparatus_volume_request_duration_seconds",
        "How long requests took.",
    ),
};

const DISK: IoFamilies = IoFamilies {
    reads: counter("apparatus_disk_reads_total", "Reads finished."),
    read_bytes: counter("apparatus_disk_read_bytes_total", "Bytes read."),
    writes: counter(
        "apparatus_disk_writes_total",
        "Writes, punches and zeroings finished.",
    ),
    written_bytes: counter("apparatus_disk_written_bytes_total", "Bytes written."),
    flushes: counter("apparatus_disk_flushes_total", "Flushes finished."),
    errors: counter(
        "apparatus_disk_errors_total",
        "Requests that ended in an I/O error.",
    ),
    duration: histogram(
        "apparatus_disk_request_duration_seconds",
        "How long requests took.",
    ),
};

fn of_io(text: &mut Text, families: &IoFamilies, labels: Labels<'_>, io: &IoFigures) {
    text.add(families.reads, labels, io.reads);
    text.add(families.read_bytes, labels, io.read_bytes);
    text.add(families.writes, labels, io.writes);
    text.add(families.written_bytes, labels, io.written_bytes);
    text.add(families.flushes, labels, io.flushes);
    text.add(families.errors, labels, io.errors);
    latency(text, families.duration, labels, io);
}

/// Bucket i counts requests below 2^i microseconds; Prometheus wants each bucket to count all below its bound.
fn latency(text: &mut Text, family: Family, labels: Labels<'_>, io: &IoFigures) {
    let mut below: u64 = 0;
    for (bucket, count) in io.latency.iter().enumerate() {
        below = below.saturating_add(*count);
        let bound = seconds(
            1_u64
                .checked_shl(u32::try_from(bucket).unwrap_or(u32::MAX))
                .unwrap_or(u64::MAX),
        );
        let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
        text.sample(family, "_bucket", &labels, below);
    }
    let all: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
    text.sample(family, "_bucket", &all, below);
    text.sample(family, "_sum", labels, seconds(io.latency_us));
    text.sample(family, "_count", labels, below);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        for (micros, text) in [
            (0, "0"),
            (1, "0.000001"),
            (1_500_000, "1.5"),
            (10_000_000, "10"),
            (4096, "0.004096"),
        ] {
            assert_eq!(seconds(micros), text);
        }
    }

    #[test]
    fn a_family_is_told_once_with_all_its_samples() {
        let mut text = Text::default();
        let family = gauge("a_bytes", "Help.");
        text.add(family, &[("disk", "x\"y\\z\n")], 1);
        text.add(gauge("b", "Other."), &[], 2);
        text.add(family, &[("disk", "d2")], 3);
        let expected = "# HELP a_bytes Help.\n# TYPE a_bytes gauge\n\
            a_bytes{disk=\"x\\\"y\\\\z\\n\"} 1\na_bytes{disk=\"d2\"} 3\n# HELP b Other.\n# TYPE b gauge\nb 2\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn buckets_add_up() {
        let mut text = Text::default();
        let io = IoFigures {
            latency: vec![0, 2, 3],
            latency_us: 12,
            ..IoFigures::default()
        };
        latency(&mut text, VOLUME.duration, &[("volume", "v")], &io);
        let told = text.finish();
        for line in [
            "_bucket{volume=\"v\",le=\"0.000001\"} 0",
            "_bucket{volume=\"v\",le=\"0.000002\"} 2",
            "_bucket{volume=\"v\",le=\"0.000004\"} 5",
            "_bucket{volume=\"v\",le=\"+Inf\"} 5",
            "_sum{volume=\"v\"} 0.000012",
            "_count{volume=\"v\"} 5",
        ] {
            assert!(told.contains(line), "{line} in {told}");
        }
    }
}
