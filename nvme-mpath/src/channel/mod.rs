//! The data plane of one thread.
//!
//! A [`Channel`] owns one I/O queue per controller, a slab of requests, and copies of the views of
//! the heads that it uses. Requests never leave it: in flight, parked or held, they complete in its
//! [`poll`](Channel::poll), on the caller's thread, exactly once.

mod blocking;
mod cancel;
mod check;
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
mod slab;
mod sleep;
mod submit;

use std::collections::BinaryHeap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nvme_core::spec::{Cqe, Status};
use nvme_core::time::{Clock, Instant};
use nvme_core::transport::{Completion, Data, QueueStatus, Sink, Tag};

use crate::error::IoOp;
use crate::fence::Fencing;
use crate::host::Shared;
use crate::mailbox::{ChannelShared, Command};
use crate::options::ChannelOptions;
pub use blocking::BlockingError;
use heads::Heads;
use hedge::Hedges;
use held::Held;
use overdue::Overdue;
use parked::Parked;
pub use passthrough::PassthroughCommand;
use passthrough::PassthroughTable;
use queues::{ChannelQueue, Meter, Queues};
pub use request::{IoCompletion, IoRequest};
use slab::{Flags, Hedge, Place, Slab, Timing};
use sleep::Sleep;

/// A queue with nothing in flight is looked at once in so many polls: it can only have died.
const IDLE_ROUNDS: u32 = 64;

/// The I/O of one thread. `Send`, not `Sync`: it may be moved, but not shared.
///
/// Dropping a channel gives its idle queues back, for the next channel, and closes the others;
/// requests that are under way are not completed, and their buffers are dropped after the queues are
/// closed; those that a device on a bus has, when it has let go of them ([`quiesce`](Self::quiesce)).
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
    batch: Batch,
    /// Some queue is to be given back.
    draining: bool,
    closed: bool,
}

/// The time of what is sent between two polls or flushes, where times are taken.
#[derive(Default)]
struct Batch {
    /// What the clock said at the first request of it; `ZERO` if there was none.
    at: Instant,
    /// Times were taken at some time.
    timed: bool,
}

impl Batch {
    const fn begin(&mut self, now: Instant) {
        self.at = now;
    }

    const fn end(&mut self) {
        self.at = Instant::ZERO;
    }

    /// One look at the clock for all.
    fn now(&mut self, clock: &Arc<dyn Clock>) -> Instant {
        if self.at == Instant::ZERO {
            self.at = clock.now();
            self.timed = true;
        }
        self.at
    }

    const fn is_timed(&self) -> bool {
        self.timed
    }
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
        let sleep = Sleep::new(&letters, options.busy_poll)?;
        let numa = Arc::clone(&shared.numa);
        let here = || numa.node_of(rustix::thread::sched_getcpu());
        let numa_node = options.numa_node.or_else(here);
        let queues = Queues::new(options.latency_histograms, numa_node, numa);
        Ok(Self {
            shared,
            letters,
            options,
            queues,
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
            batch: Batch::default(),
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

    /// Sends what was submitted.
    pub fn flush(&mut self) {
        self.batch.end();
        for q in self.queues.iter_mut().filter(|q| q.dirty) {
            q.flush();
        }
    }

    /// Makes progress: sends, receives, and appends what has ended to `done`. Returns how many.
    /// Never blocks.
    pub fn poll(&mut self, done: &mut Vec<IoCompletion>) -> usize {
        let before = done.len();
        let now = self.shared.clock.now();
        self.batch.begin(now);
        if !self.backlog.is_empty() {
            done.append(&mut self.backlog);
        }
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
            // Where every request ends within one poll, this is come to each time: nothing that has a
            // limit is left, and nothing need be looked through.
            if self.slab.used() + self.slab.owed() == 0 && self.hedges.is_idle() {
                self.check_at = Instant::NEVER;
            } else {
                self.check_times(now, done);
            }
        }
        if !self.parked.hopeless.is_empty() {
            self.finish_hopeless(done);
        }
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
            let quiet = !(q.dirty | q.woken | q.dying) && !all;
            let idle = quiet && q.queue.in_flight() == 0;
            if idle && !q.queue.has_pending_work() && q.queue.deadline().is_none_or(|d| d > now) {
                place += 1;
                continue;
            }
            let sent = q.dirty;
            (q.woken, q.dirty) = (false, false);
            let before = self.troubled.len();
            let ChannelQueue { queue, meter, .. } = q;
            let mut reaper = Reaper {
                slab: &mut self.slab,
                heads: &mut self.heads,
                hedges: &mut self.hedges,
                troubled: &mut self.troubled,
                done,
                meter,
                now,
                taken: 0,
            };
            let status = queue.poll(now, &mut reaper);
            let taken = reaper.taken;
            match status {
                QueueStatus::Failed(error) => {
                    self.queue_died(place, error, before);
                }
                QueueStatus::Ending(error) => {
                    q.count(taken, sent);
                    self.queue_ends(place, error);
                    place += 1;
                }
                _ => {
                    q.count(taken, sent);
                    if self.batch.is_timed() {
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
    /// How many there were.
    taken: u32,
}

impl Sink for Reaper<'_> {
    fn complete(&mut self, Completion { tag, cqe, mut data }: Completion) {
        self.complete_from(tag, &cqe, &mut data);
    }

    /// Takes one completion: done, or trouble.
    fn complete_from(&mut self, tag: Tag, cqe: &Cqe, data: &mut Data) {
        self.taken += 1;
        // The only call, at the end, so that nothing has to be saved for it.
        if !self.slab.end(tag, cqe, data, self.done) {
            self.look_closer(tag, cqe, data);
        }
    }
}

impl Reaper<'_> {
    /// What is to be done about the completion of a request that did not succeed, or of which there
    /// is more to know.
    #[inline(never)]
    fn look_closer(&mut self, tag: Tag, cqe: &Cqe, data: &mut Data) {
        // Queues answer each command once; were one to break that rule, the tag's generation keeps
        // it from reaching a request that is not its own.
        let Some(at) = self.slab.find(tag) else { return self.take_second(tag, cqe, data) };
        let data = std::mem::take(data);
        let (status, flags) = (cqe.status(), self.slab[at].flags);
        if flags.has(Flags::TIMED) && status.is_success() {
            self.take_time(at);
        }
        if flags.has(Flags::HEDGED) && self.is_beaten(at) {
            self.hedges.returned(data);
            self.slab.paid(at);
        } else if status.is_success() {
            self.done.push(self.slab.succeed(at, data, cqe.result(), flags));
        } else {
            self.trouble(at, status, data);
        }
    }

    /// Takes the completion of a second attempt, which is no request's.
    #[cold]
    fn take_second(&mut self, tag: Tag, cqe: &Cqe, data: &mut Data) {
        let completion = Completion { tag, cqe: *cqe, data: std::mem::take(data) };
        let (slab, heads) = (&mut *self.slab, &mut *self.heads);
        let ended = self.hedges.answered(slab, heads, self.meter, self.now, completion);
        self.done.extend(ended);
    }

    fn take_time(&mut self, at: u32) {
        let Some(Timing { started, kind, load }) = self.slab.timing(at) else { return };
        self.meter.sample(kind, started, load, self.now);
        let entry = &self.slab[at];
        if let Some(hedge) = &mut self.heads[entry.head].hedge
            && entry.op == IoOp::Read
        {
            hedge.ended(kind, self.now.saturating_since(started).as_nanos() as u64);
        }
    }

    /// The first attempt of a read has been answered. Whether the second one was before.
    #[cold]
    fn is_beaten(&mut self, at: u32) -> bool {
        match std::mem::replace(&mut self.slab.history(at).hedge, Hedge::None) {
            Hedge::Won => return true,
            Hedge::Attempt(attempt) => self.hedges.abandon(attempt),
            Hedge::None => {}
        }
        self.slab[at].flags.clear(Flags::HEDGED);
        false
    }

    #[cold]
    fn trouble(&mut self, at: u32, status: Status, data: Data) {
        let entry = &mut self.slab[at];
        entry.data = data;
        entry.place = Place::Waiting;
        let fencing = Fencing::Needless;
        self.troubled.push(Trouble { at, status, lost: false, fencing });
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
