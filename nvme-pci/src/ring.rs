//! The two rings of a queue pair (NVMe 2.1 §3.3.1): entries in memory, positions here.

use std::sync::atomic::Ordering;

use nvme_core::spec::{Cqe, Sqe};
use zerocopy::IntoBytes;

use crate::dma::DmaMemory;

/// Bytes of a submission queue entry.
pub(crate) const SQE_BYTES: usize = size_of::<Sqe>();
/// Bytes of a completion queue entry.
pub(crate) const CQE_BYTES: usize = size_of::<Cqe>();

/// A submission queue head that the controller cannot have reached, or have passed long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHead {
    /// What the controller says.
    pub said: u16,
    /// The least that it may say.
    pub least: u16,
    /// The most.
    pub most: u16,
}

/// The host's end of a submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionRing {
    memory: DmaMemory,
    /// The memory is the controller's: reached over the bus, by whole words.
    remote: bool,
    entries: u16,
    tail: u16,
    /// Entries ever written; the last one is just before the tail.
    written: u64,
    /// How far the controller is known to have read.
    head: u16,
    /// Entries that the controller is known to have read.
    read: u64,
    /// The tail that the controller was told, and as a number of entries.
    told: u16,
    told_of: u64,
}

impl SubmissionRing {
    /// An empty ring of `entries` in memory that is at least as large.
    pub fn new(memory: DmaMemory, remote: bool, entries: u16) -> Self {
        let (tail, head, told) = (0, 0, 0);
        Self { memory, remote, entries, tail, written: 0, head, read: 0, told, told_of: 0 }
    }

    /// Bus address of the first entry.
    pub fn base(&self) -> Option<u64> {
        self.memory.bus(0)
    }

    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// The position `by` entries, less than a turn, after `at`.
    #[inline]
    fn after(&self, at: u16, by: u16) -> u16 {
        let sum = u32::from(at) + u32::from(by);
        let n = u32::from(self.entries);
        (if sum >= n { sum - n } else { sum }) as u16
    }

    /// Whether there is no room, as far as the controller has told.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.written - self.read >= u64::from(self.entries) - 1
    }

    /// The number that the next entry gets.
    #[inline]
    pub fn next_number(&self) -> u64 {
        self.written
    }

    /// Writes an entry. There must be [room](Self::is_full): there is for as many commands as the ring
    /// has entries less one, since an entry that has not been read has not been answered either.
    #[inline]
    pub fn write(&mut self, sqe: &Sqe) -> bool {
        self.write_words(zerocopy::transmute_ref!(sqe))
    }

    /// The same of an entry as it is in memory.
    #[inline]
    pub fn write_words(&mut self, sqe: &[u64; 8]) -> bool {
        debug_assert!(!self.is_full(), "an entry that has not been read would be lost");
        let at = usize::from(self.tail) * SQE_BYTES;
        let written = match self.remote {
            false => self.memory.copy_in(at, sqe.as_bytes()),
            // By value, so that an entry that is made here need not be in memory for this.
            true => self.store(at, *sqe),
        };
        if written {
            let next = self.tail + 1;
            self.tail = if next == self.entries { 0 } else { next };
            self.written += 1;
        }
        written
    }

    #[cold]
    fn store(&self, at: usize, sqe: [u64; 8]) -> bool {
        sqe.iter().enumerate().all(|(i, word)| {
            let to = self.memory.word(at + i * 8);
            to.map(|to| to.store(*word, Ordering::Relaxed)).is_some()
        })
    }

    /// Whether the controller does not know of all entries yet.
    #[inline]
    pub fn is_untold(&self) -> bool {
        self.told_of != self.written
    }

    /// What is in the doorbell and what is to be written there, if the controller does not know of
    /// all entries yet.
    #[inline]
    pub fn untold(&mut self) -> Option<(u16, u16)> {
        if !self.is_untold() {
            return None;
        }
        let before = std::mem::replace(&mut self.told, self.tail);
        self.told_of = self.written;
        Some((before, self.tail))
    }

    /// Takes over the head that the completion of entry `number` reports, with `in_flight` commands
    /// not yet completed.
    ///
    /// Neither may be past what the controller was told of. It should not be before the entry itself
    /// or an earlier head either (NVMe 2.1 §4.2.1); but a controller that completes several commands
    /// at once may post what it saw a moment ago, so that it is let lag by as many entries as there
    /// are commands in flight. What it must have read, it has read, whatever it says.
    #[inline]
    pub fn completed(&mut self, number: u64, said: u16, in_flight: usize) -> Result<(), BadHead> {
        let ahead = self.told_of - self.read;
        let turn = if said < self.head { self.entries } else { 0 };
        let moved = u64::from(said.wrapping_sub(self.head).wrapping_add(turn));
        // Nearly always it is somewhere from the entry itself to the last one that was told.
        if said < self.entries && moved <= ahead && number < self.read + moved {
            self.head = said;
            self.read += moved;
            return Ok(());
        }
        self.lagged(number, said, in_flight)
    }

    /// The same for a head that lags, or cannot be.
    #[cold]
    fn lagged(&mut self, number: u64, said: u16, in_flight: usize) -> Result<(), BadHead> {
        let n = self.entries;
        // Both fit: less than a turn is ever outstanding.
        let ahead = (self.told_of - self.read) as u16;
        let lag = u16::try_from(in_flight).unwrap_or(u16::MAX).min(n - 1 - ahead);
        let least = self.after(self.head, if lag == 0 { 0 } else { n - lag });
        let bad = BadHead { said, least, most: self.told };
        if said >= n || number >= self.told_of {
            return Err(bad);
        }
        let distance = if said >= least { said - least } else { said + (n - least) };
        let moved = match distance.checked_sub(lag) {
            Some(moved) if moved <= ahead => moved,
            Some(_) => return Err(bad),
            None => 0,
        };
        let own = (number + 1).saturating_sub(self.read).min(ahead.into()) as u16;
        let moved = moved.max(own);
        self.head = self.after(self.head, moved);
        self.read += u64::from(moved);
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
    #[inline]
    pub fn advance(&mut self) {
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
    }

    /// Whether the controller does not know yet how far this is.
    #[inline]
    pub fn is_untold(&self) -> bool {
        self.told != self.head
    }

    /// What is in the doorbell and what is to be written there, if the controller does not know yet
    /// how far this is.
    #[inline]
    pub fn untold(&mut self) -> Option<(u16, u16)> {
        if !self.is_untold() {
            return None;
        }
        let before = std::mem::replace(&mut self.told, self.head);
        Some((before, self.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    /// Writes an entry, if there is room.
    fn push(sq: &mut SubmissionRing, sqe: &Sqe) -> bool {
        !sq.is_full() && sq.write(sqe)
    }

    #[test]
    fn the_ring_holds_one_entry_less_and_follows_the_head() {
        let mut sq = SubmissionRing::new(heap::alloc(4096, 0x1000), false, 4);
        let sqe = Sqe::flush(1);
        assert_eq!(sq.untold(), None);
        assert!((0..3).all(|_| push(&mut sq, &sqe)));
        assert!(sq.is_full() && !push(&mut sq, &sqe));
        assert_eq!((sq.untold(), sq.untold()), (Some((0, 3)), None));
        sq.completed(0, 2, 3).unwrap();
        assert_eq!(sq.completed(1, 1, 0), Err(BadHead { said: 1, least: 2, most: 3 }), "backwards");
        assert!(sq.completed(1, 4, 2).is_err(), "no such entry");
        assert!(push(&mut sq, &sqe) && push(&mut sq, &sqe) && !push(&mut sq, &sqe));
        assert!(sq.completed(1, 0, 0).is_err(), "not told of yet");
        assert!(sq.completed(3, 3, 2).is_err(), "the entry has not been told of");
        assert_eq!(sq.untold(), Some((3, 1)));
        sq.completed(1, 0, 0).unwrap();
    }

    #[test]
    fn a_head_may_lag_by_what_is_in_flight_and_takes_no_room_away() {
        let mut sq = SubmissionRing::new(heap::alloc(4096, 0x1000), false, 8);
        let sqe = Sqe::flush(1);
        for _ in 0..4 {
            assert!(push(&mut sq, &sqe));
        }
        assert_eq!(sq.untold(), Some((0, 4)));
        sq.completed(2, 3, 4).unwrap();
        sq.completed(0, 2, 3).unwrap();
        assert_eq!(sq.completed(1, 0, 2), Err(BadHead { said: 0, least: 1, most: 4 }));
        // The last entry is completed by a controller that says that it has not read it.
        sq.completed(3, 3, 1).unwrap();
        assert!((0..7).all(|_| push(&mut sq, &sqe)) && sq.is_full());
    }

    #[test]
    fn a_command_that_is_under_way_for_many_turns_disturbs_nothing() {
        let mut sq = SubmissionRing::new(heap::alloc(4096, 0x1000), false, 5);
        let sqe = Sqe::flush(1);
        assert!(push(&mut sq, &sqe));
        for number in 1..100 {
            assert!(push(&mut sq, &sqe));
            let (_, tail) = sq.untold().unwrap();
            sq.completed(number, tail, 2).unwrap();
        }
        sq.completed(0, 100 % 5, 1).unwrap();
        assert_eq!((sq.read, sq.head), (100, 0));
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
