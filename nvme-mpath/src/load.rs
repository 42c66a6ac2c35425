//! What the channels of a host tell each other, and the control plane, about the queues of one
//! association: counts on a cache line for each queue, written by the channel that owns the queue
//! and by nobody else.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The counts of one queue.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    /// Commands that ended, for the keep-alive's sake (TBKAS, `NVMe 2.1 §3.9.4.2`).
    completions: AtomicU64,
    /// Commands in flight when the owner last flushed or polled.
    in_flight: AtomicU32,
}

impl Cell {
    /// Counts completions. For the owner of the queue only.
    pub(crate) fn count(&self, completions: u64) {
        let seen = self.completions.load(Ordering::Relaxed);
        self.completions.store(seen.wrapping_add(completions), Ordering::Relaxed);
    }

    /// Tells how much is in flight. For the owner of the queue only.
    pub(crate) fn tell(&self, in_flight: u32) {
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }
}

/// The cells of all I/O queues of an association.
#[derive(Debug)]
pub(crate) struct Board {
    /// By queue identifier, from 1.
    cells: Box<[CachePadded<Cell>]>,
    /// No queue with a higher identifier was given to a channel.
    highest: AtomicU16,
}

impl Board {
    pub(crate) fn new(queues: u16) -> Self {
        let cells = (0..queues).map(|_| CachePadded::default()).collect();
        Self { cells, highest: AtomicU16::new(0) }
    }

    /// Notes that a channel gets this queue.
    pub(crate) fn give(&self, qid: u16) {
        self.highest.fetch_max(qid, Ordering::Relaxed);
    }

    pub(crate) fn cell(&self, qid: u16) -> Option<&Cell> {
        self.cells.get(usize::from(qid).checked_sub(1)?).map(|cell| &**cell)
    }

    fn given(&self) -> impl Iterator<Item = (u16, &Cell)> {
        let highest = usize::from(self.highest.load(Ordering::Relaxed));
        (1..).zip(self.cells.iter().take(highest).map(|cell| &**cell))
    }

    /// Commands in flight on all queues but this one.
    pub(crate) fn others(&self, qid: u16) -> u32 {
        let others = self.given().filter(|(other, _)| *other != qid);
        others.map(|(_, cell)| cell.in_flight.load(Ordering::Relaxed)).fold(0, u32::saturating_add)
    }

    /// Commands in flight, on all queues.
    pub(crate) fn in_flight(&self) -> u32 {
        // No queue has this identifier: it is the admin queue's.
        self.others(0)
    }

    /// Commands that ended, on all queues.
    pub(crate) fn completions(&self) -> u64 {
        let all = self.given().map(|(_, cell)| cell.completions.load(Ordering::Relaxed));
        all.fold(0, u64::wrapping_add)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_queue_counts_for_all_others() {
        let board = Board::new(3);
        for qid in 1..=3 {
            board.give(qid);
            board.cell(qid).unwrap().tell(u32::from(qid) * 10);
            board.cell(qid).unwrap().count(u64::from(qid));
        }
        assert_eq!((board.others(1), board.others(3), board.completions()), (50, 30, 6));
        assert_eq!(board.in_flight(), 60);
        board.cell(2).unwrap().tell(0);
        assert_eq!((board.others(1), board.others(2)), (30, 40));
        assert!(board.cell(0).is_none() && board.cell(4).is_none());
    }
}
