//! Commands that are not answered in time: Abort, then a reset, and no buffer too early.

use nvme_core::controller::{AbortOutcome, State};
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Duration;
use nvme_core::transport::Data;
use nvme_fake::{Abort, Bench, Io, quiet};
use nvme_mpath::{
    ControllerOptions, Event, IoError, IoRequest, OverdueAction, TimeoutPolicy, TimeoutStep,
};

const SECOND: Duration = Duration::from_secs(1);
/// Of a channel with default settings.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

fn policy(change: impl FnOnce(&mut TimeoutPolicy)) -> ControllerOptions {
    let mut options = quiet();
    change(&mut options.on_timeout);
    options
}

fn steps(bench: &Bench) -> Vec<TimeoutStep> {
    let step = |e: &Event| match e {
        Event::CommandOverdue { step, .. } => Some(*step),
        _ => None,
    };
    bench.log.iter().filter_map(step).collect()
}

fn resets(bench: &Bench) -> usize {
    bench.count(|e| matches!(e, Event::ControllerState { to: State::Resetting, .. }))
}

#[test]
fn an_aborted_request_goes_down_another_path() {
    let mut bench = Bench::new();
    let (a, b) = (bench.connect("a"), bench.connect("b"));
    let head = bench.head(1).unwrap();
    for name in ["a", "b"] {
        bench.world.port(name, |port| port.io = Io::Hold);
    }
    bench.write(&head, 1, 1);
    bench.settle();
    let stuck = if bench.world.held("a") == 1 { "a" } else { "b" };
    let other = if stuck == "a" { "b" } else { "a" };
    bench.world.port(other, |port| port.io = Io::Answer);
    bench.run(IO_TIMEOUT - SECOND);
    assert!(steps(&bench).is_empty() && bench.done.is_empty());
    bench.run(SECOND * 6);
    assert_eq!(
        steps(&bench),
        [TimeoutStep::Aborting, TimeoutStep::Answered(AbortOutcome::Aborted)]
    );
    assert_eq!((bench.one().result, resets(&bench)), (Ok(()), 0));
    bench.world.port(other, |port| assert_eq!(port.executed.len(), 1));
    bench.world.port(stuck, |port| assert_eq!((port.aborts, port.executed.len()), (1, 0)));
    assert_eq!((a.state(), b.state()), (State::Live, State::Live));
    assert_eq!((head.stats().retries, head.stats().failovers), (1, 0));
}

#[test]
fn a_request_that_is_aborted_again_and_again_fails_with_that_status() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.run((IO_TIMEOUT + SECOND * 5) * 7);
    let done = bench.one();
    let Err(error) = &done.result else { panic!("{done:?}") };
    let IoError::Status { status, .. } = **error else { panic!("{error}") };
    assert!(status.is(Status::ABORT_REQUESTED), "{error}");
    // The first time, and `max_retries` more.
    bench.world.port("a", |a| assert_eq!(a.aborts, 6));
    assert_eq!((done.buffer.len(), resets(&bench)), (512, 0));
}

#[test]
fn what_cannot_be_aborted_leads_to_a_reset_after_the_wait() {
    for abort in [Abort::Refuses, Abort::Silent] {
        let mut bench = Bench::new();
        bench.connect("a");
        let head = bench.head(1).unwrap();
        bench.world.port("a", |a| (a.io, a.abort) = (Io::Hold, abort));
        bench.write(&head, 1, 1);
        bench.run(IO_TIMEOUT + SECOND * 4);
        assert_eq!(steps(&bench).first(), Some(&TimeoutStep::Aborting));
        let not = TimeoutStep::Answered(AbortOutcome::NotAborted);
        assert_eq!(steps(&bench).contains(&not), abort == Abort::Refuses);
        assert!(bench.done.is_empty() && resets(&bench) == 0, "the wait is not over");
        assert_eq!(bench.world.held("a"), 1, "and the queue has the buffer");
        bench.world.port("a", |a| a.io = Io::Answer);
        bench.run(SECOND * 8);
        assert_eq!((bench.one().result, resets(&bench)), (Ok(()), 1), "{abort:?}");
    }
}

#[test]
fn an_answer_that_comes_while_it_is_being_aborted_counts() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.abort) = (Io::Hold, Abort::Refuses));
    bench.write(&head, 1, 1);
    bench.run(IO_TIMEOUT + SECOND * 2);
    assert_eq!(steps(&bench).len(), 2);
    bench.world.release("a", Status::SUCCESS);
    bench.run(IO_TIMEOUT);
    assert_eq!((bench.one().result, resets(&bench)), (Ok(()), 0));
}

#[test]
fn the_abort_command_limit_is_kept() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.acl = 1);
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.abort) = (Io::Hold, Abort::Silent));
    for i in 0..8 {
        bench.write(&head, i, i);
    }
    bench.run(IO_TIMEOUT + SECOND * 2);
    bench.world.port("a", |a| assert_eq!(a.aborts, 2));
    bench.world.port("a", |a| (a.io, a.abort) = (Io::Answer, Abort::Works));
    bench.run(SECOND * 8);
    assert_eq!((bench.done.len(), resets(&bench)), (8, 1), "{:?}", bench.done);
}

#[test]
fn the_policy_is_by_class() {
    let mut bench = Bench::new();
    bench.connect_with("a", policy(|p| p.writes = OverdueAction::Reset));
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    let buffer = vec![0; 512].into();
    bench.channel.submit(&head, IoRequest::read(0, buffer, 1)).unwrap();
    bench.run(IO_TIMEOUT + SECOND);
    assert_eq!(steps(&bench).first(), Some(&TimeoutStep::Aborting));
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.run(IO_TIMEOUT + SECOND * 5);
    assert_eq!((bench.one().result, resets(&bench)), (Ok(()), 0));
    bench.log.clear();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 2);
    bench.run(IO_TIMEOUT + SECOND * 4);
    assert_eq!((steps(&bench), resets(&bench)), (vec![TimeoutStep::Resetting], 1));
}

#[test]
fn an_admin_command_is_aborted_only_if_that_was_chosen() {
    for chosen in [false, true] {
        let mut bench = Bench::new();
        let a = bench.connect_with(
            "a",
            policy(|p| {
                if chosen {
                    p.admin = OverdueAction::AbortThenReset;
                }
            }),
        );
        bench.world.port("a", |a| a.hold_features = true);
        let sqe = Sqe::new(AdminOpcode::GET_FEATURES.0, 0);
        let command = std::thread::spawn(move || a.admin(sqe, Data::None, SECOND * 1000));
        while bench.world.held("a") == 0 {
            bench.step();
        }
        bench.run(SECOND * 59);
        assert!(steps(&bench).is_empty() && resets(&bench) == 0);
        while !command.is_finished() {
            bench.run(SECOND);
        }
        let result = command.join().unwrap();
        if chosen {
            let result = result.unwrap();
            assert!(result.cqe.status().is(Status::ABORT_REQUESTED), "{result:?}");
            assert_eq!(resets(&bench), 0);
        } else {
            bench.world.port("a", |a| assert_eq!(a.aborts, 0));
            assert_eq!(resets(&bench), 1);
        }
    }
}
