//! Rows 6 to 10, 30 and 40 to 43: the head has paths, until the last one leaves.

use nvme_core::controller::{RemovedCause, State};
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, Ns, quiet};
use nvme_mpath::{DelayedRemoval, Event, HeadState, IoError, LossCause, Window};

use crate::stage::{
    SECOND, Stage, WINDOW, bench, cause, given_up_after, is_gone, is_pending, lost, window,
};

/// A reset or a reconnect begins. The path stays on the list and is not used: I/O goes elsewhere, or
/// waits.
pub fn row_06_a_reset_keeps_the_path() {
    let mut bench = bench(window());
    bench.connect("a");
    let head = bench.head(1).expect("a head");
    bench.world.pull("a");
    bench.settle();
    assert_eq!(
        (head.state(), head.paths().len(), head.paths()[0].usable),
        (HeadState::Live, 1, false)
    );
    bench.waits(&head, 1);
    bench.connect("b");
    assert_eq!(bench.one().result, Ok(()));
    bench.works(&head, 2);
    bench.world.port("b", |b| assert_eq!(b.executed.len(), 2));
    bench.world.plug("a");
    bench.run(SECOND * 5);
    assert_eq!(head.paths().iter().filter(|p| p.usable).count(), 2);
    assert_eq!((bench.scheduled(), bench.host.pins_peak()), (0, 0));
}

/// `fast_io_fail_tmo` passes on every controller. Without a window I/O fails. With one, the kernel goes
/// on queueing, which overrides what `fast_io_fail_tmo` is for; here I/O fails all the same, unless
/// `like_linux` is asked for.
pub fn row_07_fast_io_fail_passes_on_every_controller() {
    let linux = DelayedRemoval::like_linux(Window::For(WINDOW));
    for (windows, waits) in [(DelayedRemoval::OFF, false), (window(), false), (linux, true)] {
        let mut bench = bench(windows);
        let mut options = quiet();
        options.fast_io_fail_tmo = Some(SECOND * 5);
        bench.connect_with("a", options);
        let head = bench.head(1).expect("a head");
        bench.world.pull("a");
        bench.settle();
        bench.waits(&head, 1);
        bench.run(SECOND * 6);
        assert_eq!((head.state(), bench.done.len()), (HeadState::Live, usize::from(!waits)));
        if waits {
            bench.waits(&head, 2);
            // The windows count at once, as the kernel's flag does.
            head.set_delayed_removal(window());
            bench.settle();
            assert_eq!((bench.done.len(), bench.channel.parked()), (2, 0));
            bench.done.clear();
        } else {
            assert!(matches!(*bench.one().result.unwrap_err(), IoError::NoPath { .. }));
        }
        assert!(matches!(bench.fails(&head), IoError::NoPath { .. }));
        bench.world.plug("a");
        bench.run(SECOND * 5);
        bench.works(&head, 3);
    }
}

/// A path leaves, and it is not the last: what it had in flight fails over.
pub fn row_08_a_path_leaves_and_others_remain() {
    let mut bench = bench(window());
    bench.connect_with("a", given_up_after(Duration::ZERO));
    let head = bench.head(1).expect("a head");
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    bench.connect("b");
    bench.world.pull("a");
    bench.settle();
    assert_eq!(bench.one().result, Ok(()));
    bench.world.port("b", |b| assert_eq!(b.executed.len(), 1));
    assert_eq!((head.state(), head.paths().len(), head.stats().failovers), (HeadState::Live, 1, 1));
    assert_eq!((bench.scheduled(), bench.host.pins_peak()), (0, 0));
}

/// The last path leaves and there is no window: I/O fails from that moment, and the head goes.
pub fn row_09_the_last_path_leaves_without_a_window() {
    let mut bench = Bench::new();
    bench.connect_with("a", given_up_after(Duration::ZERO));
    let head = bench.head(1).expect("a head");
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    bench.world.pull("a");
    bench.settle();
    assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
    let delayed = |e: &Event| matches!(e, Event::HeadRemoved { delayed: true, .. });
    assert_eq!((bench.removed(), bench.count(delayed), bench.host.pins_peak()), (1, 0, 0));
    assert!(is_gone(&head) && bench.head(1).is_none());
    assert!(matches!(bench.fails(&head), IoError::HeadRemoved { .. }));
}

/// The last path leaves and there is a window: the head stays and can be found, and I/O waits.
pub fn row_10_the_last_path_leaves_with_a_window() {
    let mut bench = bench(window());
    let head = lost(&mut bench);
    assert!(is_pending(&head) && head.paths().is_empty());
    assert_eq!(bench.head(1).expect("it can be found").instance(), head.instance());
    bench.waits(&head, 1);
    assert_eq!((cause(&head), bench.removed()), (LossCause::LinkLost, 0));
}

/// The window is set while the head is live: it counts for the next loss.
pub fn row_30_the_window_is_set_while_live() {
    let mut bench = Bench::new();
    bench.connect_with("a", given_up_after(Duration::ZERO));
    let head = bench.head(1).expect("a head");
    head.set_delayed_removal(window());
    bench.run(WINDOW * 2);
    assert_eq!((head.state(), bench.host.pin_count()), (HeadState::Live, 0));
    bench.world.pull("a");
    bench.settle();
    assert!(is_pending(&head));
    assert_eq!((crate::stage::remaining(&head), bench.host.pin_count()), (Some(WINDOW), 1));
}

/// A disconnect, `ctrl_loss_tmo`, a device that is taken away. Kernel: the window opens for all of
/// them, a deliberate disconnect included. Here each cause has its window.
pub fn row_40_a_controller_goes_for_good() {
    type Deed = fn(&mut Bench, &nvme_mpath::Controller);
    let disconnect: Deed = |_, a| a.disconnect();
    let lose: Deed = |bench, _| bench.world.pull("a");
    let take_away: Deed = |bench, _| bench.world.take_away("a");
    let cases = [
        (disconnect, LossCause::Disconnected, RemovedCause::Deleted),
        (lose, LossCause::LinkLost, RemovedCause::LossTimeout),
        (take_away, LossCause::LinkLost, RemovedCause::Gone),
    ];
    let only_lost = DelayedRemoval { link_lost: Window::For(WINDOW), ..DelayedRemoval::OFF };
    for windows in [only_lost, DelayedRemoval::like_linux(Window::For(WINDOW))] {
        for (deed, loss, removed) in &cases {
            let mut bench = bench(windows);
            let a = bench.connect_with("a", given_up_after(SECOND * 2));
            let head = bench.head(1).expect("a head");
            deed(&mut bench, &a);
            bench.run(SECOND * 4);
            assert_eq!((a.removed().as_ref(), cause(&head)), (Some(removed), *loss));
            let kept = windows != only_lost || *loss == LossCause::LinkLost;
            assert_eq!((is_pending(&head), is_gone(&head)), (kept, !kept), "{loss}");
            assert_eq!(bench.host.pin_count(), usize::from(kept));
            bench.run(WINDOW);
            assert!(is_gone(&head) && bench.host.pin_count() == 0);
        }
    }
}

/// The target deletes or detaches the namespace, or gives its NSID to another one. Kernel: the window
/// opens although the namespace is known to be gone. Here it does so only if that is asked for.
pub fn row_41_the_target_deletes_the_namespace() {
    let cases: [fn(&mut Bench); 4] = [
        |bench| bench.world.namespaces("a", |n| _ = n.remove(&1)),
        |bench| bench.world.namespaces("a", |n| n.get_mut(&1).unwrap().blocks = 0),
        |bench| {
            bench.world.port("a", |a| {
                a.namespace_status = Some(Status::INVALID_NAMESPACE.with_dnr());
            });
            bench.world.namespaces("a", |_| {});
        },
        |bench| {
            bench.world.namespaces("a", |n| _ = n.insert(1, Ns { uuid: [9; 16], ..Ns::new(1) }))
        },
    ];
    for windows in [window(), DelayedRemoval::like_linux(Window::For(WINDOW))] {
        for (i, deed) in cases.iter().enumerate() {
            let mut bench = bench(windows);
            let a = bench.connect("a");
            let head = bench.head(1).expect("a head");
            deed(&mut bench);
            bench.settle();
            assert_eq!(
                (a.state(), cause(&head)),
                (State::Live, LossCause::NamespaceGone),
                "case {i}"
            );
            let kept = windows != window();
            assert_eq!((is_pending(&head), is_gone(&head)), (kept, !kept), "case {i}");
            if kept {
                bench.waits(&head, 1);
                bench.run(WINDOW);
                assert!(matches!(*bench.one().result.unwrap_err(), IoError::HeadRemoved { .. }));
            }
            assert!(matches!(bench.fails(&head), IoError::HeadRemoved { .. }), "case {i}");
            assert_eq!(bench.host.pin_count(), 0);
            // Only the namespace that took the NSID has a head now.
            assert_eq!(bench.head(1).is_some(), i == 3, "case {i}");
        }
    }
}

/// A controller is reset, and nothing leaves.
pub fn row_42_a_reset_is_no_removal() {
    let mut bench = bench(window());
    let a = bench.connect("a");
    let head = bench.head(1).expect("a head");
    bench.world.port("a", |a| a.io = Io::Hold);
    bench.write(&head, 1, 1);
    bench.settle();
    a.reset("asked for");
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.run(SECOND * 2);
    assert_eq!((bench.one().result, a.state(), a.reconnects()), (Ok(()), State::Live, 1));
    assert_eq!((head.state(), head.paths().len()), (HeadState::Live, 1));
    assert_eq!((bench.scheduled(), bench.host.pins_peak()), (0, 0));
}

/// Multipath is off, or the namespace is private: the kernel has no head then, and no window. Here
/// there is always a head, as with Linux's `multipath_always_on`; without a window it behaves as the
/// kernel's single path does.
pub fn row_43_a_private_namespace() {
    for windows in [DelayedRemoval::OFF, window()] {
        let mut bench = bench(windows);
        bench.world.port("a", |a| a.namespaces.get_mut(&1).unwrap().shared = false);
        let head = lost(&mut bench);
        let kept = windows != DelayedRemoval::OFF;
        assert_eq!((is_gone(&head), bench.host.pin_count()), (!kept, usize::from(kept)));
        bench.returns("a");
        let again = bench.head(1).expect("a head");
        assert_eq!(again.instance() == head.instance(), kept);
        bench.works(&again, 1);
    }
}
