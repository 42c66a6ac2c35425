//! Fencing of controllers that were lost with writes in flight: by another controller of the same
//! subsystem if there is one that can, else by time. See [`Fence`](crate::Fence).
//!
//! An association that has ended is remembered until its time has passed. Nothing is done about it
//! unless a channel holds writes on its account.

use std::collections::BTreeSet;
use std::sync::Arc;

use nvme_core::controller::{ControllerInstance, CrossReset, State};
use nvme_core::nqn::Nqn;
use nvme_core::time::{Duration, Instant, earlier};
use nvme_core::transport::TransportKind;

use super::Control;
use crate::event::Event;
use crate::fence::{FencedBy, Fencing, reported, time_to_quiesce};
use crate::ids::{AssociationId, ChannelId, ControllerId};
use crate::mailbox::Letter;

/// How long until a controller that refused for the moment is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// An association that has ended and whose controller may still execute commands.
pub(super) struct Ended {
    association: AssociationId,
    controller: ControllerId,
    address: Arc<str>,
    subnqn: Nqn,
    instance: Option<ControllerInstance>,
    since: Instant,
    /// When its time has passed.
    until: Instant,
    /// Channels that hold writes on its account.
    waiting: BTreeSet<ChannelId>,
    /// Who is asked to reset it.
    asked: Option<AssociationId>,
    /// Who was asked in vain.
    tried: Vec<AssociationId>,
    ask_again: Option<Instant>,
}

impl Control {
    /// What of fencing goes with the queues of a controller.
    pub(super) fn fencing(&self, at: usize) -> Fencing {
        let Some(slot) = self.slots[at].as_ref() else { return Fencing::Needless };
        let kind = slot.association.as_ref().map(|a| a.kind());
        if kind == Some(TransportKind::Memory) {
            return Fencing::Needless;
        }
        let mode = slot.options.fence.unwrap_or(self.shared.options.fence);
        Fencing::Needed { mode, reported: slot.info.as_deref().is_some_and(reported) }
    }

    /// The association is about to be killed: remembers it, if its controller may go on without it.
    pub(super) fn remember_ended(&mut self, at: usize, now: Instant) {
        let fencing = self.fencing(at);
        let Some(slot) = self.slots[at].as_mut() else { return };
        let waiting = std::mem::take(&mut slot.fence_waiting);
        let used = std::mem::take(&mut slot.handed_out);
        let info = slot
            .info
            .as_ref()
            .filter(|_| used && fencing != Fencing::Needless && !slot.machine.has_shut_down());
        let association = slot.id;
        let Some(info) = info else {
            waiting.iter().for_each(|channel| self.tell_fenced(*channel, association));
            return;
        };
        let keep_alive = slot.machine.keep_alive_period();
        let time = slot.options.fence_time.unwrap_or_else(|| time_to_quiesce(info, keep_alive));
        let ended = Ended {
            association,
            controller: slot.status.id,
            address: Arc::clone(&slot.status.address),
            subnqn: info.subnqn.clone(),
            instance: info.instance,
            since: now,
            until: now + time,
            waiting: BTreeSet::new(),
            asked: None,
            tried: Vec::new(),
            ask_again: None,
        };
        self.ended.insert(association.epoch, ended);
        for channel in waiting {
            self.fence(association, channel, now);
        }
    }

    fn tell_fenced(&self, channel: ChannelId, association: AssociationId) {
        if let Some(channel) = self.channels.get(&channel) {
            channel.send(Letter::Fenced(association));
        }
    }

    /// A channel holds writes that were in flight on this association.
    pub(super) fn fence(&mut self, association: AssociationId, channel: ChannelId, now: Instant) {
        let Some(ended) = self.ended.get_mut(&association.epoch) else {
            match self.find_association(association).and_then(|at| self.slots[at].as_mut()) {
                // Its queue ended first.
                Some(slot) if slot.association.is_some() => {
                    slot.fence_waiting.insert(channel);
                }
                // It is known to have stopped, or its time has passed.
                _ => self.tell_fenced(channel, association),
            }
            return;
        };
        let first = ended.waiting.is_empty();
        ended.waiting.insert(channel);
        if first {
            let (controller, address) = (ended.controller, Arc::clone(&ended.address));
            let at_most = ended.until.saturating_since(now);
            self.emit(now, &Event::Fencing { controller, address, at_most });
            self.ask_for_reset(association.epoch, now);
        }
    }

    /// A channel holds no write on account of this association any more: they were given up. Nothing
    /// has to be done for it.
    pub(super) fn fence_needless(&mut self, association: AssociationId, channel: ChannelId) {
        if let Some(ended) = self.ended.get_mut(&association.epoch) {
            ended.waiting.remove(&channel);
        }
        if let Some(slot) =
            self.find_association(association).and_then(|at| self.slots[at].as_mut())
        {
            slot.fence_waiting.remove(&channel);
        }
    }

    /// A channel is gone, and what it held with it.
    pub(super) fn forget_fences(&mut self, channel: ChannelId) {
        for ended in self.ended.values_mut() {
            ended.waiting.remove(&channel);
        }
        for at in 0..self.slots.len() {
            if let Some(slot) = self.slots[at].as_mut() {
                slot.fence_waiting.remove(&channel);
            }
        }
    }

    /// Asks a controller that can to reset the one of this association, unless one is asked already.
    fn ask_for_reset(&mut self, epoch: u64, now: Instant) {
        let Some(ended) = self.ended.get(&epoch) else { return };
        let Some(instance) = ended.instance.filter(|_| ended.asked.is_none()) else { return };
        if ended.waiting.is_empty() {
            return;
        }
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots[at].as_mut() else { continue };
            let Some(ended) = self.ended.get_mut(&epoch) else { return };
            let same = slot.info.as_ref().is_some_and(|info| info.subnqn == ended.subnqn);
            let other = slot.id != ended.association && !ended.tried.contains(&slot.id);
            if same
                && other
                && slot.machine.state() == State::Live
                && slot.machine.reset_other(now, instance, epoch)
            {
                ended.asked = Some(slot.id);
                self.drain(at, now);
                return;
            }
        }
    }

    /// Controllers came or have room: whatever is to be fenced may be.
    pub(super) fn ask_for_resets(&mut self, now: Instant) {
        let epochs: Vec<u64> = self.ended.keys().copied().collect();
        epochs.into_iter().for_each(|epoch| self.ask_for_reset(epoch, now));
    }

    /// An attempt to have a controller reset has ended.
    pub(super) fn reset_ended(&mut self, epoch: u64, outcome: CrossReset, now: Instant) {
        if outcome == CrossReset::Done {
            self.fenced(epoch, FencedBy::Reset, now);
        } else if let Some(ended) = self.ended.get_mut(&epoch) {
            ended.tried.extend(ended.asked.take());
            if let CrossReset::Refused(status) = outcome
                && !status.dnr()
            {
                ended.ask_again = Some(now + ASK_AGAIN);
            }
        }
        // Also for the room that it leaves.
        self.ask_for_resets(now);
    }

    /// An association is lost: what it was asked for is to be asked of another.
    pub(super) fn resetter_lost(&mut self, association: AssociationId, now: Instant) {
        for ended in self.ended.values_mut().filter(|e| e.asked == Some(association)) {
            ended.asked = None;
        }
        self.ask_for_resets(now);
    }

    fn fenced(&mut self, epoch: u64, by: FencedBy, now: Instant) {
        let Some(ended) = self.ended.remove(&epoch) else { return };
        if ended.waiting.is_empty() {
            return;
        }
        let (controller, address) = (ended.controller, ended.address);
        let after = now.saturating_since(ended.since);
        self.emit(now, &Event::Fenced { controller, address, by, after });
        for channel in ended.waiting {
            self.tell_fenced(channel, ended.association);
        }
    }

    pub(super) fn run_fence_timers(&mut self, now: Instant) {
        if self.ended.is_empty() {
            return;
        }
        let due = |e: &&Ended| e.until <= now;
        let over: Vec<u64> = self.ended.values().filter(due).map(|e| e.association.epoch).collect();
        for epoch in over {
            self.fenced(epoch, FencedBy::Time, now);
        }
        let mut ask = false;
        for ended in self.ended.values_mut() {
            if ended.ask_again.take_if(|at| *at <= now).is_some() {
                ended.tried.clear();
                ask = true;
            }
        }
        if ask {
            self.ask_for_resets(now);
        }
    }

    /// When something is due about what is waited for. Nothing else needs a wake-up.
    pub(super) fn fence_deadline(&self) -> Option<Instant> {
        let waited = self.ended.values().filter(|e| !e.waiting.is_empty());
        let due = |e: &Ended| earlier(Some(e.until), e.ask_again);
        waited.filter_map(due).min()
    }
}
