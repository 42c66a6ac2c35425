//! The two rings of a queue pair (NVMe 2.1 §3.3.1): entries in memory, positions here.

use std::sync::atomic::Ordering;

use nvme_core::spec::{Cqe, Sqe};
use zerocopy::IntoBytes;

use crate::dma::DmaMemory;

/// Bytes of a submission queue entry.
pub(crate) const SQE_BYTES: usize = size_of::<Sqe>();
/// Bytes of a completion queue entry.
pub(crate) const CQE_BYTES: usize = size_of::<Cqe>();

/// A submission queue head that the controller cannot have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHead {
    /// What the controller says.
    pub said: u16,
    /// Where it was before.
    pub head: u16,
    /// Where it may be at most.
    pub tail: u16,
}

/// The host's end of a submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionRing {
    memory: DmaMemory,
    entries: u16,
    tail: u16,
    /// How far the controller is known to have read.
    head: u16,
    /// The tail that the controller was told.
    told: u16,
}

impl SubmissionRing {
    /// An empty ring of `entries` in memory that is at least as large.
    pub fn new(memory: DmaMemory, entries: u16) -> Self {
        Self { memory, entries, tail: 0, head: 0, told: 0 }
    }

    /// Bus address of the first entry.
    pub fn base(&self) -> Option<u64> {
        self.memory.bus(0)
    }

    pub fn entries(&self) -> u16 {
        self.entries
    }

    fn next(&self, at: u16) -> u16 {
        if at + 1 == self.entries { 0 } else { at + 1 }
    }

    /// Whether there is no room, as far as the controller has told.
    pub fn is_full(&self) -> bool {
        self.next(self.tail) == self.head
    }

    /// Writes an entry; false if there is no room.
    #[must_use]
    pub fn push(&mut self, sqe: &Sqe) -> bool {
        if self.is_full() {
            return false;
        }
        let written = self.memory.copy_in(usize::from(self.tail) * SQE_BYTES, sqe.as_bytes());
        if written {
            self.tail = self.next(self.tail);
        }
        written
    }

    /// The tail to be written to the doorbell, if the controller does not know it yet.
    pub fn untold(&mut self) -> Option<u16> {
        if self.told == self.tail {
            return None;
        }
        self.told = self.tail;
        Some(self.tail)
    }

    /// Takes over the head that a completion reports. It may stay or move on, not past what the
    /// controller was told of.
    pub fn set_head(&mut self, said: u16) -> Result<(), BadHead> {
        let n = u32::from(self.entries);
        let distance = |to: u16| (u32::from(to) + n - u32::from(self.head)) % n;
        if said >= self.entries || distance(said) > distance(self.told) {
            return Err(BadHead { said, head: self.head, tail: self.told });
        }
        self.head = said;
        Ok(())
    }
}

/// The host's end of a completion queue.
#[derive(Debug)]
pub(crate) struct CompletionRing {
    memory: DmaMemory,
    entries: u16,
    head: u16,
    /// The phase tag of entries that are new on this pass (NVMe 2.1 §4.2.4).
    phase: bool,
    told: u16,
}

/// Where the phase tag is in an entry's second half.
const PHASE: u64 = 1 << 48;

impl CompletionRing {
    /// An empty ring of `entries` in zeroed memory that is at least as large.
    pub fn new(memory: DmaMemory, entries: u16) -> Self {
        Self { memory, entries, head: 0, phase: true, told: 0 }
    }

    /// Bus address of the first entry.
    pub fn base(&self) -> Option<u64> {
        self.memory.bus(0)
    }

    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// The next entry, if the controller has written it.
    ///
    /// The half with the phase tag is read first, and with acquire: what the controller wrote before
    /// it, the other half and the command's data, is then there to be seen. Both halves are single
    /// reads, so that neither can be torn.
    #[inline]
    pub fn peek(&self) -> Option<Cqe> {
        let at = usize::from(self.head) * CQE_BYTES;
        let second = self.memory.word(at + 8)?.load(Ordering::Acquire);
        if (u64::from_le(second) & PHASE != 0) != self.phase {
            return None;
        }
        let first = self.memory.word(at)?.load(Ordering::Relaxed);
        Some(zerocopy::transmute!([first, second]))
    }

    /// Goes on to the entry after the one that was read.
    pub fn advance(&mut self) {
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
    }

    /// The head to be written to the doorbell, if the controller does not know it yet.
    pub fn untold(&mut self) -> Option<u16> {
        if self.told == self.head {
            return None;
        }
        self.told = self.head;
        Some(self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn the_ring_holds_one_entry_less_and_follows_the_head() {
        let mut sq = SubmissionRing::new(heap::alloc(4096, 0x1000), 4);
        let sqe = Sqe::flush(1);
        assert_eq!(sq.untold(), None);
        assert!((0..3).all(|_| sq.push(&sqe)));
        assert!(sq.is_full() && !sq.push(&sqe));
        assert_eq!((sq.untold(), sq.untold()), (Some(3), None));
        sq.set_head(2).unwrap();
        assert_eq!(sq.set_head(1), Err(BadHead { said: 1, head: 2, tail: 3 }), "backwards");
        assert!(sq.set_head(4).is_err(), "no such entry");
        assert!(sq.push(&sqe) && sq.push(&sqe) && !sq.push(&sqe));
        assert!(sq.set_head(0).is_err(), "not told of yet");
        assert_eq!(sq.untold(), Some(1));
        sq.set_head(0).unwrap();
    }

    #[test]
    fn an_entry_is_seen_when_its_phase_is_right() {
        let memory = heap::alloc(4096, 0x1000);
        let put = |memory: &DmaMemory, at: usize, phase: bool| {
            let mut cqe = Cqe::new(7, nvme_core::spec::Status::SUCCESS, 0x1122_3344_5566_7788);
            cqe.set_status(nvme_core::spec::Status::SUCCESS, phase);
            assert!(memory.copy_in(at * CQE_BYTES, cqe.as_bytes()));
        };
        put(&memory, 0, true);
        let mut cq = CompletionRing::new(memory, 2);
        let seen = cq.peek().unwrap();
        assert_eq!((seen.cid.get(), seen.result()), (7, 0x1122_3344_5566_7788));
        cq.advance();
        assert!(cq.peek().is_none());
        put(&cq.memory, 1, true);
        assert!(cq.peek().is_some());
        cq.advance();
        assert!(cq.peek().is_none(), "the entry of the pass before");
        put(&cq.memory, 0, false);
        assert!(cq.peek().is_some());
        assert_eq!((cq.untold(), cq.untold()), (None, None), "two on, which is where it was");
    }
}
