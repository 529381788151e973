//! Volumes, disks and apparatuses created, changed and removed from the console, by keys alone; each effect is verified in the pool.

use crate::support::Pool;
use crate::terminal::Terminal;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The key that empties a field of a form.
const EMPTY: &str = "\x15";
const ENTER: &str = "\r";

/// Fills the fields of a form in order, and requests the preview.
fn fill(screen: &Terminal, lines: &[&str]) {
    let keys: Vec<String> = lines.iter().map(|line| format!("{EMPTY}{line}")).collect();
    screen.keys(&(keys.join("\t") + ENTER));
}

fn listed(pool: &Pool, noun: &str, columns: &str) -> String {
    pool.run([noun, "list", "--no-headings", "-o", columns]).ok().out
}

/// From an empty pool to a volume in use and back, by keys alone.
#[test]
fn a_whole_session() {
    let pool = Pool::empty();
    let screen = Terminal::open(&pool.pool_dir(), 100, 40, &[]);
    screen.keys_show("4", &["there are no disks yet: n adds one"]);
    for name in ["d1", "d2"] {
        screen.keys_show("n", &["add a disk", "> path"]);
        fill(
            &screen,
            &[
                &pool.file(&format!("{name}.img")),
                "",
                "64M",
                "as it is used",
                "fast",
            ],
        );
        screen.keys_show("", &["--create 64M --tag fast", "would add disk", "y confirms"]);
        screen.keys_show("y", &[&format!("disk {name} is added")]);
    }
    screen.shows(&["> B d2"]);
    screen.keys_show("2n", &["start an apparatus", "> name"]);
    fill(&screen, &["a", &pool.file("mount-a")]);
    screen.keys_show("", &["vctl apparatus start a", "in the background", "y confirms"]);
    screen.keys_show("y", &["apparatus a serves at", "> a", "serving"]);
    screen.keys("3");
    for name in ["db", "web", "web-old"] {
        screen.keys_show("n", &["new volume", "> name"]);
        fill(&screen, &[name, "4M", "d1"]);
        screen.keys_show(
            "",
            &[&format!("vctl volume create {name} 4M --on d1"), "y confirms"],
        );
        screen.keys_show(
            "y",
            &[&format!("volume {name} is created"), &format!("> {name} ")],
        );
    }
    filters_and_sorts(&screen);
    resizes_and_renames(&pool, &screen);
    removes(&pool, &screen);
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
    let history = pool.run(["history"]).ok().out;
    for command in [
        "disk add",
        "apparatus start a",
        "volume create db 4M --on d1",
        "apparatus stop a",
    ] {
        assert!(history.contains(command), "{command} in {history}");
    }
}

fn in_order(text: &str, names: [&str; 3]) -> bool {
    let line = |name: &str| {
        let mut lines = text.lines();
        lines.position(|line| {
            line.trim_start_matches(['>', ' '])
                .starts_with(&format!("{name} "))
        })
    };
    let lines = names.map(line);
    lines[0].is_some() && lines.is_sorted()
}

fn filters_and_sorts(screen: &Terminal) {
    screen.keys_show("/web", &["filter: web_", "2 of 3"]);
    screen.keys_show(" !old", &["1 of 3"]);
    screen.keys_show(ENTER, &["filter: web !old  1 of 3", "> web "]);
    screen.keys("\x1b");
    screen.hides("filter:");
    screen.shows(&["> web ", "db ", "web-old "]);
    screen.keys_show(">i", &["VOLUME↓"]);
    screen.until("the other way around", |text| {
        in_order(text, ["web-old", "web", "db"])
    });
    screen.shows(&["> web "]);
    screen.keys_show("i", &["VOLUME↑"]);
    screen.until("by name", |text| in_order(text, ["db", "web", "web-old"]));
    screen.shows(&["> web "]);
}

fn resizes_and_renames(pool: &Pool, screen: &Terminal) {
    screen.keys_show("z", &["resize volume web", "4M_"]);
    screen.keys_show(
        &format!("{EMPTY}+4M{ENTER}"),
        &["vctl volume resize web +4M", "y confirms"],
    );
    screen.keys_show("y", &["volume web has its new size", "8M, writable"]);
    screen.keys_show("z", &["resize volume web"]);
    screen.keys_show(
        &format!("{EMPTY}2M{ENTER}"),
        &[
            "vctl volume resize web 2M",
            "the last 6M of volume web will be lost",
            "type yes",
        ],
    );
    screen.keys_show(
        &format!("yes{ENTER}"),
        &["volume web has its new size", "2M, writable"],
    );
    screen.keys_show("R", &["rename volume web", "web_"]);
    screen.keys_show(
        &format!("-new{ENTER}"),
        &["vctl volume rename web web-new", "y confirms"],
    );
    screen.keys_show("y", &["volume web is called web-new now", "> web-new"]);
    screen.keys_show("t", &["settings of volume web-new", "read-write_"]);
    screen.keys_show(
        &format!("\t{EMPTY}0640{ENTER}"),
        &["vctl volume set web-new --mode 0640", "y confirms"],
    );
    screen.keys_show("y", &["volume web-new is set", "mode 0640"]);
    assert_eq!(
        listed(pool, "volume", "name,size"),
        "db       4M\nweb-new  2M\nweb-old  4M\n"
    );
}

/// A removal is refused while the object is used, with its name; later it succeeds.
fn removes(pool: &Pool, screen: &Terminal) {
    let mount = pool.path("mount-a");
    let file = OpenOptions::new()
        .write(true)
        .open(mount.join("web-new"))
        .unwrap();
    screen.keys_show(
        "r",
        &[
            "volume remove web-new: not done",
            "is in use by process",
            "hint: end that use first",
            "o overrides it",
        ],
    );
    screen.keys("\x1b");
    screen.hides("not done");
    screen.keys_show("r", &["o: vctl volume remove web-new --cut-off-users"]);
    screen.keys_show(
        "o",
        &[
            "all data of volume web-new will be lost",
            "are cut off",
            "process",
            "type yes",
        ],
    );
    screen.keys(&format!("no{ENTER}"));
    screen.keys_show("", &["type yes to confirm: no_"]);
    assert!(listed(pool, "volume", "name").contains("web-new"), "no is no yes");
    screen.keys_show(&format!("{EMPTY}yes{ENTER}"), &["volume web-new is removed"]);
    assert!(file.write_all_at(&[1; 512], 0).is_err(), "cut off");
    drop(file);
    assert_eq!(listed(pool, "volume", "name"), "db\nweb-old\n");
    screen.keys_show("2s", &["vctl apparatus stop a", "unmounts", "y confirms"]);
    screen.keys_show("y", &["apparatus a has stopped", "no apparatus runs"]);
    assert!(!Path::new(&mount).join("db").exists());
}

/// The console refuses what the command line refuses, with the same words, and changes nothing.
#[test]
fn an_impossible_creation_changes_nothing() {
    let pool = Pool::with_volume();
    let before = pool.state();
    for (columns, rows) in [(80, 24), (40, 12)] {
        let screen = Terminal::open(&pool.pool_dir(), columns, rows, &[]);
        screen.keys_show("3", &["> v"]);
        screen.keys_show("n", &["new volume"]);
        fill(&screen, &["v", "1M"]);
        screen.says(&["not done", "exists already"]);
        screen.keys("\x1b");
        screen.hides("not done");
        screen.keys_show("n", &["new volume"]);
        fill(&screen, &["w", "1000"]);
        screen.says(&["not done", "multiple of 512", "512 or 1024"]);
        screen.keys("\x1b");
        screen.hides("not done");
        screen.keys_show("n", &["new volume"]);
        fill(&screen, &["w", "900G"]);
        screen.says(&["not done"]);
        screen.keys("\x1b");
        screen.hides("not done");
        screen.keys_show("n", &["new volume"]);
        fill(&screen, &["a name", "1M"]);
        screen.says(&["has the character"]);
        screen.keys("\x1b");
        screen.hides("new volume");
        screen.keys("d");
        screen.says(&["not done", "has no loop device"]);
        screen.keys("\x1b");
        screen.hides("not done");
        screen.keys_show("a", &["attach volume v"]);
        screen.keys(ENTER);
        screen.says(&["not done", "no apparatus serves it"]);
        screen.keys("\x1b");
        screen.hides("not done");
        screen.keys_show("4n", &["add a disk"]);
        fill(&screen, &["/nowhere/d.img"]);
        screen.says(&["not done", "/nowhere/d.img", "e edits"]);
        // What was entered is not lost.
        screen.keys_show("e", &["add a disk", "/nowhere/d.img"]);
        screen.keys("\x1b");
        screen.hides("add a disk");
        screen.keys("q");
        assert_eq!(screen.ends().0, 0);
        assert_eq!(pool.state(), before);
    }
}

/// Data on a disk is lost only if the operator types the confirmation.
#[test]
fn a_disk_with_something_on_it_is_taken_in_only_by_a_typed_yes() {
    let pool = Pool::with_volume();
    let path = pool.path("old.img");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(64 << 20).unwrap();
    // This is the magic number of XFS.
    file.write_all_at(b"XFSB", 0).unwrap();
    drop(file);
    let file = File::open(&path).unwrap();
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    screen.keys_show("4n", &["add a disk"]);
    fill(&screen, &[path.to_str().unwrap()]);
    screen.keys_show("", &["XFS", "which will be lost", "type yes"]);
    screen.keys(&format!("y{ENTER}"));
    screen.keys_show("", &["type yes to confirm: y_"]);
    let mut head = [0; 4];
    file.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(&head, b"XFSB");
    screen.keys_show(&format!("es{ENTER}"), &["disk old is added", "> C old"]);
    screen.keys_show("t", &["settings of disk old", "yes_"]);
    screen.keys_show(
        &format!("\x1b[B{ENTER}"),
        &["vctl disk set old --no-allocate", "y confirms"],
    );
    screen.keys_show("y", &["disk old is set", "takes nothing new"]);
    screen.keys_show("r", &["vctl disk remove old", "y confirms"]);
    screen.keys_show("y", &["disk old is removed"]);
    assert_eq!(listed(&pool, "disk", "name"), "d1\nd2\n");
}

/// Where there are loop devices: the console names the same device as the command line, and a refusal names its user.
#[test]
fn a_volume_is_attached_and_detached() {
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .is_err()
    {
        return;
    }
    let pool = Pool::with_volume();
    pool.start("a");
    let screen = Terminal::open(&pool.pool_dir(), 100, 30, &[]);
    screen.keys_show("3", &["> v"]);
    screen.keys_show("a", &["attach volume v", "> through"]);
    screen.keys_show(
        ENTER,
        &["vctl volume attach v", "creates a loop device on", "y confirms"],
    );
    screen.keys_show(
        "y",
        &["volume v is /dev/loop", "1 open handle: loop device /dev/loop"],
    );
    let device = pool.json(["volume", "attach", "v"])["device"]
        .as_str()
        .unwrap()
        .to_owned();
    screen.shows(&[&format!("volume v is {device}")]);
    screen.keys_show("z", &["resize volume v"]);
    screen.keys_show(&format!("{EMPTY}4M{ENTER}"), &["not done", &device]);
    screen.keys("\x1b");
    screen.hides("not done");
    let user = std::fs::File::options()
        .read(true)
        .custom_exclusive()
        .open(&device)
        .unwrap();
    screen.keys_show("d", &["vctl volume detach v", &device, "y confirms"]);
    screen.keys_show("y", &["not done", "is in use"]);
    screen.keys("\x1b");
    screen.hides("not done");
    drop(user);
    screen.keys_show("d", &["y confirms"]);
    screen.keys_show("y", &["volume v is detached"]);
    pool.run(["volume", "detach", "v"]).ended(3);
}

trait Exclusive {
    fn custom_exclusive(&mut self) -> &mut Self;
}

impl Exclusive for OpenOptions {
    /// Opens exclusively, as a mounted file system does.
    fn custom_exclusive(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap())
    }
}
