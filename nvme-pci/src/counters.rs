//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use std::sync::Arc;

/// What all queues of a transport did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Commands given to controllers.
    pub commands: u64,
    /// Commands whose data the device moved from or to the caller's memory.
    pub direct: u64,
    /// Commands whose data was copied through the queue's pool, because the device cannot reach it
    /// where it is.
    pub bounced: u64,
    /// Bytes of data so copied.
    pub bounced_bytes: u64,
    /// Regions of registered memory that a device could not be given when it was connected, or for
    /// what they are; data in them is copied for that device.
    pub unreachable: u64,
    /// I/O queues that were opened with their submission queue in controller memory.
    pub cmb_queues: u64,
    /// I/O queues that were opened with their memory for copies in controller memory.
    pub cmb_pools: u64,
    /// Commands whose data pointer was a scatter gather list.
    pub sgl: u64,
    /// Writes to submission queue doorbells.
    pub sq_doorbells: u64,
    /// Writes to completion queue doorbells.
    pub cq_doorbells: u64,
    /// Writes to doorbells that were not needed, since the controller looks into memory.
    pub doorbells_saved: u64,
}

/// The counters of one queue: written by its owner alone, and on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct QueueCounters {
    /// Commands about blocks whose data the device moved; neither among the next ones nor the others.
    usual: AtomicU64,
    commands: AtomicU64,
    direct: AtomicU64,
    bounced: AtomicU64,
    bounced_bytes: AtomicU64,
    sgl: AtomicU64,
    sq_doorbells: AtomicU64,
    cq_doorbells: AtomicU64,
    doorbells_saved: AtomicU64,
}

/// Adds to a counter that nobody else writes.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl QueueCounters {
    /// A command whose data the device moves: one count for both.
    pub fn usual(&self) {
        add(&self.usual, 1);
    }

    pub fn command(&self) {
        add(&self.commands, 1);
    }

    pub fn direct(&self) {
        add(&self.direct, 1);
    }

    pub fn bounced(&self, bytes: usize) {
        add(&self.bounced, 1);
        add(&self.bounced_bytes, bytes as u64);
    }

    pub fn sgl(&self) {
        add(&self.sgl, 1);
    }

    pub fn sq_doorbell(&self) {
        add(&self.sq_doorbells, 1);
    }

    pub fn cq_doorbell(&self) {
        add(&self.cq_doorbells, 1);
    }

    pub fn doorbell_saved(&self) {
        add(&self.doorbells_saved, 1);
    }

    fn read(&self) -> Counters {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Counters {
            commands: get(&self.commands) + get(&self.usual),
            direct: get(&self.direct) + get(&self.usual),
            bounced: get(&self.bounced),
            bounced_bytes: get(&self.bounced_bytes),
            unreachable: 0,
            cmb_queues: 0,
            cmb_pools: 0,
            sgl: get(&self.sgl),
            sq_doorbells: get(&self.sq_doorbells),
            cq_doorbells: get(&self.cq_doorbells),
            doorbells_saved: get(&self.doorbells_saved),
        }
    }
}

/// The counters of all queues of a transport.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    open: Vec<Arc<QueueCounters>>,
    /// What the queues that are gone had counted.
    closed: Counters,
}

impl Ledger {
    /// Counters for a new queue.
    pub fn open(&self) -> Arc<QueueCounters> {
        let counters = Arc::new(QueueCounters::default());
        self.state.lock().open.push(Arc::clone(&counters));
        counters
    }

    /// A device could not be given a region.
    pub fn unreachable(&self) {
        self.state.lock().closed.unreachable += 1;
    }

    /// An I/O queue has been made, with so much of it in controller memory.
    pub fn queue_opened(&self, queue: bool, pool: bool) {
        let closed = &mut self.state.lock().closed;
        closed.cmb_queues += u64::from(queue);
        closed.cmb_pools += u64::from(pool);
    }

    /// The sum over all queues.
    pub fn read(&self) -> Counters {
        let mut books = self.state.lock();
        let books = &mut *books;
        books.open.retain(|counters| {
            // Nobody else has them: the queue is gone.
            let gone = Arc::strong_count(counters) == 1;
            if gone {
                books.closed = sum(books.closed, counters.read());
            }
            !gone
        });
        books.open.iter().fold(books.closed, |total, counters| sum(total, counters.read()))
    }
}

fn sum(a: Counters, b: Counters) -> Counters {
    Counters {
        commands: a.commands + b.commands,
        direct: a.direct + b.direct,
        bounced: a.bounced + b.bounced,
        bounced_bytes: a.bounced_bytes + b.bounced_bytes,
        unreachable: a.unreachable + b.unreachable,
        cmb_queues: a.cmb_queues + b.cmb_queues,
        cmb_pools: a.cmb_pools + b.cmb_pools,
        sgl: a.sgl + b.sgl,
        sq_doorbells: a.sq_doorbells + b.sq_doorbells,
        cq_doorbells: a.cq_doorbells + b.cq_doorbells,
        doorbells_saved: a.doorbells_saved + b.doorbells_saved,
    }
}
