//! Commands that are not answered in time, as far as the control plane has to do with them: Abort goes
//! by the admin queue, and a reset is its own.

use std::sync::Arc;

use nvme_core::controller::AbortOutcome;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::Tag;

use super::Control;
use crate::event::{Event, TimeoutStep};
use crate::ids::{AssociationId, ChannelId};

impl Control {
    /// A channel wants a command of its queue aborted, because it is overdue or not wanted any more.
    pub(super) fn abort(
        &mut self,
        id: AssociationId,
        (channel, cid): (ChannelId, u16),
        limit: Duration,
        overdue: bool,
        now: Instant,
    ) {
        let Some(at) = self.find_association(id) else { return };
        let Some(qid) = self.queue_of(at, channel) else { return };
        if overdue {
            self.tell_step(at, qid, cid, TimeoutStep::Aborting, now);
        }
        let Some(slot) = self.slots[at].as_mut() else { return };
        match overdue {
            true => slot.machine.abort(now, qid, cid, limit),
            false => slot.machine.abort_unwanted(now, qid, cid, limit),
        }
        self.drain(at, now);
    }

    /// A command of the admin queue is to be aborted, if it has not ended meanwhile.
    pub(super) fn abort_admin(&mut self, at: usize, target: Tag, limit: Duration, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let Some(cid) = slot.queue(0).and_then(|own| own.queue.command_id(target)) else { return };
        slot.machine.abort(now, 0, cid, limit);
        self.tell_step(at, 0, cid, TimeoutStep::Aborting, now);
    }

    pub(super) fn abort_answered(
        &mut self,
        at: usize,
        (qid, cid): (u16, u16),
        outcome: AbortOutcome,
        now: Instant,
    ) {
        self.tell_step(at, qid, cid, TimeoutStep::Answered(outcome), now);
    }

    /// A request was not answered in time, and nothing milder is left.
    pub(super) fn io_timeout(
        &mut self,
        id: AssociationId,
        command: Option<(ChannelId, u16)>,
        aborted: bool,
        now: Instant,
    ) {
        let Some(at) = self.find_association(id) else { return };
        let place = command.and_then(|(channel, cid)| Some((self.queue_of(at, channel)?, cid)));
        if let Some((qid, cid)) = place {
            self.tell_step(at, qid, cid, TimeoutStep::Resetting, now);
        }
        let what = match place {
            Some((qid, cid)) => format!("command {cid:#06x} of queue {qid}"),
            None => "an I/O request".into(),
        };
        let nor = if aborted { ", nor after it was aborted" } else { "" };
        if let Some(slot) = self.slots[at].as_mut() {
            slot.machine.reset(now, format!("{what} was not answered in time{nor}"));
        }
        self.drain(at, now);
    }

    fn queue_of(&self, at: usize, channel: ChannelId) -> Option<u16> {
        let mut handed = self.slots[at].as_ref()?.map.handed.iter();
        handed.find(|(_, owner)| **owner == channel).map(|(qid, _)| *qid)
    }

    fn tell_step(&self, at: usize, queue: u16, command: u16, step: TimeoutStep, now: Instant) {
        let Some(slot) = self.slots[at].as_ref() else { return };
        let (controller, address) = (slot.status.id, Arc::clone(&slot.status.address));
        self.emit(now, &Event::CommandOverdue { controller, address, queue, command, step });
    }
}
