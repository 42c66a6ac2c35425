//! Runs seeds, and tells which of them break a rule.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::seed::{Outcome, run};

/// Simulates the library under faults, one world for each seed.
#[derive(Debug, Parser)]
struct Args {
    /// Seeds to run: FIRST..LAST, both included, or one.
    #[arg(long, default_value = "1..1000", value_parser = range)]
    seeds: (u64, u64),
    /// Threads, each with worlds of its own.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Run this seed alone, and print what happens.
    #[arg(long)]
    trace: Option<u64>,
    /// Violations after which no new seed is begun.
    #[arg(long, default_value_t = 5)]
    stop_after: usize,
    /// Find a value that only a late write can have caused a violation, too.
    #[arg(long)]
    late_is_wrong: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let number =
        |t: &str| t.trim_start_matches('=').parse::<u64>().map_err(|e| format!("{t}: {e}"));
    match text.split_once("..") {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|n| (n, n)),
    }
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    turns: u64,
    simulated: u64,
    requests: (u64, u64, u64),
    late: u64,
    unfenced: Vec<u64>,
    bad: Vec<Outcome>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.turns += outcome.turns;
        self.simulated += outcome.simulated;
        let (all, good, failed) = outcome.requests;
        self.requests.0 += all;
        self.requests.1 += good;
        self.requests.2 += failed;
        self.late += u64::from(outcome.late);
        if outcome.unfenced.is_some() {
            self.unfenced.push(outcome.seed);
        }
        if outcome.violation.is_some() {
            self.bad.push(outcome);
        }
    }
}

/// Seeds take milliseconds. One that takes so long does not end at all, and could not tell itself.
const HANGS: Duration = Duration::from_secs(60);

/// Seeds that are being run.
#[derive(Clone, Default)]
struct Watchdog(Arc<Mutex<BTreeMap<u64, Instant>>>);

/// Takes the seed out when it has ended.
struct Running<'a>(&'a Watchdog, u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(mut running) = self.0.0.lock() {
            running.remove(&self.1);
        }
    }
}

impl Watchdog {
    fn begin(&self, seed: u64) -> Running<'_> {
        if let Ok(mut running) = self.0.lock() {
            running.insert(seed, Instant::now());
        }
        Running(self, seed)
    }

    /// Ends the process when a seed hangs.
    fn watch(&self) {
        loop {
            std::thread::sleep(HANGS / 60);
            let Ok(running) = self.0.lock() else { return };
            let hangs = running.iter().find(|(_, since)| since.elapsed() > HANGS);
            if let Some((seed, _)) = hangs {
                println!("seed {seed}: does not end: a loop without a turn of the clock");
                std::process::exit(1);
            }
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.trace {
        let outcome = run(seed, true);
        println!("{outcome:#?}");
        println!("seed {seed}: trace {:016x}", outcome.hash);
        return ExitCode::from(u8::from(outcome.violation.is_some()));
    }
    // A panic is told with its seed; the message as it happens would only be in the way.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let next = AtomicU64::new(args.seeds.0);
    let sum = Mutex::new(Sum::default());
    let watchdog = Watchdog::default();
    let watching = watchdog.clone();
    // Ends with the process.
    std::thread::spawn(move || watching.watch());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| work(&args, &next, &sum, &watchdog));
        }
    });
    let sum = sum.into_inner().unwrap_or_default();
    report(&sum, began.elapsed().as_secs_f64());
    ExitCode::from(u8::from(!sum.bad.is_empty()))
}

fn work(args: &Args, next: &AtomicU64, sum: &Mutex<Sum>, watchdog: &Watchdog) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > args.seeds.1 {
            return;
        }
        let _running = watchdog.begin(seed);
        let mut outcome = run(seed, false);
        if args.late_is_wrong && outcome.violation.is_none() {
            outcome.violation = outcome.unfenced.clone();
        }
        if let Some(what) = &outcome.violation {
            println!("seed {seed}: {what}");
            println!("  trace {:016x}; again, aloud: --trace {seed}", outcome.hash);
        }
        let Ok(mut sum) = sum.lock() else { return };
        sum.add(outcome);
        if sum.bad.len() >= args.stop_after {
            next.store(args.seeds.1 + 1, Ordering::Relaxed);
        }
    }
}

fn report(sum: &Sum, seconds: f64) {
    let (all, good, failed) = sum.requests;
    let rate = sum.seeds as f64 / seconds;
    println!("{} seeds in {seconds:.1} s: {rate:.0} seeds/s", sum.seeds);
    println!(
        "{} turns, {:.0} s simulated, {all} requests: {good} succeeded, {failed} failed",
        sum.turns,
        sum.simulated as f64 / 1e9
    );
    let first: Vec<_> = sum.unfenced.iter().take(5).collect();
    println!(
        "{} seeds with late writes; {} of them saw one over a newer one {first:?}",
        sum.late,
        sum.unfenced.len()
    );
    println!("{} seeds broke a rule", sum.bad.len());
}
