//! Two channels on two threads, on a device in the process that answers at once.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_core::nqn::Nqn;
use nvme_host_benches::ring::Rings;
use nvme_host_benches::{SUBNQN, target, usage};
use nvme_mpath::{Channel, ChannelOptions, ControllerOptions, Head, Host, IoRequest};
use nvme_pci::PciTransport;

use crate::{LIMIT, Result, options};

/// Reads of one run of one channel: about a tenth of a second.
const COUNT: u64 = 4_000_000;
const DEPTH: usize = 32;

/// What a channel did.
struct Work {
    cpu: Duration,
}

pub fn run(runs: usize) -> Result {
    let target = target(1);
    let transport = PciTransport::new(Rings::new(&target, SUBNQN));
    let host = Host::new(options().transport(transport))?;
    let mut channels = Vec::new();
    for _ in 0..2 {
        channels.push(host.channel(ChannelOptions::default())?);
    }
    host.connect("ring://device?poll=1", ControllerOptions::default())?.wait_ready(LIMIT)?;
    let head = host.wait_head(&Nqn::new(SUBNQN)?, 1, LIMIT)?;
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (one, alone) = together(&host, &head, &mut channels[..1])?;
        let (two, each) = together(&host, &head, &mut channels)?;
        ratios.push(2.0 * one.as_secs_f64() / two.as_secs_f64());
        costs.push((alone, each));
    }
    ratios.sort_by(f64::total_cmp);
    costs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (alone, each) = costs[runs / 2];
    println!(
        "two channels do {:.2} times what one does (least {:.2}, most {:.2} of {runs} runs)",
        ratios[runs / 2],
        ratios[0],
        ratios[runs - 1],
    );
    println!(
        "processor time per read: {alone:.0} ns alone, {each:.0} ns beside another, which makes {:.2} \
         times as many on processors of one's own",
        2.0 * alone / each
    );
    Ok(())
}

/// All of `channels` read at once. Returns the time that it took, and nanoseconds of processor per
/// read.
fn together(host: &Host, head: &Arc<Head>, channels: &mut [Channel]) -> Result<(Duration, f64)> {
    let count = channels.len();
    let start = Barrier::new(count + 1);
    thread::scope(|scope| {
        let workers = channels.iter_mut().map(|channel| {
            let start = &start;
            scope.spawn(move || {
                let mut spare = buffers(host);
                start.wait();
                read(channel, head, &mut spare)
            })
        });
        let workers: Vec<_> = workers.collect();
        start.wait();
        let begin = Instant::now();
        let mut cpu = Duration::ZERO;
        for worker in workers {
            cpu += worker.join().map_err(|_| "a channel panicked")?.cpu;
        }
        Ok((begin.elapsed(), cpu.as_nanos() as f64 / (COUNT * count as u64) as f64))
    })
}

fn buffers(host: &Host) -> Vec<Buffer> {
    (0..DEPTH).map(|_| host.dma_buf(4096).expect("memory that devices reach").into()).collect()
}

fn read(channel: &mut Channel, head: &Arc<Head>, spare: &mut Vec<Buffer>) -> Work {
    let before = usage::thread_cpu().expect("counts of the kernel");
    let (mut sent, mut ended) = (0, 0);
    let mut done = Vec::with_capacity(DEPTH);
    while ended < COUNT {
        while sent < COUNT
            && let Some(buffer) = spare.pop()
        {
            channel.submit(head, IoRequest::read(sent % 4096, buffer, sent)).expect("room");
            sent += 1;
        }
        channel.poll(&mut done);
        for completion in done.drain(..) {
            completion.result.expect("a completion without error");
            spare.push(completion.buffer);
            ended += 1;
        }
    }
    Work { cpu: usage::thread_cpu().expect("counts of the kernel") - before }
}
