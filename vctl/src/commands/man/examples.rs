//! Examples of the manual pages. A test parses each of them with the command line's parser.

use std::fmt::Write;

/// A task, and the command line for it without the program's name.
type Example = (&'static str, &'static str);

/// Returns the examples of a verb; none where its arguments need no explanation.
pub(super) fn of(verb: &str) -> &'static [Example] {
    let found = EXAMPLES.iter().find(|(name, _)| *name == verb);
    found.map_or(&[], |(_, examples)| examples)
}

/// Formats the examples as a section of a manual page.
pub(super) fn as_roff(examples: &[Example]) -> String {
    let mut text = String::new();
    if examples.is_empty() {
        return text;
    }
    text.push_str(".SH EXAMPLES\n");
    for (what, command) in examples {
        let _ = write!(
            text,
            ".TP\n{}\n\\fBvctl {}\\fR\n",
            escaped(what),
            escaped(command)
        );
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
}

const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            ("Check the health of the pool", "status"),
            ("Show what a command would do", "volume create db 100G --dry-run"),
            (
                "The same pool for all commands, here one",
                "--pool /srv/pool volume list",
            ),
            ("One JSON object for a script", "volume list --json"),
        ],
    ),
    (
        "pool create",
        &[
            ("A pool in the default directory", "pool create"),
            (
                "Elsewhere, for volumes of many terabytes",
                "--pool /srv/pool pool create --extent-size 16M",
            ),
        ],
    ),
    (
        "pool apply",
        &[
            ("Show the steps first", "pool apply pool.ron --dry-run"),
            (
                "Also remove what is not described",
                "pool apply pool.ron --prune --yes",
            ),
        ],
    ),
    (
        "pool check",
        &[("Check, and repair what can be repaired", "pool check --repair")],
    ),
    (
        "pool backup",
        &[(
            "Copy the database while the pool is in use",
            "pool backup /backup/pool.db",
        )],
    ),
    (
        "pool restore",
        &[(
            "Restore it when the database is lost",
            "pool restore /backup/pool.db",
        )],
    ),
    (
        "pool import",
        &[
            (
                "What the disks alone would make",
                "pool import /dev/sdb /srv/d1.img --dry-run",
            ),
            (
                "Make the pool again when its directory is lost",
                "pool import /dev/sdb /srv/d1.img",
            ),
        ],
    ),
    (
        "pool tls init",
        &[(
            "An authority, and certificates for two machines",
            "pool tls init /etc/apparatus/tls --name n1 --name n2",
        )],
    ),
    (
        "pool destroy",
        &[("Free the disks; all volumes are lost", "pool destroy --yes")],
    ),
    (
        "disk add",
        &[
            (
                "A block device with a tag",
                "disk add /dev/sdb --name fast1 --tag fast",
            ),
            (
                "A new image file with all its space allocated",
                "disk add /srv/d1.img --create 100G --preallocate",
            ),
        ],
    ),
    (
        "disk set",
        &[
            ("Place nothing new on it", "disk set d1 --no-allocate"),
            ("Record its new path", "disk set d1 --path /dev/sdc"),
        ],
    ),
    (
        "disk resize",
        &[
            ("Make an image larger", "disk resize d1 200G"),
            ("Use the whole size of a device", "disk resize d1"),
        ],
    ),
    (
        "disk evacuate",
        &[
            (
                "Move everything to other disks, at 50 MiB per second",
                "disk evacuate d1 --to @fast --rate 50M",
            ),
            (
                "Save from a failing disk what can still be read",
                "disk evacuate d1 --skip-unreadable",
            ),
        ],
    ),
    (
        "volume create",
        &[
            (
                "On any disk with this tag, owned by this user",
                "volume create db 100G --on @fast --owner postgres",
            ),
            (
                "Spread over two disks",
                "volume create big 2T --on d1 --on d2 --policy spread",
            ),
        ],
    ),
    (
        "volume list",
        &[
            (
                "Largest first, with their users",
                "volume list --sort -size -o +users",
            ),
            ("Names alone", "volume list -o name --no-headings"),
        ],
    ),
    (
        "volume map",
        &[(
            "Draw the layout after a move",
            "volume map db --to d2 --svg map.svg",
        )],
    ),
    (
        "volume resize",
        &[
            ("Grow by 10 GiB", "volume resize db +10G"),
            (
                "Shrink: data beyond the new size is lost",
                "volume resize db 50G --yes",
            ),
        ],
    ),
    (
        "volume set",
        &[
            ("Refuse writes", "volume set db --read-only"),
            (
                "Let a group read it",
                "volume set db --mode 640 --owner root:backup",
            ),
        ],
    ),
    (
        "volume remove",
        &[("With all its data", "volume remove db --yes")],
    ),
    (
        "volume move",
        &[
            ("To another disk while it is in use", "volume move db --to d2"),
            (
                "In the background, at most 50 MiB per second",
                "volume move db --to @fast --rate 50M --background",
            ),
            (
                "One range of it, from one disk only",
                "volume move db --from d1 --range 10G..20G --to d2",
            ),
        ],
    ),
    (
        "volume attach",
        &[("A loop device, read-only", "volume attach db --read-only")],
    ),
    ("volume detach", &[("Remove the loop device", "volume detach db")]),
    (
        "volume hold",
        &[(
            "Copy two volumes at one moment",
            "volume hold db log --flush --for 10s -- cp --reflink a b",
        )],
    ),
    (
        "apparatus start",
        &[(
            "Serve the volumes as files, for all users",
            "apparatus start a1 /mnt/volumes --allow-other",
        )],
    ),
    (
        "apparatus stop",
        &[("Refused while hosts use its volumes", "apparatus stop a1")],
    ),
    (
        "apparatus fence",
        &[
            ("End one that does not answer", "apparatus fence a1"),
            (
                "End one whose hosts may be cut off",
                "apparatus fence a1 --cut-off-users",
            ),
        ],
    ),
    (
        "node remove",
        &[("A machine that does not come back", "node remove n2")],
    ),
    (
        "job set",
        &[("Lower its rate while it runs", "job set 3 --rate 10M")],
    ),
    (
        "job cancel",
        &[("Move back what it moved", "job cancel 3 --roll-back")],
    ),
    ("job wait", &[("Wait until it has ended", "job wait 3")]),
    (
        "status",
        &[("Findings and next commands for a script", "status --json")],
    ),
    ("events", &[("Follow new events", "events --follow")]),
    (
        "history",
        &[("List changes since yesterday", "history --since 24h")],
    ),
    ("metrics", &[("Print metrics for Prometheus", "metrics")]),
    ("completions", &[("A script for bash", "completions bash")]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::{Command, CommandFactory};

    #[test]
    fn each_example_is_one_that_the_program_takes_and_is_of_its_verb() {
        for (verb, examples) in EXAMPLES {
            for (what, line) in *examples {
                let words = ["vctl"].into_iter().chain(line.split(' '));
                let parsed = Cli::command().try_get_matches_from(words);
                // A user that this machine does not have is refused as an invalid value.
                let parsed = parsed.or_else(|error| {
                    let owner = line.contains("--owner") && error.to_string().contains("--owner");
                    if owner {
                        Ok(clap::ArgMatches::default())
                    } else {
                        Err(error)
                    }
                });
                assert!(parsed.is_ok(), "{line}: {parsed:?}");
                assert!(line.contains(verb) && !what.ends_with('.'), "{verb}: {line}");
            }
        }
    }

    #[test]
    fn every_example_belongs_to_a_verb() {
        let has = |command: &Command, verb: &str| {
            verb.split(' ')
                .filter(|word| !word.is_empty())
                .try_fold(command.clone(), |command, word| {
                    command.find_subcommand(word).cloned()
                })
        };
        for (verb, _) in EXAMPLES {
            assert!(has(&Cli::command(), verb).is_some(), "{verb}");
        }
    }
}
