//! What the control plane tells a channel.

use super::Channel;
use super::parked::Hopeless;
use super::slab::Place;
use crate::ids::AssociationId;
use crate::mailbox::{Command, Letter};

impl Channel {
    pub(super) fn read_letters(&mut self) {
        for letter in self.letters.take() {
            match letter {
                Letter::QueueUp(queue) => {
                    self.queues.add(queue, self.sleep.epoll());
                }
                Letter::QueueDrain(association) => self.queue_drain(association),
                Letter::QueueDown(association) => self.queue_down(association),
                Letter::QueueRefused { association, granted } => {
                    self.queues.set_refused(association, granted);
                }
                Letter::Fenced(association) => self.fenced(association),
                Letter::Shutdown => self.shut_down(),
            }
        }
        // Views may have changed, or a queue come: whatever waits tries again.
        for known in self.heads.iter_mut() {
            known.refresh_view(&self.queues);
        }
        self.unpark_all();
        self.give_up_held();
        if self.slab.used() + self.slab.owed() == 0 && self.hedges.is_idle() {
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
            // It comes back by itself.
            None if self.queues.is_dying(association) => {}
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

    /// The association was killed. Its queue is polled until it has ended, which is at once unless
    /// the device takes its time to stop; then its requests go elsewhere, and it is released.
    fn queue_down(&mut self, association: AssociationId) {
        match self.queues.find(association) {
            Some(place) => self.queues.let_die(place),
            None if self.queues.is_dying(association) => {}
            None => self.released(association),
        }
    }

    /// Ends every request that is not in a queue, and from now on each that comes out of one without
    /// success. Those in queues get their answers, or come back when their association is dissolved,
    /// which the control plane is about to do: a buffer is not given back before.
    fn shut_down(&mut self) {
        self.closed = true;
        self.delayed.clear();
        self.unpark_all();
        self.forget_held();
        self.crowded.clear();
        self.heads.iter_mut().for_each(|known| known.waiting.clear());
        self.parked.hopeless.clear();
        let troubled = &self.troubled;
        for (at, entry) in self.slab.iter_mut() {
            let elsewhere = matches!(entry.place, Place::Free | Place::InFlight);
            if !elsewhere && !troubled.iter().any(|t| t.at == at) {
                entry.place = Place::Waiting;
                self.parked.hopeless.push((at, Hopeless::Shutdown));
            }
        }
    }
}
