//! Rows 17 to 19, 27 to 29, 31, 33, 34, 38 and 39: the window is open.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use nvme_core::nqn::Nqn;
use nvme_fake::SUBSYSTEM;
use nvme_mpath::{
    ChannelOptions, DelayedRemoval, Head, HeadState, HostError, IoError, IoRequest, KeepFor,
    ParkLimit, PassthroughCommand, PinReason, Window,
};

use crate::stage::{
    SECOND, Stage, WINDOW, bench_with, given_up_after, is_gone, is_pending, lost, pending,
    remaining, window,
};

/// The timer runs out, and not before its time.
pub fn row_17_the_time_is_up() {
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    bench.run(WINDOW - SECOND);
    assert!(is_pending(&head));
    assert_eq!((bench.channel.parked(), bench.host.pin_count()), (1, 1));
    bench.run(SECOND);
    assert!(is_gone(&head));
    assert_eq!(bench.removed(), 1);
}

/// Writes down what is left of a head when its pin is given back.
struct Witness {
    head: Arc<OnceLock<Weak<Head>>>,
    seen: Arc<Mutex<Vec<HeadState>>>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let head = self.head.get().and_then(Weak::upgrade).expect("the test has it");
        self.seen.lock().unwrap().push(head.state());
    }
}

/// The list is empty: the head is removed, what is parked fails, and the pin goes last.
pub fn row_18_the_removal_finds_no_path() {
    let (head_cell, seen) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(Vec::new())));
    let (cell, list) = (Arc::clone(&head_cell), Arc::clone(&seen));
    let mut bench = bench_with(window(), |options| {
        options.keep_alive = Some(Arc::new(move |what| match what {
            KeepFor::Pin => Box::new(Witness { head: cell.clone(), seen: list.clone() }),
            _ => Box::new(()),
        }));
    });
    let head = lost(&mut bench);
    head_cell.set(Arc::downgrade(&head)).expect("set once");
    bench.waits(&head, 1);
    bench.run(WINDOW);
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
    assert_eq!((bench.removed(), bench.host.pin_count(), bench.host.heads().len()), (1, 0, 0));
    let seen = seen.lock().unwrap().clone();
    assert!(matches!(seen[..], [HeadState::Gone(_)]), "before the pin: {seen:?}");
}

/// The list is not empty, because a path came back first: nothing is removed.
pub fn row_19_the_removal_finds_a_path() {
    let (mut bench, head) = pending();
    bench.run(WINDOW / 2);
    bench.returns("a");
    assert_eq!((head.state(), bench.host.pin_count(), bench.cancelled()), (HeadState::Live, 0, 1));
    bench.run(WINDOW * 2);
    assert_eq!((head.state(), bench.removed()), (HeadState::Live, 0), "the old timer did nothing");
    bench.works(&head, 1);
}

/// The window is changed while it is open. Kernel: the old deadline stands. Here the new window is
/// counted from the loss, unless it is said to be for the next one.
pub fn row_27_the_window_is_changed() {
    let longer = DelayedRemoval::after(Window::For(WINDOW * 3));
    let (mut bench, head) = pending();
    bench.run(SECOND * 4);
    head.set_delayed_removal(longer);
    bench.settle();
    assert_eq!((remaining(&head), bench.host.pin_count()), (Some(WINDOW * 3 - SECOND * 4), 1));
    bench.run(WINDOW * 2);
    assert!(is_pending(&head));
    bench.run(WINDOW);
    assert!(is_gone(&head) && bench.host.pin_count() == 0);

    // As Linux has it.
    let (mut bench, head) = pending();
    bench.run(SECOND * 4);
    head.set_next_delayed_removal(longer);
    bench.settle();
    assert_eq!((remaining(&head), head.delayed_removal()), (Some(SECOND * 6), longer));
    bench.run(SECOND * 6);
    assert!(is_gone(&head));
}

/// The window is set to zero while it is open. Kernel: the head stays until the old deadline, new I/O
/// fails, and what is parked waits all that time. Here the head goes at once, and what is parked fails.
/// For the next loss only, it stays; then nothing fails before the deadline unless
/// `set_fail_if_no_path` says so.
pub fn row_28_the_window_is_set_to_zero() {
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    head.set_delayed_removal(DelayedRemoval::OFF);
    bench.settle();
    assert!(is_gone(&head) && bench.host.pin_count() == 0);
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));

    // As Linux has it, but for parked I/O, which is not treated worse than what comes later.
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    head.set_next_delayed_removal(DelayedRemoval::OFF);
    bench.run(WINDOW / 2);
    assert!(is_pending(&head));
    assert_eq!((bench.channel.parked(), bench.host.pin_count()), (1, 1));
    head.set_fail_if_no_path(true);
    bench.settle();
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::NoPath { .. }));
    assert!(matches!(bench.fails(&head), IoError::NoPath { .. }));
    bench.run(WINDOW / 2);
    assert!(is_gone(&head) && bench.host.pin_count() == 0);
}

/// The window is set to zero and back. Kernel: I/O is parked again. Here a head that went at zero does
/// not come back to life; where zero was said for the next loss only, nothing has happened.
pub fn row_29_the_window_is_set_to_zero_and_back() {
    let (mut bench, head) = pending();
    head.set_delayed_removal(DelayedRemoval::OFF);
    head.set_delayed_removal(window());
    bench.settle();
    assert!(is_gone(&head) && bench.host.pin_count() == 0);
    assert!(matches!(bench.fails(&head), IoError::HeadRemoved { .. }));

    let (mut bench, head) = pending();
    head.set_next_delayed_removal(DelayedRemoval::OFF);
    bench.settle();
    head.set_next_delayed_removal(window());
    bench.settle();
    assert_eq!(remaining(&head), Some(WINDOW));
    bench.waits(&head, 1);
    bench.returns("a");
    assert_eq!((bench.one().result, head.state()), (Ok(()), HeadState::Live));
}

/// Reads and writes wait, and are counted. Kernel: without any limit. Here within the channel's.
pub fn row_31_io_waits() {
    let (mut bench, head) = pending();
    let mut options = ChannelOptions::default();
    options.max_parked_requests = 3;
    bench.channel = bench.host.channel(options).unwrap();
    bench.settle();
    bench.waits(&head, 1);
    let read = IoRequest::read(0, vec![0; 512].into(), 2);
    for request in [read, IoRequest::flush(3)] {
        bench.channel.submit(&head, request).unwrap();
    }
    bench.settle();
    assert_eq!((bench.channel.parked(), head.stats().parked, bench.done.len()), (3, 3, 0));
    let IoError::ParkLimit { limit, .. } = bench.fails(&head) else { panic!("{head:?}") };
    assert_eq!(limit, ParkLimit::Requests(3));
    bench.returns("a");
    assert!(bench.done.len() == 3 && bench.done.iter().all(|d| d.result.is_ok()));
}

/// Passthrough on the head: fails at once, and never waits. Here one that the program calls idempotent
/// is treated like other I/O.
pub fn row_33_passthrough_never_waits() {
    let (mut bench, head) = pending();
    let flush = PassthroughCommand::new(0x00);
    bench.channel.submit_passthrough(&head, flush, Vec::new().into(), 1).unwrap();
    bench.settle();
    let done = bench.one();
    assert!(matches!(*done.result.unwrap_err(), IoError::NoPath { .. }));
    assert!(!done.uncertain, "it was never sent");
    let flush = flush.idempotent();
    bench.channel.submit_passthrough(&head, flush, Vec::new().into(), 2).unwrap();
    bench.settle();
    assert_eq!((bench.done.len(), bench.channel.parked()), (0, 1));
    bench.returns("a");
    assert_eq!(bench.one().result, Ok(()));
}

/// An open is allowed and pins the module. Here a handle can be had, and what it pins is itself: it
/// outlives the head and keeps nobody from shutting down.
pub fn row_34_a_handle_can_be_had() {
    let (mut bench, head) = pending();
    let found = bench.head(1).expect("it can be found");
    assert_eq!((found.instance(), bench.host.pin_count()), (head.instance(), 1));
    assert!(bench.host.heads().iter().any(|h| h.instance() == head.instance()));
    drop(head);
    bench.run(WINDOW);
    assert!(is_gone(&found));
    assert_eq!((found.geometry().blocks, bench.host.pin_count()), (2048, 0));
    bench.host.shutdown().expect("a handle is no pin");
}

/// The module cannot be unloaded: the host cannot be shut down, and says who holds it.
pub fn row_38_the_host_cannot_be_shut_down() {
    let (mut bench, head) = pending();
    let Err(HostError::Busy(holders)) = bench.host.shutdown() else { panic!("it was shut down") };
    let [holder] = &holders[..] else { panic!("{holders:?}") };
    assert_eq!(holder.reason, PinReason::PendingRemoval { head: head.name().into() });
    assert!(is_pending(&head), "nothing has changed");
    bench.run(WINDOW);
    bench.host.shutdown().expect("the pin is back");
}

/// The transport's module can be unloaded: nothing of it is held. Here neither queue nor association
/// of the lost controller is left, and the transport itself is the host's.
pub fn row_39_the_transport_is_not_held() {
    let mut bench = crate::stage::bench(window());
    let a = bench.connect_with("a", given_up_after(SECOND));
    let head = bench.head(1).expect("a head");
    assert!(bench.world.port("a", |a| a.queues_not_dropped()) > 0);
    bench.world.pull("a");
    bench.run(SECOND * 2);
    assert!(is_pending(&head) && a.removed().is_some());
    assert_eq!(bench.world.port("a", |a| a.queues_not_dropped()), 0);
    assert!(bench.host.controllers().is_empty());
    assert!(bench.host.head(&Nqn::new(SUBSYSTEM).unwrap(), 1).is_some());
}
