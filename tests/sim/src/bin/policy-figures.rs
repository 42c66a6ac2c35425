//! Measures every path policy in virtual time, and prints the table of benches/README.md.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use sim::policies::{Fault, Figures, RATE, SETUPS, measure};

/// Measures path policies in virtual time: what they decide, not what they cost.
#[derive(Debug, Parser)]
struct Args {
    /// The same seed gives the same table.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Reads per second in the percentile runs.
    #[arg(long, default_value_t = RATE)]
    rate: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let cells: Vec<_> =
        SETUPS.iter().flat_map(|setup| Fault::ALL.map(|fault| (*setup, fault))).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; cells.len()]);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some((setup, fault)) = cells.get(at)
                {
                    let figures = measure(*setup, *fault, fault.time(), args.rate, args.seed);
                    if let Ok(mut results) = results.lock() {
                        results[at] = Some(figures);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    println!("| policy | equal | first 10x slower | first stalls 1 s in 10 |");
    println!("| --- | --- | --- | --- |");
    let mut good = true;
    for (setup, row) in SETUPS.iter().zip(results.chunks(Fault::ALL.len())) {
        print!("| {} ", setup.name);
        for cell in row {
            match cell {
                Some(Ok(figures)) => print!("| {} ", show(figures, setup.hedged)),
                Some(Err(error)) => {
                    good = false;
                    print!("| {error} ");
                }
                None => good = false,
            }
        }
        println!("|");
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(figures: &Figures, hedged: bool) -> String {
    let Figures { per_second, p99, p999, p9999, extra } = figures;
    let extra = if hedged { format!(" (+{:.2} %)", extra * 100.0) } else { String::new() };
    format!("{per_second:.0}/s, {p99:.2} / {p999:.2} / {p9999:.2} ms{extra}")
}
