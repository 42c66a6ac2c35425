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
        // By the digits of the highest place, which is quicker than comparisons.
        let digits = match bytes {
            0 => 10,
            _ => usize::BITS - ((bytes - 1) | 0x800).leading_zeros(),
        };
        let class = if digits > 19 { 5 } else { (digits as u8 - 9) / 2 };
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
/// A sample is taken so long after the one before: more tell no more.
const PAUSE: Duration = Duration::from_micros(250);
/// Nothing is called standing still before so much time without an answer.
const ALARM: u64 = 1_000_000;
/// What was measured for one kind of request.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    /// Moving average of the latency, in nanoseconds; 0: unknown.
    latency: u64,
    /// Moving average of what else was in flight on the controller at submission, times 16.
    load: u64,
    /// Moving average of the latency of those that were sent with nothing else in flight; 0: unknown.
    alone: u64,
    at: Instant,
    /// When the next sample is to be taken.
    due: Instant,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    kinds: [Measure; Kind::ALL],
    /// Moving average over all kinds.
    typical: u64,
    /// When an answer was last seen, or the path was last idle.
    progress: Instant,
    /// Something was in flight at the last poll.
    busy: bool,
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
    /// Whether the time is to be taken of a command that is sent now, when so much else is in flight.
    ///
    /// Not of all: a sample costs more than what else there is to do about a command. Of those that are
    /// sent at the same time some further ones tell what each costs that is ahead.
    #[inline]
    pub(super) fn wants(&mut self, kind: Kind, now: Instant, load: u32) -> bool {
        let (wants, _) = self.would_want(kind, now, load);
        if wants {
            self.kinds[kind.index()].due = now + PAUSE;
        }
        wants
    }

    /// The same as a question; and whether it could be wanted of one that is sent at the same time when
    /// more is in flight.
    pub(super) fn would_want(&self, kind: Kind, now: Instant, load: u32) -> (bool, bool) {
        let due = self.kinds[kind.index()].due;
        let again = due == now + PAUSE;
        (now >= due || again && load >= 3 && load & (load + 1) == 0, now >= due || again)
    }

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
        if load == 0 {
            measure.alone = blend(measure.alone, latency, old);
        }
        measure.at = now;
        self.typical = blend(self.typical, latency, old);
    }

    /// The queue was polled and gave so many answers; `answers` is how many polls have found answers
    /// of any path so far. Returns whether the path began or ceased to stand still, or is the first
    /// time seen to do so alone.
    pub(super) fn polled(&mut self, taken: u32, idle: bool, now: Instant, answers: u64) -> bool {
        if !std::mem::replace(&mut self.busy, !idle) {
            // Whatever is waited for was sent since, and is not late before the next poll.
            self.progress = now;
        }
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

    /// How long one more request of this kind can be expected to take; `None`: nothing is known.
    pub(super) fn line(&self, kind: Kind) -> Option<Line> {
        let Measure { latency, load, alone, .. } = self.kinds[kind.index()];
        if latency == 0 {
            return None;
        }
        let alone = match alone {
            // As if all of it were waiting for others.
            0 => latency * 16 / (load + 16),
            known => known.min(latency),
        };
        let each = match load {
            // With hardly anything ahead nothing is seen of what it costs.
            0..8 => 0,
            // Something ahead is never for nothing, whatever noise says.
            _ => ((latency - alone) * 16 / load).max(alone / 32).max(1),
        };
        let stalled = if self.witnesses > 0 { self.stalled } else { 0 };
        Some(Line { base: alone.max(stalled).max(self.doubt), each })
    }
}

/// What a request is expected to take, in nanoseconds: so much with nothing else in flight, and so much
/// more for each that is (0: unknown).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) base: u64,
    pub(super) each: u64,
}

impl Line {
    pub(super) const fn at(self, load: u32) -> u64 {
        self.base.saturating_add(self.each.saturating_mul(load as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Kind = Kind::new(IoOp::Read, 4096);

    fn ms(n: u64) -> Instant {
        Instant::from_nanos((1000 + n) * 1_000_000)
    }

    fn good_alone() -> Pace {
        let mut pace = good();
        for _ in 0..50 {
            pace.sample(READ, 100_000, 0, ms(0));
        }
        pace
    }

    fn good() -> Pace {
        let mut pace = Pace::default();
        pace.polled(0, false, ms(0), 0);
        for _ in 0..50 {
            pace.sample(READ, 100_000, 3, ms(0));
        }
        pace
    }

    /// What one with nothing else in flight is expected to take.
    fn took(pace: &Pace) -> u64 {
        pace.line(READ).unwrap().base
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
        assert_eq!(good().line(Kind::new(IoOp::Write, 4096)), None);
    }

    #[test]
    fn the_path_s_own_time_and_what_each_request_adds_are_told_apart() {
        // 2 ms of its own, and 500 us for each.
        let mut pace = Pace::default();
        pace.polled(0, false, ms(0), 0);
        for round in 0..200 {
            let load = round % 4;
            pace.sample(READ, 2_000_000 + 500_000 * u64::from(load), load, ms(0));
        }
        let line = pace.line(READ).unwrap();
        assert!(line.base.abs_diff(2_000_000) < 10_000, "{line:?}");
        assert!(line.each.abs_diff(500_000) < 150_000, "{line:?}");
    }

    #[test]
    fn a_path_never_seen_alone_is_taken_to_have_no_time_of_its_own() {
        let line = good().line(READ).unwrap();
        assert!(line.base.abs_diff(25_000) < 1_000 && line.each.abs_diff(25_000) < 1_000);
        assert!(line.at(3).abs_diff(100_000) < 4_000, "{line:?}");
    }

    #[test]
    fn a_path_that_stood_still_alone_is_doubted_until_it_answers_something_new() {
        let mut pace = good_alone();
        assert!(!pace.polled(0, false, ms(1), 10));
        assert!(pace.polled(0, false, ms(3), 10), "it begins");
        assert!(!pace.polled(0, false, ms(3), 10) && pace.is_unclear());
        assert_eq!(took(&pace), 100_000, "it may be all of them");
        assert!(pace.polled(0, false, ms(4), 11), "it is not");
        assert!(!pace.polled(0, false, ms(500), 100) && !pace.is_unclear());
        assert_eq!(took(&pace), 500_000_000);
        pace.sample(READ, 1_000_000_000, 0, ms(1000));
        assert!(pace.polled(1, false, ms(1000), 200), "it ends");
        // More of what was sent before.
        pace.sample(READ, 999_000_000, 0, ms(1001));
        assert!(!pace.polled(1, false, ms(1001), 200) && pace.is_doubted());
        assert_eq!(took(&pace), 1_000_000_000);
        pace.sample(READ, 100_000, 0, ms(1002));
        assert_eq!((pace.is_doubted(), took(&pace)), (false, 100_000));
    }

    #[test]
    fn a_path_that_has_become_slow_for_good_does_not_stand_still_for_ever() {
        let mut pace = good_alone();
        let slow = |n| ms(10 * n);
        for n in 1..20 {
            pace.polled(0, false, slow(n), n);
            pace.polled(0, false, slow(n) + Duration::from_millis(4), n);
            pace.sample(READ, 5_000_000, 0, slow(n) + Duration::from_millis(5));
            pace.polled(1, true, slow(n) + Duration::from_millis(5), n);
        }
        let expected = took(&pace);
        assert!(!pace.is_doubted() && expected.abs_diff(5_000_000) < 500_000, "{expected}");
    }

    #[test]
    fn when_all_stand_still_none_is_blamed() {
        let mut pace = good_alone();
        pace.polled(0, false, ms(900), 7);
        pace.polled(0, false, ms(950), 7);
        pace.sample(READ, 1_000_000_000, 0, ms(1000));
        pace.polled(1, false, ms(1000), 7);
        assert_eq!((pace.is_doubted(), took(&pace)), (false, 100_000));
    }
}
