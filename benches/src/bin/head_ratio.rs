//! What part of what bare queues do is left through a head: 4 KiB reads over TCP, short runs of both in turn,
//! over as many connections.
//!
//! `head_ratio [SECONDS [RUNS [DEPTH...]]]`. Prints a table. Bare queues are used one after the other; a policy
//! that uses one path is compared with one queue.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use nvme_host_benches::bare_tcp::TcpQueues;
use nvme_host_benches::rates::{rate, summary};
use nvme_host_benches::{Rig, SUBNQN, target};
use nvme_mpath::{IoOp, PathPolicy};
use nvme_target::Target;

const BYTES: usize = 4096;
const PATHS: [usize; 3] = [1, 2, 8];
/// For queues and views to come to the channel.
const SETTLE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds = args.first().map_or(Some(0.3), |text| text.parse().ok());
    let runs = args.get(1).map_or(Some(5), |text| text.parse().ok());
    let depths: Option<Vec<usize>> = match args.get(2..) {
        Some(depths) if !depths.is_empty() => depths.iter().map(|text| text.parse().ok()).collect(),
        _ => Some(vec![32, 128]),
    };
    let (Some(seconds), Some(runs), Some(depths)) = (seconds, runs, depths) else {
        eprintln!("head_ratio [SECONDS [RUNS [DEPTH...]]]");
        return ExitCode::from(2);
    };
    let time = Duration::from_secs_f64(seconds);
    println!(
        "| depth, paths, policy | bare: least, median, most | head: least, median, most | ratio of medians, of most |"
    );
    println!("| --- | --- | --- | --- |");
    for depth in depths {
        for paths in PATHS {
            for policy in PathPolicy::ALL {
                row(depth, paths, policy, time, runs);
            }
        }
    }
    ExitCode::SUCCESS
}

fn row(depth: usize, paths: usize, policy: PathPolicy, time: Duration, runs: usize) {
    let used = match policy {
        PathPolicy::Numa | PathPolicy::ActivePassive => 1,
        _ => paths,
    };
    let (mut bare, mut head) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        bare.push(of_queues(depth, used, time));
        head.push(of_head(depth, paths, policy, time));
    }
    let ((bl, bm, bx), (hl, hm, hx)) = (summary(bare), summary(head));
    println!(
        "| {depth}, {paths}, {policy} | {bl:.0}, {bm:.0}, {bx:.0} | {hl:.0}, {hm:.0}, {hx:.0} | {:.3}, {:.3} |",
        hm / bm,
        hx / bx
    );
}

fn urls(target: &Target, listeners: usize) -> Vec<String> {
    let url = |i| format!("tcp://{}/{SUBNQN}", target.addr(i).expect("an address"));
    (0..listeners).map(url).collect()
}

/// Reads a second of bare queues, on a target and connections of their own.
fn of_queues(depth: usize, paths: usize, time: Duration) -> f64 {
    let target = target(paths);
    let mut queues = TcpQueues::connect(&urls(&target, paths), SUBNQN).expect("queues");
    rate(BYTES, depth, time, |count| {
        queues.run(false, BYTES, depth, count).expect("reads without error");
    })
}

/// Reads a second through a head, the same way.
fn of_head(depth: usize, paths: usize, policy: PathPolicy, time: Duration) -> f64 {
    let target = target(paths);
    let mut rig = Rig::on(&target, paths, "");
    rig.head.set_policy(Some(policy));
    rig.idle(SETTLE);
    rate(BYTES, depth, time, |count| rig.run(IoOp::Read, BYTES, depth, count))
}
