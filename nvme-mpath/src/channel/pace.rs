//! What a channel has measured of one path: how long its answers take, and whether any come.

use nvme_core::time::{Duration, Instant};

use crate::error::IoOp;

/// Requests that can be expected to take the same time: one direction, one class of size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind(u8);

/// Classes of size, for each direction: no data, up to 4, 16, 64, 256 KiB, and more.
const CLASSES: u8 = 6;

impl Kind {
    pub(super) const ALL: usize = 2 * CLASSES as usize;

    pub(super) const fn new(op: IoOp, bytes: usize) -> Self {
        let class = match bytes {
            0 => 0,
            1..=0x1000 => 1,
            0x1001..=0x4000 => 2,
            0x4001..=0x10000 => 3,
            0x10001..=0x40000 => 4,
            _ => 5,
        };
        let read = matches!(op, IoOp::Read | IoOp::Compare);
        Self(if read { class } else { CLASSES + class })
    }

    pub(super) const fn is_read(self) -> bool {
        self.0 < CLASSES
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Longer ones count as so long: one lost answer must not say everything about a path.
const LONGEST: u64 = 1_000_000_000;
/// A sample so long after the one before counts for more.
const OLD: Duration = Duration::from_millis(50);
/// Nothing is called standing still before so much time without an answer.
const ALARM: u64 = 1_000_000;
/// What was measured for one kind of request.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    /// Moving average of the latency, in nanoseconds; 0: unknown.
    latency: u64,
    /// Moving average of what else was in flight on the controller at submission, times 16.
    load: u64,
    at: Instant,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    kinds: [Measure; Kind::ALL],
    /// Moving average over all kinds.
    typical: u64,
    /// When an answer was last seen, or the path was last idle.
    progress: Instant,
    /// How long no answer has come, once that is longer than it should be; else 0.
    stalled: u64,
    /// How long it stood still, while others did not, until something that was sent since has been
    /// answered; else 0.
    doubt: u64,
    /// When it last ceased to stand still: how long it took to answer what was sent before says
    /// nothing about what is sent after.
    resumed: Instant,
    /// Polls that had found answers of any path when that began; and since then.
    answers: u64,
    witnesses: u64,
}

/// Moves an average towards a sample.
const fn blend(average: u64, sample: u64, old: bool) -> u64 {
    if average == 0 {
        sample
    } else if old {
        (average + sample) / 2
    } else {
        (average * 7 + sample) / 8
    }
}

impl Pace {
    /// A command was answered. `load` is what else was in flight when it was sent.
    pub(super) fn sample(&mut self, kind: Kind, latency: u64, load: u32, now: Instant) {
        if self.stalled > 0
            || now.as_nanos() - latency.min(now.as_nanos()) < self.resumed.as_nanos()
        {
            return;
        }
        self.doubt = 0;
        let latency = latency.clamp(1, LONGEST);
        let measure = &mut self.kinds[kind.index()];
        let old = now.saturating_since(measure.at) > OLD;
        measure.load = match measure.latency {
            0 => u64::from(load) * 16,
            _ => blend(measure.load.max(1), u64::from(load) * 16, old),
        };
        measure.latency = blend(measure.latency, latency, old);
        measure.at = now;
        self.typical = blend(self.typical, latency, old);
    }

    /// The queue was polled and gave so many answers; `answers` is how many polls have found answers
    /// of any path so far. Returns whether the path began or ceased to stand still, or is the first
    /// time seen to do so alone.
    pub(super) fn polled(&mut self, taken: u32, idle: bool, now: Instant, answers: u64) -> bool {
        let gap = now.saturating_since(self.progress).as_nanos() as u64;
        if taken == 0 && !idle {
            if gap <= ALARM.max(4 * self.typical) {
                return false;
            }
            let begins = std::mem::replace(&mut self.stalled, gap) == 0;
            if begins {
                self.answers = answers;
            }
            let before = std::mem::replace(&mut self.witnesses, answers - self.answers);
            return begins || (before == 0 && self.witnesses > 0);
        }
        let was = std::mem::take(&mut self.stalled) > 0;
        let witnesses = std::mem::take(&mut self.witnesses);
        if was {
            self.resumed = now;
            self.doubt = if witnesses > 0 { gap } else { 0 };
            // Were all answers as late as this one, none would be late.
            self.typical = blend(self.typical, gap.min(ALARM + 4 * self.typical), false);
        }
        self.progress = now;
        was
    }

    /// A command is sent after a time without any.
    pub(super) const fn begins(&mut self, now: Instant) {
        self.progress = now;
    }

    /// No answer comes, and nobody knows whether others would be better off.
    pub(super) const fn is_unclear(&self) -> bool {
        self.stalled > 0 && self.witnesses == 0
    }

    /// It stood still, and it is not known whether it is as good as before.
    pub(super) const fn is_doubted(&self) -> bool {
        self.doubt > 0
    }

    /// When a request of this kind was last answered.
    pub(super) const fn last(&self, kind: Kind) -> Instant {
        self.kinds[kind.index()].at
    }

    /// How long one more request of this kind can be expected to take, in nanoseconds, with `load`
    /// others in flight; `None`: nothing is known.
    pub(super) fn expected(&self, kind: Kind, load: u32) -> Option<u64> {
        let measure = &self.kinds[kind.index()];
        if measure.latency == 0 {
            return None;
        }
        // More in flight than when it was measured takes longer in proportion; less does not take
        // less, for the time may be the path's own.
        let (ours, theirs) = (u64::from(load) * 16 + 16, measure.load + 16);
        let scaled = if ours > theirs { measure.latency * ours / theirs } else { measure.latency };
        let stalled = if self.witnesses > 0 { self.stalled } else { 0 };
        Some(scaled.max(stalled).max(self.doubt))
    }

    /// How much longer each request of this kind that is in flight can be expected to make the next
    /// one wait, in nanoseconds; 0: nothing is known.
    pub(super) fn each(&self, kind: Kind) -> u64 {
        let measure = &self.kinds[kind.index()];
        measure.latency * 16 / (measure.load + 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Kind = Kind::new(IoOp::Read, 4096);

    fn ms(n: u64) -> Instant {
        Instant::from_nanos((1000 + n) * 1_000_000)
    }

    fn good() -> Pace {
        let mut pace = Pace::default();
        pace.begins(ms(0));
        for _ in 0..50 {
            pace.sample(READ, 100_000, 3, ms(0));
        }
        pace
    }

    #[test]
    fn sizes_and_directions_are_kinds_of_their_own() {
        let mut kinds = std::collections::HashSet::new();
        for op in [IoOp::Read, IoOp::Write] {
            for bytes in [0, 4096, 4097, 65536, 65537, 1 << 20] {
                kinds.insert(Kind::new(op, bytes).index());
            }
        }
        assert_eq!(kinds.len(), Kind::ALL);
        assert_eq!(good().expected(Kind::new(IoOp::Write, 4096), 0), None);
    }

    #[test]
    fn load_beyond_what_was_measured_costs_in_proportion() {
        let pace = good();
        let at = |load| pace.expected(READ, load).unwrap();
        assert_eq!((at(0), at(3)), (at(3), 100_000));
        assert!(at(7).abs_diff(2 * at(3)) < 5_000, "{}", at(7));
        assert!(pace.each(READ).abs_diff(25_000) < 1_000, "{}", pace.each(READ));
    }

    #[test]
    fn a_path_that_stood_still_alone_is_doubted_until_it_answers_something_new() {
        let mut pace = good();
        assert!(!pace.polled(0, false, ms(1), 10));
        assert!(pace.polled(0, false, ms(3), 10), "it begins");
        assert!(!pace.polled(0, false, ms(3), 10) && pace.is_unclear());
        assert_eq!(pace.expected(READ, 0), Some(100_000), "it may be all of them");
        assert!(pace.polled(0, false, ms(4), 11), "it is not");
        assert!(!pace.polled(0, false, ms(500), 100) && !pace.is_unclear());
        assert_eq!(pace.expected(READ, 0), Some(500_000_000));
        pace.sample(READ, 1_000_000_000, 3, ms(1000));
        assert!(pace.polled(1, false, ms(1000), 200), "it ends");
        // More of what was sent before.
        pace.sample(READ, 999_000_000, 3, ms(1001));
        assert!(!pace.polled(1, false, ms(1001), 200) && pace.is_doubted());
        assert_eq!(pace.expected(READ, 3), Some(1_000_000_000));
        pace.sample(READ, 100_000, 3, ms(1002));
        assert_eq!((pace.is_doubted(), pace.expected(READ, 3)), (false, Some(100_000)));
    }

    #[test]
    fn a_path_that_has_become_slow_for_good_does_not_stand_still_for_ever() {
        let mut pace = good();
        let slow = |n| ms(10 * n);
        for n in 1..20 {
            pace.begins(slow(n));
            pace.polled(0, false, slow(n) + Duration::from_millis(4), n);
            pace.sample(READ, 5_000_000, 3, slow(n) + Duration::from_millis(5));
            pace.polled(1, false, slow(n) + Duration::from_millis(5), n);
        }
        let expected = pace.expected(READ, 3).unwrap();
        assert!(!pace.is_doubted() && expected.abs_diff(5_000_000) < 500_000, "{expected}");
    }

    #[test]
    fn when_all_stand_still_none_is_blamed() {
        let mut pace = good();
        pace.polled(0, false, ms(900), 7);
        pace.polled(0, false, ms(950), 7);
        pace.sample(READ, 1_000_000_000, 3, ms(1000));
        pace.polled(1, false, ms(1000), 7);
        assert_eq!((pace.is_doubted(), pace.expected(READ, 3)), (false, Some(100_000)));
    }
}
