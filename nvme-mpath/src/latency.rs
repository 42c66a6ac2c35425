//! How long commands take: histograms that one channel writes and anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

use nvme_core::time::Duration;

/// Buckets of one octave.
const STEPS: u32 = 8;
/// The first bucket ends at 2^10 ns.
const FIRST: u32 = 10;
/// The last octave ends at 2^36 ns, 69 s; what is longer is counted in the last bucket.
const LAST: u32 = 36;
const BUCKETS: usize = ((LAST - FIRST) * STEPS) as usize + 1;

/// The bucket of a time.
const fn bucket(nanos: u64) -> usize {
    let octave = 63 - (nanos | 1).leading_zeros();
    if octave < FIRST {
        return 0;
    }
    let step = (nanos >> (octave - STEPS.ilog2())) as u32 & (STEPS - 1);
    let at = ((octave - FIRST) * STEPS + step) as usize + 1;
    if at < BUCKETS { at } else { BUCKETS - 1 }
}

/// Where a bucket ends, in nanoseconds.
const fn end(bucket: usize) -> u64 {
    let at = bucket as u32;
    let (octave, step) = (FIRST + at / STEPS, at % STEPS);
    (1 << octave) + ((step as u64) << (octave - STEPS.ilog2()))
}

/// Counts by latency, of one direction. Written by one thread.
#[derive(Debug)]
struct Counts([AtomicU64; BUCKETS]);

/// The latencies of one channel on one controller. Written by the channel only, with relaxed loads
/// and stores: who reads meanwhile may miss the newest.
#[derive(Debug)]
pub(crate) struct PathCounts {
    reads: Counts,
    writes: Counts,
}

impl PathCounts {
    pub(crate) fn new() -> Self {
        let counts = || Counts([const { AtomicU64::new(0) }; BUCKETS]);
        Self { reads: counts(), writes: counts() }
    }

    /// Counts one. For the owning channel only.
    pub(crate) fn count(&self, read: bool, nanos: u64) {
        let counts = if read { &self.reads } else { &self.writes };
        let counter = &counts.0[bucket(nanos)];
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// How many commands took how long: buckets that each are an eighth of a power of two wide, from
/// 1 µs to 69 s, so that a time is known to 12 %.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyHistogram {
    counts: Box<[u64; BUCKETS]>,
}

impl Default for LatencyHistogram {
    /// Nothing counted.
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyHistogram {
    fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]) }
    }

    /// What was counted since `earlier`, an older state of the same counts.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts.clone();
        let pairs = counts.iter_mut().zip(earlier.counts.iter());
        pairs.for_each(|(now, then)| *now = now.saturating_sub(*then));
        Self { counts }
    }

    /// The sum of all times, as if each were in the middle of its bucket: to 6 % for those between
    /// 1 µs and 69 s.
    #[must_use]
    pub fn sum(&self) -> Duration {
        let middle = |at: usize| (end(at) + at.checked_sub(1).map_or(0, end)) / 2;
        let all = self.counts.iter().enumerate();
        let nanos = all.map(|(at, n)| middle(at).saturating_mul(*n)).fold(0, u64::saturating_add);
        Duration::from_nanos(nanos)
    }

    /// How many took so many nanoseconds or less, for each power of two from 2^10 to 2^36.
    pub(crate) fn by_octave(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut below = 0;
        let buckets = self.counts.iter().enumerate();
        buckets.filter_map(move |(at, count)| {
            below += count;
            (at % STEPS as usize == 0).then(|| (Duration::from_nanos(end(at)), below))
        })
    }

    fn add(&mut self, counts: &Counts) {
        for (sum, count) in self.counts.iter_mut().zip(&counts.0) {
            *sum += count.load(Ordering::Relaxed);
        }
    }

    /// Commands counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The buckets that are not empty: the time below which they end, and their count.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let all = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        all.map(|(at, count)| (Duration::from_nanos(end(at)), *count))
    }

    /// A time that `fraction` (0 to 1) of the commands did not exceed; zero when none was counted.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> Duration {
        let mut left = (self.count() as f64 * fraction.clamp(0.0, 1.0)).ceil().max(1.0);
        for (until, count) in self.buckets() {
            left -= count as f64;
            if left <= 0.0 {
                return until;
            }
        }
        Duration::ZERO
    }
}

/// The latencies of a path, from submission to the poll that saw the answer, by direction. Commands
/// that did not succeed are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathLatency {
    /// Reads and compares.
    pub reads: LatencyHistogram,
    /// Everything else.
    pub writes: LatencyHistogram,
}

impl PathLatency {
    pub(crate) fn add(&mut self, counts: &PathCounts) {
        self.reads.add(&counts.reads);
        self.writes.add(&counts.writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_that_ends_after_it() {
        for nanos in
            (0..40u32).flat_map(|p| [1u64 << p, (1 << p) + 1, (1 << p) * 3 / 2, (2 << p) - 1])
        {
            let at = bucket(nanos);
            if at + 1 < BUCKETS {
                assert!(nanos < end(at), "{nanos}");
                assert!(at == 0 || nanos >= end(at - 1), "{nanos}");
            }
            assert!(
                nanos < 1024 || at + 1 == BUCKETS || end(at) <= nanos + nanos / 8 + 1,
                "{nanos}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_read_off() {
        let (counts, mut sum) = (PathCounts::new(), PathLatency::default());
        assert_eq!(sum.reads.quantile(0.5), Duration::ZERO);
        for i in 0..1000 {
            counts.count(true, if i < 990 { 100_000 } else { 9_000_000 });
        }
        counts.count(false, 5_000);
        sum.add(&counts);
        assert_eq!((sum.reads.count(), sum.writes.count()), (1000, 1));
        let near = |d: Duration, micros: u128| d.as_micros().abs_diff(micros) * 8 <= micros + 8;
        assert!(near(sum.reads.quantile(0.99), 100) && near(sum.reads.quantile(0.999), 9000));
    }
}
