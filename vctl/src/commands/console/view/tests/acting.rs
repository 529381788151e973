//! Checks the effects of keys.

use super::*;

#[test]
fn the_selection_stays_when_the_list_changes() {
    let mut model = model();
    press(&mut model, KeyCode::Char('4'));
    press(&mut model, KeyCode::Down);
    assert_eq!(model.disk().unwrap().record.name.as_str(), "d2");
    let mut fewer = look(3_000_000);
    fewer.view.disks.remove(0);
    model.update(Event::Pool(Box::new(fewer)));
    assert_eq!(model.disk().unwrap().record.name.as_str(), "d2");
    press(&mut model, KeyCode::End);
    press(&mut model, KeyCode::Home);
    assert_eq!(model.disk().unwrap().record.name.as_str(), "d2");
}

#[test]
fn a_move_is_asked_for_previewed_and_sent() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    assert_eq!(press(&mut model, KeyCode::Char('m')), []);
    shows(
        &screen(&model, 80, 24),
        &["move volume vm", "> to", "d2_", "arrows: d2 @fast"],
    );
    press(&mut model, KeyCode::Up);
    press(&mut model, KeyCode::BackTab);
    control(&mut model, 'u');
    type_in(&mut model, "1x");
    assert_eq!(press(&mut model, KeyCode::Enter), []);
    shows(&screen(&model, 80, 24), &["size", "1x"]);
    press(&mut model, KeyCode::Backspace);
    type_in(&mut model, "M");
    let verb = Verb::Move {
        request: moving::MoveRequest {
            volume: "vm".into(),
            to: vec!["@fast".into()],
            from: None,
            range: None,
            policy: None,
        },
        rate: Some(ByteCount(1 << 20)),
    };
    assert_eq!(press(&mut model, KeyCode::Enter), [Effect::Preview(verb.clone())]);
    shows(&screen(&model, 80, 24), &["finding out"]);
    let preview = Preview {
        summary: vec!["moves 24M in 1 run".into()],
        changes: vec!["would move 24M of volume vm".into(); 99],
        ..Preview::default()
    };
    model.update(Event::Previewed(verb.clone(), Ok(Box::new(preview))));
    let asked = screen(&model, 80, 24);
    shows(
        &asked,
        &[
            "vctl volume move vm --to @fast --rate 1M",
            "moves 24M",
            "would move 24M of volume vm",
            "y confirms",
        ],
    );
    assert_eq!(press(&mut model, KeyCode::Enter), [], "only y confirms");
    assert_eq!(
        press(&mut model, KeyCode::Char('y')),
        [Effect::Send(verb.clone(), None)]
    );
    assert_eq!(model.under_way, std::slice::from_ref(&verb));
    model.update(Event::Ended(
        verb,
        Ok("job 8: apparatus a1 works on it".to_owned().into()),
    ));
    shows(&screen(&model, 80, 24), &["job 8: apparatus a1 works on it"]);
    assert!(model.under_way.is_empty());
}

#[test]
fn a_cancelled_verb_is_not_sent_and_its_late_preview_is_dropped() {
    let mut model = model();
    press(&mut model, KeyCode::Char('5'));
    let [Effect::Preview(verb)] = &press(&mut model, KeyCode::Char('p'))[..] else {
        panic!("no preview");
    };
    assert_eq!(press(&mut model, KeyCode::Esc), []);
    model.update(Event::Previewed(verb.clone(), Ok(Box::default())));
    assert!(model.dialog.is_none());
    press(&mut model, KeyCode::Char('p'));
    model.update(Event::Previewed(verb.clone(), Ok(Box::default())));
    assert!(matches!(model.dialog, Some(Dialog::Confirm { .. })));
    assert_eq!(press(&mut model, KeyCode::Char('n')), []);
    assert!(model.dialog.is_none());
}

#[test]
fn leaving_names_the_verbs_that_would_end() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Char('q')), [Effect::Quit]);
    model.under_way.push(Verb::Pause(JobId(7)));
    assert_eq!(press(&mut model, KeyCode::Char('q')), []);
    shows(&screen(&model, 80, 24), &["job pause 7", "y leaves"]);
    assert_eq!(press(&mut model, KeyCode::Esc), []);
    assert!(model.dialog.is_none());
    press(&mut model, KeyCode::Char('q'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), [Effect::Quit]);
}

#[test]
fn a_filter_is_typed_shown_and_dropped() {
    let mut model = crowded(20);
    type_in(&mut model, "/0007");
    shows(
        &screen(&model, 80, 24),
        &["filter: 0007_", "1 of 20", "Enter keeps it"],
    );
    press(&mut model, KeyCode::Enter);
    let drawn = screen(&model, 40, 12);
    shows(&drawn, &["filter: 0007  1 of 20", "0007 "]);
    assert_eq!(model.volume().unwrap().record.id, VolumeId(8));
    type_in(&mut model, "/x");
    shows(&screen(&model, 80, 24), &["0 of 20", "no line passes the filter"]);
    assert!(model.volume().is_none());
    assert_eq!(press(&mut model, KeyCode::Char('m')), []);
    press(&mut model, KeyCode::Esc);
    assert!(!screen(&model, 80, 24).contains("filter:"));
    assert_eq!(
        model.volume().unwrap().record.id,
        VolumeId(8),
        "what was chosen last"
    );
    type_in(&mut model, "/0001");
    press(&mut model, KeyCode::Enter);
    press(&mut model, KeyCode::Char('1'));
    shows(&screen(&model, 120, 40), &["0000", "0002"]);
}

#[test]
fn the_order_is_chosen_and_shown() {
    let mut model = model();
    press(&mut model, KeyCode::Char('4'));
    type_in(&mut model, ">");
    shows(&screen(&model, 80, 24), &["DISK^"]);
    type_in(&mut model, "i");
    let drawn = screen(&model, 80, 24);
    shows(&drawn, &["DISKv", "> A d1"]);
    assert!(drawn.find("B d2") < drawn.find("> A d1"), "{drawn}");
    type_in(&mut model, ">>");
    shows(&screen(&model, 80, 24), &["SIZEv"]);
    type_in(&mut model, "<<<");
    assert!(!screen(&model, 80, 24).contains("DISKv"));
}

#[test]
fn a_volume_is_asked_for_with_its_command_line_in_sight() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    press(&mut model, KeyCode::Char('n'));
    assert_eq!(press(&mut model, KeyCode::Enter), []);
    shows(&screen(&model, 80, 24), &["new volume", "name: is empty"]);
    fill(&mut model, &["db", "10G", "d2"]);
    shows(&screen(&model, 80, 24), &["vctl volume create db 10G --on d2"]);
    for (width, height) in [(40, 12), (80, 24), (120, 40), (200, 60)] {
        shows(&screen(&model, width, height), &["new volume", "> on", "d2_"]);
    }
    let [Effect::Preview(verb)] = &press(&mut model, KeyCode::Enter)[..] else {
        panic!("no preview");
    };
    assert_eq!(verb.command(), "volume create db 10G --on d2");
    model.update(Event::Previewed(verb.clone(), Ok(Box::default())));
    press(&mut model, KeyCode::Char('y'));
    let done: crate::commands::console::model::dialog::Outcome = "volume db is created".to_owned().into();
    model.update(Event::Ended(verb.clone(), Ok(done.making(Tab::Volumes, "db"))));
    assert_eq!(model.volume().unwrap().record.name.as_str(), "vm");
    let mut look = look(4_000_000);
    let mut made = volume();
    (made.record.id, made.record.name) = (VolumeId(2), name("db"));
    look.view.volumes.push(made);
    model.update(Event::Pool(Box::new(look)));
    assert_eq!(
        model.volume().unwrap().record.name.as_str(),
        "db",
        "what was made is chosen"
    );
}

#[test]
fn text_is_edited_where_the_cursor_is() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    press(&mut model, KeyCode::Char('R'));
    press(&mut model, KeyCode::Left);
    type_in(&mut model, "e");
    press(&mut model, KeyCode::Home);
    press(&mut model, KeyCode::Delete);
    type_in(&mut model, "o");
    let [Effect::Preview(verb)] = &press(&mut model, KeyCode::Enter)[..] else {
        panic!("no preview");
    };
    assert_eq!(verb.command(), "volume rename vm oem");
}

#[test]
fn settings_that_stay_are_not_sent() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    press(&mut model, KeyCode::Char('t'));
    assert_eq!(press(&mut model, KeyCode::Enter), []);
    shows(&screen(&model, 80, 24), &["volume vm: nothing was changed"]);
    press(&mut model, KeyCode::Down);
    shows(&screen(&model, 80, 24), &["vctl volume set vm --read-only"]);
    press(&mut model, KeyCode::Esc);
    press(&mut model, KeyCode::Char('4'));
    press(&mut model, KeyCode::Char('t'));
    press(&mut model, KeyCode::Down);
    shows(&screen(&model, 80, 24), &["vctl disk set d1 --allocate"]);
}

/// A verb that is refused because of users can be repeated regardless of them: this is a separate choice, and has to be typed.
#[test]
fn users_are_cut_off_only_after_a_typed_yes() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    let [Effect::Preview(verb)] = &press(&mut model, KeyCode::Char('r'))[..] else {
        panic!("no preview");
    };
    let users =
        "is in use by ".to_owned() + &"process 4711 (a-program-of-some-length) through a1, ".repeat(8);
    let reason = FailureText {
        text: users + "and the last of them",
        hint: Some("end that use first, or override it: --cut-off-users".into()),
    };
    model.update(Event::Previewed(verb.clone(), Err(reason)));
    for (width, height) in [(80, 24), (40, 12)] {
        let mut screens = String::new();
        for _ in 0..30 {
            screens.push_str(&screen(&model, width, height));
            press(&mut model, KeyCode::Down);
        }
        shows(&screens, &["not done", "last of them", "o: vctl volume remove"]);
        (0..99).for_each(|_| drop(press(&mut model, KeyCode::Up)));
    }
    let [Effect::Preview(forced)] = &press(&mut model, KeyCode::Char('o'))[..] else {
        panic!("no preview");
    };
    assert_eq!(forced.command(), "volume remove vm --cut-off-users");
    let preview = Preview {
        danger: Some("all data of volume vm will be lost".into()),
        ..Preview::default()
    };
    model.update(Event::Previewed(forced.clone(), Ok(Box::new(preview))));
    assert_eq!(press(&mut model, KeyCode::Enter), []);
    assert_eq!(press(&mut model, KeyCode::Char('y')), []);
    assert_eq!(press(&mut model, KeyCode::Enter), [], "y alone is not enough");
    shows(
        &screen(&model, 80, 24),
        &["volume vm will be lost", "type yes", "y_"],
    );
    type_in(&mut model, "es");
    assert_eq!(
        press(&mut model, KeyCode::Enter),
        [Effect::Send(forced.clone(), None)]
    );
}

#[test]
fn a_failure_during_a_dialog_is_shown_after_it() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    press(&mut model, KeyCode::Char('n'));
    for job in [1, 2] {
        let reason = FailureText {
            text: format!("job {job} is gone"),
            hint: None,
        };
        model.update(Event::Ended(Verb::Pause(JobId(job)), Err(reason)));
    }
    shows(&screen(&model, 80, 24), &["new volume"]);
    press(&mut model, KeyCode::Esc);
    shows(
        &screen(&model, 80, 24),
        &["job pause 1: not done", "job 1 is gone"],
    );
    press(&mut model, KeyCode::Enter);
    shows(&screen(&model, 80, 24), &["job pause 2: not done"]);
    press(&mut model, KeyCode::Enter);
    assert!(model.dialog.is_none());
}
