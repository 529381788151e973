//! The metrics for Prometheus: of a whole pool, and over HTTP of an apparatus that serves. They are read by a
//! parser of the format, checked against its naming conventions, and checked with promtool where that is installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use apparatus::admin::metrics;
use prometheus_parse::{Sample, Scrape, Value};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Daemon, TestPool};

const EXTENT: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(100);

/// A pool with an apparatus `x` that serves metrics, and has written 3 times 4096 bytes to volume `v`.
fn exporting() -> (TestPool, Daemon, SocketAddr) {
    let pool = TestPool::new(EXTENT);
    let disk = pool.add_disk("d", 40).id;
    pool.add_volume("v", 8 * EXTENT, &[(disk, 1, 8)]);
    let daemon = pool.start_with("x", &["--metrics", "127.0.0.1:0"]);
    let log_text = daemon.log_text();
    let address = log_text.split("metrics at http://").nth(1).expect(&log_text);
    let address = address.split('/').next().unwrap().parse().unwrap();
    let file = daemon.open("v");
    for at in 0..3 {
        file.write_all_at(&[7; 4096], at * EXTENT).unwrap();
    }
    file.sync_all().unwrap();
    // A request is counted once it has been answered.
    let flushed = "apparatus_volume_flushes_total{apparatus=\"x\",volume=\"v\"} 1\n";
    let mut texts = std::iter::repeat_with(|| get(address, "/metrics")).take(1000);
    assert!(
        texts.any(|text| text.contains(flushed)),
        "the flush is not counted"
    );
    (pool, daemon, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> String {
    let (head, body) = ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    );
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}\n{body}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(
        head.contains(&format!("Content-Length: {}", body.len())),
        "{head}"
    );
    body
}

/// Parses all metrics, and checks them against the conventions.
fn parse(text: &str) -> Vec<Sample> {
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    let read: usize = scrape
        .samples
        .iter()
        .map(|sample| match &sample.value {
            Value::Histogram(buckets) => buckets.len(),
            _ => 1,
        })
        .sum();
    assert_eq!(read, samples, "a line was not understood:\n{text}");
    let kinds: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    for (name, kind) in &kinds {
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(
            name.starts_with("apparatus_") && scrape.docs.contains_key(*name),
            "{name}"
        );
        let small = [
            "ms",
            "us",
            "milliseconds",
            "microseconds",
            "kib",
            "mib",
            "percent",
        ];
        let in_base_unit = name.split('_').all(|word| !small.contains(&word));
        assert!(in_base_unit, "{name}");
    }
    scrape.samples
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found = samples.iter().find(|sample| {
        sample.metric == name
            && labels
                .iter()
                .all(|(key, value)| sample.labels.get(key) == Some(*value))
    });
    match found.unwrap_or_else(|| panic!("{name} {labels:?}")).value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        ref other => panic!("{name}: {other:?}"),
    }
}

/// Asserts what an apparatus counted of the requests in `exporting`.
fn counted(samples: &[Sample]) {
    let volume = [("apparatus", "x"), ("volume", "v")];
    assert!((value(samples, "apparatus_volume_writes_total", &volume) - 3.0).abs() < 0.5);
    assert!((value(samples, "apparatus_volume_written_bytes_total", &volume) - 12288.0).abs() < 0.5);
    assert!(value(samples, "apparatus_disk_flushes_total", &[("disk", "d")]) > 0.5);
    assert!(value(samples, "apparatus_volume_errors_total", &volume) < 0.5);
    assert!(value(samples, "apparatus_disk_writes_total", &[("disk", "d")]) > 2.5);
    for (operation, requests) in [("read", 0.0), ("write", 3.0), ("flush", 1.0)] {
        took(samples, operation, requests);
    }
}

/// Returns the histogram of one kind of request to the volume.
fn took(samples: &[Sample], operation: &str, requests: f64) {
    let duration = "apparatus_volume_request_duration_seconds";
    let labels = [("volume", "v"), ("operation", operation)];
    let buckets = samples.iter().find_map(|sample| match &sample.value {
        Value::Histogram(buckets)
            if sample.metric == duration && sample.labels.get("operation") == Some(operation) =>
        {
            Some(buckets)
        }
        _ => None,
    });
    let buckets = buckets.unwrap();
    assert!(buckets.is_sorted_by(|a, b| a.less_than < b.less_than && a.count <= b.count));
    let last = buckets.last().unwrap();
    assert!(last.less_than.is_infinite());
    let count = value(samples, &format!("{duration}_count"), &labels);
    assert_eq!((last.count, count), (requests, requests), "{operation}");
}

#[test]
fn an_apparatus_and_the_pool_have_all_metrics() {
    let (pool, daemon, address) = exporting();
    let own = parse(&get(address, "/metrics"));
    counted(&own);
    assert!(
        own.iter()
            .all(|sample| sample.labels.get("apparatus") == Some("x"))
    );

    let text = metrics::of_pool(&pool.dir, &mut *pool.store()).unwrap().finish();
    let all = parse(&text);
    counted(&all);
    for (name, labels, expected) in [
        ("apparatus_up", ("apparatus", "x"), 1.0),
        ("apparatus_fenced", ("apparatus", "x"), 0.0),
        ("apparatus_requests_parked", ("apparatus", "x"), 0.0),
        ("apparatus_volume_requests_parked", ("volume", "v"), 0.0),
        ("apparatus_volume_requests_waiting", ("volume", "v"), 0.0),
        ("apparatus_disk_up", ("disk", "d"), 1.0),
        ("apparatus_disk_size_bytes", ("disk", "d"), 40.0 * 65536.0),
        ("apparatus_disk_free_bytes", ("disk", "d"), 31.0 * 65536.0),
        ("apparatus_disk_reserve_bytes", ("disk", "d"), 0.0),
        ("apparatus_disk_quarantined_bytes", ("disk", "d"), 0.0),
        ("apparatus_volume_size_bytes", ("volume", "v"), 8.0 * 65536.0),
        ("apparatus_volume_placed_bytes", ("disk", "d"), 8.0 * 65536.0),
        ("apparatus_jobs", ("state", "running"), 0.0),
        ("apparatus_pool_findings", ("severity", "error"), 0.0),
    ] {
        let found = value(&all, name, &[labels]);
        assert!((found - expected).abs() < 0.5, "{name}: {found}");
    }
    assert!(value(&all, "apparatus_pool_membership_changes_total", &[]) > 0.5);
    // 8 of 39 extents, in whole per cent.
    assert!((value(&all, "apparatus_pool_used_ratio", &[]) - 0.20).abs() < 0.001);
    let over_http = get(address, "/metrics/pool?x");
    assert_eq!(families(&over_http), families(&text));
    assert_promtool(&text);
    daemon.stop();
}

fn families(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("# TYPE")).collect()
}

/// promtool also checks names and units.
fn assert_promtool(text: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        return eprintln!("skipped: promtool is not installed");
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn an_invalid_request_is_refused_and_delays_no_other() {
    let (_pool, daemon, address) = exporting();
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "405"),
        ("\r\nnonsense\x01 /\r\n\r\n", "400"),
    ] {
        let (head, _) = ask(address, request);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?}: {head}"
        );
    }
    let (_, body) = ask(address, "HEAD /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(body, "");

    // There are more silent connections than are served at once: each times out, and then this request is served.
    let silent: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
    get(address, "/metrics");
    for mut stream in silent.into_iter().take(4) {
        let mut nothing = Vec::new();
        match stream.read_to_end(&mut nothing) {
            Ok(len) => assert_eq!(len, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    daemon.stop();
}

#[test]
fn only_this_machine_may_ask() {
    let pool = TestPool::new(EXTENT);
    let mut command = pool.command("x", &pool.mount_point("x"));
    let error = pool.refused(command.args(["--metrics", "0.0.0.0:9464"]));
    assert!(
        error.contains("other machines") && error.contains("127.0.0.1:9464"),
        "{error}"
    );

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = pool.command("x", &pool.mount_point("x"));
    let error = pool.refused(command.args(["--metrics", &address]));
    assert!(error.contains(&address) && error.contains("port"), "{error}");
}
