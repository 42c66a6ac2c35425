//! A clock for what is counted: it goes as time goes while paths come up and when all is over, and between
//! by a step with each reading, so that what depends on it does not depend on how fast the program is run.

use std::sync::atomic::{AtomicU64, Ordering};

use nvme_core::time::{Clock, Duration, Instant};
use nvme_mpath::MonotonicClock;

/// See the module's text.
#[derive(Debug, Default)]
pub struct SteppingClock {
    real: MonotonicClock,
    /// The latest that it said by steps; it never says less.
    said: AtomicU64,
    /// In nanoseconds; 0: it goes as time goes.
    step: AtomicU64,
}

impl SteppingClock {
    /// From now on, each reading is so much later than the one before; with no step, it goes by itself.
    /// Whoever waits for a point in time waits long while it does not.
    pub fn step_by(&self, step: Duration) {
        self.said.fetch_max(self.real.now().as_nanos(), Ordering::Relaxed);
        self.step.store(step.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for SteppingClock {
    fn now(&self) -> Instant {
        // Read in any case: that is part of what a poll costs.
        let real = self.real.now().as_nanos();
        let step = self.step.load(Ordering::Relaxed);
        Instant::from_nanos(match step {
            0 => real.max(self.said.load(Ordering::Relaxed)),
            _ => self.said.fetch_add(step, Ordering::Relaxed) + step,
        })
    }
}
