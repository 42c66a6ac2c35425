//! What a workload has found.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::ledger::Verdict;
use super::stamp::Seen;

/// Findings that are kept with their details; the rest is only counted.
const KEPT_FINDINGS: usize = 16;

/// A block that was not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its address.
    pub lba: u64,
    /// What is wrong with it.
    pub verdict: Verdict,
    /// What was there.
    pub seen: Seen,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.verdict {
            Verdict::Correct => "correct",
            Verdict::Lost => "an acknowledged write is lost",
            Verdict::Stale => "stale: an older version came back",
            Verdict::Torn => "torn or damaged",
            Verdict::Misplaced => "holds another block",
        };
        write!(f, "block {}: {what}", self.lba)?;
        match self.seen {
            Seen::Stamp(s) => write!(f, " (found write {} of block {})", s.sequence, s.lba),
            Seen::Damaged => f.write_str(" (wrong checksum)"),
            Seen::Zero => f.write_str(" (all zero)"),
            Seen::Foreign => f.write_str(" (not written by this program)"),
        }
    }
}

/// Counts of one worker, or of several together.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes moved by both.
    pub bytes: u64,
    /// Requests that failed, whyever.
    pub failed: u64,
    /// Of these, requests that failed because their head was removed.
    pub failed_after_removal: u64,
    /// Requests that never ended.
    pub lost_requests: u64,
    /// Completions that belong to no request under way.
    pub duplicated_completions: u64,
    /// Blocks that were read and judged.
    pub judged_blocks: u64,
    /// Blocks in which an acknowledged write was missing altogether.
    pub lost_blocks: u64,
    /// Blocks that showed an older version.
    pub stale_blocks: u64,
    /// Blocks that showed no version at all.
    pub torn_blocks: u64,
    /// Blocks that showed another block.
    pub misplaced_blocks: u64,
    /// The first findings.
    pub findings: Vec<Finding>,
    /// Times from submission to completion in nanoseconds, of requests that succeeded without
    /// having waited for a path.
    pub latency: Histogram<u64>,
    /// The longest such time of a request that was under way while requests failed over.
    pub longest_failover: Duration,
    /// Requests that waited for a path and then succeeded.
    pub waited: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            reads: 0,
            writes: 0,
            bytes: 0,
            failed: 0,
            failed_after_removal: 0,
            lost_requests: 0,
            duplicated_completions: 0,
            judged_blocks: 0,
            lost_blocks: 0,
            stale_blocks: 0,
            torn_blocks: 0,
            misplaced_blocks: 0,
            findings: Vec::new(),
            latency: new_histogram(),
            longest_failover: Duration::ZERO,
            waited: 0,
        }
    }
}

/// Up to an hour in nanoseconds, to three digits.
pub(super) fn new_histogram() -> Histogram<u64> {
    const HOUR: u64 = 3_600_000_000_000;
    // These bounds are valid ones; `new` cannot fail for three digits either.
    Histogram::new_with_bounds(1, HOUR, 3)
        .or_else(|_| Histogram::new(3))
        .unwrap_or_else(|_| unreachable!("three digits are between zero and five"))
}

impl Tally {
    /// Requests that succeeded.
    #[must_use]
    pub const fn completed(&self) -> u64 {
        self.reads + self.writes
    }

    /// Requests that never ended, and acknowledged writes that are missing.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost_requests + self.lost_blocks
    }

    /// Requests that ended twice, and blocks that are found in more than one place.
    #[must_use]
    pub const fn duplicated(&self) -> u64 {
        self.duplicated_completions + self.misplaced_blocks
    }

    /// Whether every request ended once and every block was as it must be. Says nothing of
    /// requests that failed.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost() == 0
            && self.duplicated() == 0
            && self.stale_blocks == 0
            && self.torn_blocks == 0
    }

    pub(super) fn judge(&mut self, lba: u64, verdict: Verdict, seen: Seen) {
        self.judged_blocks += 1;
        match verdict {
            Verdict::Correct => return,
            Verdict::Lost => self.lost_blocks += 1,
            Verdict::Stale => self.stale_blocks += 1,
            Verdict::Torn => self.torn_blocks += 1,
            Verdict::Misplaced => self.misplaced_blocks += 1,
        }
        if self.findings.len() < KEPT_FINDINGS {
            self.findings.push(Finding { lba, verdict, seen });
        }
    }

    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.failed_after_removal += other.failed_after_removal;
        self.lost_requests += other.lost_requests;
        self.duplicated_completions += other.duplicated_completions;
        self.judged_blocks += other.judged_blocks;
        self.lost_blocks += other.lost_blocks;
        self.stale_blocks += other.stale_blocks;
        self.torn_blocks += other.torn_blocks;
        self.misplaced_blocks += other.misplaced_blocks;
        let room = KEPT_FINDINGS.saturating_sub(self.findings.len());
        self.findings.extend(other.findings.iter().take(room));
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.longest_failover = self.longest_failover.max(other.longest_failover);
        self.waited += other.waited;
    }
}
