//! Keep Alive: its cadence, what saves it, and what its failure leads to.

use nvme_core::controller::{ControllerConfig, State};
use nvme_core::spec::identify::ControllerAttributes;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::Data;

use crate::model::{Answer, Model};
use crate::rig::{Rig, config};

const SECOND: Duration = Duration::from_secs(1);
const KEEP_ALIVE: u8 = 0x18;

fn kato(seconds: u64) -> ControllerConfig {
    let mut config = config();
    config.keep_alive = Duration::from_secs(seconds);
    config
}

fn traffic_based() -> Model {
    let mut model = Model::fabrics();
    model.controller.ctratt = ControllerAttributes::TRAFFIC_BASED_KEEP_ALIVE.bits().into();
    model
}

fn live(config: ControllerConfig, model: Model) -> Rig {
    let mut rig = Rig::started(config, model);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Live, "{:?}", rig.events);
    rig.seen.clear();
    rig
}

/// Lets time pass in small steps, with something done at each; returns when Keep Alives were sent.
fn sent_at(rig: &mut Rig, time: Duration, step: Duration, each: impl Fn(&mut Rig)) -> Vec<Instant> {
    let end = rig.now + time;
    let mut at = Vec::new();
    while rig.now < end {
        let before = rig.count(KEEP_ALIVE);
        rig.run(step);
        if rig.count(KEEP_ALIVE) > before {
            at.push(rig.now);
        }
        each(rig);
    }
    at
}

#[test]
fn one_goes_out_each_half_of_the_timeout() {
    let mut rig = live(kato(4), Model::fabrics());
    rig.run(40 * SECOND);
    assert!((19..=20).contains(&rig.count(KEEP_ALIVE)), "{}", rig.count(KEEP_ALIVE));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 1));
}

#[test]
fn without_a_timeout_there_is_none() {
    let mut rig = live(kato(0), Model::fabrics());
    rig.run(1000 * SECOND);
    assert_eq!(rig.count(KEEP_ALIVE), 0);
}

#[test]
fn traffic_saves_it_only_where_the_controller_counts_traffic() {
    let step = Duration::from_millis(100);
    let mut rig = live(kato(4), traffic_based());
    let sent = sent_at(&mut rig, 40 * SECOND, step, |rig| rig.ctrl.note_io_completion());
    assert!(sent.is_empty(), "{sent:?}");
    // When the traffic ends, one goes out well before the timeout.
    rig.run(3 * SECOND);
    assert!(rig.count(KEEP_ALIVE) > 0);

    let mut rig = live(kato(4), Model::fabrics());
    let sent = sent_at(&mut rig, 40 * SECOND, step, |rig| rig.ctrl.note_io_completion());
    assert!(sent.len() >= 19, "{sent:?}");
}

#[test]
fn admin_commands_count_as_traffic_when_they_were_sent_since_the_last_look() {
    let mut rig = live(kato(4), traffic_based());
    let flush = |rig: &mut Rig| {
        rig.ctrl.submit_admin(rig.now, Sqe::abort(0, 0), Data::None, 0).unwrap();
        rig.settle();
    };
    let sent = sent_at(&mut rig, 20 * SECOND, Duration::from_millis(500), flush);
    assert!(sent.is_empty(), "{sent:?}");
}

#[test]
fn no_gap_is_as_long_as_the_timeout_whatever_the_traffic() {
    // Traffic in bursts of odd length: signs of life are its moments and the Keep Alives sent.
    let mut rig = live(kato(4), traffic_based());
    let mut last = rig.now;
    for round in 0..400_u64 {
        let before = rig.count(KEEP_ALIVE);
        rig.run(Duration::from_millis(37 + round * 7 % 91));
        if rig.count(KEEP_ALIVE) > before {
            last = rig.now;
        }
        if round % 23 < 9 {
            rig.ctrl.note_io_completion();
            last = rig.now;
        }
        assert!(rig.elapsed_since(last) < 3 * SECOND, "round {round}");
    }
}

#[test]
fn one_that_is_not_answered_ends_the_association() {
    let mut rig = live(kato(4), Model::fabrics());
    rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == KEEP_ALIVE).then_some(Answer::Silence)));
    let before = rig.now;
    assert!(rig.run_until(20 * SECOND, |rig| rig.ctrl.state() != State::Live));
    assert!(rig.failures()[0].contains("Keep Alive took longer than 4s"), "{:?}", rig.failures());
    assert!(rig.elapsed_since(before) <= 6 * SECOND);
}

#[test]
fn one_that_fails_ends_the_association_but_an_unknown_command_only_itself() {
    let answer = |rig: &mut Rig, status: Status| {
        rig.hook =
            Some(Box::new(move |_, s| (s.opcode == KEEP_ALIVE).then_some(Answer::error(status))));
    };
    let mut rig = live(kato(4), Model::fabrics());
    answer(&mut rig, Status::KEEP_ALIVE_EXPIRED);
    rig.run(2 * SECOND + SECOND / 10);
    assert_eq!(rig.ctrl.state(), State::Connecting);

    let mut rig = live(kato(4), Model::fabrics());
    answer(&mut rig, Status::INVALID_OPCODE.with_dnr());
    rig.run(100 * SECOND);
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 1));
    assert_eq!(rig.count(KEEP_ALIVE), 1);
}

#[test]
fn passthrough_that_sets_the_timer_changes_the_cadence() {
    let mut rig = live(kato(4), Model::fabrics());
    let sqe = Sqe::set_features(0x0f, false, 0, 1000);
    rig.ctrl.submit_admin(rig.now, sqe, Data::None, 0).unwrap();
    rig.run(10 * SECOND);
    assert!((19..=20).contains(&rig.count(KEEP_ALIVE)), "{}", rig.count(KEEP_ALIVE));
}
