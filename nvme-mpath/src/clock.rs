//! The clock of a running system.

use nvme_core::time::{Clock, Instant};
use rustix::time::{ClockId, clock_gettime};

/// The operating system's monotonic clock. Its origin is the moment of its making, less one second
/// so that no reading is [`Instant::ZERO`].
#[derive(Debug)]
pub struct MonotonicClock {
    origin: u64,
}

/// Nanoseconds of the monotonic clock. It counts from the start of the system, so that 64 bits do.
fn nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

impl MonotonicClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: nanos().wrapping_sub(1_000_000_000) }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(nanos().wrapping_sub(self.origin))
    }
}
