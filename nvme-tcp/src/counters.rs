//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What all connections of a transport did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// System calls to receive, those that found nothing included.
    pub receives: u64,
    /// System calls to send, those that found no room included.
    pub sends: u64,
}

/// The counters of one connection: written by its owner alone, and on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct StreamCounters {
    receives: AtomicU64,
    sends: AtomicU64,
}

/// Adds one to a counter that nobody else writes.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

impl StreamCounters {
    pub fn receive(&self) {
        add(&self.receives);
    }

    pub fn send(&self) {
        add(&self.sends);
    }

    fn add_to(&self, sum: &mut Counters) {
        sum.receives += self.receives.load(Ordering::Relaxed);
        sum.sends += self.sends.load(Ordering::Relaxed);
    }
}

/// The counters of all connections of a transport.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    open: Vec<Arc<StreamCounters>>,
    /// What the connections that are gone had counted.
    closed: Counters,
    /// With so many it is time to look for those that are gone.
    look_at: usize,
}

impl Books {
    fn close(&mut self) {
        let closed = &mut self.closed;
        self.open.retain(|counters| {
            // Nobody else has them: the connection is gone.
            let gone = Arc::strong_count(counters) == 1;
            if gone {
                counters.add_to(closed);
            }
            !gone
        });
        self.look_at = self.open.len() * 2 + 16;
    }
}

impl Ledger {
    /// Counters for a new connection.
    pub fn open(&self) -> Arc<StreamCounters> {
        let counters = Arc::new(StreamCounters::default());
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not only when somebody asks, or attempts to connect would add up for ever.
        if books.open.len() >= books.look_at {
            books.close();
        }
        books.open.push(Arc::clone(&counters));
        counters
    }

    /// The sum over all connections.
    pub fn read(&self) -> Counters {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.close();
        let mut sum = books.closed;
        books.open.iter().for_each(|counters| counters.add_to(&mut sum));
        sum
    }
}
