//! Which reads are expected to be answered next, and the list of pieces into which their answers are received.
//!
//! A controller that answers from memory mostly answers reads in the order in which it got them. So the bytes to
//! come are received by a list: a header, the buffer of the oldest read, a header, the buffer of the
//! next, and so on. What to do with them once they are there is in `place.rs`.

use nvme_core::transport::Data;

use super::quick::HEADER;
use super::rx::{DIRECT, Payload, SPILL, STAGE};
use super::slots::{Slot, Slots};

/// Most reads in one list: as many of 4 KiB as could be copied into the staging buffer and its spill.
const MOST: usize = 16;

/// Most slices of a list: what is being received, of each read what is before its data and the data, the last response, and
/// the staging buffer.
pub const LIST: usize = 2 * MOST + 3;

/// For fewer there is no list: a copy costs about as much.
pub(super) const LEAST: usize = 2;

/// Receives that go the general way after the first answer out of order; more after each further one.
const PAUSE: u32 = 64;

/// Most receives that go the general way after an answer out of order.
const LONG_PAUSE: u32 = 4096;

/// How a controller says that a read is done, as it did last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Answers have another form than can be foreseen.
    Unknown,
    /// By a flag of the data PDU.
    WithData,
    /// By a response behind the data PDU.
    ByResponse,
}

/// A read whose answer is expected.
#[derive(Debug)]
pub(super) struct Piece {
    /// The response to the read before, if there is one, and the header of the data.
    pub(super) lead: [u8; 2 * HEADER],
    pub(super) cid: u16,
    pub(super) slot: u16,
    /// Bytes of its data.
    pub(super) len: u32,
    /// The buffer, which is not in the slot meanwhile.
    pub(super) data: Data,
    /// Place in the order behind this read.
    next: u32,
}

/// The reads in flight in the order in which they were submitted, and those that are in a list.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Identifiers in order, a ring; those of commands that have ended meanwhile are passed over.
    order: Box<[u16]>,
    first: u32,
    end: u32,
    /// One more than reads: the last has the last response.
    pub(super) pieces: Box<[Piece]>,
    pub(super) used: usize,
    /// The read in front of the first piece, whose response is awaited.
    pub(super) owed: Option<u16>,
    pub(super) ends: Ends,
    /// Receives that go the general way.
    pause: u32,
    next_pause: u32,
}

impl Ahead {
    /// For so many commands.
    pub(crate) fn new(capacity: u16) -> Self {
        let piece =
            || Piece { lead: [0; 2 * HEADER], cid: 0, slot: 0, len: 0, data: Data::None, next: 0 };
        Self {
            order: vec![0; usize::from(capacity).next_power_of_two()].into(),
            first: 0,
            end: 0,
            pieces: std::iter::repeat_with(piece).take(MOST + 1).collect(),
            used: 0,
            owed: None,
            ends: Ends::Unknown,
            pause: 0,
            next_pause: PAUSE,
        }
    }

    /// Takes note of a read that has been submitted.
    #[inline]
    pub(crate) fn push(&mut self, cid: u16) {
        let mask = self.order.len() - 1;
        if let Some(place) = self.order.get_mut(self.end as usize & mask) {
            *place = cid;
        }
        self.end = self.end.wrapping_add(1);
        if self.end.wrapping_sub(self.first) as usize > mask + 1 {
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Takes note of the form of an answer.
    #[inline]
    pub(crate) fn learn(&mut self, plain: bool, success: bool) {
        self.ends = match (plain, success) {
            (false, _) => Ends::Unknown,
            (true, true) => Ends::WithData,
            (true, false) => Ends::ByResponse,
        };
    }

    /// Whether a list may be worth it now, with so many commands in flight.
    #[inline]
    pub(crate) fn is_likely(&self, in_flight: usize) -> bool {
        in_flight >= LEAST && self.pause == 0 && self.ends != Ends::Unknown
    }

    /// Whether buffers are in a list.
    #[inline]
    pub(crate) fn is_listed(&self) -> bool {
        self.used > 0
    }

    /// Whether more reads may follow those in the list.
    pub(crate) fn is_full(&self) -> bool {
        self.used == MOST
    }

    /// Collects the reads that are expected to be answered next, all sent up to the stream position `sent`. What is being
    /// received belongs to none of them.
    pub(crate) fn collect(&mut self, slots: &mut Slots, sent: u64, receiving: Option<Payload>) {
        let mask = self.order.len() - 1;
        let (mut at, mut bytes) = (self.first, 2 * HEADER);
        let mut front = receiving.map(|p| p.slot);
        let mut stale = true;
        self.owed = None;
        while at != self.end && self.used < MOST {
            let cid = self.order.get(at as usize & mask).copied().unwrap_or_default();
            at = at.wrapping_add(1);
            let Some((index, slot)) = slots.active_mut(cid) else {
                if stale {
                    self.first = at;
                }
                continue;
            };
            stale = false;
            let begun = slot.received == slot.len && slot.last_seen && slot.tx_end <= sent;
            if begun && self.used == 0 && self.owed.is_none() && front.is_none_or(|f| f == index) {
                // Nothing but its response may be missing, and the rest of its data before.
                front = None;
                if receiving.is_none_or(|p| !p.success) {
                    self.owed = Some(index);
                }
                continue;
            }
            bytes += 2 * HEADER + slot.len as usize;
            if front.is_some() || !is_fit(slot, sent) || bytes > STAGE + SPILL {
                break;
            }
            let Some(piece) = self.pieces.get_mut(self.used) else { break };
            (piece.cid, piece.slot, piece.len, piece.next) = (cid, index, slot.len, at);
            piece.data = std::mem::take(&mut slot.data);
            self.used += 1;
        }
        if self.owed.is_some() && self.ends == Ends::WithData || self.used < LEAST {
            self.give_back(0, slots);
        }
    }

    /// Bytes of a response in front of the data header of the piece at `index`.
    pub(super) fn response_before(&self, index: usize) -> usize {
        let there = if index > 0 { self.ends == Ends::ByResponse } else { self.owed.is_some() };
        if there { HEADER } else { 0 }
    }

    /// Puts the list into slices, `begun` bytes of which have come before; how many bytes it has in all.
    pub(crate) fn list<'a>(&'a mut self, begun: &[u8], mut put: impl FnMut(&'a mut [u8])) -> usize {
        let (first, others) = (self.response_before(0), self.response_before(1));
        let (mut bytes, mut begun) = (0, begun);
        let used = self.used;
        for (index, piece) in self.pieces.iter_mut().take(used + 1).enumerate() {
            let response = if index == 0 { first } else { others };
            let end = if index < used { 2 * HEADER } else { HEADER };
            let lead = piece.lead.get_mut(HEADER - response..end).unwrap_or_default();
            bytes += lead.len();
            let (came, rest) = lead.split_at_mut(begun.len().min(lead.len()));
            came.copy_from_slice(begun.get(..came.len()).unwrap_or_default());
            begun = &[];
            put(rest);
            if index < used
                && let Data::Read(buffer) = &mut piece.data
            {
                bytes += piece.len as usize;
                put(buffer.as_mut_slice());
            }
        }
        bytes
    }

    /// Shows the bytes of the list from one lead on, in pieces.
    pub(super) fn each_from(&self, from: usize, mut show: impl FnMut(&[u8])) {
        for index in from..=self.used {
            let Some(piece) = self.pieces.get(index) else { return };
            let begin = HEADER - self.response_before(index);
            let end = if index < self.used { 2 * HEADER } else { HEADER };
            show(piece.lead.get(begin..end).unwrap_or_default());
            if let Data::Read(buffer) = &piece.data {
                show(buffer.as_slice());
            }
        }
    }

    /// Gives the buffers of the list back to their slots, from one piece on; the list is empty then.
    pub(crate) fn give_back(&mut self, from: usize, slots: &mut Slots) {
        let used = std::mem::take(&mut self.used);
        for piece in self.pieces.get_mut(from..used).unwrap_or_default() {
            slots.get_mut(piece.slot).data = std::mem::take(&mut piece.data);
        }
    }

    /// So many of the list have been completed, and what came next was right as far as it is there.
    pub(super) fn completed(&mut self, count: usize, right: bool) {
        if let Some(last) = self.pieces.get(..count).and_then(<[Piece]>::last) {
            self.first = last.next;
        }
        if !right {
            self.missed();
        } else if count >= LEAST {
            self.next_pause = PAUSE;
        }
    }

    /// An answer came that had not been expected.
    #[cold]
    fn missed(&mut self) {
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(LONG_PAUSE);
    }

    /// Something was received the general way.
    #[inline]
    pub(crate) fn was_general(&mut self) {
        self.pause = self.pause.saturating_sub(1);
    }
}

/// Whether the answer to this read can be foreseen.
fn is_fit(slot: &Slot, sent: u64) -> bool {
    // Identifiers come again in large tables: one may be in the order twice, and its buffer in the list by then.
    let idle = matches!(slot.data, Data::Read(_)) && slot.received == 0 && !slot.last_seen;
    idle && slot.len < DIRECT && slot.tx_end <= sent
}
