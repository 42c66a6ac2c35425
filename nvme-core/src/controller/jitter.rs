//! Waits between attempts: doubling, bounded, and a little different for each controller.

use crate::time::Duration;

/// The shortest wait: even a `reconnect_delay` of zero must not make a busy loop of a dead path.
const SHORTEST: Duration = Duration::from_millis(10);

/// A xorshift generator: good enough to spread reconnects, and repeatable from its seed.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        // The state must not be zero; the multiplier spreads neighbouring seeds.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Takes up to a fifth off `wait`.
    fn vary(&mut self, wait: Duration) -> Duration {
        let thousandths = (self.next() % 201) as u32;
        wait - wait / 1000 * thousandths
    }

    /// The wait after `failures` earlier ones, no longer than `longest`.
    pub(super) fn backoff(&mut self, longest: Duration, failures: u32) -> Duration {
        let longest = longest.max(SHORTEST);
        let first = (longest / 4).min(Duration::from_secs(1)).max(SHORTEST);
        let wait = first.saturating_mul(1 << failures.min(20)).min(longest);
        self.vary(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_lose_at_most_a_fifth() {
        let mut jitter = Jitter::new(7);
        let longest = Duration::from_secs(10);
        for (failures, full) in
            [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (u32::MAX, 10.0)]
        {
            for _ in 0..100 {
                let wait = jitter.backoff(longest, failures).as_secs_f64();
                assert!((full * 0.799..=full).contains(&wait), "{failures}: {wait}");
            }
        }
    }

    #[test]
    fn short_delays_start_at_a_quarter_and_never_reach_zero() {
        let mut jitter = Jitter::new(0);
        assert!(jitter.backoff(Duration::from_millis(400), 0) <= Duration::from_millis(100));
        assert!(jitter.backoff(Duration::ZERO, 0) >= SHORTEST / 5 * 4);
    }

    #[test]
    fn a_seed_repeats_itself_and_seeds_differ() {
        let wait = |seed| Jitter::new(seed).backoff(Duration::from_secs(10), 3);
        assert_eq!(wait(5), wait(5));
        assert_ne!(wait(5), wait(6));
    }
}
