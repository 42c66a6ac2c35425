//! A clock for what is counted: it goes as time goes while paths come up, and then by a step with each
//! reading, so that what depends on it does not depend on how fast the program is run.

use std::sync::atomic::{AtomicU64, Ordering};

use nvme_core::time::{Clock, Duration, Instant};
use nvme_mpath::MonotonicClock;

/// See the module's text.
#[derive(Debug, Default)]
pub struct SteppingClock {
    real: MonotonicClock,
    /// What it says, once it does not go by itself; else 0.
    said: AtomicU64,
    /// In nanoseconds.
    step: AtomicU64,
}

impl SteppingClock {
    /// From now on, each reading is so much later than the one before.
    pub fn step_by(&self, step: Duration) {
        self.step.store(step.as_nanos() as u64, Ordering::Relaxed);
        self.said.store(self.real.now().as_nanos(), Ordering::Relaxed);
    }
}

impl Clock for SteppingClock {
    fn now(&self) -> Instant {
        // Read in any case: that is part of what a poll costs.
        let real = self.real.now();
        if self.said.load(Ordering::Relaxed) == 0 {
            return real;
        }
        let step = self.step.load(Ordering::Relaxed);
        Instant::from_nanos(self.said.fetch_add(step, Ordering::Relaxed) + step)
    }
}
