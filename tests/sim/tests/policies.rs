//! What the policies come to, in virtual time. A seed gives the same figures each time.

use sim::clock::SEC;
use sim::policies::{Fault, Figures, RATE, SETUPS, measure};

fn figures(name: &str, fault: Fault) -> Figures {
    let setup = SETUPS.iter().find(|s| s.name == name).unwrap();
    measure(*setup, fault, 4 * SEC, RATE, 1).unwrap()
}

#[test]
fn service_time_uses_equal_paths_alike() {
    let (ours, one) = (
        figures("service-time", Fault::Nothing),
        figures("active-passive, good path preferred", Fault::Nothing),
    );
    assert!(ours.per_second > 1.9 * one.per_second && ours.p99 < one.p99, "{ours:?} {one:?}");
}

#[test]
fn service_time_leaves_a_slow_path_alone_and_queue_depth_does_not() {
    let [ours, depth, good] =
        ["service-time", "queue-depth", "active-passive, good path preferred"]
            .map(|name| figures(name, Fault::Slow));
    assert!(
        ours.p99 < 1.05 * good.p99 && depth.p99 > 4.0 * ours.p99,
        "{ours:?} {depth:?} {good:?}"
    );
    assert!(ours.per_second > good.per_second, "where the good one is full, it helps");
}

#[test]
fn a_stall_holds_up_few_requests_and_fewer_if_reads_are_hedged() {
    let [turns, ours, hedged] = ["round-robin", "service-time", "service-time, reads hedged"]
        .map(|name| figures(name, Fault::Stalls));
    assert!(turns.p99 > 100.0 * ours.p99, "{turns:?} {ours:?}");
    assert!(ours.p9999 > 100.0 * hedged.p9999, "{ours:?} {hedged:?}");
    assert!(hedged.extra > 0.0 && hedged.extra <= 0.05, "{hedged:?}");
}

#[test]
fn a_seed_gives_the_same_figures() {
    let once = figures("service-time", Fault::Slow);
    assert_eq!(once, figures("service-time", Fault::Slow));
}
