//! The channel's queues, one per controller.

use std::os::fd::AsFd;
use std::sync::Arc;

use nvme_core::spec::Sqe;
use nvme_core::spec::command::BlockOp;
use nvme_core::time::Instant;
use nvme_core::transport::{Data, Queue, QueueSetup, RejectReason, Tag};
use rustix::event::epoll;

use super::pace::{Kind, Pace};
use super::policy::Lane;
use crate::fence::Fencing;
use crate::ids::AssociationId;
use crate::latency::PathCounts;
use crate::load::Board;
use crate::mailbox::Handover;
use crate::numa::NumaTopology;
use crate::options::TimeoutPolicy;

/// A queue that is the channel's.
pub(super) struct ChannelQueue {
    pub(super) association: AssociationId,
    pub(super) queue: Box<dyn Queue>,
    cell: OwnCell,
    /// Commands in flight, as far as this channel has counted; and most that there can be.
    load: u32,
    room: u32,
    /// Commands that other channels had in flight on this controller at the last look.
    pub(super) others: u32,
    /// What is measured of it, where times are taken.
    pub(super) meter: Meter,
    pub(super) fencing: Fencing,
    /// What is done about requests that it does not answer in time.
    pub(super) on_timeout: TimeoutPolicy,
    /// Its descriptor was reported since it was last polled.
    pub(super) woken: bool,
    /// Commands were submitted since it was last flushed.
    pub(super) dirty: bool,
    /// It is given back when nothing is in flight.
    pub(super) draining: bool,
    /// A request was overdue, and the control plane was told to reset the controller.
    pub(super) overdue: bool,
    /// Its association was killed: it takes no requests, and is kept until it gives back those that
    /// it has.
    pub(super) dying: bool,
    /// It has said so itself, and the control plane was told.
    pub(super) ending: bool,
}

/// Takes the times of a queue's commands.
pub(super) struct Meter {
    pub(super) pace: Pace,
    counts: Option<Arc<PathCounts>>,
}

impl Meter {
    /// A command has succeeded.
    pub(super) fn sample(&mut self, kind: Kind, sent: Instant, load: u32, now: Instant) {
        let latency = now.as_nanos().saturating_sub(sent.as_nanos());
        self.pace.sample(kind, latency, load, now);
        if let Some(counts) = &self.counts {
            counts.count(kind.is_read(), latency);
        }
    }
}

/// The cell of a queue of this channel. Nothing is in flight once it is dropped.
pub(super) struct OwnCell {
    board: Arc<Board>,
    qid: u16,
}

impl OwnCell {
    fn others(&self) -> u32 {
        self.board.others(self.qid)
    }
}

impl Drop for OwnCell {
    fn drop(&mut self) {
        if let Some(cell) = self.board.cell(self.qid) {
            cell.tell(0);
        }
    }
}

impl ChannelQueue {
    /// Hands a command to the queue, and the data if it takes that.
    #[inline]
    pub(super) fn submit(
        &mut self,
        sqe: Sqe,
        data: &mut Data,
        tag: Tag,
    ) -> Result<(), RejectReason> {
        self.queue.submit_from(sqe, data, tag)?;
        self.dirty = true;
        self.load += 1;
        Ok(())
    }

    /// The same for a command about blocks.
    #[inline]
    pub(super) fn submit_block(
        &mut self,
        op: BlockOp,
        slba: u64,
        data: &mut Data,
        tag: Tag,
    ) -> Result<(), RejectReason> {
        self.queue.submit_block(op, slba, data, tag)?;
        self.dirty = true;
        self.load += 1;
        Ok(())
    }

    /// Counts completions, and tells who wants to know; also of what was `sent`.
    pub(super) fn count(&mut self, completions: u32, sent: bool) {
        if completions > 0 || sent {
            self.load = self.load.saturating_sub(completions);
            if let Some(cell) = self.cell.board.cell(self.cell.qid) {
                cell.count(completions.into());
                cell.tell(self.load);
            }
        }
    }

    /// Sends what was submitted.
    pub(super) fn flush(&mut self) {
        self.dirty = false;
        self.queue.flush();
        if let Some(cell) = self.cell.board.cell(self.cell.qid) {
            cell.tell(self.load);
        }
    }

    /// Commands in flight.
    pub(super) const fn load(&self) -> u32 {
        self.load
    }

    /// Whether the queue takes no more at the moment.
    pub(super) const fn is_full(&self) -> bool {
        self.load >= self.room
    }
}

/// What the channel has of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    None,
    /// A queue, at this place.
    Queue(u32),
    /// No queue: the controller grants only so many.
    Refused {
        epoch: u64,
        granted: u16,
    },
}

/// All queues of a channel.
pub(super) struct Queues {
    list: Vec<ChannelQueue>,
    /// By the controller's slot.
    by_slot: Vec<Entry>,
    /// Moves whenever a queue comes or goes.
    generation: u64,
    /// Counts polls, from 1: until the next one, what is in flight only grows.
    round: u64,
    /// The one in which it was looked at what others have in flight.
    others_seen: u64,
    /// Times that a path began or ceased to stand still.
    alarms: u64,
    /// Polls of a queue that found answers.
    answers: u64,
    /// Latencies are counted.
    timed: bool,
    numa_node: Option<u32>,
    numa: Arc<NumaTopology>,
}

impl Queues {
    /// For a channel on this NUMA node, which counts latencies if `timed`.
    pub(super) fn new(timed: bool, numa_node: Option<u32>, numa: Arc<NumaTopology>) -> Self {
        let (list, by_slot) = (Vec::new(), Vec::new());
        let (generation, alarms, answers) = (0, 0, 0);
        let (round, others_seen) = (1, 0);
        Self {
            list,
            by_slot,
            generation,
            round,
            others_seen,
            alarms,
            answers,
            timed,
            numa_node,
            numa,
        }
    }

    pub(super) const fn timed(&self) -> bool {
        self.timed
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// How far the channel is from a node.
    pub(super) fn distance(&self, node: Option<u32>) -> u32 {
        self.numa.distance(self.numa_node, node)
    }

    /// The channel is polled: what is known of others is old, and queues have less in flight.
    pub(super) const fn polled(&mut self) {
        self.round += 1;
    }

    /// How often the channel was polled, and one more.
    #[inline]
    pub(super) const fn round(&self) -> u64 {
        self.round
    }

    pub(super) const fn alarms(&self) -> u64 {
        self.alarms
    }

    /// Notes for the pace of the queue at `place` that it was polled and gave so many answers.
    pub(super) fn note_pace(&mut self, place: usize, taken: u32, now: Instant) {
        let q = &mut self.list[place];
        let idle = q.load == 0;
        self.alarms += u64::from(q.meter.pace.polled(taken, idle, now, self.answers));
        self.answers += u64::from(taken > 0);
    }

    /// Reads what other channels have in flight, if that was not done since the last poll.
    pub(super) fn look_at_others(&mut self) {
        if std::mem::replace(&mut self.others_seen, self.round) != self.round {
            for q in &mut self.list {
                q.others = q.cell.others();
            }
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ChannelQueue> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ChannelQueue> {
        self.list.iter_mut()
    }

    #[inline]
    pub(super) fn at(&mut self, place: usize) -> &mut ChannelQueue {
        &mut self.list[place]
    }

    pub(super) fn get(&self, place: usize) -> &ChannelQueue {
        &self.list[place]
    }

    /// The queue of a lane, if it takes one more.
    #[inline]
    pub(super) fn open(&mut self, lane: &Lane) -> Option<&mut ChannelQueue> {
        self.list.get_mut(lane.queue as usize).filter(|queue| !queue.is_full())
    }

    /// Whether the queue of a lane takes one more.
    #[inline]
    pub(super) fn has_room(&self, lane: &Lane) -> bool {
        !self.list[lane.queue as usize].is_full()
    }

    /// What is in flight on the controller of a lane, as far as the channel knows.
    #[inline]
    pub(super) fn load(&self, lane: &Lane) -> u32 {
        let queue = &self.list[lane.queue as usize];
        queue.load + queue.others
    }

    /// The place of the queue of an association.
    pub(super) fn find(&self, association: AssociationId) -> Option<usize> {
        match self.by_slot.get(association.slot as usize) {
            Some(Entry::Queue(at)) => {
                let at = *at as usize;
                (self.list[at].association == association).then_some(at)
            }
            _ => None,
        }
    }

    /// Whether the queue of an association is kept only for what it has.
    pub(super) fn is_dying(&self, association: AssociationId) -> bool {
        self.list.iter().any(|q| q.dying && q.association == association)
    }

    /// Commands of the channel that devices on a bus have, and whether none of these obeys.
    pub(super) fn kept(&self) -> (usize, bool) {
        let is =
            |q: &&ChannelQueue| q.queue.in_flight() > 0 && q.queue.setup() != QueueSetup::Connect;
        let having = || self.list.iter().filter(is);
        (having().map(|q| q.queue.in_flight()).sum(), having().all(|q| q.ending))
    }

    /// Whether the controller refused this channel a queue; how many it grants.
    pub(super) fn refused(&self, association: AssociationId) -> Option<u16> {
        match self.by_slot.get(association.slot as usize) {
            Some(Entry::Refused { epoch, granted }) if *epoch == association.epoch => {
                Some(*granted)
            }
            _ => None,
        }
    }

    fn slot(&mut self, association: AssociationId) -> &mut Entry {
        let at = association.slot as usize;
        if self.by_slot.len() <= at {
            self.by_slot.resize(at + 1, Entry::None);
        }
        &mut self.by_slot[at]
    }

    pub(super) fn set_refused(&mut self, association: AssociationId, granted: u16) {
        self.generation += 1;
        *self.slot(association) = Entry::Refused { epoch: association.epoch, granted };
    }

    pub(super) fn add(&mut self, handover: Handover, epoll: impl AsFd) {
        let Handover { association, qid, queue, board, counts, fencing, on_timeout } = handover;
        self.generation += 1;
        if let Some(fd) = queue.fd() {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(association.epoch);
            // Without it the queue is still polled whenever the channel is.
            let _ = epoll::add(epoll, fd, data, flags);
        }
        let at = self.list.len() as u32;
        let (load, room) = (queue.in_flight() as u32, queue.capacity() as u32);
        self.list.push(ChannelQueue {
            association,
            queue,
            cell: OwnCell { board, qid },
            load,
            room,
            others: 0,
            meter: Meter { pace: Pace::default(), counts },
            fencing,
            on_timeout,
            woken: true,
            dirty: false,
            draining: false,
            overdue: false,
            dying: false,
            ending: false,
        });
        *self.slot(association) = Entry::Queue(at);
    }

    /// Takes everything out: the queues that somebody else can go on with, and nothing in flight on
    /// them. The others are dropped.
    pub(super) fn take_idle(&mut self) -> Vec<(AssociationId, Box<dyn Queue>)> {
        self.by_slot.clear();
        let idle = |q: &ChannelQueue| q.queue.in_flight() == 0 && !q.draining && !q.dying;
        let list = std::mem::take(&mut self.list).into_iter();
        list.filter(idle).map(|q| (q.association, q.queue)).collect()
    }

    /// The queue at `place` is not to be found any more.
    fn forget(&mut self, association: AssociationId, place: usize) {
        let entry = self.slot(association);
        if *entry == Entry::Queue(place as u32) {
            *entry = Entry::None;
        }
    }

    /// The association of the queue at `place` was killed: it is polled until it has ended.
    pub(super) fn let_die(&mut self, place: usize) {
        self.generation += 1;
        let q = &mut self.list[place];
        (q.dying, q.draining, q.woken) = (true, false, true);
        let association = q.association;
        self.forget(association, place);
    }

    /// Takes the queue at `place` out.
    pub(super) fn remove(&mut self, place: usize, epoll: impl AsFd) -> ChannelQueue {
        self.generation += 1;
        let gone = self.list.swap_remove(place);
        if let Some(fd) = gone.queue.fd() {
            let _ = epoll::delete(epoll, fd);
        }
        self.forget(gone.association, place);
        if let Some(moved) = self.list.get(place) {
            let (association, from) = (moved.association, self.list.len());
            let entry = self.slot(association);
            if *entry == Entry::Queue(from as u32) {
                *entry = Entry::Queue(place as u32);
            }
        }
        gone
    }

    /// Notes that the descriptor of an association's queue was reported.
    pub(super) fn wake(&mut self, epoch: u64) {
        if let Some(q) = self.list.iter_mut().find(|q| q.association.epoch == epoch) {
            q.woken = true;
        }
    }
}
