//! The pictures in `docs/console`, drawn from real screens of the console. `UPDATE_SCREENSHOTS=1 cargo test -p vctl --test console
//! screenshots` writes them; otherwise the test only checks that they can be drawn.

use crate::support::Pool;
use crate::terminal::Terminal;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Width of a cell in hundredths of a pixel: the width of a character in common fonts at this size, so that nothing is shifted where a
/// viewer does not stretch text.
const WIDE: u32 = 843;
const HIGH: u32 = 18;
const MARGIN: u32 = 10;
/// Bars from an eighth of a cell to a full cell.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PAPER: &str = "#1b1d23";
const INK: &str = "#d8dade";
const PALETTE: [&str; 16] = [
    "#2b2e36", "#e06c75", "#7bb662", "#d7a64a", "#5a9bd8", "#b681d0", "#4fb3bf", "#d8dade", "#7d828c",
    "#f08a92", "#98d37f", "#f0c674", "#81b7ea", "#cfa0e6", "#7ad3dd", "#ffffff",
];

fn colour(colour: vt100::Color, otherwise: &'static str) -> String {
    match colour {
        vt100::Color::Default => otherwise.into(),
        vt100::Color::Idx(at) => PALETTE.get(usize::from(at)).copied().unwrap_or(otherwise).into(),
        vt100::Color::Rgb(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
    }
}

/// Adjacent cells with the same style.
struct Run {
    column: u16,
    text: String,
    look: (String, String, bool),
}

fn runs(screen: &vt100::Screen, row: u16) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for column in 0..screen.size().1 {
        let cell = screen.cell(row, column).unwrap();
        let (mut ink, mut paper) = (colour(cell.fgcolor(), INK), colour(cell.bgcolor(), PAPER));
        if cell.inverse() {
            std::mem::swap(&mut ink, &mut paper);
        }
        let look = (ink, paper, cell.bold());
        let text = if cell.contents().is_empty() {
            " "
        } else {
            cell.contents()
        };
        match runs.last_mut().filter(|run| run.look == look) {
            Some(run) => run.text.push_str(text),
            None => runs.push(Run {
                column,
                text: text.to_owned(),
                look,
            }),
        }
    }
    runs
}

/// Returns the width of this many cells.
fn across(cells: usize) -> String {
    let hundredths = u32::try_from(cells).unwrap() * WIDE;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Draws the bars of charts as rectangles, because those of fonts do not join between cells. Returns the remaining text.
fn draw_bars(svg: &mut String, run: &Run, y: u32) -> String {
    let height = |sign: char| BARS.iter().position(|bar| *bar == sign);
    for (at, sign) in run.text.chars().enumerate() {
        let Some(eighths) = height(sign).map(|at| u32::try_from(at).unwrap() + 1) else {
            continue;
        };
        let high = HIGH * eighths / 8;
        writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{high}\" fill=\"{}\"/>",
            across(usize::from(run.column) + at),
            y + HIGH - high,
            across(1),
            run.look.0
        )
        .unwrap();
    }
    run.text
        .chars()
        .map(|sign| if height(sign).is_some() { ' ' } else { sign })
        .collect()
}

/// Returns a screen as an SVG drawing whose text is text.
fn drawing(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let width = u32::from(columns) * WIDE / 100 + 1 + 2 * MARGIN;
    let height = u32::from(rows) * HIGH + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n<g transform=\"translate({MARGIN} {MARGIN})\">\n"
    );
    for row in 0..rows {
        for run in runs(screen, row) {
            draw_run(&mut svg, &run, u32::from(row) * HIGH);
        }
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn draw_run(svg: &mut String, run: &Run, y: u32) {
    let (ink, paper, bold) = &run.look;
    let x = across(usize::from(run.column));
    let long = across(run.text.chars().count());
    if paper != PAPER {
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{long}\" height=\"{HIGH}\" fill=\"{paper}\"/>"
        )
        .unwrap();
    }
    let text = draw_bars(svg, run, y);
    if text.trim().is_empty() {
        return;
    }
    let weight = if *bold { " font-weight=\"bold\"" } else { "" };
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" fill=\"{ink}\"{weight} textLength=\"{long}\" xml:space=\"preserve\">{text}</text>",
        y + 14
    )
    .unwrap();
}

/// Draws the screen to a file.
fn take(pool: &Pool, screen: &Terminal, name: &str) {
    let svg = screen.with(drawing);
    assert!(svg.contains("</text>"), "{name} is empty");
    keep(pool, name, &svg);
}

/// Writes to `docs/console` on request; replaces the directory of this run.
fn keep(pool: &Pool, name: &str, svg: &str) {
    if std::env::var_os("UPDATE_SCREENSHOTS").is_none() {
        return;
    }
    let shown = pool.path("").display().to_string();
    let shown = shown.trim_end_matches('/');
    // The replacement has the same length, so that the text after it stays in its place.
    let demo: String = "/srv/storage-01"
        .chars()
        .chain(std::iter::repeat('0'))
        .take(shown.len())
        .collect();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/console");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{name}.svg")), svg.replace(shown, &demo)).unwrap();
}

#[test]
fn screenshots_can_be_taken() {
    let pool = Pool::empty();
    for (name, tag) in [("d1", "old"), ("d2", "fast"), ("d3", "fast")] {
        pool.run([
            "disk",
            "add",
            &pool.file(&format!("{name}.img")),
            "--create",
            "128M",
            "--tag",
            tag,
        ])
        .ok();
    }
    pool.run(["volume", "create", "db", "32M", "--on", "d2"]).ok();
    pool.run(["volume", "create", "vm", "64M", "--on", "d1"]).ok();
    let mounts = [pool.start("a1"), pool.start("a2")];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (mount, volume) in [(&mounts[0], "vm"), (&mounts[1], "db")] {
            let (file, stop) = (
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(mount.join(volume))
                    .unwrap(),
                &stop,
            );
            scope.spawn(move || {
                for at in (0..4096_u64).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut block = [at.to_le_bytes()[0]; 4096];
                    file.write_all_at(&block, at * 4096).unwrap();
                    file.read_exact_at(&mut block, at * 4096).unwrap();
                }
            });
        }
        let _ended = Ended(&stop);
        session(&pool);
    });
}

/// Ends the load when the session ends, also when it fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn session(pool: &Pool) {
    let screen = Terminal::open(&pool.pool_dir(), 80, 24, &[]);
    let charted = |text: &str| text.matches(BARS).count() >= 150;
    screen.keys_show("2", &["> a1", "serving"]);
    screen.until("a chart", charted);
    take(pool, &screen, "apparatuses");
    screen.keys_show("3", &["> db"]);
    screen.keys_show("j", &["> vm"]);
    screen.keys_show("m", &["move volume vm"]);
    screen.keys_show("\x15@fast\x1b[Z\x15", &["@fast", "> rate", "like 50M"]);
    take(pool, &screen, "form");
    screen.keys_show("1M\r", &["moves 64M", "y confirms", "┘"]);
    take(pool, &screen, "preview");
    screen.keys_show("y", &["after job 1, 2"]);
    take(pool, &screen, "volumes");
    let map = pool.run(["volume", "map", "vm", "--svg", "-"]).ok().out;
    assert!(map.contains("after job 1"), "{map}");
    keep(pool, "map", &map);
    screen.keys_show("5", &["1 running", "left"]);
    take(pool, &screen, "jobs");
    screen.keys_show("4", &["> A d1"]);
    take(pool, &screen, "disks");
    screen.keys_show("1", &["a1", "running"]);
    take(pool, &screen, "overview");
    screen.keys_show("?", &["any key closes"]);
    take(pool, &screen, "help");
    screen.keys("\x1b");
    screen.hides("any key closes");
    screen.keys("q");
    assert_eq!(screen.ends().0, 0);
    let wide = Terminal::open(&pool.pool_dir(), 140, 40, &[]);
    wide.keys_show("1", &["all apparatuses", "vm"]);
    wide.until("charts", |text| text.matches(BARS).count() >= 400);
    take(pool, &wide, "wide");
    // It may have ended by now.
    pool.run(["job", "cancel", "1"]);
}
