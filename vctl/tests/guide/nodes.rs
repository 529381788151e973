//! The page of nodes: its commands, each on the machine that its block names, with a real etcd that asks for certificates. The machines are directories and
//! loopback addresses of this one, and the devices are files.

#[path = "../../../tests/support/etcd.rs"]
mod cluster;

use crate::place::{Place, has, is_root};
use crate::{document, users_may_mount};
use cluster::Cluster;
use std::fs::File;

const PAGE: &str = "docs/NODES.md";
/// The machine that has the authority's key.
const AUTHORITY: &str = "pki";

/// Returns the blocks of commands, with the machine of each.
fn blocks() -> Vec<(String, String)> {
    let page = document(PAGE);
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        if is_inside && line == "```" {
            is_inside = false;
        } else if is_inside {
            let (_, text) = blocks.last_mut().unwrap();
            text.extend([line, "\n"]);
        } else if let Some(machine) = line.strip_prefix("```sh ") {
            blocks.push((machine.to_owned(), String::new()));
            is_inside = true;
        }
    }
    blocks
}

/// Returns the commands as they are for a machine here.
fn on(machine: &str, text: &str, url: &str, uuid: &str) -> String {
    let here = [
        ("etcd://e1:2379,e2:2379,e3:2379", url),
        (" --name e1 --name e2 --name e3", " --name localhost"),
        ("--uuid UUID", &format!("--uuid {uuid}")),
        ("10.0.0.1:7300", "127.0.0.1:23791"),
        ("10.0.0.2:7300", "127.0.0.1:23795"),
        ("/etc/apparatus/pki", "/tmp/pki"),
        ("/etc/apparatus/tls", &format!("/tmp/pki/{machine}")),
        ("/dev/disk/by-id/", "/tmp/"),
        ("/srv/volumes", &format!("/tmp/{machine}-volumes")),
        (" 8G ", " 8M "),
    ];
    let text = here
        .iter()
        .fold(text.to_owned(), |text, (page, here)| text.replace(page, here));
    format!("export VCTL_POOL=/tmp/{machine} APPARATUS_SEVERAL_NODES=1\n{text}")
}

#[test]
fn two_machines_from_nothing() {
    if !has("etcd") || !has("fusermount3") || !users_may_mount() {
        return eprintln!("skipped: {PAGE}: needs etcd, fusermount3 and the right to mount");
    }
    let place = Place::new(is_root());
    let mut blocks = blocks().into_iter();
    let (machine, text) = blocks.next().unwrap();
    assert_eq!(machine, AUTHORITY);
    place.run(&on(&machine, &text, "", ""));
    let Some(cluster) = Cluster::start_with_tls(&place.path().join("pki/localhost")) else {
        return;
    };
    let url = format!("etcd://{}", cluster.addresses[0]);
    for disk in ["wwn-1", "wwn-2"] {
        let image = File::create(place.path().join(disk)).unwrap();
        image.set_len(64 << 20).unwrap();
        place.give(disk);
    }
    let mut uuid = String::new();
    for (machine, text) in blocks {
        place.run(&on(&machine, &text, &url, &uuid));
        if uuid.is_empty() {
            let script = on(&machine, "vctl pool show --json > /tmp/shown\n", "", "");
            place.run(&script);
            let shown = std::fs::read(place.path().join("shown")).unwrap();
            let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
            uuid = shown["pool"]["uuid"].as_str().unwrap().to_owned();
        }
    }
}
