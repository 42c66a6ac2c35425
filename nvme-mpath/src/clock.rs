//! The clock of a running system.

use nvme_core::time::{Clock, Instant};

/// The operating system's monotonic clock. Its origin is the moment of its making, less one second
/// so that no reading is [`Instant::ZERO`].
#[derive(Debug)]
pub struct MonotonicClock {
    origin: std::time::Instant,
}

impl MonotonicClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos.saturating_add(1_000_000_000))
    }
}
