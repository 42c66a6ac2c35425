//! The clock, which moves only when the simulation moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nvme_core::time::{Clock, Instant};

/// One microsecond in the unit of all times here.
pub const US: u64 = 1_000;
/// One millisecond.
pub const MS: u64 = 1_000 * US;
/// One second.
pub const SEC: u64 = 1_000 * MS;

/// Nanoseconds of simulated time.
#[derive(Debug)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// A clock at one second.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(SEC)))
    }

    /// Moves on to `to`.
    pub fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    /// The time.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos())
    }
}
