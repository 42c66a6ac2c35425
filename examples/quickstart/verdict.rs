//! What came out, and whether it is good.

use std::sync::Arc;
use std::time::Duration;

use nvme_host_examples::size::human;
use nvme_host_examples::terminal::{grouped, latency};
use nvme_host_examples::timeline::Run;
use nvme_host_examples::workload::Tally;
use nvme_mpath::{Event, Head};
use serde_json::json;

/// Events of the head, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub scheduled: u64,
    pub cancelled: u64,
    /// Removals that had been scheduled, and were carried out.
    pub fired: u64,
    /// Removals without a window.
    pub immediate: u64,
    pub paths_up: u64,
    pub paths_down: u64,
    /// Events that were missed.
    pub missed: u64,
}

impl Counts {
    pub fn take(&mut self, event: &Event, head: &Arc<Head>) {
        let ours = |other: &Arc<Head>| u64::from(Arc::ptr_eq(head, other));
        match event {
            Event::RemovalScheduled { head, .. } => self.scheduled += ours(head),
            Event::RemovalCancelled { head, .. } => self.cancelled += ours(head),
            Event::HeadRemoved { head, delayed: true, .. } => self.fired += ours(head),
            Event::HeadRemoved { head, delayed: false, .. } => self.immediate += ours(head),
            Event::PathUp { head, .. } => self.paths_up += ours(head),
            Event::PathDown { head, .. } => self.paths_down += ours(head),
            Event::Lagged(count) => self.missed += count,
            _ => {}
        }
    }
}

/// Everything that is judged at the end.
#[derive(Debug)]
pub struct Summary {
    pub tally: Tally,
    /// Why the workload could not go on, if it could not.
    pub refused: Option<String>,
    /// Why a request failed, if one did.
    pub failure: Option<String>,
    pub counts: Counts,
    pub failovers: u64,
    pub pins_before: usize,
    pub pins_peak: usize,
    pub pins_after: usize,
    pub head_gone: bool,
    pub shutdown: Result<(), String>,
    pub time: Duration,
    /// What it looked like from moment to moment.
    pub run: Run,
    /// Checks that did not hold.
    pub failed: Vec<String>,
}

impl Summary {
    /// Notes a check that must hold.
    pub fn check(&mut self, holds: bool, what: impl Into<String>) {
        if !holds {
            self.failed.push(what.into());
        }
    }

    /// The checks that hold for every run, whatever happened to the paths.
    pub fn check_always(&mut self) {
        let t = self.tally.clone();
        self.check(t.completed() > 0, "no request succeeded");
        self.check(t.judged_blocks > 0, "no block was checked");
        self.check(t.lost_requests == 0, format!("{} requests never ended", t.lost_requests));
        self.check(t.lost_blocks == 0, format!("{} blocks lost a write", t.lost_blocks));
        self.check(t.stale_blocks == 0, format!("{} blocks were stale", t.stale_blocks));
        self.check(t.torn_blocks == 0, format!("{} blocks were torn", t.torn_blocks));
        self.check(t.misplaced_blocks == 0, format!("{} blocks held another", t.misplaced_blocks));
        let twice = t.duplicated_completions;
        self.check(twice == 0, format!("{twice} requests ended more than once"));
        let others = t.failed - t.failed_after_removal;
        let why = self.failure.clone().unwrap_or_default();
        self.check(
            others == 0,
            format!("{others} requests failed though the head was there: {why}"),
        );
        if let Some(why) = self.refused.clone() {
            self.check(false, format!("a request was refused: {why}"));
        }
        let (before, after) = (self.pins_before, self.pins_after);
        self.check(
            before == after,
            format!("{after} pins are out, {before} were at the beginning"),
        );
        let c = self.counts;
        self.check(c.missed == 0, format!("{} events were missed", c.missed));
        self.check(
            c.scheduled == c.cancelled + c.fired,
            format!(
                "{} removals scheduled, {} cancelled, {} fired",
                c.scheduled, c.cancelled, c.fired
            ),
        );
        let removed = c.fired + c.immediate;
        self.check(removed <= 1, format!("the head was removed {removed} times"));
        self.check((removed == 1) == self.head_gone, "the head and its events disagree on its end");
        if let Err(why) = self.shutdown.clone() {
            self.check(false, format!("the host could not be shut down: {why}"));
        }
    }

    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }

    /// Prints the result for people, and as a JSON object on the last line if so wanted.
    pub fn print(&self, json: bool) {
        let t = &self.tally;
        println!();
        println!(
            "{} requests ({}) in {}; {} blocks checked",
            grouped(t.completed()),
            human(t.bytes),
            latency(self.time),
            grouped(t.judged_blocks)
        );
        println!(
            "lost {}, duplicated {}, stale {}, torn {}; {} failed with their head's removal",
            t.lost(),
            t.duplicated(),
            t.stale_blocks,
            t.torn_blocks,
            t.failed_after_removal
        );
        println!(
            "{} requests failed over, none took longer than {}; {} waited for a path and succeeded",
            grouped(self.failovers),
            latency(t.longest_failover),
            grouped(t.waited)
        );
        println!(
            "removals: {} scheduled, {} cancelled, {} fired; pins: {} before, {} at most, {} after",
            self.counts.scheduled,
            self.counts.cancelled,
            self.counts.fired,
            self.pins_before,
            self.pins_peak,
            self.pins_after
        );
        for finding in &t.findings {
            println!("BAD: {finding}");
        }
        for check in &self.failed {
            println!("FAILED: {check}");
        }
        println!("{}", if self.is_good() { "all checks hold" } else { "NOT all checks hold" });
        if json {
            println!("{}", self.to_json());
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let t = &self.tally;
        json!({
            "completed": t.completed(),
            "bytes": t.bytes,
            "seconds": self.time.as_secs_f64(),
            "judged_blocks": t.judged_blocks,
            "failed": t.failed,
            "failed_after_removal": t.failed_after_removal,
            "failure": self.failure,
            "lost": t.lost(),
            "duplicated": t.duplicated(),
            "stale": t.stale_blocks,
            "torn": t.torn_blocks,
            "waited": t.waited,
            "failovers": self.failovers,
            "longest_failover_ms": t.longest_failover.as_secs_f64() * 1e3,
            "removals_scheduled": self.counts.scheduled,
            "removals_cancelled": self.counts.cancelled,
            "removals_fired": self.counts.fired,
            "paths_up": self.counts.paths_up,
            "paths_down": self.counts.paths_down,
            "pins_before": self.pins_before,
            "pins_peak": self.pins_peak,
            "pins_after": self.pins_after,
            "head_gone": self.head_gone,
            "timeline": self.run,
            "failed_checks": self.failed,
        })
    }
}
