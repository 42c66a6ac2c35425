//! The data plane of one thread.
//!
//! A [`Channel`] owns one I/O queue per controller, a slab of requests, and copies of the views of
//! the heads that it uses. Requests never leave it: in flight, parked or held, they complete in its
//! [`poll`](Channel::poll), on the caller's thread, exactly once.

mod blocking;
mod cancel;
mod heads;
mod hedge;
mod held;
mod letters;
mod outcome;
mod overdue;
mod pace;
mod parked;
mod passthrough;
mod policy;
mod queues;
mod request;
mod route;
mod rules;
mod sleep;

use std::collections::BinaryHeap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::spec::Status;
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, QueueStatus};

use crate::error::{IoOp, SubmitError, SubmitReason};
use crate::fence::Fencing;
use crate::head::Head;
use crate::host::Shared;
use crate::mailbox::{ChannelShared, Command};
use crate::options::ChannelOptions;
use crate::view::{Geometry, Layout};
pub use blocking::BlockingError;
use heads::Heads;
use hedge::Hedges;
use held::Held;
use overdue::Overdue;
use parked::Parked;
pub use passthrough::PassthroughCommand;
use passthrough::PassthroughTable;
use queues::{ChannelQueue, Meter, Queues};
use request::{Hedge, Slab};
pub use request::{IoCompletion, IoRequest};
use sleep::Sleep;

/// A queue with nothing in flight is looked at once in so many polls: it can only have died.
const IDLE_ROUNDS: u32 = 64;

/// The I/O of one thread. `Send`, not `Sync`: it may be moved, but not shared.
///
/// Dropping a channel gives its idle queues back, for the next channel, and closes the others;
/// requests that are under way are not completed, and their buffers are dropped after the queues are
/// closed.
pub struct Channel {
    shared: Arc<Shared>,
    letters: Arc<ChannelShared>,
    options: ChannelOptions,
    // Declared, and so dropped, before the slab: nothing may touch a buffer that is freed.
    queues: Queues,
    heads: Heads,
    slab: Slab,
    hedges: Hedges,
    /// Heads with requests on the way to a queue, when queues were full.
    crowded: Vec<u32>,
    parked: Parked,
    /// Writes that wait until a lost controller is fenced.
    held: Held,
    passthrough: PassthroughTable,
    /// Requests to be sent again, by time.
    delayed: BinaryHeap<std::cmp::Reverse<(Instant, u32)>>,
    /// Commands that did not succeed, collected while a queue is polled.
    troubled: Vec<Trouble>,
    /// Requests that were not answered in time.
    overdue: Vec<Overdue>,
    /// Completions that a blocking call met and that belong to somebody else.
    backlog: Vec<IoCompletion>,
    sleep: Sleep,
    /// When requests are next looked at for time limits.
    check_at: Instant,
    rounds: u32,
    /// What the clock said at the first request since the last poll or flush that is timed; `ZERO`
    /// if there was none.
    batch_at: Instant,
    /// Times were taken at some time.
    timed: bool,
    /// Some queue is to be given back.
    draining: bool,
    closed: bool,
}

/// A command that did not succeed.
struct Trouble {
    at: u32,
    status: Status,
    /// It never reached an answer: the queue died.
    lost: bool,
    /// What of fencing went with the queue.
    fencing: Fencing,
}

impl Channel {
    pub(crate) fn new(
        shared: Arc<Shared>,
        letters: Arc<ChannelShared>,
        options: ChannelOptions,
    ) -> std::io::Result<Self> {
        let depth = options.depth.clamp(1, 1 << 16);
        // Tags have 16 bits for requests, their spare entries and second attempts together.
        let hedges = options.hedge_buffers.min(((1 << 16) - depth as u32).div_euclid(2) as u16);
        let slab = Slab::new(depth, hedges.into());
        let hedges = Hedges::new(hedges, slab.entries() as u32);
        let sleep = Sleep::new(&letters)?;
        let numa = Arc::clone(&shared.numa);
        let here = || numa.node_of(rustix::thread::sched_getcpu());
        let numa_node = options.numa_node.or_else(here);
        Ok(Self {
            shared,
            letters,
            options,
            queues: Queues::new(numa_node, numa),
            heads: Heads::default(),
            slab,
            hedges,
            crowded: Vec::new(),
            parked: Parked::with_capacity(depth),
            held: Held::default(),
            passthrough: PassthroughTable::default(),
            delayed: BinaryHeap::with_capacity(depth),
            troubled: Vec::with_capacity(depth),
            overdue: Vec::new(),
            backlog: Vec::new(),
            sleep,
            check_at: Instant::ZERO,
            rounds: 0,
            batch_at: Instant::ZERO,
            timed: false,
            draining: false,
            closed: false,
        })
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slab.used() + self.backlog.len()
    }

    /// Most requests that can be under way.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slab.depth()
    }

    /// Requests that wait for a path.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Hands in a request. It may stay in a batch until [`flush`](Self::flush) or
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`SubmitError`] with the buffer: the request cannot be right, or the channel is full. What
    /// goes wrong later, a path that is missing included, is told by the completion.
    pub fn submit(&mut self, head: &Arc<Head>, mut request: IoRequest) -> Result<(), SubmitError> {
        if !std::ptr::eq(head.host.as_ptr(), Arc::as_ptr(&self.shared)) {
            let reason = SubmitReason::ForeignHead;
            return Err(SubmitError { reason, buffer: request.buffer });
        }
        let place = self.heads.place(head);
        let known = &mut self.heads[place];
        known.refresh();
        let (geometry, layout) = (known.view.geometry, known.view.layout);
        let ahead = !known.waiting.is_empty();
        match check(&geometry, &request) {
            Ok(blocks) => request.blocks = blocks,
            Err(reason) => return Err(SubmitError { reason, buffer: request.buffer }),
        }
        let at = self.admit(place, request, layout)?;
        if !self.held.is_empty() && self.hold_behind(at) {
            return Ok(());
        }
        if ahead {
            self.wait_for_room(at);
        } else {
            self.send(at);
        }
        Ok(())
    }

    /// Takes a request into the slab.
    fn admit(&mut self, head: u32, request: IoRequest, layout: Layout) -> Result<u32, SubmitError> {
        if self.check_at == Instant::NEVER {
            self.check_at = Instant::ZERO;
        }
        let timeout = request.timeout;
        let at = self.slab.insert(request, head, layout).map_err(|request| {
            let reason = SubmitReason::Full { depth: self.slab.depth() };
            SubmitError { reason, buffer: request.buffer }
        })?;
        if let Some(limit) = timeout {
            self.expire_after(at, limit);
        }
        Ok(at)
    }

    /// Sends what was submitted.
    pub fn flush(&mut self) {
        self.batch_at = Instant::ZERO;
        for q in self.queues.iter_mut().filter(|q| q.dirty) {
            q.flush();
        }
    }

    /// Makes progress: sends, receives, and appends what has ended to `done`. Returns how many.
    /// Never blocks.
    pub fn poll(&mut self, done: &mut Vec<IoCompletion>) -> usize {
        let before = done.len();
        let now = self.shared.clock.now();
        self.batch_at = now;
        done.append(&mut self.backlog);
        if self.letters.pending() {
            self.read_letters();
        }
        self.queues.polled();
        self.poll_queues(now, done);
        if !self.troubled.is_empty() {
            self.handle_trouble(now, done);
        }
        if !self.held.is_empty() {
            self.look_at_held();
        }
        if !self.crowded.is_empty() {
            self.send_waiting();
        }
        if now >= self.hedges.due_at {
            self.hedge_due(now);
        }
        if now >= self.check_at {
            self.check_times(now, done);
        }
        self.finish_hopeless(done);
        self.flush();
        if self.draining {
            self.release_drained();
        }
        done.len() - before
    }

    fn poll_queues(&mut self, now: Instant, done: &mut Vec<IoCompletion>) {
        self.rounds = self.rounds.wrapping_add(1);
        let all = self.rounds.is_multiple_of(IDLE_ROUNDS);
        let mut place = 0;
        while place < self.queues.len() {
            let q = self.queues.at(place);
            let idle = q.queue.in_flight() == 0 && !q.woken && !q.dirty && !q.dying && !all;
            if idle && !q.queue.has_pending_work() && q.queue.deadline().is_none_or(|d| d > now) {
                place += 1;
                continue;
            }
            let sent = q.dirty;
            (q.woken, q.dirty) = (false, false);
            let mut taken = 0;
            let ChannelQueue { queue, meter, .. } = q;
            let mut reaper = Reaper {
                slab: &mut self.slab,
                heads: &mut self.heads,
                hedges: &mut self.hedges,
                troubled: &mut self.troubled,
                done,
                meter,
                now,
            };
            let mut sink = |c: Completion| {
                taken += 1;
                reaper.reap(c);
            };
            match queue.poll(now, &mut sink) {
                QueueStatus::Failed(error) => {
                    self.queue_died(place, error);
                }
                _ => {
                    q.count(taken, sent);
                    if self.timed {
                        self.queues.note_pace(place, taken, now);
                    }
                    place += 1;
                }
            }
        }
    }
}

/// What completions of one queue are taken to.
struct Reaper<'a> {
    slab: &'a mut Slab,
    heads: &'a mut Heads,
    hedges: &'a mut Hedges,
    troubled: &'a mut Vec<Trouble>,
    done: &'a mut Vec<IoCompletion>,
    meter: &'a mut Meter,
    now: Instant,
}

impl Reaper<'_> {
    /// Takes one completion: done, or trouble.
    fn reap(&mut self, completion: Completion) {
        // Queues answer each command once; were one to break that rule, the tag's generation keeps
        // it from reaching a request that is not its own.
        let Some(at) = self.slab.find(completion.tag) else {
            let (slab, heads) = (&mut *self.slab, &mut *self.heads);
            let ended = self.hedges.answered(slab, heads, self.meter, self.now, completion);
            self.done.extend(ended);
            return;
        };
        let (status, value) = (completion.cqe.status(), completion.cqe.result());
        let entry = &mut self.slab[at];
        if status.is_success() && entry.started != Instant::ZERO {
            self.meter.sample(entry.kind, entry.started, entry.load, self.now);
            if let Some(hedge) = &mut self.heads[entry.head].hedge
                && entry.op == IoOp::Read
            {
                let took = self.now.saturating_since(entry.started).as_nanos() as u64;
                hedge.ended(entry.kind, took);
            }
        }
        if entry.hedge != Hedge::None {
            match std::mem::replace(&mut entry.hedge, Hedge::None) {
                Hedge::Won => {
                    self.hedges.returned(completion.data);
                    self.slab.paid(at);
                    return;
                }
                Hedge::Attempt(attempt) => self.hedges.abandon(attempt),
                Hedge::None => {}
            }
        }
        let entry = &mut self.slab[at];
        entry.data = completion.data;
        if !status.is_success() {
            entry.place = request::Place::Waiting;
            let fencing = Fencing::Needless;
            self.troubled.push(Trouble { at, status, lost: false, fencing });
            return;
        }
        let mut done_with = self.slab.finish(at, Ok(()));
        done_with.value = value;
        self.done.push(done_with);
    }
}

/// Whether a request can be right; the number of blocks that it is about.
fn check(geometry: &Geometry, request: &IoRequest) -> Result<u32, SubmitReason> {
    let block_size = geometry.block_size;
    let blocks = match request.op {
        IoOp::Flush | IoOp::Passthrough => return Ok(0),
        IoOp::WriteZeroes => {
            let most = 1 << 16;
            if request.blocks == 0 || request.blocks > most {
                let (len, max) = (request.blocks as usize, most as usize);
                let size = block_size as usize;
                return Err(SubmitReason::TooLarge { len: len * size, max: max * size });
            }
            u64::from(request.blocks)
        }
        IoOp::Discard if request.blocks == 0 => {
            return Err(SubmitReason::Unaligned { len: 0, block_size });
        }
        IoOp::Discard => u64::from(request.blocks),
        IoOp::Read | IoOp::Write | IoOp::Compare => {
            let buffer = &request.buffer;
            if geometry.metadata_size != 0 || buffer.has_metadata() {
                u64::from(check_metadata(geometry, buffer)?)
            } else {
                let len = buffer.len();
                if len == 0 || !len.is_multiple_of(block_size as usize) {
                    return Err(SubmitReason::Unaligned { len, block_size });
                }
                if len > geometry.max_transfer {
                    return Err(SubmitReason::TooLarge { len, max: geometry.max_transfer });
                }
                (len / block_size as usize) as u64
            }
        }
    };
    if geometry.read_only && request.op.modifies() {
        return Err(SubmitReason::ReadOnly);
    }
    let (slba, capacity) = (request.slba, geometry.blocks);
    if slba.checked_add(blocks).is_none_or(|end| end > capacity) {
        return Err(SubmitReason::OutOfRange { slba, blocks, capacity });
    }
    u32::try_from(blocks).map_err(|_| SubmitReason::OutOfRange { slba, blocks, capacity })
}

/// The same of the buffer where blocks have metadata, or the buffer has some.
#[cold]
fn check_metadata(geometry: &Geometry, buffer: &Buffer) -> Result<u32, SubmitReason> {
    let (len, block_size, max) = (buffer.len(), geometry.buffer_block(), geometry.max_transfer);
    if len == 0 || !len.is_multiple_of(block_size as usize) {
        return Err(SubmitReason::Unaligned { len, block_size });
    }
    let blocks = u32::try_from(len / block_size as usize).ok().filter(|_| len <= max);
    let blocks = blocks.ok_or(SubmitReason::TooLarge { len, max })?;
    let beside = if geometry.extended_metadata { 0 } else { usize::from(geometry.metadata_size) };
    let (given, wanted) = (buffer.metadata().map_or(0, <[u8]>::len), blocks as usize * beside);
    if given == wanted && buffer.has_metadata() == (wanted != 0) {
        Ok(blocks)
    } else {
        Err(SubmitReason::Metadata { given, wanted })
    }
}

impl AsFd for Channel {
    /// The descriptor to wait on for reading, after [`prepare_to_sleep`](Channel::prepare_to_sleep)
    /// said that it is worth waiting.
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd: &OwnedFd = self.sleep.epoll();
        fd.as_fd()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.forget_held();
        self.forget_parked();
        // The others are closed before their identifiers are given to somebody else.
        let channel = self.letters.id;
        for (association, queue) in self.queues.take_idle() {
            self.shared.commands.send(Command::QueueReturned { association, channel, queue });
        }
        self.shared.commands.send(Command::ChannelClosed(self.letters.id));
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, depth) = (self.slab.used(), self.slab.depth());
        write!(f, "Channel({used}/{depth} requests, {} parked)", self.parked.len())
    }
}
