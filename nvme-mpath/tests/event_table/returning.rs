//! Rows 20 to 26: a namespace comes back while the window is open, or something that looks like it.

use nvme_core::spec::Status;
use nvme_fake::Io;
use nvme_mpath::{Event, HeadState, IoError};

use crate::stage::{
    SECOND, Stage, WINDOW, bench, given_up_after, is_gone, is_pending, lost, pending, remaining,
    window,
};

/// The same NSID and the same identifiers: the removal is cancelled and its pin given back (until
/// 3f150f0f010f it leaked). So may a private namespace.
pub fn row_20_a_path_returns() {
    for shared in [true, false] {
        let mut bench = bench(window());
        bench.world.port("a", |a| a.namespaces.get_mut(&1).unwrap().shared = shared);
        let head = lost(&mut bench);
        for round in 1..=3 {
            assert_eq!((is_pending(&head), bench.host.pin_count()), (true, 1));
            bench.waits(&head, round);
            bench.returns("a");
            assert_eq!(bench.one().result, Ok(()));
            assert_eq!((head.state(), bench.host.pin_count()), (HeadState::Live, 0));
            assert_eq!(bench.head(1).unwrap().instance(), head.instance());
            assert_eq!((bench.scheduled(), bench.cancelled()), (round as usize, round as usize));
            bench.world.pull("a");
            bench.settle();
        }
        assert_eq!(bench.host.pins_peak(), 1);
    }
}

/// The timer has run and the removal has begun: the namespace that comes now gets a new head.
pub fn row_21_a_path_returns_too_late() {
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    bench.world.port("a", |a| a.hold_namespace = true);
    bench.run(WINDOW - SECOND);
    bench.returns("a");
    assert!(is_pending(&head), "what is not identified is no path");
    // Its end is begun by somebody else, and is not carried out yet, when the namespace is known.
    assert!(head.remove_now());
    assert!(matches!(head.state(), HeadState::Removing(_)));
    bench.world.release_identify("a");
    bench.settle();
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
    assert!(is_gone(&head) && bench.host.pin_count() == 0);
    let again = bench.head(1).expect("a head");
    assert_ne!(again.instance(), head.instance());
    assert_eq!((bench.cancelled(), bench.removed()), (0, 1));
    bench.works(&again, 2);
}

/// The time is up, but the timer has not been served yet when the path is there: it counts as a return.
pub fn row_22_a_path_returns_before_the_timer_is_served() {
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    bench.world.port("a", |a| a.hold_namespace = true);
    bench.returns("a");
    bench.run(WINDOW - SECOND);
    assert!(is_pending(&head));
    // Both in the same turn: an answer is looked at before a timer.
    bench.clock.advance(SECOND * 2);
    bench.world.release_identify("a");
    bench.settle();
    assert_eq!((bench.one().result, head.state()), (Ok(()), HeadState::Live));
    assert_eq!((bench.cancelled(), bench.removed(), bench.host.pin_count()), (1, 0, 0));
    bench.run(WINDOW * 2);
    assert_eq!(head.state(), HeadState::Live);
}

/// The same NSID with other identifiers: refused, and the time runs on. When the head is gone, the
/// newcomer gets one of its own (the kernel leaves that to the next scan).
pub fn row_23_other_identifiers_return() {
    let (mut bench, head) = pending();
    bench.waits(&head, 1);
    bench.world.port("a", |a| a.namespaces.get_mut(&1).unwrap().uuid = [9; 16]);
    bench.run(SECOND * 4);
    bench.returns("a");
    assert_eq!(bench.refused().len(), 1);
    assert!(bench.refused()[0].contains("the head has"), "{:?}", bench.refused());
    assert_eq!((remaining(&head), bench.host.pin_count()), (Some(SECOND * 6), 1));
    assert_eq!((bench.channel.parked(), bench.cancelled()), (1, 0));
    bench.run(SECOND * 6);
    assert!(is_gone(&head));
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
    let newcomer = bench.head(1).expect("a head of its own");
    assert_eq!(newcomer.ids().uuid.unwrap().0, [9; 16]);
    bench.world.port("a", |a| assert!(a.executed.is_empty(), "the parked write is not its"));
}

/// Another NSID with the same identifiers: refused, and the time runs on.
pub fn row_24_the_identifiers_return_elsewhere() {
    let (mut bench, head) = pending();
    bench.world.port("a", |a| {
        let ns = a.namespaces.remove(&1).unwrap();
        a.namespaces.insert(2, ns);
    });
    bench.run(SECOND * 4);
    bench.returns("a");
    assert!(bench.refused()[0].contains("belongs to"), "{:?}", bench.refused());
    assert!(bench.head(2).is_none());
    assert_eq!((remaining(&head), bench.host.pin_count()), (Some(SECOND * 6), 1));
    bench.waits(&head, 1);
}

/// The same identifiers in another subsystem: refused, as the kernel does on fabrics, and the time
/// runs on.
pub fn row_25_the_identifiers_return_in_another_subsystem() {
    let (mut bench, head) = pending();
    bench.world.port("b", |b| b.subnqn = "nqn.2026-01.org.example:other");
    bench.run(SECOND * 4);
    bench.connect("b");
    assert!(bench.refused()[0].contains("belongs to"), "{:?}", bench.refused());
    assert_eq!((remaining(&head), bench.host.heads().len()), (Some(SECOND * 6), 1));
    bench.waits(&head, 1);
    bench.world.port("b", |b| assert!(b.executed.is_empty()));
}

/// The namespace returns and cannot be brought up. Kernel: the timer is cancelled already and the pin
/// given back, so that the head is stranded and I/O waits for ever. Here a path is none before it is
/// ready: the old deadline stands, and a later return is as good as any.
pub fn row_26_a_return_that_fails() {
    for returns_in_time in [true, false] {
        let (mut bench, head) = pending();
        bench.waits(&head, 1);
        bench.world.port("a", |a| a.namespace_status = Some(Status::INTERNAL_ERROR));
        bench.world.plug("a");
        let a = bench.connect_with("a", given_up_after(SECOND * 600));
        bench.run(SECOND * 2);
        assert_eq!((remaining(&head), bench.cancelled()), (Some(SECOND * 8), 0));
        assert_eq!((bench.channel.parked(), bench.host.pin_count()), (1, 1));
        // A controller that fails as a whole is no better.
        bench.world.pull("a");
        bench.run(SECOND * 2);
        assert_eq!((remaining(&head), bench.host.pin_count()), (Some(SECOND * 6), 1));
        if returns_in_time {
            bench.world.port("a", |a| (a.namespace_status, a.io) = (None, Io::Answer));
            bench.world.plug("a");
            bench.run(SECOND * 4);
            assert_eq!((bench.one().result, head.state()), (Ok(()), HeadState::Live));
            assert_eq!((bench.cancelled(), bench.host.pin_count()), (1, 0), "{:?}", a.state());
        } else {
            bench.run(SECOND * 6);
            assert!(is_gone(&head) && bench.host.pin_count() == 0);
            assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
        }
        let heads = |e: &Event| matches!(e, Event::HeadAdded(_));
        assert_eq!(bench.count(heads), 1);
    }
}
