//! Help texts, as they are and as they were: a change of words is a change of the contract, made on purpose.
//! `UPDATE_GOLDEN=1 cargo test -p vctl help` writes them anew.

use crate::support::{Said, finish, vctl};
use std::fmt::Write;
use std::path::Path;

fn help(words: &[String]) -> Said {
    finish(vctl().args(words).arg("--help").spawn().unwrap()).ok()
}

/// The commands that a help text lists.
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
    let told = help(words).out;
    writeln!(
        text,
        "$ vctl {}--help\n\n{told}",
        words.iter().map(|word| format!("{word} ")).collect::<String>()
    )
    .unwrap();
    for name in listed(&told) {
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
            "pool disk volume apparatus job status console events history metrics completions man",
        ),
        ("pool", "create show check backup restore adopt apply dump"),
        (
            "disk",
            "add list show set resize evacuate revert label clear remove",
        ),
        (
            "volume",
            "create list show map resize rename remove move attach detach hold",
        ),
        ("apparatus", "start stop list show fence rejoin"),
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
    for shell in ["bash", "zsh", "fish"] {
        let script = finish(vctl().args(["completions", shell]).spawn().unwrap())
            .ok()
            .out;
        for word in ["evacuate", "apparatus", "--dry-run"] {
            assert!(
                script.contains(word) || script.contains(&word.replace("--", "")),
                "{shell} {word}"
            );
        }
        assert!(!script.contains("__detached"), "{shell}");
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
    }
}
