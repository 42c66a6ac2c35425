//! Seeds, some: enough to notice that something broke. `cargo run --release -p sim` runs more.

use sim::seed::{Outcome, run};

/// Runs seeds on all cores.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let seeds = &seeds;
    let part =
        |job: u64| seeds.clone().filter(|s| s % jobs == job).map(|s| run(s, false)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|job| scope.spawn(move || part(job))).collect();
        threads.into_iter().flat_map(|t| -> Vec<Outcome> { t.join().unwrap() }).collect()
    })
}

#[test]
fn no_seed_breaks_a_rule() {
    let outcomes = run_all(1..301);
    let bad: Vec<_> =
        outcomes.iter().filter_map(|o| o.violation.as_ref().map(|v| (o.seed, v))).collect();
    assert!(bad.is_empty(), "look with `cargo run --release -p sim -- --trace SEED`: {bad:#?}");
    let sum = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
    let (all, good, failed) = (sum(|o| o.requests.0), sum(|o| o.requests.1), sum(|o| o.requests.2));
    assert!(good * 2 > all && failed > 0, "{good} good, {failed} failed of {all}: it shows little");
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in 1..30 {
        let (once, again) = (run(seed, false), run(seed, false));
        let facts = |o: &Outcome| (o.hash, o.turns, o.simulated, o.requests);
        assert_eq!(facts(&once), facts(&again), "seed {seed}");
    }
    assert_ne!(run(1, false).hash, run(2, false).hash);
}
