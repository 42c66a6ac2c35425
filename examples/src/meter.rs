//! Throughput and latency of the last moment.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::size::human;
use crate::terminal::{grouped, latency};
use crate::workload::{Progress, Tally};

/// Shortest time that is measured; within it the last sample is given again.
const SHORTEST: Duration = Duration::from_millis(250);

/// What the workers did of late.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Requests per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Half of the requests took no longer.
    pub p50: Duration,
    /// 99 of 100 requests took no longer.
    pub p99: Duration,
    /// Requests that wait for a path.
    pub parked: u64,
    /// Requests that failed since the beginning.
    pub failed: u64,
    /// What was found to be wrong since the beginning.
    pub bad: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (iops, bytes) = (self.iops as u64, self.bytes_per_second as u64);
        write!(f, "{} IOPS, {}/s", grouped(iops), human(bytes))?;
        if iops > 0 {
            write!(f, ", p50 {}, p99 {}", latency(self.p50), latency(self.p99))?;
        }
        for (count, what) in
            [(self.parked, "waiting for a path"), (self.failed, "failed"), (self.bad, "BAD")]
        {
            if count > 0 {
                write!(f, ", {} {what}", grouped(count))?;
            }
        }
        Ok(())
    }
}

/// Reads the workers' progress, again and again.
#[derive(Debug)]
pub struct Meter {
    workers: Vec<Arc<Progress>>,
    at: Instant,
    completed: u64,
    bytes: u64,
    recent: Histogram<u64>,
    sample: Sample,
}

impl Meter {
    /// A meter of these workers.
    #[must_use]
    pub fn new(workers: Vec<Arc<Progress>>) -> Self {
        Self {
            workers,
            at: Instant::now(),
            completed: 0,
            bytes: 0,
            recent: Tally::default().latency,
            sample: Sample::default(),
        }
    }

    /// Requests of all workers that succeeded.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.sum(|p| p.completed())
    }

    /// Requests of all workers that wait for a path.
    #[must_use]
    pub fn parked(&self) -> u64 {
        self.sum(|p| p.parked())
    }

    /// What was found to be wrong so far: blocks, and requests that ended twice.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.sum(|p| p.bad())
    }

    /// Whether all workers have ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.workers.iter().all(|p| p.ended())
    }

    /// Whether all workers have written everything once.
    #[must_use]
    pub fn all_filled(&self) -> bool {
        self.workers.iter().all(|p| p.filled())
    }

    /// Bytes that all workers have moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sum(|p| p.bytes())
    }

    /// Nanoseconds that all workers had something to do, and that they waited
    /// ([`Progress::at_work`]).
    #[must_use]
    pub fn at_work(&self) -> (u64, u64) {
        (self.sum(|p| p.at_work().0), self.sum(|p| p.at_work().1))
    }

    /// System calls of all channels to sleep.
    #[must_use]
    pub fn sleeping_calls(&self) -> u64 {
        self.sum(|p| p.sleeping_calls())
    }

    /// Sweeps that all workers have done.
    #[must_use]
    pub fn sweeps(&self) -> u64 {
        self.workers.iter().map(|p| p.sweeps()).min().unwrap_or(0)
    }

    /// Why a request failed, the first time that one did while its head was there.
    #[must_use]
    pub fn first_failure(&self) -> Option<Arc<str>> {
        self.workers.iter().find_map(|p| p.first_failure())
    }

    /// With what error requests failed when their head was removed, if it was.
    #[must_use]
    pub fn removal(&self) -> Option<Arc<str>> {
        self.workers.iter().find_map(|p| p.removal())
    }

    /// What the workers do now.
    pub fn sample(&mut self) -> &Sample {
        let elapsed = self.at.elapsed();
        if elapsed >= SHORTEST {
            let (completed, bytes) = (self.completed(), self.bytes());
            self.recent.reset();
            self.workers.iter().for_each(|p| p.take_recent(&mut self.recent));
            let quantile = |q| Duration::from_nanos(self.recent.value_at_quantile(q));
            let per_second = |n: u64| n as f64 / elapsed.as_secs_f64();
            self.sample.iops = per_second(completed - self.completed);
            self.sample.bytes_per_second = per_second(bytes - self.bytes);
            self.sample.p50 = quantile(0.5);
            self.sample.p99 = quantile(0.99);
            (self.at, self.completed, self.bytes) = (Instant::now(), completed, bytes);
        }
        self.sample.parked = self.parked();
        self.sample.failed = self.sum(|p| p.failed());
        self.sample.bad = self.bad();
        &self.sample
    }

    fn sum(&self, of: impl Fn(&Progress) -> u64) -> u64 {
        self.workers.iter().map(|p| of(p)).sum()
    }
}
