//! What came out of `nvmeh perf`.

use std::time::Duration;

use nvme_host_examples::perf::{Cost, Moment, Thread};
use nvme_host_examples::size::human;
use nvme_host_examples::terminal::{grouped, latency};
use nvme_host_examples::workload::Tally;
use serde_json::{Value, json};

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
    /// What its threads used, both sides of the sockets.
    pub threads: Vec<Thread>,
    pub time: Duration,
}

/// System calls in the time that was measured, by what they are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// To receive; also those that found nothing.
    pub receive: u64,
    /// To send.
    pub send: u64,
    /// To sleep, or to look for something to wake up for.
    pub sleep: u64,
}

impl Calls {
    pub fn since(self, before: Self) -> Self {
        Self {
            receive: self.receive.saturating_sub(before.receive),
            send: self.send.saturating_sub(before.send),
            sleep: self.sleep.saturating_sub(before.sleep),
        }
    }

    const fn all(self) -> u64 {
        self.receive + self.send + self.sleep
    }
}

/// A thread, or a channel, that has something to do for such a part of the time has no more to give.
const BUSY: f64 = 0.9;

/// Threads waited for processors for such a part of the time: what was measured is the machine.
const CROWDED: f64 = 0.1;

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
    pub calls: Calls,
    /// What the threads of this process used, if the system tells.
    pub threads: Vec<Thread>,
    /// What those of the target's process used, if it is known.
    pub target: Option<Vec<Thread>>,
    /// The part of the time in which the channels had something to do; in the rest they waited for
    /// answers, polling or asleep.
    pub at_work: Option<f64>,
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

    /// A thread's use of a processor, or its wait for one, as a part of the time.
    fn part(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }

    /// Threads worth telling of, such as `workload 99 %, nvme-host 0 %`.
    fn busiest(&self, threads: &[Thread], time: Duration) -> String {
        let part = |used: Duration| used.as_secs_f64() / time.as_secs_f64().max(1e-9) * 100.0;
        let told = |thread: &Thread| {
            let (cpu, waited) = (part(thread.cpu), part(thread.waited));
            let waited = match waited {
                1.0.. => format!(" (and waited {waited:.0} % for one)"),
                _ => String::new(),
            };
            format!("{} {cpu:.0} %{waited}", thread.name)
        };
        let first = threads.iter().take(1);
        let others = threads.iter().skip(1).filter(|thread| part(thread.cpu) >= 1.0);
        first.chain(others).map(told).collect::<Vec<_>>().join(", ")
    }

    /// What there is too little of: the name of a side, and the reason for people.
    fn limit(&self) -> Option<(&'static str, String)> {
        let at_work = self.at_work?;
        let mut threads = self.threads.iter().chain(self.target.iter().flatten());
        let busiest = self.target.as_ref().map(|threads| {
            let busy = |thread: &Thread| self.part(thread.cpu + thread.waited);
            threads.iter().map(busy).fold(0.0, f64::max)
        });
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let host = format!("the channels had something to do for {}", percent(at_work));
        let (name, why) = match busiest {
            _ if threads.any(|thread| self.part(thread.waited) >= CROWDED) => {
                ("processors", "the machine: threads had to wait for processors".to_owned())
            }
            _ if at_work >= BUSY => ("host", format!("this side: {host} of the time")),
            Some(busy) if busy >= BUSY => {
                let busy = percent(busy);
                ("target", format!("the target: its busiest thread took {busy} of a processor"))
            }
            Some(_) => ("neither", format!("neither side; {host} of the time")),
            None => ("other", format!("not this side: {host} of the time; see --target-pid")),
        };
        Some((name, why))
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
        let calls = |n: u64| self.per_request(n as f64).unwrap_or_default();
        let Calls { receive, send, sleep } = self.calls;
        println!(
            "  calls    {:.3} per request: {:.3} receive, {:.3} send, {:.3} sleep",
            calls(self.calls.all()),
            calls(receive),
            calls(send),
            calls(sleep)
        );
        if !self.threads.is_empty() {
            println!("  threads  {} of a processor", self.busiest(&self.threads, self.time));
        }
        if let Some(threads) = &self.target {
            println!("  target   {} of a processor", self.busiest(threads, self.time));
        }
        if let Some((_, why)) = self.limit() {
            println!("  limit    {why}");
        }
        if let Some(rival) = &self.rival {
            let ratio = self.iops() / rival.iops.max(1e-9) * 100.0;
            println!(
                "  {:8} {} IOPS; this is {ratio:.1} % of it",
                rival.name,
                grouped(rival.iops as u64)
            );
            if !rival.threads.is_empty() {
                println!("           {}", self.busiest(&rival.threads, rival.time));
            }
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
                "receive": self.per_request(self.calls.receive as f64),
                "send": self.per_request(self.calls.send as f64),
                "sleep": self.per_request(self.calls.sleep as f64),
                "all": self.per_request(self.calls.all() as f64),
            },
            "at_work": self.at_work,
            "threads": self.threads,
            "target_threads": self.target,
            "limit": self.limit().map(|(name, _)| name),
            "versus": self.rival.as_ref().map(|rival| json!({
                "name": rival.name,
                "iops": rival.iops,
                "ratio": self.iops() / rival.iops.max(1e-9),
                "seconds": rival.time.as_secs_f64(),
                "threads": rival.threads,
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
