//! What came out of `nvmeh io`.

use std::time::Duration;

use nvme_host_examples::size::human;
use nvme_host_examples::terminal::{grouped, latency};
use nvme_host_examples::timeline::Run;
use nvme_host_examples::workload::Tally;
use serde_json::{Value, json};

/// Everything that is told at the end.
#[derive(Debug)]
pub struct Report {
    /// The head's name.
    pub head: String,
    /// `randrw` and so on.
    pub rw: String,
    /// Bytes of a request.
    pub bs: u64,
    /// Requests under way at once, on each channel.
    pub qd: u16,
    pub channels: u16,
    pub verify: bool,
    pub tally: Tally,
    /// Requests and bytes in the time that was measured, which leaves out what is written before
    /// and read back afterwards.
    pub completed: u64,
    pub bytes: u64,
    pub time: Duration,
    pub failovers: u64,
    /// What it looked like from moment to moment.
    pub timeline: Run,
    /// Why it went wrong.
    pub errors: Vec<String>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.errors.is_empty() && self.tally.is_clean() && self.tally.failed == 0
    }

    fn per_second(&self, count: u64) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    fn quantile(&self, q: f64) -> Duration {
        Duration::from_nanos(self.tally.latency.value_at_quantile(q))
    }

    pub fn print(&self) {
        let t = &self.tally;
        let channels = if self.channels == 1 {
            String::new()
        } else {
            format!(" on each of {} channels", self.channels)
        };
        println!("{}", self.head);
        println!("  {} of {}, {} at once{channels}", self.rw, human(self.bs), self.qd);
        println!(
            "  rate     {} IOPS, {}/s over {}",
            grouped(self.per_second(self.completed) as u64),
            human(self.per_second(self.bytes) as u64),
            latency(self.time)
        );
        println!(
            "  total    {} reads, {} writes, {}",
            grouped(t.reads),
            grouped(t.writes),
            human(t.bytes)
        );
        if !t.latency.is_empty() {
            println!(
                "  latency  p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
                latency(self.quantile(0.5)),
                latency(self.quantile(0.9)),
                latency(self.quantile(0.99)),
                latency(self.quantile(0.999)),
                latency(self.quantile(1.0))
            );
        }
        if self.failovers > 0 {
            println!(
                "  paths    {} requests failed over (none took longer than {}), {} waited",
                grouped(self.failovers),
                latency(t.longest_failover),
                grouped(t.waited)
            );
        }
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
        let us = |q| self.quantile(q).as_nanos() as f64 / 1e3;
        json!({
            "head": self.head,
            "rw": self.rw,
            "bs": self.bs,
            "qd": self.qd,
            "channels": self.channels,
            "seconds": self.time.as_secs_f64(),
            "iops": self.per_second(self.completed),
            "bytes_per_second": self.per_second(self.bytes),
            "reads": t.reads,
            "writes": t.writes,
            "bytes": t.bytes,
            "latency_us": {
                "p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "p99.9": us(0.999), "max": us(1.0),
            },
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
            "failovers": self.failovers,
            "longest_failover_ms": t.longest_failover.as_secs_f64() * 1e3,
            "timeline": self.timeline,
            "errors": self.errors,
            "good": self.is_good(),
        })
    }
}
