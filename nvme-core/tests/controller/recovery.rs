//! Loss, backoff, the two timers of a loss, and delete in every phase.

use nvme_core::controller::{ControllerConfig, ControllerEvent, RemovedCause, State};
use nvme_core::spec::opcode::FabricsType;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{Data, TransportError};

use crate::model::{Answer, Model};
use crate::rig::{Rig, Transport, config, lost};

const SECOND: Duration = Duration::from_secs(1);

fn states(rig: &Rig) -> Vec<State> {
    let to = |e: &ControllerEvent| match e {
        ControllerEvent::StateChanged { to, .. } => Some(*to),
        _ => None,
    };
    rig.events.iter().filter_map(to).collect()
}

fn removed(rig: &Rig) -> Option<RemovedCause> {
    match rig.events.last() {
        Some(ControllerEvent::Removed(cause)) => Some(cause.clone()),
        _ => None,
    }
}

fn with(change: impl FnOnce(&mut ControllerConfig)) -> ControllerConfig {
    let mut config = config();
    change(&mut config);
    config
}

#[test]
fn a_lost_controller_comes_back_and_tells_its_namespaces_again() {
    let mut rig = Rig::live(Model::fabrics());
    rig.events.clear();
    rig.lose();
    assert_eq!(rig.ctrl.state(), State::Connecting);
    assert!(rig.run_until(2 * SECOND, |rig| rig.ctrl.state() == State::Live));
    rig.run(SECOND);
    assert_eq!(states(&rig), [State::Resetting, State::Connecting, State::Live]);
    assert_eq!(rig.ready_nsids(), [1]);
    assert_eq!(rig.live_queues.len(), 2);
    let ControllerEvent::Failed { attempt, retry_at, .. } = &rig.events[1] else {
        panic!("{:?}", rig.events)
    };
    assert!(*attempt == 0 && retry_at.is_some());
}

#[test]
fn the_next_association_waits_for_the_end_of_the_old_one() {
    let mut rig = Rig::live(Model::fabrics());
    rig.teardown = Transport::Silent;
    rig.lose();
    rig.run(100 * SECOND);
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Resetting, 1));
    rig.torn_down();
    rig.settle();
    assert_eq!(rig.associations, 2, "the wait was over long since");
}

#[test]
fn any_queue_ends_the_association_even_one_that_was_handed_over() {
    let mut rig = Rig::live(Model::fabrics());
    rig.ctrl.queue_failed(rig.now, 2, lost());
    rig.settle();
    assert_eq!(rig.ctrl.state(), State::Connecting);
}

#[test]
fn a_queue_gives_its_reason_after_its_commands() {
    let mut rig = Rig::live(Model::fabrics());
    let held = rig.held.pop().unwrap();
    rig.reply(held, Answer::error(Status::ABORTED_BY_HOST));
    assert_eq!(rig.ctrl.state(), State::Live);
    rig.lose();
    assert!(rig.failures()[0].contains("pulled"), "{:?}", rig.failures());

    // Without a reason the status must do.
    let mut rig = Rig::live(Model::fabrics());
    let held = rig.held.pop().unwrap();
    rig.reply(held, Answer::error(Status::ABORTED_BY_HOST));
    rig.run(Duration::ZERO);
    assert!(rig.failures()[0].contains("Aborted By Host"), "{:?}", rig.failures());
}

#[test]
fn waits_between_attempts_double_up_to_the_longest() {
    let mut rig = Rig::new(with(|c| c.ctrl_loss_tmo = None), Model::fabrics());
    rig.associate = Transport::Fails;
    rig.ctrl.start(rig.now);
    rig.settle();
    let mut waits = Vec::new();
    for attempt in 1..=6 {
        let before = rig.now;
        assert!(rig.run_until(20 * SECOND, |rig| rig.associations > attempt));
        waits.push(rig.elapsed_since(before).as_secs_f64());
    }
    for (wait, full) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 10.0, 10.0]) {
        assert!((full * 0.79..=full).contains(wait), "{waits:?}");
    }
    // After a success they are short again.
    rig.associate = Transport::Works;
    assert!(rig.run_until(20 * SECOND, |rig| rig.ctrl.state() == State::Live));
    let before = rig.now;
    rig.lose();
    assert!(rig.run_until(20 * SECOND, |rig| rig.ctrl.state() == State::Live));
    assert!(rig.elapsed_since(before) <= SECOND + SECOND / 10);
}

#[test]
fn ctrl_loss_tmo_runs_from_the_loss_whatever_goes_on() {
    for (how, from_live) in
        [(Transport::Fails, true), (Transport::Silent, true), (Transport::Silent, false)]
    {
        let config = with(|c| {
            c.ctrl_loss_tmo = Some(25 * SECOND);
            c.fast_io_fail_tmo = Some(5 * SECOND);
        });
        let mut rig = Rig::new(config, Model::fabrics());
        if from_live {
            rig.ctrl.start(rig.now);
            rig.run(SECOND);
            assert_eq!(rig.ctrl.state(), State::Live);
        }
        rig.associate = how;
        let loss = rig.now;
        if from_live {
            rig.lose()
        } else {
            rig.ctrl.start(rig.now)
        }
        rig.run(Duration::from_millis(4900));
        let failing = |e: &ControllerEvent| matches!(e, ControllerEvent::FastIoFail);
        assert!(!rig.has(failing));
        rig.run(Duration::from_millis(200));
        assert!(rig.has(failing));
        assert!(rig.run_until(100 * SECOND, |rig| rig.ctrl.state() == State::Dead));
        assert_eq!(rig.elapsed_since(loss), 25 * SECOND, "{how:?}");
        assert_eq!(removed(&rig), Some(RemovedCause::LossTimeout));
        assert_eq!(rig.events.iter().filter(|e| failing(e)).count(), 1);
        assert!(rig.ctrl.deadline().is_none());
    }
}

#[test]
fn a_device_that_was_taken_away_is_neither_told_nor_waited_for() {
    let gone = TransportError::Gone { address: "fake://1".into(), reason: "pulled".into() };
    // While live, and by the attempt that follows a loss.
    for at_once in [true, false] {
        let mut rig = Rig::started(with(|c| c.ctrl_loss_tmo = None), Model::fabrics());
        rig.run(SECOND);
        assert_eq!(rig.ctrl.state(), State::Live);
        let before = rig.associations;
        if at_once {
            rig.seen.clear();
            rig.ctrl.queue_failed(rig.now, 0, gone.clone());
            rig.settle();
            assert!(rig.seen.is_empty(), "{:?}", rig.seen);
        } else {
            rig.associate = Transport::Silent;
            rig.lose();
            assert!(rig.run_until(60 * SECOND, |rig| rig.associations > before));
            rig.ctrl.association_failed(rig.now, gone.clone());
            rig.settle();
        }
        assert_eq!((rig.ctrl.state(), removed(&rig)), (State::Dead, Some(RemovedCause::Gone)));
        assert!(rig.ctrl.deadline().is_none());
    }
}

#[test]
fn ctrl_loss_tmo_does_not_wait_for_a_teardown_to_decide() {
    let mut rig = Rig::started(with(|c| c.ctrl_loss_tmo = Some(5 * SECOND)), Model::fabrics());
    rig.run(SECOND);
    rig.teardown = Transport::Silent;
    rig.lose();
    rig.run(6 * SECOND);
    assert_eq!(rig.ctrl.state(), State::Deleting);
    rig.torn_down();
    rig.settle();
    assert_eq!(removed(&rig), Some(RemovedCause::LossTimeout));
}

#[test]
fn a_lost_controller_that_is_not_waited_for_goes_at_once_but_is_started_and_reset() {
    let mut rig = Rig::started(with(|c| c.ctrl_loss_tmo = Some(Duration::ZERO)), Model::fabrics());
    rig.run(SECOND);
    assert_eq!(rig.ctrl.state(), State::Live);
    rig.ctrl.reset(rig.now, "asked for".into());
    rig.run(SECOND);
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 2));
    rig.lose();
    rig.run(Duration::ZERO);
    assert_eq!(removed(&rig), Some(RemovedCause::LossTimeout));
    // An attempt that fails is the only one.
    let mut rig = Rig::new(with(|c| c.ctrl_loss_tmo = Some(Duration::ZERO)), Model::fabrics());
    rig.associate = Transport::Fails;
    rig.ctrl.start(rig.now);
    rig.run(Duration::ZERO);
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Dead, 1));
}

#[test]
fn the_last_failure_before_the_end_promises_no_further_attempt() {
    let mut rig = Rig::new(with(|c| c.ctrl_loss_tmo = Some(4 * SECOND)), Model::fabrics());
    rig.associate = Transport::Fails;
    rig.ctrl.start(rig.now);
    rig.run(10 * SECOND);
    let promises: Vec<bool> = rig
        .events
        .iter()
        .filter_map(|e| match e {
            ControllerEvent::Failed { retry_at, .. } => Some(retry_at.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(promises.last(), Some(&false), "{promises:?}");
    assert!(promises[..promises.len() - 1].iter().all(|p| *p), "{promises:?}");
}

#[test]
fn a_refused_connect_is_final_only_with_dnr_and_only_on_the_admin_queue() {
    let mut model = Model::fabrics();
    model.connect = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    let rig = Rig::started(config(), model);
    assert_eq!(rig.ctrl.state(), State::Dead);
    assert!(matches!(removed(&rig), Some(RemovedCause::Refused(_))), "{:?}", rig.events);

    let mut model = Model::fabrics();
    model.connect = Status::CONNECT_CONTROLLER_BUSY;
    let rig = Rig::started(config(), model);
    assert_eq!(rig.ctrl.state(), State::Connecting);

    let mut rig = Rig::new(config(), Model::fabrics());
    rig.hook = Some(Box::new(|qid, sqe| {
        (qid == 1 && sqe.fabrics_type() == Some(FabricsType::CONNECT))
            .then(|| Answer::error(Status::CONNECT_INVALID_PARAMETERS.with_dnr()))
    }));
    rig.ctrl.want_queue(rig.now, 1);
    rig.ctrl.start(rig.now);
    rig.run(Duration::from_millis(100));
    assert_eq!(rig.ctrl.state(), State::Connecting);
    assert!(rig.failures()[0].contains("I/O queue"), "{:?}", rig.failures());
}

#[test]
fn reset_begins_anew_at_once() {
    let mut rig = Rig::live(Model::fabrics());
    rig.ctrl.reset(rig.now, "asked for".into());
    rig.run(Duration::from_millis(100));
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Live, 2));
    assert!(rig.failures()[0].contains("asked for"));

    // While waiting for the next attempt it cuts the wait short.
    rig.associate = Transport::Fails;
    rig.lose();
    rig.run(20 * SECOND);
    rig.associate = Transport::Works;
    let before = rig.now;
    rig.ctrl.reset(rig.now, "now".into());
    assert!(rig.run_until(SECOND, |rig| rig.ctrl.state() == State::Live));
    assert!(rig.elapsed_since(before) < SECOND);
}

#[test]
fn delete_tells_a_live_controller_and_ends() {
    for model in [Model::fabrics(), Model::memory()] {
        let mut rig = Rig::live(model);
        rig.events.clear();
        rig.ctrl.delete(rig.now);
        rig.ctrl.delete(rig.now);
        rig.run(SECOND);
        assert!(rig.model.shutdown_asked);
        assert_eq!(states(&rig), [State::Deleting, State::Dead]);
        assert_eq!(removed(&rig), Some(RemovedCause::Deleted));
        rig.ctrl.delete(rig.now);
        rig.ctrl.start(rig.now);
        rig.run(1000 * SECOND);
    }
}

#[test]
fn delete_waits_for_a_shutdown_only_so_long() {
    for (rtd3e, csts, seconds) in [(0, Some(1), 1), (3_000_000, Some(1), 3), (u32::MAX, Some(1), 5)]
    {
        let mut model = Model::fabrics();
        model.controller.rtd3e = rtd3e.into();
        let mut rig = Rig::live(model);
        rig.model.csts = csts;
        let before = rig.now;
        rig.ctrl.delete(before);
        assert!(rig.run_until(100 * SECOND, |rig| rig.ctrl.state() == State::Dead));
        assert_eq!(rig.elapsed_since(before).as_secs(), seconds);
    }
    // One that does not answer at all, and one whose queue dies meanwhile.
    for dies in [false, true] {
        let mut rig = Rig::live(Model::fabrics());
        rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == 0x7f).then_some(Answer::Silence)));
        let before = rig.now;
        rig.ctrl.delete(before);
        rig.settle();
        assert_eq!(rig.ctrl.state(), State::Deleting);
        if dies {
            rig.lose();
            assert_eq!(rig.ctrl.state(), State::Dead);
        } else {
            rig.run(3 * SECOND);
            assert_eq!(rig.ctrl.state(), State::Dead);
        }
        assert_eq!(removed(&rig), Some(RemovedCause::Deleted));
    }
}

#[test]
fn delete_works_in_every_phase() {
    // Before the start.
    let mut rig = Rig::new(config(), Model::fabrics());
    rig.ctrl.delete(rig.now);
    rig.settle();
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Dead, 0));
    // Between two attempts.
    let mut rig = Rig::new(config(), Model::fabrics());
    rig.associate = Transport::Fails;
    rig.ctrl.start(rig.now);
    rig.settle();
    rig.ctrl.delete(rig.now);
    rig.settle();
    assert_eq!((rig.ctrl.state(), rig.associations), (State::Dead, 1));
    // While the transport is at it.
    let silent: [fn(&mut Rig); 3] = [
        |rig| rig.associate = Transport::Silent,
        |rig| rig.admin_queue = Transport::Silent,
        |rig| rig.io_queue = Transport::Silent,
    ];
    for prepare in silent {
        let mut rig = Rig::new(config(), Model::fabrics());
        prepare(&mut rig);
        rig.ctrl.want_queue(rig.now, 1);
        rig.ctrl.start(rig.now);
        rig.run(SECOND);
        assert_eq!(rig.ctrl.state(), State::Connecting);
        rig.ctrl.delete(rig.now);
        rig.settle();
        assert_eq!(removed(&rig), Some(RemovedCause::Deleted));
    }
    // At each command of bring-up and of the scan, which stays without an answer.
    let mut deleted = Vec::new();
    for at in 0.. {
        let mut rig = Rig::new(config(), Model::fabrics().with_ana());
        let mut left = at;
        rig.hook = Some(Box::new(move |_, _| {
            left -= 1;
            (left < 0).then_some(Answer::Silence)
        }));
        rig.ctrl.want_queue(rig.now, 1);
        rig.ctrl.start(rig.now);
        rig.run(Duration::from_millis(100));
        if rig.has(|e| matches!(e, ControllerEvent::ScanDone)) {
            break;
        }
        deleted.push(rig.ctrl.state());
        rig.hook = None;
        rig.ctrl.delete(rig.now);
        rig.run(10 * SECOND);
        assert_eq!(removed(&rig), Some(RemovedCause::Deleted), "command {at}: {:?}", rig.events);
    }
    assert!(deleted.len() > 12 && deleted.contains(&State::Live), "{deleted:?}");
    // While an old association is taken apart.
    let mut rig = Rig::live(Model::fabrics());
    rig.teardown = Transport::Silent;
    rig.lose();
    rig.ctrl.delete(rig.now);
    rig.settle();
    assert_eq!(rig.ctrl.state(), State::Deleting);
    rig.torn_down();
    rig.settle();
    assert_eq!(removed(&rig), Some(RemovedCause::Deleted));
}

#[test]
fn answers_of_an_old_association_do_nothing() {
    let mut rig = Rig::live(Model::fabrics());
    rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == 0x06).then_some(Answer::Silence)));
    rig.ctrl.rescan(rig.now);
    rig.settle();
    rig.teardown = Transport::Silent;
    let old = std::mem::take(&mut rig.held);
    assert!(old.len() >= 2);
    rig.lose();
    rig.torn_down();
    rig.run(2 * SECOND);
    let before = rig.events.len();
    for held in old {
        rig.reply(held, Answer::error(Status::INVALID_FIELD.with_dnr()));
    }
    rig.settle();
    assert_eq!(rig.events.len(), before, "{:?}", &rig.events[before..]);
}

#[test]
fn passthrough_ends_exactly_once_with_its_data() {
    let results = |rig: &Rig| -> Vec<(u64, Status, usize)> {
        let result = |e: &ControllerEvent| match e {
            ControllerEvent::Admin(r) => Some((r.user, r.cqe.status(), r.data.len())),
            _ => None,
        };
        rig.events.iter().filter_map(result).collect()
    };
    let read = || Data::Read(nvme_core::buffer::Buffer::zeroed(4096));
    let identify = Sqe::identify(1, 0);
    let mut rig = Rig::new(config(), Model::fabrics());
    assert!(rig.ctrl.submit_admin(rig.now, identify, read(), 1).is_err(), "not live");
    let mut rig = Rig::live(Model::fabrics());
    rig.ctrl.submit_admin(rig.now, identify, read(), 2).unwrap();
    rig.settle();
    assert_eq!(results(&rig), [(2, Status::SUCCESS, 4096)]);

    // Three in flight, one of them coming back with its data, and one not yet taken by the driver.
    rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == 0x06).then_some(Answer::Silence)));
    rig.events.clear();
    for user in 10..12 {
        rig.ctrl.submit_admin(rig.now, identify, read(), user).unwrap();
    }
    rig.settle();
    rig.ctrl.submit_admin(rig.now, identify, read(), 12).unwrap();
    rig.teardown = Transport::Silent;
    rig.ctrl.reset(rig.now, "now".into());
    rig.settle();
    assert_eq!(results(&rig), [(12, Status::ABORTED_BY_HOST, 4096)]);
    let at = rig.held.iter().position(|held| held.sqe.opcode == 0x06).unwrap();
    let held = rig.held.remove(at);
    rig.reply(held, Answer::error(Status::ABORTED_BY_HOST));
    rig.torn_down();
    rig.settle();
    let aborted = Status::ABORTED_BY_HOST;
    assert_eq!(results(&rig), [(12, aborted, 4096), (10, aborted, 4096), (11, aborted, 0)]);
}

#[test]
fn passthrough_may_not_take_queues_or_events_away_nor_flood() {
    let mut rig = Rig::live(Model::fabrics());
    for sqe in [Sqe::async_event_request(), Sqe::delete_io_sq(1), Sqe::disconnect()] {
        assert!(rig.ctrl.submit_admin(rig.now, sqe, Data::None, 0).is_err(), "{sqe:?}");
    }
    rig.hook = Some(Box::new(|_, sqe| (sqe.opcode == 0x80).then_some(Answer::Silence)));
    let format = Sqe::new(0x80, 1);
    let taken = (0..100).filter(|n| rig.ctrl.submit_admin(rig.now, format, Data::None, *n).is_ok());
    assert_eq!(taken.count(), 64);
    rig.settle();
    assert_eq!(
        rig.held.len(),
        1 + 25,
        "31 fit the admin queue, 5 are kept for Keep Alive and Abort"
    );
    // Keep Alive still goes out.
    rig.run(3 * SECOND);
    assert_eq!(rig.count(0x18), 1);
}

#[test]
fn time_before_the_start_and_after_the_end_is_quiet() {
    let mut rig = Rig::new(config(), Model::fabrics());
    assert_eq!(rig.ctrl.deadline(), None);
    rig.ctrl.handle_timeout(Instant::NEVER);
    assert!(rig.ctrl.poll_action().is_none());
}
