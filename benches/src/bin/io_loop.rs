//! A loop of I/O on a target in another process, for callgrind, `strace -c` and `perf`.
//!
//! `io_loop read|write BYTES DEPTH COUNT URL…` or `io_loop target LISTENERS` (prints its URLs and
//! waits for the end of its input). The cost of one I/O is the slope between two counts.
//!
//! `io_loop bare BYTES DEPTH COUNT` and `io_loop head BYTES DEPTH COUNT PATHS [POLICY]` read
//! from queues that answer at once ([`nvme_host_benches::instant`]): what the head costs over a bare
//! queue is the difference of their slopes.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use nvme_core::buffer::Buffer;
use nvme_core::nqn::Uuid;
use nvme_core::spec::{BlockCount, Sqe};
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data, Queue};
use nvme_host_benches::instant::{InstantQueue, InstantTransport};
use nvme_host_benches::{Rig, SUBNQN, target};
use nvme_mpath::{HostOptions, IoOp, PathPolicy};

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
        ["bare", bytes, depth, count] => match numbers(&[bytes, depth, count]).as_deref() {
            Some([bytes, depth, count]) => bare(*bytes, *depth, *count as u64),
            _ => usage(),
        },
        ["head", bytes, depth, count, paths, policy @ ..] => {
            let policy = policy.first().copied().unwrap_or("round-robin").parse();
            match (numbers(&[bytes, depth, count, paths]).as_deref(), policy) {
                (Some([bytes, depth, count, paths]), Ok(policy)) => {
                    head(*bytes, *depth, *count as u64, *paths, policy)
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

/// Reads through a head of `paths` paths.
fn head(bytes: usize, depth: usize, count: u64, paths: usize, policy: PathPolicy) -> ExitCode {
    let target = target(paths);
    let url = |i| target.addr(i).map(|addr| format!("tcp://{addr}/{SUBNQN}"));
    let Ok(urls) = (0..paths).map(url).collect::<Result<Vec<_>, _>>() else { return usage() };
    let options = HostOptions::new(Uuid(*b"nvme-host-bench!"));
    let mut rig = Rig::with(options.transport(InstantTransport::default()), &urls, SUBNQN);
    rig.head.set_policy(Some(policy));
    rig.run(IoOp::Read, bytes, depth, count);
    ExitCode::SUCCESS
}

/// The loop of [`Rig::run`] on a queue alone.
fn bare(bytes: usize, depth: usize, count: u64) -> ExitCode {
    let mut queue: Box<dyn Queue> = Box::new(InstantQueue::new(depth));
    let mut spare: Vec<Buffer> = (0..depth).map(|_| Buffer::zeroed(bytes)).collect();
    let mut done: Vec<Completion> = Vec::with_capacity(depth);
    let (blocks, step) = ((1 << 30) / 4096, bytes as u64 / 4096);
    let (mut sent, mut ended, mut next) = (0, 0, 0);
    while ended < count {
        while sent < count
            && queue.in_flight() < depth
            && let Some(buffer) = spare.pop()
        {
            next = (next + 7919 * step) % (blocks - step);
            let Some(len) = BlockCount::new(step as u32) else { return usage() };
            let sent_all = queue.submit(Sqe::read(1, next, len), Data::Read(buffer), sent as u32);
            if sent_all.is_err() {
                return usage();
            }
            sent += 1;
        }
        queue.flush();
        queue.poll(Instant::ZERO, &mut done);
        for completion in done.drain(..) {
            if !completion.cqe.status().is_success() {
                return usage();
            }
            spare.push(completion.data.into_buffer());
            ended += 1;
        }
    }
    ExitCode::SUCCESS
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
    eprintln!("io_loop read|write BYTES DEPTH COUNT URL...\nio_loop target LISTENERS");
    ExitCode::from(2)
}
