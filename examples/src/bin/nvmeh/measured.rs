//! What came out of `nvmeh perf`.

use std::time::Duration;

use nvme_host_examples::perf::{Cost, Moment};
use nvme_host_examples::size::human;
use nvme_host_examples::terminal::{grouped, latency};
use nvme_host_examples::workload::Tally;
use serde_json::{Value, json};

/// How all system calls are counted; a process is told only of those that read.
const ALL_CALLS: &str = "strace -f -c nvmeh perf …";

/// Percentiles that are told.
const QUANTILES: [(&str, f64); 7] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];

/// What was measured beside it.
#[derive(Debug)]
pub struct Rival {
    pub name: &'static str,
    pub iops: f64,
}

/// Everything that is told at the end.
#[derive(Debug)]
pub struct Measured {
    /// The head's name.
    pub head: String,
    /// `randrw` and so on.
    pub rw: String,
    /// Bytes of a request.
    pub bs: u64,
    /// Requests under way at once, on each channel.
    pub qd: u16,
    pub channels: u16,
    /// Without ever sleeping.
    pub polled: bool,
    pub verify: bool,
    /// Latencies are those of the time that was measured; all else is of the whole run.
    pub tally: Tally,
    /// Requests and bytes in the time that was measured.
    pub completed: u64,
    pub bytes: u64,
    pub time: Duration,
    pub cost: Cost,
    pub moments: Vec<Moment>,
    pub rival: Option<Rival>,
    /// Why it went wrong.
    pub errors: Vec<String>,
}

impl Measured {
    pub fn is_good(&self) -> bool {
        self.errors.is_empty() && self.tally.is_clean() && self.tally.failed == 0
    }

    fn iops(&self) -> f64 {
        self.per_second(self.completed)
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// A share of each request; `None` if there was none.
    fn per_request(&self, all: f64) -> Option<f64> {
        (self.completed > 0).then(|| all / self.completed as f64)
    }

    fn cpu_ns(&self) -> Option<f64> {
        self.per_request(self.cost.cpu.as_nanos() as f64)
    }

    fn reads(&self) -> Option<f64> {
        self.cost.reads.and_then(|reads| self.per_request(reads as f64))
    }

    fn quantile(&self, q: f64) -> Duration {
        Duration::from_nanos(self.tally.latency.value_at_quantile(q))
    }

    fn mean(&self) -> Duration {
        Duration::from_nanos(self.tally.latency.mean() as u64)
    }

    /// What was measured, and what came out, in a line each.
    pub fn headline(&self) -> (String, String) {
        let channels = match self.channels {
            1 => String::new(),
            n => format!(" on each of {n} channels"),
        };
        let polled = if self.polled { "polling" } else { "sleeping" };
        let what = format!(
            "{}: {} of {}, {} at once{channels}, {polled}",
            self.head,
            self.rw,
            human(self.bs),
            self.qd
        );
        let result = format!(
            "{} IOPS, {}/s over {}",
            grouped(self.iops() as u64),
            human(self.per_second(self.bytes) as u64),
            latency(self.time)
        );
        (what, result)
    }

    pub fn print(&self) {
        let (what, result) = self.headline();
        println!("{what}");
        println!("  rate     {result}");
        if !self.tally.latency.is_empty() {
            let all = QUANTILES.map(|(name, q)| format!("{name} {}", latency(self.quantile(q))));
            println!("  latency  mean {}, {}", latency(self.mean()), all.join(", "));
        }
        if let Some(cpu) = self.cpu_ns() {
            let cores = self.cost.cpu.as_secs_f64() / self.time.as_secs_f64().max(1e-9);
            let system = self
                .cost
                .system
                .map_or(String::new(), |s| format!(", {:.0} % of it in the system", s * 100.0));
            println!("  CPU      {cpu:.0} ns per request, {cores:.2} processors{system}");
        }
        match self.reads() {
            Some(reads) => println!("  calls    {reads:.3} reads per request; all: {ALL_CALLS}"),
            None => println!("  calls    not counted by this system; {ALL_CALLS}"),
        }
        if let Some(rival) = &self.rival {
            let ratio = self.iops() / rival.iops.max(1e-9) * 100.0;
            println!(
                "  {:8} {} IOPS; this is {ratio:.1} % of it",
                rival.name,
                grouped(rival.iops as u64)
            );
        }
        let t = &self.tally;
        if self.verify {
            println!(
                "  verify   {} blocks: {} lost, {} stale, {} torn, {} misplaced",
                grouped(t.judged_blocks),
                t.lost_blocks,
                t.stale_blocks,
                t.torn_blocks,
                t.misplaced_blocks
            );
        }
        for finding in &t.findings {
            println!("  BAD      {finding}");
        }
        if t.failed + t.lost_requests + t.duplicated_completions > 0 {
            println!(
                "  requests {} failed, {} never ended, {} ended twice",
                t.failed, t.lost_requests, t.duplicated_completions
            );
        }
    }

    pub fn to_json(&self) -> Value {
        let t = &self.tally;
        let us = |time: Duration| time.as_nanos() as f64 / 1e3;
        let mut latencies: serde_json::Map<String, Value> = QUANTILES
            .iter()
            .map(|(name, q)| ((*name).to_owned(), json!(us(self.quantile(*q)))))
            .collect();
        latencies.insert("mean".into(), json!(us(self.mean())));
        json!({
            "head": self.head,
            "rw": self.rw,
            "bs": self.bs,
            "qd": self.qd,
            "channels": self.channels,
            "polled": self.polled,
            "seconds": self.time.as_secs_f64(),
            "requests": self.completed,
            "iops": self.iops(),
            "bytes_per_second": self.per_second(self.bytes),
            "latency_us": latencies,
            "cpu_ns_per_request": self.cpu_ns(),
            "cpu_system_share": self.cost.system,
            "syscalls_per_request": {
                "reads": self.reads(),
                "all": Value::Null,
                "how_to_count_all": ALL_CALLS,
            },
            "versus": self.rival.as_ref().map(|rival| json!({
                "name": rival.name,
                "iops": rival.iops,
                "ratio": self.iops() / rival.iops.max(1e-9),
            })),
            "failed": t.failed,
            "lost_requests": t.lost_requests,
            "duplicated_completions": t.duplicated_completions,
            "verify": self.verify.then(|| json!({
                "blocks": t.judged_blocks,
                "lost": t.lost_blocks,
                "stale": t.stale_blocks,
                "torn": t.torn_blocks,
                "misplaced": t.misplaced_blocks,
            })),
            "moments": self.moments,
            "errors": self.errors,
            "good": self.is_good(),
        })
    }
}
