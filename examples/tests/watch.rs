//! The live view on a terminal of the test's own, and the picture of a run, as texts.

use std::time::Duration;

use nvme_core::ana::AnaState;
use nvme_core::controller::State;
use nvme_host_examples::timeline::{Happening, Moment, PathMoment, PathName, Run, picture};
use nvme_host_examples::watch::{self, History};
use nvme_mpath::{
    ControllerSnapshot, HeadSnapshot, HeadState, PathSnapshot, PinSnapshot, Snapshot,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const SECOND: Duration = Duration::from_secs(1);

/// A head with two paths, `seconds` after the beginning; each has done 1000 commands in a second.
fn snapshot(seconds: u32) -> Snapshot {
    let mut now = Snapshot::default();
    now.at = SECOND * (100 + seconds);
    let mut head = HeadSnapshot::default();
    head.name = "nqn.2026-01.org.example:x/1".into();
    for id in 0..2 {
        let mut controller = ControllerSnapshot::default();
        (controller.id, controller.state) = (id, State::Live);
        controller.address = format!("tcp://192.0.2.{id}:4420");
        (controller.commands, controller.in_flight) = (u64::from(seconds) * 1000, 7);
        let mut path = PathSnapshot::default();
        (path.controller, path.address) = (id, controller.address.clone());
        (path.usable, path.ana) =
            (true, [AnaState::Optimized, AnaState::NonOptimized][id as usize]);
        head.paths.push(path);
        now.controllers.push(controller);
    }
    now.heads.push(head);
    now
}

fn drawn(history: &History) -> String {
    let mut terminal = Terminal::new(TestBackend::new(150, 24)).unwrap();
    terminal.draw(|frame| watch::draw(frame, history, None)).unwrap();
    terminal.backend().to_string()
}

/// The line that has all of these words.
#[track_caller]
fn line(screen: &str, words: &[&str]) {
    let has = |line: &str| words.iter().all(|w| line.contains(w));
    assert!(screen.lines().any(has), "no line with {words:?} in\n{screen}");
}

#[test]
fn paths_are_shown_with_what_they_do() {
    let mut history = History::new();
    (0..3).for_each(|i| history.take(snapshot(i)));
    let screen = drawn(&history);
    line(&screen, &["nqn.2026-01.org.example:x/1", "live"]);
    line(&screen, &["●", "tcp://192.0.2.0:4420", "live", "optimized", "1,000", " 7 "]);
    line(&screen, &["●", "tcp://192.0.2.1:4420", "non-optimized", "1,000"]);
    line(&screen, &["parked 0", "held 0"]);
    line(&screen, &["none"]);
    assert!(!screen.contains("without a path"), "{screen}");
}

#[test]
fn a_pending_removal_is_shown_with_its_time_and_its_pin() {
    let mut now = snapshot(5);
    let head = &mut now.heads[0];
    head.paths.clear();
    (head.stats.parked_now, head.stats.held_now) = (16, 3);
    let (cause, lost_for) = (nvme_mpath::LossCause::LinkLost, SECOND * 3);
    head.state = HeadState::RemovalPending { cause, lost_for, remaining: Some(SECOND * 7) };
    now.controllers[1].state = State::Connecting;
    now.controllers[1].last_error = Some("connection refused".into());
    let mut pin = PinSnapshot::default();
    pin.holder = "removal pending of it".into();
    now.pins.push(pin);
    let mut history = History::new();
    history.take(now);
    let screen = drawn(&history);
    line(&screen, &["removal-pending"]);
    line(&screen, &["link lost: removal in 7.0 s"]);
    line(&screen, &["parked 16", "held 3"]);
    line(&screen, &["tcp://192.0.2.1:4420", "connecting", "connection refused"]);
    line(&screen, &["removal pending of it"]);
}

#[test]
fn a_screen_that_is_too_small_is_drawn_on_all_the_same() {
    let mut history = History::new();
    history.take(snapshot(0));
    for (width, height) in [(1, 1), (20, 3), (40, 8)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| watch::draw(frame, &history, None)).unwrap();
    }
}

/// A path is lost after one second; the window is open from 2 s to 3 s.
fn run() -> Run {
    let address = "tcp://192.0.2.1:4420/<odd>&\"";
    let mut run = Run { head: "a & b".into(), ..Run::default() };
    run.paths.push(PathName { controller: 0, address: address.into() });
    for i in 0..40u64 {
        let t = i as f64 / 10.0;
        let up = !(1.0..3.0).contains(&t);
        let path = PathMoment {
            controller: if up { "live" } else { "connecting" }.into(),
            ana: (!(2.0..3.0).contains(&t)).then(|| "optimized".into()),
            usable: up,
            commands: i * 10,
            in_flight: 1,
        };
        let head = match t {
            t if (2.0..3.0).contains(&t) => "removal-pending",
            _ if up => "live",
            _ => "no-path",
        };
        run.moments.push(Moment { t, head: head.into(), paths: vec![path], ..Moment::default() });
    }
    for (t, window, after) in [(2.0, "scheduled", Some(5.0)), (3.0, "cancelled", None)] {
        let window = Some(window.into());
        let text = "<b>&".into();
        run.events.push(Happening { t, who: "head".into(), text, window, after });
    }
    run
}

#[test]
fn the_picture_has_a_lane_for_the_head_and_each_path() {
    let svg = picture(&run());
    let document = roxmltree::Document::parse(&svg).unwrap();
    let of = |class: &str| -> Vec<_> {
        document.descendants().filter(|n| n.attribute("class") == Some(class)).collect()
    };
    let lanes: Vec<_> = of("lane").iter().map(|n| n.attribute("data-lane").unwrap()).collect();
    assert_eq!(lanes, ["head", "tcp://192.0.2.1:4420/<odd>&\""]);
    let states: Vec<_> = of("state").iter().map(|n| n.attribute("data-state").unwrap()).collect();
    let head = ["live", "no-path", "removal-pending", "live"];
    assert_eq!(states, [&head[..], &["optimized", "connecting", "left", "optimized"]].concat());
    let [window] = of("window")[..] else { panic!("{svg}") };
    assert_eq!(window.attribute("data-end"), Some("cancelled"));
    assert_eq!(of("chart").len(), 2);
}

#[test]
fn a_record_that_says_nothing_is_drawn_all_the_same() {
    let mut odd = run();
    odd.moments[3].t = f64::NAN;
    odd.moments[4].paths.clear();
    odd.moments.last_mut().unwrap().t = f64::INFINITY;
    for run in [Run::default(), odd] {
        roxmltree::Document::parse(&picture(&run)).unwrap();
    }
}
