//! Which channel gets which queue of which controller.

use std::sync::Arc;

use nvme_core::controller::State;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::Queue;

use super::Control;
use super::slot::OwnQueue;
use crate::ids::{AssociationId, ChannelId};
use crate::mailbox::{ChannelShared, Handover, Letter};

/// How long a controller that is to be deleted waits for its queues. What is in flight after that
/// fails over; a channel that is never polled must not keep the controller.
const HAND_BACK_LIMIT: Duration = Duration::from_secs(1);

impl Control {
    pub(super) fn channel_opened(&mut self, channel: Arc<ChannelShared>, now: Instant) {
        let id = channel.id;
        if self.shutting_down {
            channel.send(Letter::Shutdown);
            return;
        }
        self.channels.insert(id, channel);
        for at in 0..self.slots.len() {
            self.assign(at, id, now);
            self.drain(at, now);
        }
    }

    pub(super) fn channel_closed(&mut self, id: ChannelId, now: Instant) {
        self.channels.remove(&id);
        self.forget_fences(id);
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots[at].as_mut() else { continue };
            slot.status.latency.lock().ended(id);
            slot.map.releasing.remove(&id);
            slot.map.refused.remove(&id);
            if let Some(qid) = slot.map.assigned.remove(&id) {
                slot.map.handed.remove(&qid);
                if !slot.map.spare.contains(&qid) {
                    self.forget_queue(at, qid);
                    self.unwant(at, qid, now);
                }
                self.give_to_refused(at, qid, now);
            }
            self.finish_teardown(at, now);
            self.finish_delete(at, now);
            self.drain(at, now);
        }
    }

    fn unwant(&mut self, at: usize, qid: u16, now: Instant) {
        if let Some(slot) = self.slots[at].as_mut() {
            slot.machine.unwant_queue(now, qid);
        }
    }

    /// A queue identifier came free: somebody may be waiting for one.
    fn give_to_refused(&mut self, at: usize, qid: u16, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        if let Some(channel) = slot.map.refused.pop_first() {
            slot.map.assigned.insert(channel, qid);
            if slot.map.spare.remove(&qid) {
                self.hand_over(at, qid);
            } else {
                slot.machine.want_queue(now, qid);
            }
        }
    }

    /// Gives out queue identifiers for a new association: 1, 2, 3, … in the order of the channels.
    pub(super) fn assign_all(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        for (_, qid) in slot.map.assigned.drain() {
            slot.machine.unwant_queue(now, qid);
        }
        slot.map.refused.clear();
        slot.map.next_qid = 1;
        let channels: Vec<ChannelId> = self.channels.keys().copied().collect();
        for id in channels {
            self.assign(at, id, now);
        }
    }

    fn assign(&mut self, at: usize, id: ChannelId, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        if let Some(qid) = slot.map.spare.pop_first() {
            slot.map.assigned.insert(id, qid);
            self.hand_over(at, qid);
            return;
        }
        let map = &mut slot.map;
        let used = |qid: &u16| map.assigned.values().any(|q| q == qid);
        // Past the last fresh identifier, one that was used and given back will do.
        let granted = slot.info.as_ref().filter(|_| slot.machine.state() == State::Live);
        let limit = granted.map_or(slot.options.max_io_queues, |info| info.io_queues);
        let qid = match map.next_qid {
            next if next <= limit => next,
            next => (1..=limit).find(|q| !used(q)).unwrap_or(next),
        };
        map.next_qid = map.next_qid.saturating_add(1);
        map.assigned.insert(id, qid);
        slot.machine.want_queue(now, qid);
    }

    /// The controller does not grant as many queues as there are channels.
    pub(super) fn queue_refused(&mut self, at: usize, qid: u16, granted: u16, now: Instant) {
        // One that was opened and could not be created is of no use.
        self.forget_queue(at, qid);
        let Some(slot) = self.slots[at].as_mut() else { return };
        let owner = slot.map.assigned.iter().find(|(_, q)| **q == qid).map(|(id, _)| *id);
        let Some(id) = owner else { return };
        slot.machine.unwant_queue(now, qid);
        slot.map.assigned.remove(&id);
        // A channel may have closed since the identifiers were given out.
        let used = |qid: &u16| slot.map.assigned.values().any(|q| q == qid);
        if let Some(free) = (1..=granted).find(|q| !used(q)) {
            slot.map.assigned.insert(id, free);
            slot.machine.want_queue(now, free);
            return;
        }
        slot.map.refused.insert(id);
        if let Some(channel) = self.channels.get(&id) {
            // An older refusal, if it was not read, says nothing any more.
            let _ = channel.retract(slot.id);
            channel.send(Letter::QueueRefused { association: slot.id, granted });
        }
    }

    /// A queue is connected: its channel gets it.
    pub(super) fn hand_over(&mut self, at: usize, qid: u16) {
        let Some(mut own) = self.forget_queue(at, qid) else { return };
        let Some(slot) = self.slots[at].as_mut() else { return };
        let owner = slot.map.assigned.iter().find(|(_, q)| **q == qid).map(|(id, _)| *id);
        let Some(channel) = owner.and_then(|id| self.channels.get(&id)) else { return };
        own.queue.set_in_capsule_data(slot.in_capsule);
        slot.handed_out = true;
        slot.map.handed.insert(qid, channel.id);
        slot.board.give(qid);
        let (association, board) = (slot.id, Arc::clone(&slot.board));
        let counts = channel.histograms.then(|| slot.status.latency.lock().of(channel.id));
        let (queue, on_timeout) = (own.queue, slot.options.on_timeout);
        let fencing = self.fencing(at);
        let handover = Handover { association, qid, queue, board, counts, fencing, on_timeout };
        channel.send(Letter::QueueUp(handover));
    }

    /// A channel that is being closed gives a queue back that works. To open another one in its
    /// place would take time, and a target may take the identifier for still in use.
    pub(super) fn queue_returned(
        &mut self,
        id: AssociationId,
        channel: ChannelId,
        queue: Box<dyn Queue>,
    ) {
        let Some(at) = self.find_association(id) else { return };
        let Some(slot) = self.slots[at].as_mut() else { return };
        let usable = slot.machine.state() == State::Live && slot.delete_by.is_none();
        let Some(&qid) = slot.map.assigned.get(&channel).filter(|_| usable) else { return };
        if slot.map.handed.remove(&qid).is_some() {
            slot.map.spare.insert(qid);
            slot.queues.push(OwnQueue { qid, queue, registered: None, told_ready: true });
            self.register(at, qid);
            self.repoll.push((at, qid));
        }
    }

    pub(super) fn queue_released(&mut self, id: AssociationId, channel: ChannelId, now: Instant) {
        let Some(at) = self.find_association(id) else { return };
        if let Some(slot) = self.slots[at].as_mut() {
            slot.map.releasing.remove(&channel);
            slot.map.handed.retain(|_, owner| *owner != channel);
        }
        self.finish_teardown(at, now);
        self.finish_delete(at, now);
    }

    /// A live controller is to be deleted: its paths take no more requests, and the channels give
    /// their queues back when what is in flight has ended. Only then is it told to shut down, for
    /// it may answer nothing, or with an error, after that.
    pub(super) fn take_queues_back(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        if slot.delete_by.is_some() {
            return;
        }
        slot.delete_by = Some(now + HAND_BACK_LIMIT);
        self.set_paths_unready(at, now);
        let Some(slot) = self.slots[at].as_mut() else { return };
        for owner in slot.map.handed.values() {
            // One that has not been taken out of the letter box needs no giving back.
            if let Some(channel) = self.channels.get(owner)
                && !channel.retract(slot.id)
            {
                channel.send(Letter::QueueDrain(slot.id));
                slot.map.releasing.insert(*owner);
            }
        }
        self.finish_delete(at, now);
    }

    /// Deletes the controller once its queues are back, or the time is up.
    pub(super) fn finish_delete(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let over = slot.map.releasing.is_empty() || slot.delete_by.is_some_and(|t| t <= now);
        if slot.delete_by.is_some() && over {
            slot.delete_by = None;
            slot.map.releasing.clear();
            slot.machine.delete(now);
            self.drain(at, now);
        }
    }

    /// The slot of an association, if it is still the current one.
    pub(super) fn find_association(&self, id: AssociationId) -> Option<usize> {
        let at = id.slot as usize;
        self.slots.get(at)?.as_ref().filter(|slot| slot.id == id).map(|_| at)
    }
}
