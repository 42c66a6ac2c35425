//! Requests: what a program hands in, what it gets back, and the slab that holds them meanwhile.

use nvme_core::buffer::Buffer;
use nvme_core::spec::command::DsmRange;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{Data, Tag};
use zerocopy::IntoBytes;

use super::pace::Kind;
use crate::error::{IoError, IoOp};
use crate::ids::AssociationId;
use crate::view::Layout;

/// One I/O to be done.
///
/// Where blocks have metadata ([`Geometry::metadata_size`](crate::Geometry::metadata_size)), buffers
/// that are read, written or compared have it, too: after each block's data, or beside all of it
/// ([`Buffer::with_metadata`]), as the namespace's format says.
#[derive(Debug)]
pub struct IoRequest {
    pub(crate) op: IoOp,
    pub(crate) slba: u64,
    pub(crate) blocks: u32,
    pub(crate) buffer: Buffer,
    pub(crate) user_data: u64,
    pub(crate) fua: bool,
    pub(crate) timeout: Option<Duration>,
    /// Made by a blocking call, which waits for its completion.
    pub(crate) blocking: bool,
}

impl IoRequest {
    pub(super) fn new(op: IoOp, slba: u64, blocks: u32, buffer: Buffer, user_data: u64) -> Self {
        Self { op, slba, blocks, buffer, user_data, fua: false, timeout: None, blocking: false }
    }

    /// Reads as many blocks as fit into `buffer`, from logical block `slba` on.
    #[must_use]
    pub fn read(slba: u64, buffer: Buffer, user_data: u64) -> Self {
        Self::new(IoOp::Read, slba, 0, buffer, user_data)
    }

    /// Writes the blocks in `buffer` to logical block `slba` and on.
    #[must_use]
    pub fn write(slba: u64, buffer: Buffer, user_data: u64) -> Self {
        Self::new(IoOp::Write, slba, 0, buffer, user_data)
    }

    /// Makes what was written before durable.
    #[must_use]
    pub fn flush(user_data: u64) -> Self {
        Self::new(IoOp::Flush, 0, 0, Buffer::empty(), user_data)
    }

    /// Makes `blocks` blocks from `slba` on read as zeroes, without sending them. 1..=65,536 blocks.
    #[must_use]
    pub fn write_zeroes(slba: u64, blocks: u32, user_data: u64) -> Self {
        Self::new(IoOp::WriteZeroes, slba, blocks, Buffer::empty(), user_data)
    }

    /// Tells the controller that `blocks` blocks from `slba` on are not needed any more (Dataset
    /// Management with Deallocate, NVM 1.1 §3.3.3). What they read as afterwards is the
    /// controller's to say. At least one block.
    #[must_use]
    pub fn discard(slba: u64, blocks: u32, user_data: u64) -> Self {
        let range = DsmRange::new(slba, blocks);
        let buffer = Buffer::from(range.as_bytes().to_vec());
        Self::new(IoOp::Discard, slba, blocks, buffer, user_data)
    }

    /// Compares the blocks from `slba` on with those in `buffer`. If they differ, it fails with the
    /// status Compare Failure (NVM 1.1 §3.3.1).
    #[must_use]
    pub fn compare(slba: u64, buffer: Buffer, user_data: u64) -> Self {
        Self::new(IoOp::Compare, slba, 0, buffer, user_data)
    }

    /// The request is given up so long after its submission, on the host's clock. One that waits, for
    /// a path, for room, for its time or for a fence, then ends with
    /// [`IoError::Expired`]. One that a controller has is not given back before it is safe: it is
    /// aborted, as by [`Channel::cancel`](crate::Channel::cancel), and not sent again. Without this a request waits as long as head and channel allow.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Force unit access: the write is durable when it completes; a read comes from the medium.
    #[must_use]
    pub const fn fua(mut self) -> Self {
        self.fua = true;
        self
    }
}

/// The end of a request: exactly one for each that was accepted.
#[derive(Debug)]
pub struct IoCompletion {
    /// The number given with the request.
    pub user_data: u64,
    /// What was done.
    pub op: IoOp,
    /// First logical block.
    pub slba: u64,
    /// How it went.
    pub result: Result<(), Box<IoError>>,
    /// The request's buffer, with its metadata if it had some. After a failed read its contents are undefined.
    pub buffer: Buffer,
    /// What Dwords 0 and 1 of the answer carry, if it succeeded: of use for passthrough.
    pub value: u64,
    /// The outcome is open: the request failed, would have changed the namespace, and was sent at
    /// least once on a connection that was lost before the answer came, or was aborted. The controller
    /// may have executed it, or a part of it, or, if its connection was lost, may still do so.
    pub uncertain: bool,
    /// The buffer is not the request's, but another one of the same length in exchange for it; see
    /// [`HedgeOptions`](crate::HedgeOptions).
    pub exchanged: bool,
    pub(crate) blocking: bool,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: the entry is free; `next` is the next free one.
    Free { next: u32 },
    /// On the way to a queue: new, or to be sent again.
    Waiting,
    /// In a queue.
    InFlight(AssociationId),
    /// Waiting for a path, since then.
    Parked(Instant),
    /// Waiting for its time to be sent again.
    Delayed,
    /// Held until a lost controller is fenced.
    Held,
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

/// One request under way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    generation: u16,
    pub(super) op: IoOp,
    pub(super) fua: bool,
    pub(super) blocking: bool,
    /// The program does not want it any more: it ends as soon as nothing can touch its buffer.
    pub(super) cancelled: bool,
    /// It has a time limit of its own, `expires`; and that has passed.
    pub(super) limited: bool,
    pub(super) expired: bool,
    /// It was lost with a connection, so that nobody knows whether it was executed.
    pub(super) uncertain: bool,
    pub(super) blocks: u32,
    /// What `blocks` and `slba` count in: a namespace may be formatted while the request waits.
    pub(super) layout: Layout,
    pub(super) slba: u64,
    pub(super) user_data: u64,
    /// Place of the head in the channel's table.
    pub(super) head: u32,
    pub(super) retries: u32,
    pub(super) path_errors: u32,
    /// Where it was last sent.
    pub(super) sent_on: AssociationId,
    /// Where it met a path error: it goes elsewhere if it can.
    pub(super) shunned: Option<AssociationId>,
    /// When it was sent, as far as time-outs are concerned; `ZERO` until the next look.
    pub(super) sent_at: Instant,
    pub(super) hedge: Hedge,
    /// When it was sent, where times are taken, and what it is to them; else `ZERO`.
    pub(super) started: Instant,
    pub(super) kind: Kind,
    /// What else was in flight on the controller then.
    pub(super) load: u32,
    /// Of no meaning unless `limited`.
    pub(super) expires: Instant,
    /// When it was first parked; it does not begin anew when a path comes and fails.
    pub(super) parked_at: Option<Instant>,
    /// The data, while it is not in a queue.
    pub(super) data: Data,
}

const NONE: u32 = u32::MAX;

/// A fixed number of requests, with a free list through the entries.
#[derive(Debug)]
pub(super) struct Slab {
    entries: Box<[Entry]>,
    free: u32,
    used: usize,
    /// Entries that are not used for a request any more, but wait for a buffer; so many more
    /// entries there are.
    owed: usize,
    spare: usize,
}

impl Slab {
    /// `depth` is 1..=65,536. `spare` more are for requests that have ended but whose buffer is
    /// still out.
    pub(super) fn new(depth: usize, spare: usize) -> Self {
        let depth = depth + spare;
        let entry = |i: usize| Entry {
            place: Place::Free { next: if i + 1 == depth { NONE } else { i as u32 + 1 } },
            generation: 0,
            op: IoOp::Flush,
            fua: false,
            blocking: false,
            cancelled: false,
            uncertain: false,
            limited: false,
            expired: false,
            expires: Instant::ZERO,
            blocks: 0,
            layout: Layout::default(),
            slba: 0,
            user_data: 0,
            head: 0,
            retries: 0,
            path_errors: 0,
            sent_on: AssociationId { slot: 0, epoch: 0 },
            shunned: None,
            sent_at: Instant::ZERO,
            hedge: Hedge::None,
            started: Instant::ZERO,
            kind: Kind::default(),
            load: 0,
            parked_at: None,
            data: Data::None,
        };
        Self { entries: (0..depth).map(entry).collect(), free: 0, used: 0, owed: 0, spare }
    }

    pub(super) fn depth(&self) -> usize {
        self.entries.len() - self.spare
    }

    /// Places of entries are below this.
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Requests under way.
    pub(super) const fn used(&self) -> usize {
        self.used - self.owed
    }

    /// Requests that have ended while a queue still had their buffer.
    pub(super) const fn owed(&self) -> usize {
        self.owed
    }

    /// Ends a request whose buffer a queue still has: the program gets another one.
    pub(super) fn answer_early(&mut self, at: u32, buffer: Buffer) -> IoCompletion {
        self.owed += 1;
        let entry = &mut self[at];
        entry.hedge = Hedge::Won;
        // It is nobody's to cancel.
        entry.cancelled = true;
        IoCompletion {
            user_data: entry.user_data,
            op: entry.op,
            slba: entry.slba,
            result: Ok(()),
            buffer,
            value: 0,
            uncertain: false,
            exchanged: true,
            blocking: entry.blocking,
        }
    }

    /// The queue has given the buffer back.
    pub(super) fn paid(&mut self, at: u32) {
        self.owed -= 1;
        self.remove(at);
    }

    /// Takes a request in, or gives it back if there is no room.
    pub(super) fn insert(
        &mut self,
        request: IoRequest,
        head: u32,
        layout: Layout,
    ) -> Result<u32, IoRequest> {
        let at = self.free;
        if self.used() >= self.depth() {
            return Err(request);
        }
        let Some(entry) = self.entries.get_mut(at as usize) else { return Err(request) };
        let Place::Free { next } = entry.place else { return Err(request) };
        self.free = next;
        self.used += 1;
        entry.place = Place::Waiting;
        entry.op = request.op;
        entry.fua = request.fua;
        entry.blocking = request.blocking;
        entry.cancelled = false;
        entry.uncertain = false;
        entry.limited = false;
        entry.expired = false;
        entry.blocks = request.blocks;
        entry.layout = layout;
        entry.slba = request.slba;
        entry.user_data = request.user_data;
        entry.head = head;
        entry.retries = 0;
        entry.path_errors = 0;
        entry.sent_at = Instant::ZERO;
        entry.parked_at = None;
        entry.shunned = None;
        entry.hedge = Hedge::None;
        entry.data = match request.op {
            IoOp::Read => Data::Read(request.buffer),
            IoOp::Write | IoOp::Compare | IoOp::Discard => Data::Write(request.buffer),
            // A passthrough command's is put there by who knows its direction.
            IoOp::Flush | IoOp::WriteZeroes | IoOp::Passthrough => Data::None,
        };
        Ok(at)
    }

    /// The tag of an entry, by which its completion is known.
    pub(super) fn tag(&self, at: u32) -> Tag {
        u32::from(self.entries[at as usize].generation) << 16 | at
    }

    /// The entry that a tag means, unless it has been used for another request since.
    pub(super) fn find(&self, tag: Tag) -> Option<u32> {
        let at = tag & 0xffff;
        let entry = self.entries.get(at as usize)?;
        let current = entry.generation == (tag >> 16) as u16;
        (current && matches!(entry.place, Place::InFlight(_))).then_some(at)
    }

    /// Frees an entry; gives its data.
    pub(super) fn remove(&mut self, at: u32) -> Data {
        let entry = &mut self.entries[at as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.place = Place::Free { next: self.free };
        self.free = at;
        self.used -= 1;
        std::mem::take(&mut entry.data)
    }

    /// Frees an entry and tells its end.
    pub(super) fn finish(&mut self, at: u32, result: Result<(), Box<IoError>>) -> IoCompletion {
        let entry = &self[at];
        let (user_data, op, slba, blocking) =
            (entry.user_data, entry.op, entry.slba, entry.blocking);
        let uncertain = result.is_err() && entry.uncertain && op.modifies();
        let buffer = self.remove(at).into_buffer();
        // The range list of a discard is the library's own.
        let buffer = if op == IoOp::Discard { Buffer::empty() } else { buffer };
        let (value, exchanged) = (0, false);
        IoCompletion { user_data, op, slba, result, buffer, value, uncertain, exchanged, blocking }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Entry)> {
        self.entries.iter_mut().enumerate().map(|(i, e)| (i as u32, e))
    }
}

impl std::ops::Index<u32> for Slab {
    type Output = Entry;

    fn index(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }
}

impl std::ops::IndexMut<u32> for Slab {
    fn index_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_means_one_request_only() {
        let mut slab = Slab::new(2, 0);
        let here = AssociationId { slot: 0, epoch: 1 };
        let a = slab.insert(IoRequest::flush(1), 0, Layout::default()).unwrap();
        let b = slab.insert(IoRequest::flush(2), 0, Layout::default()).unwrap();
        assert!(slab.insert(IoRequest::flush(3), 0, Layout::default()).is_err());
        assert_eq!(slab.used(), slab.depth());
        slab[a].place = Place::InFlight(here);
        slab[b].place = Place::InFlight(here);
        let old = slab.tag(a);
        assert_eq!(slab.find(old), Some(a));
        let _ = slab.remove(a);
        assert_eq!((slab.find(old), slab.used()), (None, 1));
        let again = slab.insert(IoRequest::flush(4), 0, Layout::default()).unwrap();
        slab[again].place = Place::InFlight(here);
        assert_eq!((again, slab.find(old)), (a, None));
        assert_eq!(slab.find(slab.tag(again)), Some(again));
        assert_eq!(slab.find(77), None);
    }
}
