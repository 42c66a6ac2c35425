//! Requests that are taken back, wherever they are; and removals that are.

#[expect(unused_imports, reason = "this test needs less of the bench than others")]
mod fake;

use fake::{Bench, Io};
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_mpath::{DelayedRemoval, HeadState, IoError, Window};

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
fn a_request_in_flight_is_not_given_back_before_it_is_answered() {
    let mut bench = Bench::new();
    bench.connect("a");
    let head = bench.head(1).unwrap();
    bench.world.port("a", |a| a.io = Io::Hold);
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
    bench.world.port("a", |a| a.io = Io::Hold);
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
