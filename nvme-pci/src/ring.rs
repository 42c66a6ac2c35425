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
    /// Where the next entry goes.
    tail: Spot,
    /// How far the controller is known to have read.
    read: Spot,
    /// The tail that the controller was told.
    told: Spot,
}

/// A position on a submission ring: the number of the turn, and in the lower 16 bits the entry. So a
/// later one is greater, and it takes neither a division nor a second number to know where it is.
pub(crate) type Spot = u64;

/// One turn.
const TURN: Spot = 1 << 16;

impl SubmissionRing {
    /// An empty ring of `entries` in memory that is at least as large.
    pub fn new(memory: DmaMemory, remote: bool, entries: u16) -> Self {
        Self { memory, remote, entries, tail: 0, read: 0, told: 0 }
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
        self.number(self.tail) - self.number(self.read) >= u64::from(self.entries) - 1
    }

    /// How many entries there were before this one.
    fn number(&self, at: Spot) -> u64 {
        (at / TURN) * u64::from(self.entries) + at % TURN
    }

    /// Where the next entry goes.
    #[inline]
    pub fn next_spot(&self) -> Spot {
        self.tail
    }

    /// Writes an entry. There must be [room](Self::is_full): there is for as many commands as the ring
    /// has entries less one, since an entry that has not been read has not been answered either.
    pub fn write(&mut self, sqe: &Sqe) -> bool {
        let sqe: &[u64; 8] = zerocopy::transmute_ref!(sqe);
        if !self.remote {
            return self.write_near(sqe);
        }
        let at = usize::from(self.tail as u16) * SQE_BYTES;
        let written = sqe.iter().enumerate().all(|(i, word)| {
            let to = self.memory.word(at + i * 8);
            to.map(|to| to.store(*word, Ordering::Relaxed)).is_some()
        });
        if written {
            self.went_on();
        }
        written
    }

    /// The same where the memory is not [the controller's](Self::is_remote).
    #[inline]
    pub fn write_near(&mut self, sqe: &[u64; 8]) -> bool {
        debug_assert!(!self.is_full(), "an entry that has not been read would be lost");
        let written =
            self.memory.copy_in(usize::from(self.tail as u16) * SQE_BYTES, sqe.as_bytes());
        if written {
            self.went_on();
        }
        written
    }

    /// An entry was written.
    #[inline]
    fn went_on(&mut self) {
        let next = self.tail + 1;
        self.tail = if next as u16 == self.entries { (next | (TURN - 1)) + 1 } else { next };
    }

    /// Whether the memory is the controller's.
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// Whether the controller does not know of all entries yet.
    #[inline]
    pub fn is_untold(&self) -> bool {
        self.told != self.tail
    }

    /// What is in the doorbell and what is to be written there, if the controller does not know of
    /// all entries yet.
    #[inline]
    pub fn untold(&mut self) -> Option<(u16, u16)> {
        if !self.is_untold() {
            return None;
        }
        let before = std::mem::replace(&mut self.told, self.tail);
        Some((before as u16, self.tail as u16))
    }

    /// Takes over the head that the completion of the entry at a spot reports, with `in_flight` commands
    /// not yet completed.
    ///
    /// Neither may be past what the controller was told of. It should not be before the entry itself
    /// or an earlier head either (NVMe 2.1 §4.2.1); but a controller that completes several commands
    /// at once may post what it saw a moment ago, so that it is let lag by as many entries as there
    /// are commands in flight. What it must have read, it has read, whatever it says.
    #[inline]
    pub fn completed(&mut self, entry: Spot, said: u16, in_flight: usize) -> Result<(), BadHead> {
        // Where that is if it is past the entry, and less than a turn.
        let turn = if said <= entry as u16 { TURN } else { 0 };
        let read = (entry & !(TURN - 1) | u64::from(said)) + turn;
        // Nearly always it is so, and from the last one on to what was told at most.
        if said >= self.entries {
            return self.lagged(entry, said, in_flight);
        }
        if read < self.read || read > self.told {
            return self.lagged(entry, said, in_flight);
        }
        self.read = read;
        Ok(())
    }

    /// The same for a head that lags, or cannot be.
    #[cold]
    fn lagged(&mut self, entry: Spot, said: u16, in_flight: usize) -> Result<(), BadHead> {
        let n = self.entries;
        let read = self.number(self.read);
        // Both fit: less than a turn is ever outstanding.
        let ahead = (self.number(self.told) - read) as u16;
        let lag = u16::try_from(in_flight).unwrap_or(u16::MAX).min(n - 1 - ahead);
        let least = self.after(self.read as u16, if lag == 0 { 0 } else { n - lag });
        let bad = BadHead { said, least, most: self.told as u16 };
        if said >= n || entry >= self.told {
            return Err(bad);
        }
        let distance = if said >= least { said - least } else { said + (n - least) };
        let moved = match distance.checked_sub(lag) {
            Some(moved) if moved <= ahead => moved,
            Some(_) => return Err(bad),
            None => 0,
        };
        let own = (self.number(entry) + 1).saturating_sub(read).min(ahead.into()) as u16;
        let read = read + u64::from(moved.max(own));
        self.read = (read / u64::from(n)) * TURN + read % u64::from(n);
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
            let spot = sq.next_spot();
            assert_eq!((sq.number(spot), spot as u16), (number, (number % 5) as u16));
            assert!(push(&mut sq, &sqe));
            let (_, tail) = sq.untold().unwrap();
            sq.completed(spot, tail, 2).unwrap();
        }
        sq.completed(0, 100 % 5, 1).unwrap();
        assert_eq!((sq.number(sq.read), sq.read as u16), (100, 0));
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
