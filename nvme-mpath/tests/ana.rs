//! Asymmetric access as a head sees it: what the log and the namespaces say together, errors that
//! come before the log, storms of events, and states that come and go.

use std::sync::Arc;

use nvme_core::ana::AnaState;
use nvme_core::controller::State;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io, Ns};
use nvme_mpath::{DelayedRemoval, Event, Head, HeadState, Window};

const SECOND: Duration = Duration::from_secs(1);
const OPTIMIZED: u8 = 1;
const NON_OPTIMIZED: u8 = 2;
const INACCESSIBLE: u8 = 3;
const PERSISTENT_LOSS: u8 = 4;
const CHANGE: u8 = 0xf;

fn with_ana(bench: &Bench, port: &str, groups: &[(u32, u8)]) {
    bench.world.port(port, |p| p.ana = Some(groups.iter().copied().collect()));
}

/// Two paths with ANA, both optimized.
fn two_paths() -> (Bench, Arc<Head>) {
    let mut bench = Bench::new();
    for port in ["a", "b"] {
        with_ana(&bench, port, &[(1, OPTIMIZED)]);
        bench.connect(port);
    }
    let head = bench.head(1).unwrap();
    (bench, head)
}

fn states(head: &Head) -> Vec<AnaState> {
    head.paths().iter().map(|p| p.ana).collect()
}

fn executed(bench: &Bench, port: &str) -> usize {
    bench.world.port(port, |p| p.executed.len())
}

#[test]
fn groups_and_namespaces_are_put_together() {
    let mut bench = Bench::new();
    with_ana(&bench, "a", &[(1, OPTIMIZED), (2, NON_OPTIMIZED), (7, INACCESSIBLE)]);
    bench.world.port("a", |a| {
        for (nsid, group) in [(1, 1), (2, 2), (3, 7), (4, 2)] {
            a.namespaces.insert(nsid, Ns { group, ..Ns::new(nsid) });
        }
    });
    bench.connect("a");
    let state = |bench: &Bench, nsid| bench.head(nsid).unwrap().paths()[0].ana;
    let all = |bench: &Bench| [1, 2, 3, 4].map(|nsid| state(bench, nsid));
    use AnaState::{Inaccessible, NonOptimized, Optimized};
    assert_eq!(all(&bench), [Optimized, NonOptimized, Inaccessible, NonOptimized]);
    // A group changes, and all of its namespaces with it, and no other.
    bench.world.ana("a", 2, INACCESSIBLE);
    bench.settle();
    assert_eq!(all(&bench), [Optimized, Inaccessible, Inaccessible, Inaccessible]);
    // A namespace was put into another group: the log knows before anybody identifies it again.
    bench.world.port("a", |a| _ = a.moved.insert(4, 1));
    bench.world.ana("a", 7, OPTIMIZED);
    bench.settle();
    assert_eq!(all(&bench), [Optimized, Inaccessible, Optimized, Optimized]);
}

#[test]
fn a_namespace_of_an_unknown_group_is_not_used_until_the_log_has_it() {
    let mut bench = Bench::new();
    with_ana(&bench, "a", &[(1, OPTIMIZED)]);
    bench.world.port("a", |a| a.namespaces.get_mut(&1).unwrap().group = 9);
    bench.connect("a");
    let head = bench.head(1).unwrap();
    assert_eq!((states(&head), head.paths()[0].usable), (vec![AnaState::Inaccessible], false));
    bench.write(&head, 1, 1);
    bench.settle();
    assert_eq!((bench.done.len(), bench.channel.parked()), (0, 1));
    bench.world.ana("a", 9, NON_OPTIMIZED);
    bench.settle();
    assert_eq!((bench.one().result, states(&head)), (Ok(()), vec![AnaState::NonOptimized]));
}

#[test]
fn after_an_ana_error_a_path_is_left_alone_until_its_log_was_read() {
    for status in [Status::ANA_TRANSITION, Status::ANA_INACCESSIBLE, Status::ANA_PERSISTENT_LOSS] {
        let (mut bench, head) = two_paths();
        bench.world.port("a", |a| (a.io, a.hold_log) = (Io::Fail(status), true));
        for i in 0..2 {
            bench.write(&head, i, i);
        }
        bench.settle();
        assert_eq!(bench.done.len(), 2, "what met the error went elsewhere");
        bench.done.clear();
        assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (0, 2));
        // The controller would answer again, but the log has not said so.
        bench.world.port("a", |a| a.io = Io::Answer);
        for i in 0..8 {
            bench.write(&head, i, i);
            bench.settle();
        }
        assert_eq!((executed(&bench, "a"), executed(&bench, "b")), (0, 10), "{status}");
        let usable: Vec<_> = head.paths().iter().map(|p| p.usable).collect();
        assert_eq!((usable, states(&head)[0]), (vec![false, true], AnaState::Optimized));
        bench.world.release_log("a");
        bench.settle();
        for i in 0..8 {
            bench.write(&head, i, i);
            bench.settle();
        }
        assert!(executed(&bench, "a") >= 3, "{status}: it is used again");
    }
}

#[test]
fn a_path_that_is_left_alone_is_not_forgotten_with_its_association() {
    let (mut bench, head) = two_paths();
    bench.world.port("a", |a| (a.io, a.hold_log) = (Io::Fail(Status::ANA_TRANSITION), true));
    bench.write(&head, 0, 0);
    bench.write(&head, 1, 1);
    bench.settle();
    bench.world.pull("a");
    bench.world.port("a", |a| (a.io, a.hold_log) = (Io::Answer, false));
    bench.world.plug("a");
    bench.run(SECOND * 5);
    assert!(head.paths().iter().all(|p| p.usable), "{:?}", head.paths());
    assert_eq!(bench.done.len(), 2);
}

#[test]
fn persistent_loss_and_back() {
    let (mut bench, head) = two_paths();
    bench.host.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND)));
    head.set_delayed_removal(DelayedRemoval::after(Window::For(SECOND)));
    for port in ["a", "b"] {
        bench.world.ana(port, 1, PERSISTENT_LOSS);
    }
    bench.settle();
    assert_eq!(states(&head), [AnaState::PersistentLoss; 2]);
    bench.write(&head, 1, 1);
    bench.run(SECOND * 20);
    // "Persistent" is the controller's word for now: the paths stay, and no window opens.
    assert_eq!((bench.done.len(), bench.channel.parked(), head.paths().len()), (0, 1, 2));
    assert_eq!((head.state(), bench.host.pins_peak()), (HeadState::Live, 0));
    bench.world.ana("b", 1, NON_OPTIMIZED);
    bench.settle();
    assert_eq!((bench.one().result, executed(&bench, "b")), (Ok(()), 1));
    bench.world.ana("a", 1, OPTIMIZED);
    bench.settle();
    bench.write(&head, 2, 2);
    bench.settle();
    assert_eq!((bench.one().result, executed(&bench, "a")), (Ok(()), 1));
}

#[test]
fn a_storm_of_events_is_few_readings_and_ends_with_the_truth() {
    let (mut bench, head) = two_paths();
    let before = bench.world.port("a", |a| a.log_reads);
    // Each of them is told by an event; most come while the log is being read.
    bench.world.port("a", |a| a.hold_log = true);
    for i in 0..1000 {
        let state = [INACCESSIBLE, CHANGE, NON_OPTIMIZED, PERSISTENT_LOSS, OPTIMIZED][i % 5];
        bench.world.ana("a", 1, state);
        bench.step();
    }
    bench.world.ana("a", 1, INACCESSIBLE);
    bench.settle();
    bench.world.release_log("a");
    bench.settle();
    assert_eq!(states(&head), [AnaState::Inaccessible, AnaState::Optimized]);
    let reads = bench.world.port("a", |a| a.log_reads) - before;
    assert!(reads <= 3, "{reads} readings of the log");
    assert!(bench.host.controllers().iter().all(|c| c.state() == State::Live));
    let changes = bench.count(|e| matches!(e, Event::AnaChanged { .. }));
    assert!(changes <= 3, "{changes} changes were told");
}

#[test]
fn a_reading_that_says_nothing_new_tells_nothing() {
    let (mut bench, _head) = two_paths();
    let before = bench.log.len();
    for _ in 0..10 {
        // The change count moves, and with it nothing else.
        bench.world.ana("a", 1, OPTIMIZED);
        bench.settle();
    }
    assert_eq!(bench.log.len(), before, "{:?}", &bench.log[before..]);
}

#[test]
fn a_new_association_begins_with_the_log_as_it_is_then() {
    let (mut bench, head) = two_paths();
    bench.world.ana("a", 1, INACCESSIBLE);
    bench.settle();
    assert_eq!(states(&head)[0], AnaState::Inaccessible);
    bench.world.pull("a");
    bench.world.port("a", |a| a.ana = Some([(1, NON_OPTIMIZED)].into()));
    bench.world.plug("a");
    bench.run(SECOND * 5);
    assert_eq!(states(&head), [AnaState::NonOptimized, AnaState::Optimized]);
    assert!(head.paths()[0].usable);
}
