//! A pool whose metadata is in etcd: members end, stop and come back, and the pool leaves etcd again. Skipped by name where etcd is not installed.

#[path = "../../../tests/support/etcd.rs"]
#[allow(dead_code, reason = "other tests use it too")]
pub mod cluster;

use crate::support::{Pool, until};
use apparatus::model::units::{Slot, Term};
use apparatus::rpc::Address;
use apparatus::rpc::client::{Links, WaitOutcome};
use apparatus::rpc::tls::Identity;
use apparatus::rpc::transport::Sockets;
use cluster::Cluster;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Creates a pool in this cluster, with the disks `d1` and `d2` and the volume `v`.
fn pool_in(cluster: &Cluster) -> Pool {
    let pool = Pool::absent();
    let url = format!("etcd://{}", cluster.addresses.join(","));
    pool.run(["pool", "create", "--store", &url]).ok();
    for disk in ["d1", "d2"] {
        let image = pool.file(&format!("{disk}.img"));
        pool.run(["disk", "add", &image, "--create", "64M", "--name", disk])
            .ok();
    }
    pool.run(["volume", "create", "v", "8M", "--on", "d1"]).ok();
    pool
}

pub fn write(volume: &Path, byte: u8) {
    let file = OpenOptions::new().write(true).open(volume).unwrap();
    file.write_all_at(&[byte; 8192], 4 << 20).unwrap();
    file.sync_all().unwrap();
}

pub fn read(volume: &Path) -> u8 {
    let mut bytes = [0; 8192];
    File::open(volume)
        .unwrap()
        .read_exact_at(&mut bytes, 4 << 20)
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

#[test]
fn hosts_are_served_while_etcd_is_away_and_changes_go_on_when_it_is_back() {
    let Some(mut cluster) = Cluster::start(3) else {
        return;
    };
    let pool = pool_in(&cluster);
    let volume = pool.start("a").join("v");
    write(&volume, 1);
    pool.run(["volume", "move", "v", "--to", "d2"]).ok();
    write(&volume, 2);

    // A majority is enough.
    cluster.signal(0, "STOP");
    until("a volume is created by the others", || {
        pool.run(["volume", "create", "w", "1M"]).status == 0
    });
    write(&volume, 3);

    // Without one nothing changes, and hosts do not notice.
    cluster.signal(1, "STOP");
    let refused = pool.run(["volume", "create", "x", "1M"]).ended(6);
    refused.complains(&["etcd", "does not answer"]);
    write(&volume, 4);
    assert_eq!(read(&volume), 4);
    let status = pool.run(["status"]);
    assert_ne!(status.status, 0, "{status:?}");
    assert!(status.out.contains("etcd: does not answer"), "{status:?}");

    for member in [0, 1] {
        cluster.signal(member, "CONT");
    }
    until("etcd answers", || pool.run(["status"]).status == 0);
    let volumes = pool.json(["volume", "list"]);
    assert_eq!(
        volumes["volumes"].as_array().unwrap().len(),
        2,
        "the refused volume is not there"
    );
    pool.run(["volume", "create", "x", "1M"]).ok();
    pool.run(["volume", "move", "v", "--to", "d1"]).ok();
    assert_eq!(read(&volume), 4);
    pool.run(["pool", "check"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
}

#[test]
fn a_pool_leaves_etcd_with_its_newest_metadata() {
    let Some(cluster) = Cluster::start(1) else { return };
    let pool = pool_in(&cluster);
    let shown = pool.json(["pool", "show"]);
    assert_eq!(
        shown["pool"]["etcd"][0],
        format!("http://{}", cluster.addresses[0])
    );
    let volume = pool.start("a").join("v");
    write(&volume, 5);
    let (backup, volumes) = (pool.file("backup"), pool.json(["volume", "list"]));
    pool.run(["pool", "backup", &backup]).ok();

    // The database of one machine is not replaced under the others.
    for words in [&["pool", "restore", &backup, "--yes"][..], &["pool", "adopt"]] {
        let refused = pool.run(words);
        assert_ne!(refused.status, 0, "{refused:?}");
    }
    pool.run(["pool", "rescue"])
        .ended(4)
        .complains(&["apparatus a", "runs"]);
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run(["pool", "restore", &backup, "--yes"])
        .ended(1)
        .complains(&["in etcd", "vctl pool rescue"]);
    pool.run(["pool", "adopt"])
        .ended(1)
        .complains(&["in etcd", "vctl pool rescue"]);

    // The cluster is lost for good.
    drop(cluster);
    let before = pool.run(["pool", "rescue", "--dry-run"]).ok();
    assert!(before.out.contains("would leave etcd"), "{before:?}");
    pool.run(["pool", "rescue"]).ok();
    assert!(pool.json(["pool", "show"])["pool"].get("etcd").is_none());
    pool.run(["pool", "rescue"])
        .ended(1)
        .complains(&["nothing to rescue"]);
    assert_eq!(pool.json(["volume", "list"]), volumes);
    let volume = pool.start("a").join("v");
    assert_eq!(read(&volume), 5);
    pool.run(["volume", "create", "w", "1M"]).ok();
    pool.run(["pool", "check"]).ok();
    pool.run(["apparatus", "stop", "a"]).ok();
}

#[test]
fn nothing_is_left_of_a_pool_that_could_not_be_created() {
    let Some(cluster) = Cluster::start(1) else { return };
    let address = cluster.addresses[0].clone();
    drop(cluster);
    let pool = Pool::absent();
    let url = format!("etcd://{address}");
    let refused = pool.run(["pool", "create", "--store", &url]).ended(6);
    refused.complains(&["etcd", "does not answer"]);
    pool.run(["pool", "show"]).ended(3);
    pool.run(["pool", "create", "--store", "etcd://nowhere"])
        .ended(2)
        .complains(&["HOST:PORT"]);
    pool.run(["pool", "create"]).ok();
}

#[test]
fn an_etcd_that_asks_for_certificates_is_used_with_those_of_its_authority_alone() {
    let pool = Pool::absent();
    let [own, foreign] = ["own", "foreign"].map(|name| {
        let dir = pool.file(name);
        pool.run(["pool", "tls", "init", &dir, "--name", "localhost", "--name", "n1"])
            .ok();
        dir
    });
    let Some(cluster) = Cluster::start_with_tls(&Path::new(&own).join("localhost")) else {
        return;
    };
    let url = format!("etcd://{}", cluster.addresses[0]);
    let create = |tls: &str| pool.run(["pool", "create", "--store", &url, "--store-tls", tls]);
    create(&format!("{foreign}/n1"))
        .ended(1)
        .complains(&["etcd", "ca.pem"]);
    assert_ne!(pool.run(["pool", "create", "--store", &url]).status, 0);
    pool.run(["pool", "show"]).ended(3);
    create(&format!("{own}/n1")).ok();
    pool.run(["disk", "add", &pool.file("d1.img"), "--create", "64M"])
        .ok();
    pool.run(["volume", "create", "v", "8M"]).ok();
    let volume = pool.start("a").join("v");
    write(&volume, 6);
    assert_eq!(read(&volume), 6);
    pool.run(["apparatus", "stop", "a"]).ok();
    pool.run(["pool", "check"]).ok();
}

#[test]
fn a_pool_that_is_destroyed_leaves_no_key() {
    let Some(cluster) = Cluster::start(1) else { return };
    let pool = pool_in(&cluster);
    assert!(keys(&cluster) > 3);
    pool.run(["pool", "destroy", "--yes"]).ok();
    assert_eq!(keys(&cluster), 0);
}

/// Returns the number of keys in the cluster.
pub fn keys(cluster: &Cluster) -> u64 {
    use std::io::Write;
    let body = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
    let mut stream = std::net::TcpStream::connect(&cluster.addresses[0]).unwrap();
    let request = format!(
        "POST /v3/kv/range HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let json = &answer[answer.find("\r\n\r\n").unwrap()..];
    let answer: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    answer["count"].as_str().map_or(0, |count| count.parse().unwrap())
}

/// Returns a port that nobody uses at this moment.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_machine_is_a_node_of_its_pool_and_its_apparatus_answers_over_tls() {
    let Some(cluster) = Cluster::start(1) else { return };
    let pool = Pool::absent();
    let tls = pool.file("tls");
    pool.run(["pool", "tls", "init", &tls, "--name", "n1", "--name", "n2"])
        .ok();
    let url = format!("etcd://{}", cluster.addresses[0]);
    let listen = format!("127.0.0.1:{}", free_port());
    let create = [
        "pool", "create", "--direct", "--store", &url, "--node", "n1", "--listen", &listen,
    ];
    // An address without certificates, and certificates that are not there.
    pool.run(create).ended(2).complains(&["--node-tls"]);
    let nowhere = pool.file("nowhere");
    pool.run(create.iter().chain(&["--node-tls", &nowhere]))
        .ended(1)
        .complains(&["nowhere/"]);
    pool.run(["pool", "show"]).ended(3);
    let own = format!("{tls}/n1");
    pool.run(create.iter().chain(&["--node-tls", &own])).ok();
    assert_eq!(pool.json(["pool", "show"])["pool"]["node"], "n1");
    pool.start("a");
    let node = &pool.json(["node", "list"])["nodes"][0];
    assert_eq!((&node["name"], &node["here"]), (&"n1".into(), &true.into()));
    assert_eq!(
        (&node["address"], &node["apparatuses"][0]),
        (&listen.clone().into(), &"a".into())
    );
    let shown = pool.json(["apparatus", "show", "a"]);
    assert_eq!(shown["apparatus"]["node"], "n1");
    pool.run(["node", "show", "n2"]).ended(3);
    pool.run(["node", "remove", "n1"])
        .ended(4)
        .complains(&["is this machine"]);

    let uuid = pool.json(["pool", "show"])["pool"]["uuid"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let port = u16::try_from(shown["apparatus"]["port"].as_u64().unwrap()).unwrap();
    let greeted = |node: &str| {
        let identity = Identity::load(&Path::new(&tls).join(node)).unwrap();
        let mut links = Links::over(Box::new(Sockets::with(identity)), uuid, Term(0));
        links.connect_to(
            Slot(0),
            Address::Remote(([127, 0, 0, 1], port).into(), "n1".into()),
        );
        links.wait(Instant::now() + Duration::from_secs(100)).unwrap()
    };
    assert!(matches!(greeted("n1"), WaitOutcome::Welcomed(..)));
    assert!(matches!(greeted("n2"), WaitOutcome::Refused(..)));
    pool.run(["apparatus", "stop", "a"]).ok();
}
