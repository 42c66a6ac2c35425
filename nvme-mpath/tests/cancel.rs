//! Requests that are taken back, wherever they are; and removals that are.

use nvme_core::controller::State;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Abort, Bench, Io, quiet};
use nvme_mpath::{
    DelayedRemoval, Event, HeadState, IoError, IoRequest, OverdueAction, PassthroughCommand,
    TimeoutPolicy, Window,
};

const SECOND: Duration = Duration::from_secs(1);

fn is_cancelled(error: &IoError) -> bool {
    matches!(error, IoError::Cancelled { .. })
}

#[test]
fn a_parked_request_ends_at_the_next_poll_and_the_others_stay() {
    let mut bench = Bench::new();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::Forever));
    let a = bench.connect("a");
    let head = bench.head(1).unwrap();
    a.disconnect();
    bench.settle();
    for user in 1..=3 {
        bench.write(&head, user, user);
    }
    assert_eq!((bench.channel.parked(), bench.channel.cancel(2)), (3, 1));
    assert_eq!(bench.channel.cancel(2), 0, "once is enough");
    bench.settle();
    let done = bench.one();
    assert_eq!((done.user_data, done.uncertain, done.buffer.len()), (2, false, 512));
    assert!(is_cancelled(&done.result.unwrap_err()));
    assert_eq!((bench.channel.parked(), head.stats().failed_no_path), (2, 0));
    bench.connect("a");
    bench.settle();
    assert_eq!(bench.done.iter().map(|d| d.user_data).collect::<Vec<_>>(), [1, 3]);
    bench.world.port("a", |a| assert_eq!(a.executed.len(), 2));
}

#[test]
fn the_controller_is_asked_to_abort_what_it_has() {
    let mut bench = Bench::new();
    let a = bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.channel.submit(&head, IoRequest::read(2, vec![0; 512].into(), 2)).unwrap();
    bench.settle();
    for user in [1, 2] {
        assert_eq!(bench.channel.cancel(user), 1);
        bench.settle();
        let done = bench.one();
        assert_eq!((done.user_data, done.buffer.len()), (user, 512));
        assert!(is_cancelled(&done.result.unwrap_err()));
        assert_eq!(done.uncertain, user == 1, "a write may have been in the middle of it");
    }
    bench.world.port("a", |a| assert_eq!((a.aborts, a.executed.len()), (2, 0)));
    assert_eq!((a.state(), head.stats().retries), (State::Live, 0));
    assert_eq!(bench.count(|e| matches!(e, Event::CommandOverdue { .. })), 0, "none was late");
}

#[test]
fn passthrough_is_aborted_as_well_and_its_outcome_is_known() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    let read = PassthroughCommand::new(2);
    bench.channel.submit_passthrough(&head, read, vec![0; 512].into(), 1).unwrap();
    bench.settle();
    bench.channel.cancel_all();
    bench.settle();
    assert!(is_cancelled(&bench.one().result.unwrap_err()));
}

#[test]
fn no_abort_is_sent_where_none_is_wanted() {
    let mut bench = Bench::new();
    let mut options = quiet();
    options.on_timeout = TimeoutPolicy::all(OverdueAction::Reset);
    bench.connect_with("a", options);
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    bench.channel.cancel(1);
    bench.settle();
    assert!(bench.done.is_empty());
    bench.world.port("a", |a| assert_eq!(a.aborts, 0));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
}

#[test]
fn a_request_in_flight_is_not_given_back_before_it_is_answered() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.abort) = (Io::Hold, Abort::Refuses));
    bench.write(&head, 1, 1);
    bench.settle();
    assert_eq!(bench.channel.cancel_all(), 1);
    bench.settle();
    assert!(bench.done.is_empty(), "its buffer is not ours yet: {:?}", bench.done);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!(bench.one().result, Ok(()), "it was done, and says so");
}

#[test]
fn a_cancelled_request_is_not_retried() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.abort) = (Io::Hold, Abort::Refuses));
    bench.write(&head, 1, 1);
    bench.settle();
    bench.channel.cancel(1);
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::NAMESPACE_NOT_READY);
    bench.settle();
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::Status { .. }));
    assert_eq!((head.stats().retries, done.uncertain), (0, false));
}

#[test]
fn an_abort_that_is_not_answered_costs_nobody_else_the_path() {
    let mut bench = Bench::new();
    let a = bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| (a.io, a.abort) = (Io::Hold, Abort::Silent));
    bench.write(&head, 1, 1);
    bench.write(&head, 2, 2);
    bench.settle();
    bench.channel.cancel(1);
    bench.run(20 * SECOND);
    assert_eq!(bench.world.port("a", |a| a.aborts), 1);
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert!(bench.done.len() == 2 && bench.done.iter().all(|d| d.result.is_ok()));
    bench.run(600 * SECOND);
    assert_eq!((a.state(), head.stats().failovers), (State::Live, 0));
    assert_eq!(bench.world.port("a", |a| a.attempts), 1);
    let trouble = |e: &Event| {
        matches!(
            e,
            Event::CommandOverdue { .. } | Event::PathDown { .. } | Event::ControllerFailed { .. }
        )
    };
    assert_eq!(bench.count(trouble), 0, "{:?}", bench.log);
}

#[test]
fn a_controller_that_answers_neither_the_abort_nor_the_request_is_reset() {
    for acl in [0, 3] {
        let mut bench = Bench::new();
        bench.connect("a");
        let head = bench.head(1).unwrap();
        bench.world.port("a", |a| (a.io, a.abort, a.acl) = (Io::Hold, Abort::Silent, acl));
        bench.write(&head, 1, 1);
        bench.settle();
        bench.channel.cancel(1);
        bench.run(29 * SECOND);
        assert_eq!((bench.done.len(), bench.world.port("a", |a| a.attempts)), (0, 1));
        // The time limit of requests, and that of an Abort.
        bench.run(8 * SECOND);
        assert!(is_cancelled(&bench.one().result.unwrap_err()), "ACL {acl}");
        assert_eq!(bench.world.port("a", |a| a.attempts), 2);
    }
}

#[test]
fn the_outcome_of_a_write_whose_connection_was_lost_is_open() {
    let mut bench = Bench::new();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::Forever));
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    bench.channel.cancel(1);
    bench.world.pull("a");
    bench.settle();
    let done = bench.one();
    assert!(is_cancelled(&done.result.unwrap_err()));
    assert!(done.uncertain, "the controller may have executed it");
}

#[test]
fn the_outcome_stays_open_while_the_write_waits_for_another_path() {
    let mut bench = Bench::new();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::Forever));
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    bench.world.pull("a");
    bench.settle();
    assert!(bench.done.is_empty());
    assert_eq!(bench.channel.cancel_all(), 1);
    bench.settle();
    let done = bench.one();
    assert!(is_cancelled(&done.result.unwrap_err()) && done.uncertain);
}

#[test]
fn a_removal_that_is_cancelled_waits_without_end_and_keeps_its_pin() {
    let mut bench = Bench::new();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(5 * SECOND)));
    let a = bench.connect("a");
    let head = bench.head(1).unwrap();
    assert!(!head.cancel_removal(), "nothing is pending");
    a.disconnect();
    bench.settle();
    assert!(head.cancel_removal());
    bench.run(60 * SECOND);
    assert!(matches!(head.state(), HeadState::RemovalPending { remaining: None, .. }));
    assert_eq!(
        (bench.host.pin_count(), head.delayed_removal().disconnected),
        (1, Window::For(5 * SECOND))
    );
    let b = bench.connect("b");
    assert_eq!((head.state(), bench.host.pin_count()), (HeadState::Live, 0));
    b.disconnect();
    bench.run(6 * SECOND);
    assert!(matches!(head.state(), HeadState::Gone(_)), "the window counts again");
}

#[test]
fn what_the_keeper_makes_lives_as_long_as_the_pin() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Kept(Arc<AtomicUsize>);
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let kept = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&kept);
    let mut bench = Bench::with(|options| {
        options.keep_alive = Some(Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Box::new(Kept(Arc::clone(&count)))
        }));
    });
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND)));
    let a = bench.connect("a");
    a.disconnect();
    bench.settle();
    let own = bench.host.pin("a test").unwrap();
    assert_eq!((bench.host.pin_count(), kept.load(Ordering::SeqCst)), (2, 2));
    bench.run(2 * SECOND);
    drop(own);
    assert_eq!((bench.host.pin_count(), kept.load(Ordering::SeqCst)), (0, 0));
}
