//! Checks the layout at common terminal sizes.

use super::*;

#[test]
fn everything_has_its_place_at_80x24() {
    let mut model = model();
    shows(
        &screen(&model, 80, 24),
        &[
            "/pools/p",
            "generation 41",
            "errors: 1",
            "next: vctl pool check",
            "a1",
            "serving",
            "250",
            "1000K/s",
            "<4us",
            "vm",
            "AAAA",
            "d2",
            "volume vm",
            "37%",
            "4M/s",
            "all apparatuses",
            "events",
            "slow",
        ],
    );
    press(&mut model, KeyCode::Char('2'));
    shows(
        &screen(&model, 80, 24),
        &[
            "> a1", "/mnt/a1", "4242", "IOPS", "read", "written", "P99-R", "p99 r", "p99 w", "held", "most",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(
        &screen(&model, 80, 24),
        &[
            "> vm",
            "after job 7, 37% done",
            "BBBBBBBB",
            "A d1 24M",
            "B d2 32M",
            "m move",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(
        &screen(&model, 80, 24),
        &[
            "> A d1",
            "faulty",
            "no",
            "@fast",
            "quarantined 2M",
            "####",
            "rr",
            "qq",
            "..",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(
        &screen(&model, 80, 24),
        &[
            "running",
            "why: waits for the controller that acts: volume hold by pid 77",
            "12 host requests held",
            "5.0s left",
        ],
    );
    press(&mut model, KeyCode::Tab);
    shows(&screen(&model, 80, 24), &["warning disk d1: slow\\u{1b}[2J"]);
}

#[test]
fn no_size_breaks_it() {
    let mut model = model();
    for tab in '1'..='6' {
        press(&mut model, KeyCode::Char(tab));
        for (width, height) in [
            (1, 1),
            (39, 30),
            (40, 12),
            (60, 15),
            (132, 24),
            (133, 60),
            (300, 100),
        ] {
            drawn(&model, PLAIN, width, height);
        }
    }
    shows(&screen(&model, 20, 5), &["needs 40 x 12"]);
    let nothing = Model::new("p".into());
    for tab in Tab::ALL {
        let mut model = Model::new("p".into());
        model.tab = tab;
        drawn(&model, PLAIN, 80, 24);
    }
    shows(&screen(&nothing, 80, 24), &["looking"]);
}

#[test]
fn without_colour_there_is_none_and_ascii_is_enough() {
    for tab in '1'..='6' {
        let mut model = model();
        press(&mut model, KeyCode::Char(tab));
        let terminal = drawn(&model, PLAIN, 133, 40);
        for cell in terminal.backend().buffer().content() {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
            assert!(cell.symbol().is_ascii(), "{:?}", cell.symbol());
        }
    }
}

#[test]
fn names_are_whole_where_there_is_room_and_cut_with_a_mark_where_not() {
    let model = crowded(3);
    let whole = model.volumes()[1].record.name.to_string();
    for (width, height) in [(120, 40), (200, 60)] {
        let drawn = screen(&model, width, height);
        shows(&drawn, &[&format!("{whole}    32M")]);
    }
    for (width, height) in [(40, 12), (80, 24)] {
        let drawn = screen(&model, width, height);
        shows(&drawn, &["> 0000", "...", "0001    32M"]);
    }
}

#[test]
fn numbers_are_whole_at_every_width() {
    let mut model = crowded(3);
    for width in 40..=200 {
        for (tab, numbers) in [
            (KeyCode::Char('2'), &["250", "1000K/s"][..]),
            (KeyCode::Char('3'), &["32M"]),
            (KeyCode::Char('4'), &["21M"]),
            (KeyCode::Char('5'), &["37%", "10.0s"]),
        ] {
            press(&mut model, tab);
            let drawn = screen(&model, width, 24);
            let list = lines(&drawn)[2..6].join("\n");
            for number in numbers {
                let whole = list.split_whitespace().any(|word| word == *number);
                assert!(whole, "{number} at {width}:\n{drawn}");
            }
        }
    }
}

#[test]
fn a_long_list_is_shown_around_the_selected_line() {
    let mut model = crowded(1000);
    for (width, height) in [(40, 12), (80, 24), (120, 40), (200, 60)] {
        press(&mut model, KeyCode::Home);
        shows(&screen(&model, width, height), &["0000 "]);
        press(&mut model, KeyCode::End);
        let drawn = screen(&model, width, height);
        shows(&drawn, &["0999 ", "#"]);
        assert_eq!(drawn.matches("> 0").count(), 1, "{drawn}");
    }
}

#[test]
fn wide_windows_are_used() {
    let mut model = crowded(100);
    press(&mut model, KeyCode::Char('3'));
    let drawn = screen(&model, 200, 60);
    // The list is at the left, the details are at the right, from the first line on.
    let first = lines(&drawn)[2];
    shows(first, &["VOLUME", "-- volume 0000"]);
    let empty = lines(&drawn).iter().filter(|line| line.trim().is_empty()).count();
    assert!(empty <= 2, "{empty} lines are empty:\n{drawn}");
    press(&mut model, KeyCode::Char('1'));
    let drawn = screen(&model, 200, 60);
    let first = lines(&drawn)[4];
    shows(first, &["APPARATUS", "DISK"]);
    shows(&drawn, &["-- all apparatuses", "IOPS", "written"]);
}

#[test]
fn the_selected_line_can_fill_the_window() {
    let mut model = crowded(3);
    press(&mut model, KeyCode::Enter);
    let drawn = screen(&model, 40, 12);
    // The name is too long for the title, so it appears in full below it.
    let text: String = lines(&drawn).concat();
    shows(&text, &["volume 0000", "32M, writable", "Esc list"]);
    assert!(!drawn.contains("VOLUME"), "{drawn}");
    press(&mut model, KeyCode::PageDown);
    assert_ne!(screen(&model, 40, 12), drawn, "it can be scrolled");
    press(&mut model, KeyCode::Esc);
    shows(&screen(&model, 40, 12), &["VOLUME"]);
}
