//! Which path a request takes: each policy, step by step, on controllers whose answers the test
//! holds back.

use std::sync::Arc;

use nvme_core::nqn::Nqn;
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_fake::{Bench, Io};
use nvme_mpath::{
    ChannelOptions, Controller, Head, IoRequest, NumaTopology, PathPolicy, PathPolicy::*,
};

/// A bench with these ports, all of them paths to namespace 1, ANA group 1 in these states.
fn bench(policy: PathPolicy, ports: &[(&str, u8)]) -> (Bench, Arc<Head>, Vec<Controller>) {
    let mut bench = Bench::with(|options| options.policy = policy);
    let mut controllers = Vec::new();
    for (port, ana) in ports {
        bench.world.port(port, |p| p.ana = Some([(1, *ana)].into()));
        controllers.push(bench.connect(port));
    }
    let head = bench.head(1).unwrap();
    (bench, head, controllers)
}

/// Writes `count` blocks at once, and says how many each port got.
fn spread(bench: &mut Bench, head: &Arc<Head>, count: u64, ports: &[&str]) -> Vec<usize> {
    let got = |bench: &Bench| -> Vec<usize> {
        let count =
            |port: &&str| bench.world.held(port) + bench.world.port(port, |p| p.executed.len());
        ports.iter().map(count).collect()
    };
    let before = got(bench);
    for i in 0..count {
        bench.write(head, i, i);
    }
    bench.settle();
    got(bench).iter().zip(before).map(|(after, before)| after - before).collect()
}

fn hold(bench: &Bench, ports: &[&str], io: Io) {
    ports.iter().for_each(|port| bench.world.port(port, |p| p.io = io));
}

const AB: [&str; 2] = ["a", "b"];
const OPTIMIZED: u8 = 1;
const NON_OPTIMIZED: u8 = 2;

#[test]
fn round_robin_takes_all_in_turn() {
    let (mut bench, head, _) = bench(RoundRobin, &[("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(spread(&mut bench, &head, 9, &["a", "b", "c"]), [3, 3, 3]);
    // One after the other, too.
    for _ in 0..3 {
        spread(&mut bench, &head, 1, &AB);
    }
    assert_eq!(bench.world.port("b", |b| b.executed.len()), 4);
}

#[test]
fn queue_depth_takes_the_one_with_the_least_in_flight() {
    let (mut bench, head, _) = bench(QueueDepth, &[("a", 1), ("b", 1)]);
    // Nothing in flight: always the first.
    for _ in 0..3 {
        assert_eq!(spread(&mut bench, &head, 1, &AB), [1, 0]);
    }
    bench.world.port("a", |a| a.io = Io::Hold);
    assert_eq!(spread(&mut bench, &head, 1, &AB), [1, 0]);
    // The slow one keeps what it has, and gets nothing while the other is empty.
    for _ in 0..4 {
        assert_eq!(spread(&mut bench, &head, 1, &AB), [0, 1]);
    }
    bench.world.port("b", |b| b.io = Io::Hold);
    assert_eq!(spread(&mut bench, &head, 9, &AB), [4, 5]);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!(spread(&mut bench, &head, 5, &AB), [5, 0]);
}

#[test]
fn queue_depth_counts_what_other_channels_have_in_flight() {
    let (mut bench, head, _) = bench(QueueDepth, &[("a", 1), ("b", 1)]);
    let mut other = bench.host.channel(ChannelOptions::default()).unwrap();
    for _ in 0..10 {
        bench.step();
        other.poll(&mut bench.done);
    }
    hold(&bench, &AB, Io::Hold);
    // Six of the other channel's: three each.
    for i in 0..6 {
        other.submit(&head, IoRequest::write(i, vec![0; 512].into(), i)).unwrap();
    }
    other.flush();
    bench.world.release("b", Status::SUCCESS);
    other.poll(&mut bench.done);
    assert_eq!(bench.done.len(), 3);
    bench.step();
    // The first three fill b up to what a has; the fourth goes to a.
    assert_eq!(spread(&mut bench, &head, 4, &AB), [1, 3]);
    drop(other);
    bench.settle();
    // What the other channel had on a is not counted any more: 1 and 3 become 3 and 3.
    assert_eq!(spread(&mut bench, &head, 2, &AB), [2, 0]);
}

#[test]
fn active_passive_uses_one_and_comes_back_to_the_preferred() {
    let (mut bench, head, paths) = bench(ActivePassive, &[("a", 1), ("b", 1)]);
    assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0]);
    head.set_preferred_path(Some(paths[1].id()));
    assert_eq!(spread(&mut bench, &head, 4, &AB), [0, 4]);
    bench.world.pull("b");
    bench.settle();
    assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0]);
    bench.world.plug("b");
    bench.run(Duration::from_secs(5));
    assert_eq!(spread(&mut bench, &head, 4, &AB), [0, 4]);
    // A preference does not outdo the ANA state.
    bench.world.ana("b", 1, NON_OPTIMIZED);
    bench.settle();
    assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0]);
    head.set_preferred_path(None);
    bench.world.ana("b", 1, OPTIMIZED);
    bench.settle();
    assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0]);
}

#[test]
fn active_passive_waits_for_room_instead_of_spilling_over() {
    let (mut bench, head, _) = bench(ActivePassive, &[("a", 1), ("b", 1)]);
    bench.world.port("a", |a| a.io = Io::Hold);
    assert_eq!(spread(&mut bench, &head, 200, &AB), [127, 0]);
    bench.world.port("a", |a| a.io = Io::Answer);
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    assert_eq!((bench.done.len(), bench.world.port("b", |b| b.executed.len())), (200, 0));
}

#[test]
fn numa_takes_the_nearest_of_the_best() {
    let distances = vec![vec![10, 21], vec![21, 10]];
    let mut bench = Bench::with(|options| {
        options.policy = Numa;
        options.numa = Some(NumaTopology::new(distances, vec![0, 0, 1, 1]));
    });
    for (port, node) in [("a", 0), ("b", 1)] {
        bench.world.port(port, |p| p.ana = Some([(1, 1)].into()));
        let mut options = nvme_fake::quiet();
        options.numa_node = Some(node);
        bench.connect_with(port, options);
    }
    let head = bench.head(1).unwrap();
    for (node, expected) in [(0, [4, 0]), (1, [0, 4])] {
        let mut options = ChannelOptions::default();
        options.numa_node = Some(node);
        bench.channel = bench.host.channel(options).unwrap();
        bench.settle();
        assert_eq!(spread(&mut bench, &head, 4, &AB), expected, "node {node}");
    }
    // This channel is on node 1; near is not worth more than optimized.
    bench.world.ana("b", 1, NON_OPTIMIZED);
    bench.settle();
    assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0]);
}

#[test]
fn a_marginal_path_is_used_last() {
    for policy in PathPolicy::ALL {
        let (mut bench, head, paths) = bench(policy, &[("a", 1), ("b", 2)]);
        assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0], "{policy}");
        paths[0].set_marginal(true);
        bench.settle();
        assert!(paths[0].is_marginal() && head.paths()[0].marginal);
        assert_eq!(spread(&mut bench, &head, 4, &AB), [0, 4], "{policy}");
        bench.world.pull("b");
        bench.settle();
        assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0], "{policy}: the only one");
        bench.world.plug("b");
        bench.run(Duration::from_secs(5));
        assert_eq!(spread(&mut bench, &head, 4, &AB), [0, 4], "{policy}");
        // Marginal through a reconnect.
        bench.world.pull("a");
        bench.world.plug("a");
        bench.run(Duration::from_secs(5));
        assert_eq!(spread(&mut bench, &head, 4, &AB), [0, 4], "{policy}: after reconnect");
        paths[0].set_marginal(false);
        bench.settle();
        assert_eq!(spread(&mut bench, &head, 4, &AB), [4, 0], "{policy}");
    }
}

#[test]
fn all_ana_states_of_two_paths_under_every_policy() {
    // Optimized before non-optimized; the other three are not used (NVMe 2.1 §8.1.1.4).
    let rank = |state: u8| match state {
        1 => 2,
        2 => 1,
        _ => 0,
    };
    const STATES: [u8; 5] = [1, 2, 3, 4, 15];
    for policy in PathPolicy::ALL {
        let (mut bench, head, _) = bench(policy, &[("a", 1), ("b", 1)]);
        for a in STATES {
            for b in STATES {
                bench.world.ana("a", 1, a);
                bench.world.ana("b", 1, b);
                bench.settle();
                let got = spread(&mut bench, &head, 8, &AB);
                let what = format!("{policy}, a {a:#x}, b {b:#x}: {got:?}");
                match (rank(a), rank(b)) {
                    (0, 0) => {
                        assert_eq!((got, bench.channel.parked()), (vec![0, 0], 8), "{what}");
                        bench.world.ana("a", 1, 1);
                        bench.settle();
                        assert_eq!(bench.channel.parked(), 0, "{what}: they go when one comes");
                    }
                    (x, y) if x == y => assert_eq!(got.iter().sum::<usize>(), 8, "{what}"),
                    (x, y) if x > y => assert_eq!(got, [8, 0], "{what}"),
                    _ => assert_eq!(got, [0, 8], "{what}"),
                }
                assert_eq!(bench.done.len(), 8, "{what}");
                assert!(bench.done.drain(..).all(|d| d.result.is_ok()), "{what}");
            }
        }
    }
}

#[test]
fn a_policy_is_the_heads_own_else_the_subsystems_else_the_hosts() {
    let (mut bench, head, _) = bench(RoundRobin, &[("a", 1), ("b", 1)]);
    let subsystem = Nqn::new(nvme_fake::SUBSYSTEM).unwrap();
    assert_eq!((head.policy(), spread(&mut bench, &head, 4, &AB)), (RoundRobin, vec![2, 2]));
    // At once: no step between the change and the request.
    bench.host.set_policy(ActivePassive);
    assert_eq!((head.policy(), spread(&mut bench, &head, 4, &AB)), (ActivePassive, vec![4, 0]));
    bench.host.set_subsystem_policy(&subsystem, Some(RoundRobin));
    assert_eq!((head.policy(), spread(&mut bench, &head, 4, &AB)), (RoundRobin, vec![2, 2]));
    head.set_policy(Some(QueueDepth));
    bench.host.set_policy(Numa);
    assert_eq!(head.policy(), QueueDepth);
    head.set_policy(None);
    assert_eq!(head.policy(), RoundRobin);
    bench.host.set_subsystem_policy(&subsystem, None);
    assert_eq!((head.policy(), spread(&mut bench, &head, 4, &AB)), (Numa, vec![4, 0]));
    // A head that comes later has it from the beginning.
    bench.host.set_subsystem_policy(&subsystem, Some(QueueDepth));
    bench.world.namespaces("a", |list| _ = list.insert(2, nvme_fake::Ns::new(2)));
    bench.settle();
    assert_eq!(bench.head(2).unwrap().policy(), QueueDepth);
}

#[test]
fn a_change_of_policy_under_load_loses_nothing() {
    let (mut bench, head, paths) = bench(RoundRobin, &[("a", 1), ("b", 1), ("c", 2)]);
    let mut sent = 0;
    for round in 0..400u64 {
        head.set_policy(Some(PathPolicy::ALL[round as usize % PathPolicy::ALL.len()]));
        if round % 7 == 0 {
            paths[(round / 7 % 2) as usize].set_marginal(round % 14 == 0);
        }
        let io = if round % 3 == 0 { Io::Hold } else { Io::Answer };
        hold(&bench, &["a", "b", "c"], io);
        for _ in 0..4 {
            bench.write(&head, sent % 64, sent);
            sent += 1;
        }
        bench.step();
        bench.clock.advance(Duration::from_millis(1));
        for port in ["a", "b", "c"] {
            if round % 5 == 0 {
                bench.world.release(port, Status::SUCCESS);
            }
        }
    }
    hold(&bench, &["a", "b", "c"], Io::Answer);
    for port in ["a", "b", "c"] {
        bench.world.release(port, Status::SUCCESS);
    }
    bench.settle();
    assert!(bench.done.iter().all(|d| d.result.is_ok()));
    let mut users: Vec<u64> = bench.done.iter().map(|d| d.user_data).collect();
    users.sort_unstable();
    assert_eq!(users, (0..sent).collect::<Vec<_>>(), "each exactly once");
    assert_eq!((bench.channel.in_flight(), head.stats().failovers), (0, 0));
}

/// Keeps eight requests under way for `ms` steps of 1 ms; `every(port, step)` says whether a port
/// answers what it has. Returns how many each port executed.
fn load(
    bench: &mut Bench,
    head: &Arc<Head>,
    ms: u64,
    every: impl Fn(&str, u64) -> bool,
) -> Vec<usize> {
    let executed = |bench: &Bench| AB.map(|port| bench.world.port(port, |p| p.executed.len()));
    let before = executed(bench);
    for step in 0..ms {
        bench.done.clear();
        while bench.channel.in_flight() < 8 {
            bench.write(head, step % 64, 0);
        }
        bench.clock.advance(Duration::from_millis(1));
        for port in AB.into_iter().filter(|port| every(port, step)) {
            bench.world.release(port, Status::SUCCESS);
        }
        bench.step();
    }
    executed(bench).iter().zip(before).map(|(after, before)| after - before).collect()
}

#[test]
fn service_time_shares_among_equals_and_leaves_a_slow_path_alone() {
    let (mut bench, head, _) = bench(ServiceTime, &[("a", 1), ("b", 1)]);
    hold(&bench, &AB, Io::Hold);
    let equal = load(&mut bench, &head, 500, |_, _| true);
    assert!(equal[0].abs_diff(equal[1]) < 200 && equal[0] + equal[1] > 3900, "{equal:?}");
    // b becomes ten times slower.
    load(&mut bench, &head, 100, |port, step| port == "a" || step % 10 == 0);
    let slow = load(&mut bench, &head, 2000, |port, step| port == "a" || step % 10 == 0);
    assert!(slow[1] > 0, "it is tried now and then");
    assert!(slow[1] * 100 < slow[0], "{slow:?}: for less than a percentile");
    // And recovers.
    load(&mut bench, &head, 3000, |_, _| true);
    let again = load(&mut bench, &head, 500, |_, _| true);
    assert!(again[0].abs_diff(again[1]) < 200, "{again:?}");
}

#[test]
fn service_time_sends_nothing_to_a_path_that_stands_still() {
    let (mut bench, head, _) = bench(ServiceTime, &[("a", 1), ("b", 1)]);
    hold(&bench, &AB, Io::Hold);
    load(&mut bench, &head, 200, |_, _| true);
    let stalled = load(&mut bench, &head, 1000, |port, _| port == "a");
    assert_eq!(stalled[1], 0);
    // What was there when it began, and no more.
    assert!(
        bench.world.held("b") <= 8 && stalled[0] > 2000,
        "{} {stalled:?}",
        bench.world.held("b")
    );
    // Once it answers, it is as good as before.
    load(&mut bench, &head, 500, |_, _| true);
    let after = load(&mut bench, &head, 500, |_, _| true);
    assert!(after[0].abs_diff(after[1]) < 200, "{after:?}");
}

#[test]
fn service_time_is_measured_for_each_channel_and_kind() {
    let (mut bench, head, _) = bench(ServiceTime, &[("a", 1), ("b", 1)]);
    hold(&bench, &AB, Io::Hold);
    load(&mut bench, &head, 600, |port, step| port == "a" || step % 10 == 0);
    // Nothing is known of reads yet: each path gets one, however slow its writes were.
    hold(&bench, &AB, Io::Answer);
    bench.world.release("a", Status::SUCCESS);
    bench.world.release("b", Status::SUCCESS);
    bench.settle();
    for port in AB {
        bench.world.port(port, |p| p.executed.clear());
    }
    for i in 0..2 {
        bench.channel.submit(&head, IoRequest::read(0, vec![0; 512].into(), i)).unwrap();
        bench.clock.advance(Duration::from_micros(100));
        bench.step();
    }
    let reads = AB.map(|port| bench.world.port(port, |p| p.executed.len()));
    assert_eq!(reads, [1, 1]);
}

#[test]
fn latencies_are_counted_by_path_and_direction_and_outlive_their_channel() {
    let (mut bench, head, paths) = bench(RoundRobin, &[("a", 1), ("b", 1)]);
    let mut options = ChannelOptions::default();
    options.latency_histograms = true;
    bench.channel = bench.host.channel(options).unwrap();
    bench.settle();
    hold(&bench, &AB, Io::Hold);
    for i in 0..10 {
        bench.write(&head, i, i);
    }
    bench.channel.submit(&head, IoRequest::read(0, vec![0; 512].into(), 0)).unwrap();
    bench.step();
    bench.clock.advance(Duration::from_millis(1));
    bench.world.release("a", Status::SUCCESS);
    bench.settle();
    bench.clock.advance(Duration::from_millis(9));
    bench.world.release("b", Status::SUCCESS);
    bench.settle();
    let check = || {
        let [a, b] = [paths[0].latency(), paths[1].latency()];
        assert_eq!((a.writes.count(), b.writes.count()), (5, 5));
        assert_eq!(a.reads.count() + b.reads.count(), 1);
        let (a, b) = (a.writes.quantile(0.99).as_micros(), b.writes.quantile(0.99).as_micros());
        assert!((1000..=1125).contains(&a) && (10_000..=11_250).contains(&b), "{a} {b}");
    };
    check();
    // Through a reconnect, and after the channel is gone.
    bench.world.pull("a");
    bench.world.plug("a");
    bench.run(Duration::from_secs(5));
    check();
    bench.channel = bench.host.channel(ChannelOptions::default()).unwrap();
    bench.settle();
    check();
}
