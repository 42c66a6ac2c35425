//! When something that a controller refused is tried again: after a second, then after twice as long
//! each time, up to half a minute.

use crate::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// The pause before the next try, and how many failed in a row.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    tries: u32,
}

impl Retry {
    /// When the next try is due; `None`: nothing waits.
    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// It failed: again after a pause.
    pub(super) fn failed(&mut self, now: Instant) {
        let pause = FIRST.saturating_mul(1 << self.tries.min(16)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        self.at = Some(now + pause);
    }

    /// It is being tried, for whatever reason: nothing waits any more.
    pub(super) const fn begun(&mut self) {
        self.at = None;
    }

    /// It succeeded: the next failure is a first one.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut retry = Retry::default();
        let mut now = Instant::ZERO;
        let mut pause = |retry: &mut Retry| {
            retry.failed(now);
            let at = retry.at().unwrap();
            let pause = at.saturating_since(now).as_secs();
            assert!(!retry.is_due(now) && retry.is_due(at));
            retry.begun();
            assert_eq!(retry.at(), None);
            now = at;
            pause
        };
        let pauses: Vec<u64> = (0..7).map(|_| pause(&mut retry)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        retry.succeeded();
        assert_eq!(pause(&mut retry), 1);
        for _ in 0..100 {
            assert!(pause(&mut retry) <= 30);
        }
    }
}
