//! Time as the library sees it: a number of nanoseconds that somebody else reads from a clock.
//!
//! Nothing in this crate reads a clock. The caller passes `now` in, so that the same code runs under
//! a real clock and under a simulated one.

use std::fmt;
use std::ops::Add;
pub use std::time::Duration;

/// A point on a monotonic time line, in nanoseconds since an origin chosen by the clock.
///
/// 64 bits of nanoseconds last 584 years, so additions saturate instead of wrapping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the time line.
    pub const ZERO: Self = Self(0);
    /// A point that is never reached: the deadline of something that does not end.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

/// Something that tells the time. Readings never go backwards.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present.
    fn now(&self) -> Instant;
}

/// The earlier of two optional deadlines.
#[must_use]
pub fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_saturate_and_differences_do_not_underflow() {
        let late = Instant::from_nanos(u64::MAX - 1) + Duration::from_secs(1);
        assert_eq!(late, Instant::NEVER);
        assert_eq!(Instant::ZERO.saturating_since(late), Duration::ZERO);
        assert_eq!(Instant::from_nanos(1) + Duration::MAX, Instant::NEVER);
    }

    #[test]
    fn the_earlier_deadline_wins() {
        let (a, b) = (Some(Instant::from_nanos(1)), Some(Instant::from_nanos(2)));
        assert_eq!(earlier(a, b), a);
        assert_eq!(earlier(None, b), b);
        assert_eq!(earlier(None, None), None);
    }
}
