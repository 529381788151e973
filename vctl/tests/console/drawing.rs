//! `volume map` as a picture and as a drawing.

use crate::support::Pool;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

#[test]
fn a_picture_stands_above_the_table_on_terminals_only() {
    let pool = Pool::with_volume();
    let plain = pool.run(["volume", "map", "v"]).ok().out;
    assert!(plain.starts_with("START"), "{plain}");
    let pictured = pool.run(["volume", "map", "v", "--picture", "always"]).ok().out;
    assert!(
        pictured.starts_with(&format!("[{}]\nA d1 8M\n\nSTART", "A".repeat(78))),
        "{pictured}"
    );
    assert_eq!(
        pool.run(["volume", "map", "v", "--picture", "never"]).ok().out,
        plain
    );
    let json = pool.json(["volume", "map", "v"]);
    assert!(json.get("after").is_none());
    assert_eq!(json, pool.json(["volume", "map", "v", "--picture", "always"]));
}

#[test]
fn a_move_is_drawn_before_it_is_made() {
    let pool = Pool::with_volume();
    let before = pool.state();
    let pictured = pool
        .run(["volume", "map", "v", "--to", "d2", "--picture", "always"])
        .ok()
        .out;
    assert!(
        pictured.contains(&format!("after a move to d2:\n[{}]", "B".repeat(78))),
        "{pictured}"
    );
    let planned = pool.json(["volume", "map", "v", "--to", "d2"]);
    assert_eq!(planned["segments"][0]["disk"], "d1");
    assert_eq!(planned["after"][0]["disk"], "d2");
    assert_eq!(pool.state(), before);
    pool.run(["volume", "map", "v", "--to", "none"])
        .ended(3)
        .complains(&["none"]);
}

#[test]
fn a_drawing_has_both_layouts_and_a_legend() {
    let pool = Pool::with_volume();
    let file = pool.file("v.svg");
    pool.run(["volume", "map", "v", "--svg", &file, "--to", "d2"])
        .ok();
    let drawn = std::fs::read_to_string(&file).unwrap();
    for words in [
        "<svg",
        "volume v, 8M",
        ">now<",
        ">after a move to d2<",
        "A d1: 8M, then 0",
        "B d2: 0, then 8M",
        "</svg>",
    ] {
        assert!(drawn.contains(words), "{words} in {drawn}");
    }
    pool.run(["volume", "create", "small", "1M"]).ok();
    let small = pool.run(["volume", "map", "small", "--svg", "-"]).ok().out;
    assert_eq!(small.matches("text-anchor=\"end\"").count(), 1, "{small}");
    assert_eq!(small.matches(">0<").count(), 1, "one name for one place: {small}");
    let now = pool.run(["volume", "map", "v", "--svg", "-"]).ok().out;
    assert!(now.contains("A d1: 8M<") && !now.contains("then"), "{now}");
    pool.run(["volume", "map", "v", "--svg", &pool.file("none/v.svg")])
        .ended(1)
        .complains(&["drawing", "none/v.svg"]);
}

#[test]
fn a_drawing_and_an_object_do_not_share_standard_output() {
    let pool = Pool::with_volume();
    let output = pool
        .run(["volume", "map", "v", "--svg", "-", "--json"])
        .ended(2)
        .complains(&["--svg -", "--json"]);
    assert_eq!(output.out.lines().count(), 1, "{output:#?}");
    let file = pool.file("v.svg");
    let mapped = pool.json(["volume", "map", "v", "--svg", &file]);
    assert_eq!(mapped["volume"], "v");
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("</svg>\n"));
}

/// While a job moves the volume, the drawing shows its placement after the job.
#[test]
fn a_running_job_is_drawn_too() {
    let pool = Pool::with_volume();
    let mount = pool.start("a");
    pool.run(["volume", "resize", "v", "40M", "--on", "d1"]).ok();
    let file = OpenOptions::new().write(true).open(mount.join("v")).unwrap();
    file.write_all_at(&vec![1; 40 << 20], 0).unwrap();
    pool.run([
        "volume",
        "move",
        "v",
        "--to",
        "d2",
        "--rate",
        "64K",
        "--background",
    ])
    .ok();
    let drawn = pool.run(["volume", "map", "v", "--svg", "-"]).ok().out;
    assert!(drawn.contains(">after job 1<"), "{drawn}");
    let pictured = pool.run(["volume", "map", "v", "--picture", "always"]).ok().out;
    assert!(pictured.contains("after job 1:\n[BBBB"), "{pictured}");
    pool.run(["job", "cancel", "1"]).ok();
}
