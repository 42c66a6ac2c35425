//! The channel's queues, one per controller.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nvme_core::transport::Queue;
use rustix::event::epoll;

use crate::ids::AssociationId;
use crate::mailbox::Traffic;

/// A queue that is the channel's.
pub(super) struct ChannelQueue {
    pub(super) association: AssociationId,
    pub(super) queue: Box<dyn Queue>,
    traffic: Arc<Traffic>,
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
}

impl ChannelQueue {
    /// Counts completions, for the keep-alive's sake.
    pub(super) fn count(&self, completions: usize) {
        if completions > 0 {
            let seen = self.traffic.load(Ordering::Relaxed);
            self.traffic.store(seen.wrapping_add(completions as u64), Ordering::Relaxed);
        }
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
#[derive(Default)]
pub(super) struct Queues {
    list: Vec<ChannelQueue>,
    /// By the controller's slot.
    by_slot: Vec<Entry>,
}

impl Queues {
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ChannelQueue> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ChannelQueue> {
        self.list.iter_mut()
    }

    pub(super) fn at(&mut self, place: usize) -> &mut ChannelQueue {
        &mut self.list[place]
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
        *self.slot(association) = Entry::Refused { epoch: association.epoch, granted };
    }

    pub(super) fn add(
        &mut self,
        association: AssociationId,
        queue: Box<dyn Queue>,
        traffic: Arc<Traffic>,
        epoll: impl AsFd,
    ) {
        if let Some(fd) = queue.fd() {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(association.epoch);
            // Without it the queue is still polled whenever the channel is.
            let _ = epoll::add(epoll, fd, data, flags);
        }
        let at = self.list.len() as u32;
        self.list.push(ChannelQueue {
            association,
            queue,
            traffic,
            woken: true,
            dirty: false,
            draining: false,
            overdue: false,
            dying: false,
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
        let q = &mut self.list[place];
        (q.dying, q.draining, q.woken) = (true, false, true);
        let association = q.association;
        self.forget(association, place);
    }

    /// Takes the queue at `place` out.
    pub(super) fn remove(&mut self, place: usize, epoll: impl AsFd) -> ChannelQueue {
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
