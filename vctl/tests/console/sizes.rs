//! Windows from 40 x 12 to 200 x 60, pools from none to many volumes, names of 64 letters.

use crate::support::Pool;
use crate::terminal::Terminal;

const SIZES: [(u16, u16); 4] = [(40, 12), (80, 24), (120, 40), (200, 60)];

fn long(number: usize) -> String {
    format!("{:-<60}{number:04}", "customer_database")
}

/// Creates a pool with one disk and this many volumes from one description.
fn crowded(count: usize) -> Pool {
    let pool = Pool::empty();
    pool.run(["disk", "add", &pool.file("d1.img"), "--create", "1G"])
        .ok();
    let volumes: Vec<String> = (0..count)
        .map(|number| format!("(name: \"{}\", size: \"1M\")", long(number)))
        .collect();
    let text = format!("(volumes: [{}])", volumes.join(", "));
    std::fs::write(pool.path("pool.ron"), text).unwrap();
    pool.run(["pool", "apply", &pool.file("pool.ron")]).ok();
    pool
}

fn row_of<'a>(text: &'a str, beginning: &str) -> &'a str {
    let found = text.lines().find(|line| line.starts_with(beginning));
    found.unwrap_or_else(|| panic!("{beginning:?} in\n{text}"))
}

#[test]
fn nothing_is_shown_of_nothing_at_every_size() {
    let pool = Pool::empty();
    for (columns, rows) in SIZES {
        let screen = Terminal::open(&pool.pool_dir(), columns, rows, &[]);
        screen.shows(&["vctl console", "q leave"]);
        screen.keys_show("2", &["no apparatus runs"]);
        screen.keys_show("3", &["there are no volumes yet"]);
        screen.keys_show("4", &["there are no disks yet"]);
        screen.keys_show("5", &["there are no jobs"]);
        // Keys that need a selection do nothing.
        screen.keys_show("3mzadrRth", &["there are no volumes yet"]);
        screen.keys_show("/x", &["filter: x"]);
        screen.keys("\x1b");
        screen.hides("filter:");
        screen.keys_show("?", &["any key closes"]);
        screen.keys("\x1b");
        screen.hides("any key closes");
        screen.keys("q");
        assert_eq!(screen.ends().0, 0);
    }
}

#[test]
fn long_names_and_many_of_them_at_every_size() {
    let pool = crowded(300);
    pool.start("a");
    for (columns, rows) in SIZES {
        let screen = Terminal::open(&pool.pool_dir(), columns, rows, &[]);
        screen.keys_show("3", &["> customer", "SIZE", "1M"]);
        let text = screen.text();
        let first = row_of(&text, "> customer");
        match columns {
            ..100 => assert!(first.contains("…") && first.contains("0000 "), "{text}"),
            _ => assert!(first.contains(&long(0)), "{text}"),
        }
        assert_eq!(first.split_whitespace().nth(2), Some("1M"), "{text}");
        screen.keys_show("G", &["0299 "]);
        screen.keys_show("/0123\r", &["1 of 300", "0123 "]);
        // The whole name is shown at any size.
        screen.keys_show("\r", &["Esc list"]);
        screen.until("the whole name", |text| {
            text.split_whitespace().collect::<String>().contains(&long(123))
        });
        screen.keys("\x1b");
        screen.hides("Esc list");
        screen.keys("\x1b");
        screen.hides("filter:");
        screen.keys_show("4", &["> A d1", "FREE"]);
        let text = screen.text();
        assert!(
            row_of(&text, "> A d1")
                .split_whitespace()
                .any(|word| word == "723M"),
            "{text}"
        );
        screen.keys("q");
        assert_eq!(screen.ends().0, 0);
    }
}

/// The list is beside the details, and charts fill the rest.
#[test]
fn a_large_window_is_full() {
    let pool = crowded(60);
    pool.start("a");
    let screen = Terminal::open(&pool.pool_dir(), 200, 60, &[]);
    screen.keys_show("3", &["> customer", "── volume customer"]);
    let beside = |text: &str| {
        let heading = text
            .lines()
            .find(|line| line.contains("VOLUME"))
            .unwrap_or_default();
        heading.contains("── volume")
    };
    screen.until("side by side", beside);
    screen.keys_show("1", &["APPARATUS", "── all apparatuses"]);
    screen.until("side by side", |text| {
        text.lines()
            .any(|line| line.contains("APPARATUS") && line.contains("DISK"))
    });
}
