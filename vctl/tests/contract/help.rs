//! Help texts as golden files: a new wording is a change of the contract, made on purpose.
//! `UPDATE_GOLDEN=1 cargo test -p vctl help` writes them.

use crate::support::{CommandOutput, finish, vctl};
use std::fmt::Write;
use std::path::Path;

fn help(words: &[String]) -> CommandOutput {
    finish(vctl().args(words).arg("--help").spawn().unwrap()).ok()
}

/// Returns the commands that a help text lists.
pub fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = lines.take_while(|line| !line.is_empty());
    let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

fn walk(words: &mut Vec<String>, text: &mut String) {
    let output = help(words).out;
    writeln!(
        text,
        "$ vctl {}--help\n\n{output}",
        words.iter().map(|word| format!("{word} ")).collect::<String>()
    )
    .unwrap();
    for name in listed(&output) {
        words.push(name);
        walk(words, text);
        words.pop();
    }
}

#[test]
fn texts_are_the_golden_ones() {
    let mut text = String::new();
    walk(&mut Vec::new(), &mut text);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    if let Some((now, was)) = text.lines().zip(expected.lines()).find(|(now, was)| now != was) {
        panic!("now: {now}\nwas: {was}\nif that is meant: UPDATE_GOLDEN=1 cargo test -p vctl help");
    }
    assert_eq!(
        text.lines().count(),
        expected.lines().count(),
        "UPDATE_GOLDEN=1 cargo test -p vctl help"
    );
}

#[test]
fn every_verb_of_the_contract_is_there() {
    let contract = [
        (
            "",
            "pool disk volume apparatus node job status console events history metrics completions man",
        ),
        (
            "pool",
            "create list show check backup restore import join adopt rescue tls apply dump",
        ),
        (
            "disk",
            "add list show set resize evacuate revert label clear remove",
        ),
        (
            "volume",
            "create list show map resize rename remove undelete move attach detach hold",
        ),
        ("apparatus", "start stop upgrade list show fence rejoin"),
        ("node", "list show remove"),
        ("job", "list show wait pause resume cancel set"),
    ];
    for (noun, verbs) in contract {
        let words: Vec<String> = noun.split_whitespace().map(str::to_owned).collect();
        let there = listed(&help(&words).out);
        for verb in verbs.split(' ') {
            assert!(there.iter().any(|name| name == verb), "{noun} {verb}");
        }
    }
}

#[test]
fn completions_and_manual_pages_know_every_noun() {
    // Shells whose scripts ask vctl itself are tested in `tests/shells`.
    for shell in ["elvish", "powershell"] {
        let script = finish(vctl().args(["completions", shell]).spawn().unwrap())
            .ok()
            .out;
        for word in ["evacuate", "apparatus", "--dry-run"] {
            assert!(script.contains(word), "{shell} {word}");
        }
        assert!(!script.contains("__"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    finish(vctl().arg("man").arg(dir.path()).spawn().unwrap()).ok();
    for page in [
        "vctl.1",
        "vctl-volume.1",
        "vctl-volume-move.1",
        "vctl-disk-evacuate.1",
    ] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
        let usage = "vctl volume move [OPTIONS] \\-\\-to <DISK|@TAG> <VOLUME>";
        assert!(page != "vctl-volume-move.1" || text.contains(usage), "{text}");
        assert!(page == "vctl-volume.1" || text.contains(".SH EXAMPLES"), "{page}");
    }
}

#[test]
fn a_refusal_points_to_the_help_of_its_command() {
    for (line, hint) in [
        ("", "hint: vctl --help lists them"),
        ("volume", "hint: vctl volume --help lists them"),
        ("volume nonsense", "hint: vctl volume --help lists the commands"),
        ("disk evacuate d1 --to", "hint: see 'vctl disk evacuate --help'"),
        ("job set 1", "hint: usage: vctl job set <--rate"),
        ("job set 1 --dry-run", "not provided: <--rate"),
    ] {
        let refused = finish(vctl().args(line.split_whitespace()).spawn().unwrap()).ended(2);
        assert!(refused.err.contains(hint), "{line}: {refused:?}");
    }
}
