//! Rows 11 to 16: the last path is lost and about to leave. The kernel has a gap there, between the
//! empty list and the decision about it; here both are one step.

use nvme_core::controller::State;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io};
use nvme_mpath::{DelayedRemoval, Event, HeadState, IoError};

use crate::stage::{
    SECOND, Stage, WINDOW, bench, given_up_after, is_gone, is_pending, lost, remaining, window,
};

/// The window opens, with one pin. Kernel: it is counted from the end of the path's teardown. Here
/// from the moment in which the path leaves.
pub fn row_11_the_window_is_opened_with_a_pin() {
    let mut bench = bench(window());
    let head = lost(&mut bench);
    assert_eq!((bench.host.pin_count(), remaining(&head)), (1, Some(WINDOW)));
    let holder = &bench.host.pins()[0].reason;
    assert_eq!(holder.to_string(), format!("removal pending of {}", head.name()));
    bench.waits(&head, 1);
}

/// No pin is given any more, because the library goes away: the head is removed at once (until
/// 0f5197ea9a73 it was left for ever).
pub fn row_12_no_pin_is_to_be_had() {
    let mut bench = bench(window());
    bench.connect("a");
    let head = bench.head(1).expect("a head");
    bench.host.begin_shutdown(false).expect("nothing is pinned");
    bench.settle();
    assert!(is_gone(&head), "{:?}", head.state());
    let at_once = |e: &Event| matches!(e, Event::HeadRemoved { delayed: false, .. });
    assert_eq!((bench.count(at_once), bench.scheduled(), bench.host.pins_peak()), (1, 0, 0));
}

/// A path comes while the last one is on its way out: the head lives on.
pub fn row_13_a_path_comes_while_the_last_one_leaves() {
    let mut bench = bench(window());
    let a = bench.connect("a");
    let head = bench.head(1).expect("a head");
    bench.world.port("a", |a| a.slow_shutdown = true);
    a.disconnect();
    bench.settle();
    assert_eq!((a.state(), head.paths()[0].usable), (State::Deleting, false));
    bench.connect("b");
    bench.run(SECOND * 6);
    assert_eq!((a.state(), head.state(), head.paths().len()), (State::Dead, HeadState::Live, 1));
    assert_eq!((bench.scheduled(), bench.host.pins_peak()), (0, 0));
    bench.works(&head, 1);
}

/// The window is set to zero after the loss and before the path leaves: no window opens.
pub fn row_14_the_window_is_closed_before_the_path_leaves() {
    let mut bench = bench(window());
    bench.connect_with("a", given_up_after(SECOND * 5));
    let head = bench.head(1).expect("a head");
    bench.world.pull("a");
    bench.settle();
    bench.waits(&head, 1);
    head.set_delayed_removal(DelayedRemoval::OFF);
    bench.settle();
    assert_eq!((head.state(), bench.channel.parked()), (HeadState::Live, 1), "it may come back");
    bench.run(SECOND * 6);
    assert!(is_gone(&head));
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
    assert_eq!((bench.scheduled(), bench.host.pins_peak()), (0, 0));
}

/// The window is set after the head was let go without one. Kernel: a timer is armed for a head that
/// nobody finds, and a namespace that returns gets a second one beside it. Here the head is gone, its
/// handle takes the setting and does nothing, and there is never more than one head.
pub fn row_15_the_window_is_opened_after_the_path_has_left() {
    let mut bench = Bench::new();
    let head = lost(&mut bench);
    head.set_delayed_removal(window());
    bench.settle();
    assert!(is_gone(&head));
    assert_eq!((bench.host.pin_count(), bench.host.heads().len(), bench.scheduled()), (0, 0, 0));
    bench.returns("a");
    let again = bench.head(1).expect("a head");
    assert!(again.instance() != head.instance() && bench.host.heads().len() == 1);
    bench.run(WINDOW * 2);
    assert_eq!((again.state(), bench.removed()), (HeadState::Live, 1));
    bench.works(&again, 1);
}

/// One path leaves slowly, another one comes and leaves meanwhile, and both are "the last". Kernel:
/// two pins for one timer, so that one is never given back. Here there is one removal with one pin.
pub fn row_16_two_paths_are_both_the_last() {
    let mut bench = bench(window());
    let a = bench.connect("a");
    let head = bench.head(1).expect("a head");
    bench.world.port("a", |a| (a.io, a.slow_shutdown) = (Io::Hold, true));
    bench.write(&head, 1, 1);
    bench.settle();
    a.disconnect();
    bench.settle();
    let b = bench.connect("b");
    b.disconnect();
    bench.run(SECOND * 8);
    assert_eq!((a.state(), b.state()), (State::Dead, State::Dead));
    assert!(is_pending(&head));
    assert_eq!((bench.scheduled(), bench.host.pin_count(), bench.host.pins_peak()), (1, 1, 1));
    bench.run(WINDOW);
    assert!(is_gone(&head));
    assert_eq!((bench.removed(), bench.host.pin_count()), (1, 0));

    // Both in one turn of the control plane.
    let mut bench = crate::stage::bench(window());
    for port in ["a", "b"] {
        bench.connect_with(port, given_up_after(Duration::ZERO));
    }
    let head = bench.head(1).expect("a head");
    bench.world.pull("a");
    bench.world.pull("b");
    bench.settle();
    assert!(is_pending(&head) && head.paths().is_empty());
    assert_eq!((bench.scheduled(), bench.host.pin_count(), bench.host.pins_peak()), (1, 1, 1));
}
