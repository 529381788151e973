//! Reads docs/GLOSSARY.md and looks for words that the project has retired.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

/// A word that has a standard replacement.
struct Retired {
    word: &'static str,
    instead: &'static str,
    /// Only names in code are checked: as a word of English it is in order.
    names_only: bool,
}

/// Lists the forms of retired words that no text may contain, or no name in code.
fn retired() -> Vec<Retired> {
    let everywhere = [
        ("arbitration", "leadership, controller lock"),
        ("bell", "waker"),
        ("desk", "context, scratch"),
        ("difference", "delta"),
        ("differences", "deltas"),
        ("face", "version"),
        ("faces", "versions"),
        ("furnish", "preallocate"),
        ("furnished", "preallocated"),
        ("harden", "persist"),
        ("hardened", "persisted"),
        ("hardening", "persisting"),
        ("hardens", "persists"),
        ("home", "placement"),
        ("homes", "placements"),
        ("keeper", "timeouts"),
        ("nudge", "stalled writer"),
        ("nudged", "resumed"),
        ("nudges", "resumes"),
        ("people", "members, users"),
        ("seat", "slot"),
        ("seats", "slots"),
        ("seated", "attached"),
        ("sights", "in-flight ages"),
        ("survey", "observe"),
        ("tally", "metrics"),
        ("verdict", "outcome"),
        ("wish", "request"),
        ("wished", "requested"),
        ("wishes", "requests"),
        ("witness", "detector"),
    ];
    let names = [
        ("aside", "with_timeout"),
        ("book", "metrics"),
        ("heard", "inbound, received"),
        ("lacks", "unsupported"),
        ("owe", "pending error"),
        ("owed", "pending error"),
        ("said", "outbound, text"),
        ("series", "pipeline"),
        ("tell", "report"),
        ("told", "reported"),
        ("turns", "scheduling"),
    ];
    let of = |names_only| {
        move |(word, instead)| Retired {
            word,
            instead,
            names_only,
        }
    };
    everywhere
        .map(of(false))
        .into_iter()
        .chain(names.map(of(true)))
        .collect()
}

/// A place that keeps a retired word.
struct Kept {
    word: &'static str,
    /// The file, or the folder with everything below it; empty for all files.
    place: &'static str,
    /// What the line has to contain.
    line: &'static str,
    reason: &'static str,
}

/// Lists the names that files on disk, command lines, keyboards and other programs keep.
fn kept() -> Vec<Kept> {
    let of = |(word, place, line, reason)| Kept {
        word,
        place,
        line,
        reason,
    };
    let column = "a column or a word of the database";
    let field = "a field of a stored, sent or shown record";
    let set = "a method of the standard library's sets";
    let key = "a key of the keyboard";
    let user = "the home directory of a user";
    let file = "the name of the lock's file in the run directory";
    [
        ("home", "src/store/sqlite/", "", column),
        ("homes", "src/store/sqlite/", "", column),
        ("home", "tests/power_cuts/", "home_device", column),
        ("home", "docs/FORMATS.md", "`home", column),
        ("homes", "docs/FORMATS.md", "`homes (disk, home)`", column),
        ("home", "", "rename = \"home\"", field),
        ("home", "vctl/tests/contract/", "[\"home\"]", field),
        ("home", "", "HOME", user),
        ("home", "src/admin/place.rs", "home", user),
        ("home", "", "KeyCode::Home", key),
        ("home", "docs/CONSOLE.md", "Home", key),
        ("home", "vctl/src/commands/console/view/help.rs", "Home End", key),
        ("difference", "src/store/sqlite/", "", column),
        ("difference", "docs/FORMATS.md", "", column),
        ("difference", "", "\"difference\"", field),
        ("difference", "", ".difference(", set),
        ("hardened", "src/store/sqlite/", "'hardened'", column),
        ("hardening", "src/store/sqlite/", "'hardening'", column),
        ("hardened", "src/store/sqlite/convert.rs", "\"hardened\"", column),
        (
            "hardening",
            "src/store/sqlite/convert.rs",
            "\"hardening\"",
            column,
        ),
        ("hardened", "docs/FORMATS.md", "`hardened`", column),
        ("hardening", "docs/FORMATS.md", "`hardening`", column),
        ("hardened", "src/model/change.rs", "rename = \"Hardened\"", field),
        (
            "hardened",
            "src/admin/metrics/mod.rs",
            "\"hardened\"",
            "a label of a metric",
        ),
        ("arbitration", "src/cluster/local/", "arbitration", file),
        ("arbitration", "tests/tidy.rs", "arbitration", file),
        ("arbitration", "docs/FORMATS.md", "`arbitration`", file),
        ("arbitration", "tests/noticed.rs", "\"arbitration\"", file),
    ]
    .map(of)
    .into()
}

/// A term of the glossary and the file where it lives.
pub(crate) struct Term {
    pub(crate) name: String,
    pub(crate) file: String,
}

/// Returns the terms of the glossary in their order.
pub(crate) fn terms(glossary: &str) -> Vec<Term> {
    let lines: Vec<&str> = glossary.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix("- **") else {
            continue;
        };
        let (name, meaning) = rest
            .split_once("**: ")
            .expect("a term is followed by its meaning");
        assert!(meaning.ends_with('.'), "the meaning of {name} is a sentence");
        let place = lines.get(index + 1).copied().unwrap_or_default();
        let file = place.strip_prefix("  `").and_then(|rest| rest.strip_suffix('`'));
        let file = file.unwrap_or_else(|| panic!("the line below {name} names no file"));
        found.push(Term {
            name: name.to_owned(),
            file: file.to_owned(),
        });
    }
    found
}

/// Splits a text into its words: runs of letters, cut where a lower case letter is followed by a capital.
fn words(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut last = ' ';
    for letter in text.chars() {
        let begins = !last.is_alphabetic() || (last.is_lowercase() && letter.is_uppercase());
        if letter.is_alphabetic() {
            match found.last_mut() {
                Some(word) if !begins => word.extend(letter.to_lowercase()),
                _ => found.push(letter.to_lowercase().collect()),
            }
        }
        last = letter;
    }
    found
}

/// Returns a line of code without its comment and its string literals.
fn names_of(line: &str) -> String {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Returns each retired word in a file, with its line.
pub(crate) fn retired_in(file: &str, text: &str) -> Vec<String> {
    let (retired, kept) = (retired(), kept());
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (all, names) = (words(line), words(&names_of(line)));
        let stands = |each: &&Retired| match each.names_only {
            true => file.ends_with(".rs") && names.iter().any(|word| word == each.word),
            false => all.iter().any(|word| word == each.word),
        };
        let is_kept = |word: &str| {
            kept.iter()
                .any(|each| each.word == word && file.starts_with(each.place) && line.contains(each.line))
        };
        let wrong = retired.iter().filter(stands).filter(|each| !is_kept(each.word));
        found.extend(wrong.map(|each| format!("{file}:{}: {} (use {})", index + 1, each.word, each.instead)));
    }
    found
}

/// Returns the exceptions that no line of these files needs any more.
pub(crate) fn idle_exceptions(files: &[(String, String)]) -> Vec<String> {
    let needs = |each: &Kept, file: &str, text: &str| {
        let has = |line: &str| line.contains(each.line) && words(line).iter().any(|word| word == each.word);
        file.starts_with(each.place) && text.lines().any(has)
    };
    let idle = |each: &Kept| !files.iter().any(|(file, text)| needs(each, file, text));
    let kept = kept();
    let idle = kept.iter().filter(|each| idle(each));
    idle.map(|each| format!("{} in {:?} ({})", each.word, each.place, each.reason))
        .collect()
}

#[test]
fn a_planted_word_is_found_in_names_comments_and_documents() {
    let found = |file, text| retired_in(file, text).len();
    assert_eq!(found("src/x.rs", concat!("let seat", "_of = 1;")), 1);
    assert_eq!(found("src/x.rs", concat!("struct Desk", "Lamp;")), 1);
    assert_eq!(found("src/x.rs", concat!("// It is pers", "isted.")), 0);
    assert_eq!(found("src/x.rs", concat!("/// It is hard", "ened.")), 1);
    assert_eq!(found("docs/X.md", concat!("The wit", "ness.")), 1);
    assert_eq!(found("docs/X.md", "An interface is told."), 0);
    assert_eq!(found("src/x.rs", "fn told() {}"), 1);
    assert_eq!(found("src/x.rs", "let x = \"told\"; // told"), 0);
    assert_eq!(
        found(
            "src/store/sqlite/x.rs",
            concat!("\"SELECT ho", "me FROM segments\"")
        ),
        0
    );
}
