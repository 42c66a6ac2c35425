//! A value that is replaced as a whole, and that its readers keep until it is.
//!
//! Whoever changes it publishes a new one and then moves the generation. A reader keeps its own
//! reference and compares generations, so that in steady state it reads one counter that nobody
//! writes, and takes no lock.

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Published<T> {
    /// On a cache line of its own: every reader reads it, and the lock beside it is written to.
    generation: CachePadded<AtomicU64>,
    value: Mutex<Arc<T>>,
}

impl<T> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { generation: CachePadded::new(AtomicU64::new(1)), value: Mutex::new(Arc::new(value)) }
    }

    /// Moves with each [`publish`](Self::publish). Starts at 1.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn publish(&self, value: T) {
        let mut current = self.value.lock();
        *current = Arc::new(value);
        // Under the lock, so that whoever reads this generation gets this value or a later one.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The current value, and a generation that is not newer than it.
    pub(crate) fn load(&self) -> (u64, Arc<T>) {
        let current = self.value.lock();
        (self.generation.load(Ordering::Acquire), Arc::clone(&current))
    }
}
