//! Reads the tests that docs/RELIABILITY.md names.

/// A row of a table: the text of its first cell, and the tests that its last cell names.
pub(crate) struct Row {
    pub(crate) subject: String,
    pub(crate) tests: Vec<String>,
}

/// Returns the rows of the table in the section with this title.
pub(crate) fn rows(document: &str, title: &str) -> Vec<Row> {
    let heading = format!("## {title}");
    let section = document.lines().skip_while(|line| *line != heading).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let cells = section.filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    // The first two lines are the headings and the rule below them.
    cells
        .skip(2)
        .filter_map(|line| {
            let (subject, _) = line.split_once('|')?;
            let (_, tests) = line.rsplit_once('|')?;
            Some(Row {
                subject: subject.trim().to_owned(),
                tests: named(tests),
            })
        })
        .collect()
}

/// Returns the names of functions in a cell: the words between backticks that are neither paths nor options.
fn named(cell: &str) -> Vec<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    let names = quoted.filter(|word| {
        word.contains('_')
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    });
    names.map(str::to_owned).collect()
}

/// Returns whether the code has a test with this name: a function after the attribute of a test, or one that a macro makes a test of.
pub(crate) fn is_test(code: &[(String, String)], name: &str) -> bool {
    let heads = [format!("fn {name}("), format!("fn {name}<")];
    code.iter().any(|(file, text)| {
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().enumerate().any(|(at, line)| {
            let is_head = heads.iter().any(|head| line.contains(head.as_str()));
            // Contract tests are plain functions, and properties stand inside a macro.
            let of_a_macro = file.starts_with("src/store/contract/");
            let attributes = lines[..at]
                .iter()
                .rev()
                .take_while(|line| !line.trim().is_empty());
            let mut near = attributes.take(8);
            is_head && (of_a_macro || near.any(|line| line.trim() == "#[test]"))
        })
    })
}

#[test]
fn a_name_without_a_test_is_found() {
    let document = "## Promises\n\n| promise | tests |\n|---|---|\n| P1 | `src/x.rs`: `it_holds`, `it_does_not` |\n\n## Other\n";
    let rows = rows(document, "Promises");
    assert_eq!((rows.len(), rows[0].subject.as_str()), (1, "P1"));
    assert_eq!(rows[0].tests, ["it_holds", "it_does_not"]);
    let text = "#[test]\n#[ignore]\nfn it_holds() {}\n\nfn it_does_not() {}\n";
    let code = [("tests/x.rs".to_owned(), text.to_owned())];
    assert!(is_test(&code, "it_holds"));
    assert!(!is_test(&code, "it_does_not"));
}
