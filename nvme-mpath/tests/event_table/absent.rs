//! Rows 1 to 5: there is no head, or one that could not be used yet.

use std::sync::Arc;

use nvme_core::spec::Status;
use nvme_fake::{Bench, Ns};
use nvme_mpath::{Event, HeadState};

use crate::stage::{SECOND, Stage, bench, window};

/// A namespace is found and no head matches. Kernel: a head is made and a path put on its list;
/// nothing is pinned, and the timer that is not armed is cancelled in vain.
pub fn row_01_a_namespace_makes_a_head() {
    let mut bench = bench(window());
    bench.connect("a");
    let head = bench.head(1).expect("a head");
    assert_eq!((head.state(), head.paths().len()), (HeadState::Live, 1));
    assert_eq!(bench.count(|e| matches!(e, Event::HeadAdded(_))), 1);
    assert_eq!((bench.host.pin_count(), bench.host.pins_peak(), bench.cancelled()), (0, 0, 0));
}

/// The path becomes accessible. Kernel: the disk is registered now and parked I/O goes out. Here the
/// head can be had before, and I/O to it waits.
pub fn row_02_a_path_becomes_accessible() {
    let mut bench = bench(window());
    bench.world.port("a", |a| a.ana = Some([(1, 3)].into()));
    bench.connect("a");
    let head = bench.head(1).expect("a head");
    assert!(!head.paths()[0].usable);
    bench.waits(&head, 1);
    bench.world.ana("a", 1, 1);
    bench.settle();
    assert_eq!((bench.one().result, bench.channel.parked()), (Ok(()), 0));
    assert_eq!(bench.count(|e| matches!(e, Event::PathUp { .. })), 1);
    assert_eq!((head.state(), bench.host.pins_peak()), (HeadState::Live, 0));
}

/// The registration of the disk fails; a later path or a rescan may try again. Nothing is registered
/// here; what can fail in its place is the identification of the namespace.
pub fn row_03_a_namespace_that_cannot_be_had_may_come_later() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.namespace_status = Some(Status::INTERNAL_ERROR));
    let a = bench.connect("a");
    assert!(bench.head(1).is_none());
    bench.world.port("a", |a| a.namespace_status = None);
    a.rescan();
    bench.run(SECOND * 5);
    let head = bench.head(1).expect("the rescan found it");
    bench.works(&head, 1);
}

/// The last path of a head leaves that was never accessible. Kernel: freed at once (until 6.16-rc5 the
/// head leaked). Here a head that was never usable is like any other: without a window it goes at
/// once, and nothing of it is left.
pub fn row_04_the_last_path_of_a_head_that_was_never_usable_leaves() {
    let mut bench = Bench::new();
    bench.world.port("a", |a| a.ana = Some([(1, 3)].into()));
    let a = bench.connect("a");
    let head = Arc::downgrade(&bench.head(1).expect("a head"));
    a.disconnect();
    bench.settle();
    assert_eq!((bench.removed(), bench.scheduled(), bench.host.pins_peak()), (1, 0, 0));
    bench.log.clear();
    assert!(head.upgrade().is_none(), "it is still held");
}

/// Another path with the same NSID: it joins if the identifiers are the same and both are shared, and
/// is refused otherwise.
pub fn row_05_another_path_joins_or_is_refused() {
    let mut bench = Bench::new();
    let private = |ns: &mut Ns| ns.shared = false;
    let other = |ns: &mut Ns| ns.uuid = [9; 16];
    for (port, change) in [("c", Some(private as fn(&mut Ns))), ("d", Some(other)), ("b", None)] {
        if let Some(change) = change {
            bench.world.port(port, |p| change(p.namespaces.get_mut(&1).unwrap()));
        }
    }
    for port in ["a", "b", "c", "d"] {
        bench.connect(port);
    }
    let head = bench.head(1).expect("a head");
    let at: Vec<_> = head.paths().iter().map(|p| p.address.to_string()).collect();
    assert_eq!(at, ["fake://a", "fake://b"]);
    let refused = bench.refused();
    assert!(refused.len() == 2, "{refused:?}");
    assert!(
        refused[0].contains("not shared") && refused[1].contains("the head has"),
        "{refused:?}"
    );
    for i in 0..4 {
        bench.works(&head, i);
    }
    for port in ["a", "b"] {
        bench.world.port(port, |p| assert_eq!(p.executed.len(), 2, "port {port}"));
    }
}
