//! The slab that holds a channel's requests from their submission to their end.
//!
//! An entry is two cache lines, which is all that a request touches that is sent and answered. What
//! only some need is in tables beside it.

use nvme_core::buffer::Buffer;
use nvme_core::list::push_with;
use nvme_core::spec::Cqe;
use nvme_core::time::Instant;
use nvme_core::transport::{Data, Tag};

use super::pace::Kind;
use super::request::{Asked, IoCompletion};
use crate::error::{IoError, IoOp};
use crate::ids::AssociationId;
use crate::view::Layout;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: the entry is free.
    Free,
    /// On the way to a queue: new, or to be sent again.
    Waiting,
    /// In the queue of the association in `sent_on`.
    InFlight,
    /// Waiting for a path.
    Parked,
    /// Waiting for its time to be sent again.
    Delayed,
    /// Held until a lost controller is fenced.
    Held,
}

/// What is out of the ordinary about a request. Where nothing is, nothing but this word is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    /// Force unit access.
    pub(super) const FUA: Self = Self(1);
    /// Made by a blocking call, which waits for its completion.
    pub(super) const BLOCKING: Self = Self(1 << 1);
    /// The program does not want it any more: it ends as soon as nothing can touch its buffer.
    pub(super) const CANCELLED: Self = Self(1 << 2);
    /// It has a time limit of its own, [`History::expires`].
    pub(super) const LIMITED: Self = Self(1 << 3);
    /// That has passed.
    pub(super) const EXPIRED: Self = Self(1 << 4);
    /// It was lost with a connection, so that nobody knows whether it was executed.
    pub(super) const UNCERTAIN: Self = Self(1 << 5);
    /// Its data is the library's own, and not for the program.
    pub(super) const OWN_DATA: Self = Self(1 << 6);
    /// It has a [`History`].
    pub(super) const HISTORY: Self = Self(1 << 7);
    /// It has a second attempt, or had one that won.
    pub(super) const HEDGED: Self = Self(1 << 8);
    /// It has a [`Timing`].
    pub(super) const TIMED: Self = Self(1 << 9);
    /// Those on account of which there is more to do about a success than to tell of it.
    pub(super) const ODD: Self =
        Self(Self::BLOCKING.0 | Self::OWN_DATA.0 | Self::HEDGED.0 | Self::TIMED.0);

    #[inline]
    pub(super) const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    #[inline]
    pub(super) const fn set(&mut self, flag: Self) {
        self.0 |= flag.0;
    }

    #[inline]
    pub(super) const fn clear(&mut self, flag: Self) {
        self.0 &= !flag.0;
    }
}

/// A second attempt of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hedge {
    /// There is none.
    None,
    /// This one is in flight.
    Attempt(u16),
    /// It has been answered and the request has ended; the entry only waits until the first path
    /// gives the buffer back.
    Won,
}

/// One request under way: what is read and written for each.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) op: IoOp,
    pub(super) flags: Flags,
    /// Its place, and above it a generation: what its completion is known by.
    pub(super) tag: Tag,
    pub(super) blocks: u32,
    /// What `blocks` and `slba` count in: a namespace may be formatted while the request waits.
    pub(super) layout: Layout,
    /// Place of the head in the channel's table.
    pub(super) head: u32,
    /// Of a free entry: the next free one.
    next: u32,
    // In the order in which requests and completions have them: they are copied together.
    pub(super) user_data: u64,
    pub(super) slba: u64,
    /// Where it was last sent.
    pub(super) sent_on: AssociationId,
    /// When it was sent, as far as time-outs are concerned; `ZERO` until the next look.
    pub(super) sent_at: Instant,
    /// The data, while it is not in a queue.
    pub(super) data: Data,
}

impl Entry {
    /// The entry is nobody's.
    #[inline]
    const fn vacate(&mut self) {
        self.tag = self.tag.wrapping_add(1 << PLACE_BITS);
        self.place = Place::Free;
    }
}

/// What befell a request that was not simply sent and answered. Apart from the entry, so that others
/// need not pay for it; begun when it is first asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    pub(super) retries: u32,
    pub(super) path_errors: u32,
    /// Where it met a path error: it goes elsewhere if it can.
    pub(super) shunned: Option<AssociationId>,
    /// Of no meaning unless it is [`Flags::LIMITED`].
    pub(super) expires: Instant,
    /// When it was first parked; it does not begin anew when a path comes and fails.
    pub(super) parked_at: Option<Instant>,
    pub(super) hedge: Hedge,
}

impl History {
    const NONE: Self = Self {
        retries: 0,
        path_errors: 0,
        shunned: None,
        expires: Instant::ZERO,
        parked_at: None,
        hedge: Hedge::None,
    };
}

/// When a request was sent, where times are taken, and what it is to them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    pub(super) started: Instant,
    pub(super) kind: Kind,
    /// What else was in flight on the controller then.
    pub(super) load: u32,
}

const NONE: u32 = u32::MAX;

/// Bits of a tag that are an entry's place.
const PLACE_BITS: u32 = 16;

/// A fixed number of requests, with a free list through the entries.
#[derive(Debug)]
pub(super) struct Slab {
    entries: Box<[Entry]>,
    /// By the same places; of no meaning for requests that are not flagged so.
    histories: Box<[History]>,
    timings: Box<[Timing]>,
    free: u32,
    used: usize,
    /// Entries that are not free, nor used for requests: they take the place of those that are not
    /// used any more, but wait for a buffer.
    spare: Vec<u32>,
    most_spare: usize,
}

impl Slab {
    /// `depth` is 1..=65,536. `spare` more are for requests that have ended but whose buffer is
    /// still out.
    pub(super) fn new(depth: usize, spare: usize) -> Self {
        let count = depth + spare;
        let entry = |i: usize| Entry {
            place: Place::Free,
            op: IoOp::Flush,
            flags: Flags::NONE,
            tag: i as u32,
            blocks: 0,
            layout: Layout::default(),
            head: 0,
            next: if i + 1 >= depth { NONE } else { i as u32 + 1 },
            slba: 0,
            user_data: 0,
            sent_on: AssociationId { slot: 0, epoch: 0 },
            sent_at: Instant::ZERO,
            data: Data::None,
        };
        Self {
            entries: (0..count).map(entry).collect(),
            histories: vec![History::NONE; count].into(),
            timings: vec![Timing::default(); count].into(),
            free: 0,
            used: 0,
            spare: (depth as u32..count as u32).collect(),
            most_spare: spare,
        }
    }

    pub(super) fn depth(&self) -> usize {
        self.entries.len() - self.most_spare
    }

    /// Places of entries are below this.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is room for one more.
    #[inline]
    pub(super) const fn has_room(&self) -> bool {
        self.free != NONE
    }

    /// Requests under way.
    #[inline]
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Requests that have ended while a queue still had their buffer.
    pub(super) fn owed(&self) -> usize {
        self.most_spare - self.spare.len()
    }

    /// Ends a request whose buffer a queue still has: the program gets another one.
    pub(super) fn answer_early(&mut self, at: u32, buffer: Buffer) -> IoCompletion {
        self.used -= 1;
        // There is one: second attempts are as many at most.
        if let Some(spare) = self.spare.pop() {
            self.entries[spare as usize].next = self.free;
            self.free = spare;
        }
        self.history(at).hedge = Hedge::Won;
        let entry = &mut self[at];
        // It is nobody's to cancel.
        entry.flags.set(Flags::CANCELLED);
        let Entry { user_data, op, slba, flags, .. } = *entry;
        let blocking = flags.has(Flags::BLOCKING);
        let completion = IoCompletion::success(user_data, op, slba, buffer, 0);
        IoCompletion { exchanged: true, blocking, ..completion }
    }

    /// The queue has given the buffer back.
    pub(super) fn paid(&mut self, at: u32) {
        self[at].vacate();
        self.spare.push(at);
    }

    /// Takes a request of so many blocks in, without its data, if there is room.
    #[inline(always)]
    pub(super) fn insert(
        &mut self,
        asked: &Asked,
        head: u32,
        blocks: u32,
        layout: Layout,
    ) -> Option<(u32, &mut Entry)> {
        let at = self.free;
        let entry = self.entries.get_mut(at as usize)?;
        self.free = entry.next;
        self.used += 1;
        entry.place = Place::Waiting;
        entry.op = asked.op;
        entry.flags = asked.flags;
        entry.blocks = blocks;
        entry.layout = layout;
        entry.head = head;
        entry.slba = asked.slba;
        entry.user_data = asked.user_data;
        entry.sent_at = Instant::ZERO;
        Some((at, entry))
    }

    /// What befell a request. It begins here if there is nothing yet.
    pub(super) fn history(&mut self, at: u32) -> &mut History {
        let flags = &mut self.entries[at as usize].flags;
        let history = &mut self.histories[at as usize];
        if !flags.has(Flags::HISTORY) {
            flags.set(Flags::HISTORY);
            *history = History::NONE;
        }
        history
    }

    /// The same to be read.
    pub(super) fn past(&self, at: u32) -> &History {
        match self[at].flags.has(Flags::HISTORY) {
            true => &self.histories[at as usize],
            false => &History::NONE,
        }
    }

    /// Notes when a request was sent.
    #[inline]
    pub(super) fn time(&mut self, at: u32, timing: Timing) {
        self.entries[at as usize].flags.set(Flags::TIMED);
        self.timings[at as usize] = timing;
    }

    /// When a request was sent, if that was noted.
    #[inline]
    pub(super) fn timing(&self, at: u32) -> Option<Timing> {
        self[at].flags.has(Flags::TIMED).then(|| self.timings[at as usize])
    }

    /// The tag of an entry, by which its completion is known.
    #[inline]
    pub(super) fn tag(&self, at: u32) -> Tag {
        self[at].tag
    }

    /// The entry that a tag means, unless it has been used for another request since.
    #[inline]
    pub(super) fn find(&self, tag: Tag) -> Option<u32> {
        let at = tag & ((1 << PLACE_BITS) - 1);
        let entry = self.entries.get(at as usize)?;
        (entry.tag == tag && entry.place == Place::InFlight).then_some(at)
    }

    /// Ends the request with this tag and tells `done` of its success, if it was sent, and succeeded,
    /// and nothing is odd about it, and it has data. False, and nothing was done, if not, or if the list is
    /// full.
    #[inline]
    pub(super) fn end(
        &mut self,
        tag: Tag,
        cqe: &Cqe,
        data: &mut Data,
        done: &mut Vec<IoCompletion>,
    ) -> bool {
        let at = tag & ((1 << PLACE_BITS) - 1);
        let Some(entry) = self.entries.get_mut(at as usize) else { return false };
        if entry.tag != tag || entry.place != Place::InFlight || entry.flags.has(Flags::ODD) {
            return false;
        }
        // Without data there is no buffer to be moved, and one to be made: that is not done here.
        if !cqe.status().is_success() || matches!(data, Data::None) {
            return false;
        }
        let told = push_with(done, || {
            let (user_data, op, slba) = (entry.user_data, entry.op, entry.slba);
            let buffer = std::mem::take(data).into_buffer();
            IoCompletion::success(user_data, op, slba, buffer, cqe.result())
        });
        if !told {
            return false;
        }
        entry.vacate();
        entry.next = std::mem::replace(&mut self.free, at);
        self.used -= 1;
        true
    }

    /// Frees an entry and tells of its success. `data` is what its queue gave back; `flags` are those
    /// of the entry that are [odd](Flags::ODD).
    pub(super) fn succeed(
        &mut self,
        at: u32,
        data: Data,
        value: u64,
        flags: Flags,
    ) -> IoCompletion {
        self.used -= 1;
        let next = std::mem::replace(&mut self.free, at);
        let entry = &mut self[at];
        entry.vacate();
        entry.next = next;
        let (user_data, op, slba) = (entry.user_data, entry.op, entry.slba);
        let own = flags.has(Flags::OWN_DATA);
        let buffer = if own { Buffer::empty() } else { data.into_buffer() };
        let blocking = flags.has(Flags::BLOCKING);
        IoCompletion { blocking, ..IoCompletion::success(user_data, op, slba, buffer, value) }
    }

    /// Frees an entry and tells of its failure.
    pub(super) fn fail(&mut self, at: u32, error: IoError) -> IoCompletion {
        let entry = &mut self[at];
        let data = std::mem::take(&mut entry.data);
        let flags = entry.flags;
        let uncertain = flags.has(Flags::UNCERTAIN) && entry.op.modifies();
        let result = Err(Box::new(error));
        IoCompletion { result, uncertain, ..self.succeed(at, data, 0, flags) }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Entry)> {
        self.entries.iter_mut().enumerate().map(|(i, e)| (i as u32, e))
    }
}

impl std::ops::Index<u32> for Slab {
    type Output = Entry;

    #[inline]
    fn index(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }
}

impl std::ops::IndexMut<u32> for Slab {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::request::IoRequest;

    #[test]
    fn a_tag_means_one_request_only() {
        let mut slab = Slab::new(2, 0);
        let insert = |slab: &mut Slab, user_data| {
            let request = IoRequest::flush(user_data).asked;
            slab.insert(&request, 0, 0, Layout::default()).map(|(at, _)| at)
        };
        let a = insert(&mut slab, 1).unwrap();
        let b = insert(&mut slab, 2).unwrap();
        assert!(insert(&mut slab, 3).is_none());
        assert_eq!(slab.used(), slab.depth());
        slab[a].place = Place::InFlight;
        slab[b].place = Place::InFlight;
        let old = slab.tag(a);
        assert_eq!(slab.find(old), Some(a));
        assert_eq!(slab.succeed(a, Data::None, 0, Flags::NONE).user_data, 1);
        assert_eq!((slab.find(old), slab.used()), (None, 1));
        let again = insert(&mut slab, 4).unwrap();
        slab[again].place = Place::InFlight;
        assert_eq!((again, slab.find(old)), (a, None));
        assert_eq!(slab.find(slab.tag(again)), Some(again));
        assert_eq!(slab.find(77), None);
    }

    #[test]
    fn a_new_request_has_no_history() {
        let mut slab = Slab::new(1, 0);
        let request = IoRequest::flush(1).asked;
        let (at, _) = slab.insert(&request, 0, 0, Layout::default()).unwrap();
        slab.history(at).retries = 3;
        slab.time(at, Timing { load: 7, ..Timing::default() });
        assert_eq!((slab.past(at).retries, slab.timing(at).unwrap().load), (3, 7));
        let _ = slab.succeed(at, Data::None, 0, Flags::NONE);
        assert_eq!(slab.insert(&request, 0, 0, Layout::default()).unwrap().0, at);
        assert_eq!((slab.past(at).retries, slab.timing(at).is_none()), (0, true));
        assert_eq!(slab.history(at).retries, 0);
    }
}
