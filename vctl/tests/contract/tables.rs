//! Columns: selection, order, sorting, and sizes for users or for scripts.

use crate::support::Pool;

#[test]
fn columns_are_aligned_and_headed_in_upper_case() {
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "a-longer-name", "512"]).ok();
    let output = pool.run(["volume", "list", "-o", "NAME,SIZE,ID"]).ok().out;
    assert_eq!(
        output,
        "NAME           SIZE  ID\nv                8M   1\na-longer-name   512   2\n"
    );
}

#[test]
fn columns_can_be_chosen_added_and_left_without_headings() {
    let pool = Pool::with_volume();
    let list = |words: &[&str]| pool.run(["volume", "list"].iter().chain(words)).ok().out;
    assert_eq!(list(&["-o", "size,name", "--no-headings"]), "8M  v\n");
    assert_eq!(
        list(&["-o", "size,name", "--no-headings", "--bytes"]),
        "8388608  v\n"
    );
    let usual = list(&[]);
    let more = list(&["-o", "+id"]);
    assert_eq!(
        more.lines().next().unwrap(),
        format!("{}  ID", usual.lines().next().unwrap())
    );
    pool.run(["volume", "list", "-o", "nonsense"])
        .ended(2)
        .complains(&["column \"nonsense\"", "NAME", "READ-ONLY"]);
    pool.run(["volume", "list", "-o", ""]).ended(2);
}

#[test]
fn the_columns_are_listed_when_asked_for() {
    let pool = Pool::with_volume();
    let output = pool.run(["volume", "list", "-o", "help"]).ok().out;
    let names: Vec<_> = output.lines().collect();
    assert!(
        names.contains(&"NAME") && names.contains(&"READ-ONLY"),
        "{output}"
    );
}

#[test]
fn rows_can_be_sorted_by_any_column_both_ways() {
    let pool = Pool::with_volume();
    pool.run(["volume", "create", "b", "900K"]).ok();
    pool.run(["volume", "create", "a", "1G"]).ended(1);
    pool.run(["volume", "create", "a", "20M"]).ok();
    let names = |sort: &str| {
        let output = pool
            .run(["volume", "list", "-o", "name", "--no-headings", "--sort", sort])
            .ok()
            .out;
        output.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names("name"), ["a", "b", "v"]);
    assert_eq!(names("SIZE"), ["b", "v", "a"]);
    assert_eq!(names("-size"), ["a", "v", "b"]);
    let listed = pool.json(["volume", "list", "--sort", "name"]);
    assert_eq!(listed["volumes"][0]["name"], "a", "JSON is sorted too");
    pool.run(["volume", "list", "--sort", "nonsense"])
        .ended(2)
        .complains(&["nonsense"]);
}

#[test]
fn an_empty_table_is_its_headings() {
    let pool = Pool::empty();
    for noun in ["disk", "volume", "apparatus", "job"] {
        let output = pool.run([noun, "list"]).ok().out;
        assert_eq!(output.lines().count(), 1, "{output}");
        assert_eq!(output, output.to_uppercase());
        assert_eq!(pool.run([noun, "list", "--no-headings"]).ok().out, "");
    }
}

#[test]
fn one_and_many_have_different_nouns() {
    let pool = Pool::empty();
    pool.run(["disk", "add", &pool.file("one.img"), "--create", "16M"])
        .ok();
    pool.run(["volume", "create", "v", "1M"]).ok();
    let output = pool.run(["status"]).out;
    assert!(
        output.contains(": 1 disk with ") && output.contains(", 1 volume, "),
        "{output}"
    );
    assert!(output.contains(", 0 jobs"), "{output}");
}
