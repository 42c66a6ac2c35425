//! A loop of I/O on a target in another process, for callgrind, `strace -c` and `perf`.
//!
//! `io_loop read|write BYTES DEPTH COUNT URL…` or `io_loop target LISTENERS` (prints its URLs and
//! waits for the end of its input). The cost of one I/O is the slope between two counts.
//!
//! `io_loop idle SECONDS URL` does some I/O, and then sleeps in a channel.
//!
//! `io_loop bare BYTES DEPTH COUNT` and `io_loop head BYTES DEPTH COUNT PATHS [POLICY]` read
//! from queues that answer at once ([`loops`]): what the head costs over a bare queue is the difference
//! of their slopes.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use nvme_host_benches::{Rig, SUBNQN, loops, target};
use nvme_mpath::IoOp;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["target", listeners] => serve(listeners.parse().unwrap_or(1)),
        [op @ ("read" | "write"), bytes, depth, count, first, ..] => {
            let number = |text: &str| text.parse::<u64>().ok();
            let (Some(bytes), Some(depth), Some(count)) =
                (number(bytes), number(depth), number(count))
            else {
                return usage();
            };
            let op = if *op == "read" { IoOp::Read } else { IoOp::Write };
            // tcp://ADDRESS/NQN?…
            let rest = first.splitn(4, '/').nth(3).unwrap_or(SUBNQN);
            let subnqn = rest.split('?').next().unwrap_or(SUBNQN);
            let mut rig = Rig::connect(&args[4..], subnqn);
            let start = std::time::Instant::now();
            rig.run(op, bytes as usize, depth as usize, count);
            let took = start.elapsed();
            println!("{:.0} per second", count as f64 / took.as_secs_f64());
            ExitCode::SUCCESS
        }
        ["idle", seconds, url] => {
            let rest = url.splitn(4, '/').nth(3).unwrap_or(SUBNQN);
            let subnqn = rest.split('?').next().unwrap_or(SUBNQN);
            let mut rig = Rig::connect(&args[2..], subnqn);
            rig.run(IoOp::Read, 4096, 32, 1000);
            println!("idle");
            rig.idle(std::time::Duration::from_secs(seconds.parse().unwrap_or(10)));
            ExitCode::SUCCESS
        }
        ["bare", bytes, depth, count] => match numbers(&[bytes, depth, count]).as_deref() {
            Some([bytes, depth, count]) => {
                loops::bare(*bytes, *depth, *count as u64);
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        ["head", bytes, depth, count, paths, policy @ ..] => {
            let policy = policy.first().copied().unwrap_or("round-robin").parse();
            match (numbers(&[bytes, depth, count, paths]).as_deref(), policy) {
                (Some([bytes, depth, count, paths]), Ok(policy)) => {
                    loops::head(*bytes, *depth, *count as u64, *paths, policy, false);
                    ExitCode::SUCCESS
                }
                _ => usage(),
            }
        }
        _ => usage(),
    }
}

fn numbers(words: &[&str]) -> Option<Vec<usize>> {
    words.iter().map(|word| word.parse().ok()).collect()
}

fn serve(listeners: usize) -> ExitCode {
    let target = target(listeners);
    for i in 0..listeners {
        match target.addr(i) {
            Ok(addr) => println!("tcp://{addr}/{SUBNQN}"),
            Err(error) => eprintln!("listener {i}: {error}"),
        }
    }
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).is_ok_and(|n| n > 0) {}
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!(
        "io_loop read|write BYTES DEPTH COUNT URL...\nio_loop target LISTENERS\nio_loop idle SECONDS URL"
    );
    ExitCode::from(2)
}
