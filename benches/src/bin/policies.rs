//! Every path policy, on two equal paths, with one of them ten times slower, and with one that
//! stands still for 1 s every 10 s: throughput at full queues, and percentiles at a fixed rate.
//!
//! `policies [ROUNDS]`: prints the tables of benches/README.md. Rounds are interleaved, and the
//! middle one counts. The path with the fault is the first one, which numa takes.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nvme_core::buffer::Buffer;
use nvme_core::nqn::Uuid;
use nvme_host_benches::{Rig, SUBNQN, target};
use nvme_mpath::{HedgeOptions, HostOptions, IoRequest, PathPolicy};
use nvme_target::{FaultAction, FaultRule, Target};
use nvme_tcp::TcpTransport;

/// What a path takes to answer.
const DELAY: Duration = Duration::from_millis(2);
const STALL: Duration = Duration::from_secs(1);
const STALL_EVERY: Duration = Duration::from_secs(10);
const BYTES: usize = 4096;
/// Requests under way in the throughput runs.
const DEPTH: usize = 32;
/// Requests per second in the percentile runs.
const RATE: f64 = 4000.0;

/// What is wrong with the first path.
#[derive(Clone, Copy)]
enum Fault {
    Nothing,
    Slow,
    Stalls,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Nothing, Self::Slow, Self::Stalls];

    /// Length of one run.
    const fn time(self) -> Duration {
        match self {
            Self::Stalls => Duration::from_secs(30),
            _ => Duration::from_secs(5),
        }
    }

    fn install(self, target: &Target) {
        let from = Instant::now() + Duration::from_secs(2);
        let (every, length, delay) = (STALL_EVERY, STALL, DELAY);
        let first = match self {
            Self::Nothing => FaultAction::Delay(DELAY),
            Self::Slow => FaultAction::Delay(DELAY * 10),
            Self::Stalls => FaultAction::Stall { from, every, length, delay },
        };
        target.add_fault(FaultRule::new(first).io().listener(0).opcode(2));
        target.add_fault(FaultRule::new(FaultAction::Delay(DELAY)).io().opcode(2));
    }
}

/// One line of the tables.
#[derive(Clone, Copy)]
struct Setup {
    name: &'static str,
    policy: PathPolicy,
    prefer_good: bool,
    hedged: bool,
}

const fn setup(name: &'static str, policy: PathPolicy) -> Setup {
    Setup { name, policy, prefer_good: false, hedged: false }
}

const SETUPS: &[Setup] = &[
    setup("round-robin", PathPolicy::RoundRobin),
    setup("numa (the bad path is near)", PathPolicy::Numa),
    setup("queue-depth", PathPolicy::QueueDepth),
    setup("active-passive, bad path preferred", PathPolicy::ActivePassive),
    Setup {
        prefer_good: true,
        ..setup("active-passive, good path preferred", PathPolicy::ActivePassive)
    },
    setup("service-time", PathPolicy::ServiceTime),
    Setup { hedged: true, ..setup("round-robin, reads hedged", PathPolicy::RoundRobin) },
    Setup { hedged: true, ..setup("service-time, reads hedged", PathPolicy::ServiceTime) },
];

/// What was measured in one run.
#[derive(Clone, Copy, Default)]
struct Figures {
    per_second: f64,
    p99: f64,
    p999: f64,
    /// Second attempts per read, of the run at a fixed rate.
    extra: f64,
}

fn rig(target: &Target, setup: Setup) -> Result<Rig, String> {
    let url = |i| target.addr(i).map(|addr| format!("tcp://{addr}/{SUBNQN}"));
    let urls: Vec<_> = (0..2).map(url).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let options = HostOptions::new(Uuid(*b"nvme-host-bench!"));
    let rig = Rig::with(options.transport(TcpTransport::default()), &urls, SUBNQN);
    rig.head.set_policy(Some(setup.policy));
    let paths = rig.head.paths();
    let preferred = paths.iter().map(|p| p.controller).nth(usize::from(setup.prefer_good));
    rig.head.set_preferred_path(preferred);
    rig.head.set_hedged_reads(setup.hedged.then(HedgeOptions::default));
    Ok(rig)
}

/// Reads for `time`, asleep whenever there is nothing to do. With a rate, requests come at their
/// times, and what waits for room is as late as it is: latencies count from when they were due.
fn run(rig: &mut Rig, time: Duration, rate: Option<f64>) -> Result<(u64, Histogram<u64>), String> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|e| e.to_string())?;
    let most = if rate.is_some() { rig.channel.depth() } else { DEPTH };
    let mut spare: Vec<Buffer> = (0..most).map(|_| Buffer::zeroed(BYTES)).collect();
    let mut done = Vec::with_capacity(most);
    let (begin, mut sent, mut ended) = (Instant::now(), 0u64, 0u64);
    let due = |n: u64| rate.map(|rate| Duration::from_secs_f64(n as f64 / rate));
    loop {
        let now = begin.elapsed();
        if now >= time && spare.len() == most {
            return Ok((ended, histogram));
        }
        while now < time
            && due(sent).is_none_or(|due| due <= now)
            && let Some(buffer) = spare.pop()
        {
            let stamp = due(sent).unwrap_or(now).as_micros() as u64;
            let request = IoRequest::read(sent * 7919 % 100_000, buffer, stamp);
            rig.channel.submit(&rig.head, request).map_err(|e| e.to_string())?;
            sent += 1;
        }
        rig.channel.poll(&mut done);
        let now = begin.elapsed();
        for completion in done.drain(..) {
            completion.result.map_err(|e| e.to_string())?;
            let late = (now.as_micros() as u64).saturating_sub(completion.user_data);
            histogram.saturating_record(late.max(1));
            spare.push(completion.buffer);
            ended += u64::from(now < time);
        }
        let next = due(sent).map_or(Duration::from_millis(100), |due| due.saturating_sub(now));
        if !next.is_zero() {
            rig.channel.wait(next.min(Duration::from_millis(100)));
        }
    }
}

fn measure(setup: Setup, fault: Fault) -> Result<Figures, String> {
    let first = target(2);
    fault.install(&first);
    let mut full = rig(&first, setup)?;
    let (count, _) = run(&mut full, fault.time(), None)?;
    drop((full, first));
    let second = target(2);
    fault.install(&second);
    let mut fixed = rig(&second, setup)?;
    let (reads, latency) = run(&mut fixed, fault.time(), Some(RATE))?;
    let extra = fixed.head.stats().hedges as f64 / reads as f64;
    let ms = |q: f64| latency.value_at_quantile(q) as f64 / 1000.0;
    let per_second = count as f64 / fault.time().as_secs_f64();
    Ok(Figures { per_second, p99: ms(0.99), p999: ms(0.999), extra })
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn tables(rounds: usize) -> Result<(), String> {
    let mut all = vec![vec![Vec::new(); Fault::ALL.len()]; SETUPS.len()];
    for round in 0..rounds {
        for (column, fault) in Fault::ALL.into_iter().enumerate() {
            for (line, setup) in SETUPS.iter().enumerate() {
                let figures = measure(*setup, fault)?;
                let Figures { per_second, p99, p999, extra } = figures;
                eprintln!(
                    "{round} {column} {}: {per_second:.0}/s {p99} {p999} ms, {:.2} %",
                    setup.name,
                    extra * 100.0
                );
                all[line][column].push(figures);
            }
        }
    }
    println!("| policy | equal | one 10x slower | one stalls |");
    println!("| --- | --- | --- | --- |");
    for (setup, columns) in SETUPS.iter().zip(&all) {
        print!("| {} ", setup.name);
        for runs in columns {
            let of = |what: fn(&Figures) -> f64| middle(runs.iter().map(what));
            let (rate, p99, p999) = (of(|f| f.per_second), of(|f| f.p99), of(|f| f.p999));
            print!("| {rate:.0}/s, {p99:.1} / {p999:.1} ms ");
            if setup.hedged {
                print!("(+{:.2} %) ", of(|f| f.extra) * 100.0);
            }
        }
        println!("|");
    }
    Ok(())
}

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(3);
    match tables(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("policies: {error}");
            ExitCode::FAILURE
        }
    }
}
