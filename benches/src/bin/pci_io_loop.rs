//! A loop of I/O on a PCI function, for callgrind, `perf` and the clock.
//!
//! `vfio-user read|write BYTES DEPTH COUNT URL [NQN]` on another process's server,
//! `ring read|write BYTES DEPTH COUNT` through the head, and `bare BYTES DEPTH COUNT` on the driver's
//! queue alone, on a device in the process that answers within the doorbell,
//! `floor DEPTH COUNT` on the rings alone, `target SOCKET` to be such a server until the end of the
//! input. The cost of one I/O is the slope between two counts.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use nvme_host_benches::bare::BareQueue;
use nvme_host_benches::{Rig, SUBNQN, ring, target};
use nvme_mpath::IoOp;
use nvme_pci::Counters;
use nvme_target::{PciConfig, PciDevice, VfioUserServer};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    match words.as_slice() {
        ["target", socket] => {
            let target = target(0);
            let device = PciDevice::new(&target, SUBNQN, PciConfig::new()).expect("a device");
            let server = VfioUserServer::bind(socket, &device).expect("a server");
            println!("vfio-user://{}?poll=1 {SUBNQN}", server.path().display());
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|n| n > 0) {}
        }
        ["vfio-user", op, bytes, depth, count, url, rest @ ..] => {
            let mut rig = Rig::vfio_user(url, rest.first().unwrap_or(&SUBNQN));
            run(&mut rig, op, [bytes, depth, count].map(|n| number(n)));
        }
        ["ring", op, bytes, depth, count] => {
            let target = target(0);
            let mut rig = Rig::ring(&target);
            run(&mut rig, op, [bytes, depth, count].map(|n| number(n)));
        }
        ["bare", bytes, depth, count] => {
            let [bytes, depth, count] = [bytes, depth, count].map(|n| number(n));
            let mut bare = BareQueue::new(&target(0)).expect("a queue");
            let (start, before) = (Instant::now(), bare.counters());
            bare.run(bytes as usize, depth as usize, count).expect("reads without an error");
            report(start, count);
            doorbells(before, bare.counters(), count);
        }
        ["floor", depth, count] => {
            let (depth, count) = (number(depth).clamp(1, 1000) as u16, number(count));
            let start = Instant::now();
            std::hint::black_box(ring::floor(depth, count));
            report(start, count);
        }
        _ => {
            eprintln!(
                "vfio-user read|write BYTES DEPTH COUNT URL [NQN]\nring read|write BYTES DEPTH \
                 COUNT\nbare BYTES DEPTH COUNT\nfloor DEPTH COUNT\ntarget SOCKET"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(rig: &mut Rig, op: &str, [bytes, depth, count]: [u64; 3]) {
    let op = if op == "write" { IoOp::Write } else { IoOp::Read };
    let (start, before) = (Instant::now(), rig.counters());
    rig.run(op, bytes as usize, depth as usize, count);
    report(start, count);
    doorbells(before, rig.counters(), count);
}

/// Doorbells per request; those of the admin queue are among them.
fn doorbells(before: Counters, after: Counters, count: u64) {
    let each = |before: u64, after: u64| (after - before) as f64 / count as f64;
    println!(
        "doorbell writes each: {:.3} submission, {:.3} completion, {:.3} saved by those in memory",
        each(before.sq_doorbells, after.sq_doorbells),
        each(before.cq_doorbells, after.cq_doorbells),
        each(before.doorbells_saved, after.doorbells_saved),
    );
}

fn report(start: Instant, count: u64) {
    let took = start.elapsed();
    let each = took.as_nanos() as f64 / count as f64;
    println!("{:.0} per second, {each:.1} ns each", count as f64 / took.as_secs_f64());
}
