//! The page of states: it has a section for each finding of `vctl status` and no other, and its commands bring each state about, show the
//! finding, and leave the state.

use crate::{after_the_first, document, sections};
use apparatus::admin::status::FindingKind;

const PAGE: &str = "docs/STATES.md";
/// The one section without a finding.
const NO_STATUS: &str = "When there is no status";

macro_rules! states {
    ($($name:ident: $title:literal,)*) => {
        const RUN: &[&str] = &[$($title),*];
        $(#[test]
        fn $name() {
            after_the_first(PAGE, $title);
        })*
    };
}

states! {
    pool_is_a_copy: "pool-is-a-copy",
    pool_directory_fault: "pool-directory-fault",
    member_table_lost: "member-table-lost",
    database_is_older: "database-is-older",
    database_not_durable: "database-not-durable",
    store_unreachable: "store-unreachable",
    disk_has_lost_data: "disk-has-lost-data",
    metadata_copy_behind: "metadata-copy-behind",
    disk_unusable: "disk-unusable",
    disk_errors: "disk-errors",
    hosts_wait_for_disk: "hosts-wait-for-disk",
    flushes_wait_for_database: "flushes-wait-for-database",
    apparatus_ended: "apparatus-ended",
    apparatus_fenced: "apparatus-fenced",
    apparatus_silent: "apparatus-silent",
    apparatus_ending: "apparatus-ending",
    memory_shared_with_hosts: "memory-shared-with-hosts",
    memory_short: "memory-short",
    mount_point_dead: "mount-point-dead",
    job_failed: "job-failed",
    job_abandoned: "job-abandoned",
    job_paused: "job-paused",
    changes_unfinished: "changes-unfinished",
    space_in_quarantine: "space-in-quarantine",
    pool_nearly_full: "pool-nearly-full",
    images_outgrow_file_system: "images-outgrow-file-system",
    disk_takes_nothing_new: "disk-takes-nothing-new",
    no_disks: "no-disks",
    no_apparatus: "no-apparatus",
    job_runs: "job-runs",
    when_there_is_no_status: "When there is no status",
}

#[test]
fn every_state_has_a_section_and_every_section_a_state() {
    let page = document(PAGE);
    let written: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut known: Vec<&str> = FindingKind::ALL.iter().map(|kind| kind.code()).collect();
    known.push(NO_STATUS);
    assert_eq!(written, known);
}

#[test]
fn every_section_with_commands_is_run() {
    let written = sections(&document(PAGE));
    let titles: Vec<&str> = written.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(titles, RUN);
}
