//! What the control plane tells a channel.

use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Queue};

use super::parked::Hopeless;
use super::request::{IoCompletion, Place};
use super::{Channel, reap};
use crate::ids::AssociationId;
use crate::mailbox::{Command, Letter};

impl Channel {
    pub(super) fn read_letters(&mut self, now: Instant, done: &mut Vec<IoCompletion>) {
        for letter in self.letters.take() {
            match letter {
                Letter::QueueUp { association, queue, traffic } => {
                    self.queues.add(association, queue, traffic, self.sleep.epoll());
                }
                Letter::QueueDrain(association) => self.queue_drain(association),
                Letter::QueueDown(association) => self.queue_down(association, now, done),
                Letter::QueueRefused { association, granted } => {
                    self.queues.set_refused(association, granted);
                }
                Letter::Shutdown => self.shut_down(),
            }
        }
        // Views may have changed, or a queue come: whatever waits tries again.
        for known in self.heads.iter_mut() {
            known.refresh();
        }
        self.unpark_all();
        if self.slab.used() == 0 {
            self.heads.clear();
        }
    }

    /// The controller is to be deleted. Its paths are out of the views already, so that its queue
    /// only gets emptier; [`release_drained`](Self::release_drained) sees the end.
    fn queue_drain(&mut self, association: AssociationId) {
        match self.queues.find(association) {
            Some(place) => {
                self.queues.at(place).draining = true;
                self.draining = true;
            }
            None => self.released(association),
        }
    }

    /// Gives back the queues that are to be given back and have nothing in flight.
    pub(super) fn release_drained(&mut self) {
        let mut place = 0;
        let mut left = false;
        while place < self.queues.len() {
            let q = self.queues.at(place);
            if q.draining && q.queue.in_flight() == 0 {
                let gone = self.queues.remove(place, self.sleep.epoll());
                let association = gone.association;
                drop(gone);
                self.released(association);
            } else {
                left |= q.draining;
                place += 1;
            }
        }
        self.draining = left;
    }

    fn released(&self, association: AssociationId) {
        let channel = self.letters.id;
        self.shared.commands.send(Command::QueueReleased { association, channel });
    }

    /// The association was killed: its queue is taken apart, its requests go elsewhere.
    fn queue_down(
        &mut self,
        association: AssociationId,
        now: Instant,
        done: &mut Vec<IoCompletion>,
    ) {
        if let Some(place) = self.queues.find(association) {
            let mut gone = self.queues.remove(place, self.sleep.epoll());
            self.take_rest(&mut *gone.queue, now, done);
            drop(gone);
        }
        self.released(association);
    }

    /// Takes out of a dead queue what it still has: answers that came before it died, and the
    /// commands that it ends itself.
    fn take_rest(&mut self, queue: &mut dyn Queue, now: Instant, done: &mut Vec<IoCompletion>) {
        let (slab, troubled) = (&mut self.slab, &mut self.troubled);
        let mut sink = |c: Completion| reap(slab, troubled, done, c);
        let mut rounds = 0;
        while queue.in_flight() > 0 && rounds < 1000 {
            queue.poll(now, &mut sink);
            rounds += 1;
        }
        self.mark_lost();
    }

    /// Ends every request that is not in a queue, and from now on each that comes out of one without
    /// success. Those in queues get their answers, or come back when their association is dissolved,
    /// which the control plane is about to do: a buffer is not given back before.
    fn shut_down(&mut self) {
        self.closed = true;
        self.delayed.clear();
        self.unpark_all();
        self.crowded.clear();
        self.heads.iter_mut().for_each(|known| known.waiting.clear());
        self.parked.hopeless.clear();
        let troubled = &self.troubled;
        for (at, entry) in self.slab.iter_mut() {
            let elsewhere = matches!(entry.place, Place::Free { .. } | Place::InFlight(_));
            if !elsewhere && !troubled.iter().any(|t| t.at == at) {
                entry.place = Place::Waiting;
                self.parked.hopeless.push((at, Hopeless::Shutdown));
            }
        }
    }
}
