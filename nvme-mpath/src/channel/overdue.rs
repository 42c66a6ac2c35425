//! Requests that are not answered in time: one look more at the queue, then Abort, then the reset of
//! their controller.
//!
//! Nothing here gives a buffer back. That is done by the command's own completion, or by its queue
//! when the association has ended.

use nvme_core::time::{Instant, earlier};
use nvme_core::transport::Tag;

use super::Channel;
use super::slab::Place;
use crate::error::IoOp;
use crate::ids::AssociationId;
use crate::mailbox::Command;
use crate::options::{OverdueAction, TimeoutPolicy};

/// A request that was not answered in time.
pub(super) struct Overdue {
    at: u32,
    tag: Tag,
    association: AssociationId,
    step: Step,
    due: Instant,
}

/// What is done about it when it is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its queue has been looked through once more: act.
    Act,
    /// It was to be aborted, and has not ended.
    Reset,
}

/// What is done about an operation that takes too long.
fn policy(op: IoOp, policy: &TimeoutPolicy) -> OverdueAction {
    match op {
        IoOp::Read | IoOp::Compare => policy.reads,
        _ => policy.writes,
    }
}

impl Channel {
    /// Finds requests that were not answered in time, and goes on with those that were found before.
    /// Returns when to look again. All queues have been polled just before.
    pub(super) fn check_overdue(&mut self, now: Instant) -> Option<Instant> {
        let limit = self.options.io_timeout;
        let mut next = None;
        for at in 0..self.slab.entries() as u32 {
            let entry = &mut self.slab[at];
            if entry.place != Place::InFlight {
                continue;
            }
            // On the list already.
            if entry.sent_at == Instant::NEVER {
                continue;
            }
            if entry.sent_at == Instant::ZERO {
                entry.sent_at = now;
            }
            if entry.sent_at + limit > now {
                next = earlier(next, Some(entry.sent_at + limit));
                continue;
            }
            entry.sent_at = Instant::NEVER;
            let (tag, association) = (entry.tag, entry.sent_on);
            self.overdue.push(Overdue { at, tag, association, step: Step::Act, due: now });
        }
        next = earlier(next, self.climb(now));
        self.reset_for_hedges(now);
        // New requests are stamped at the first look after their submission: the look comes often
        // enough that the limit is kept to an eighth.
        let look = now + limit / 8;
        let busy = self.slab.used() + self.slab.owed() > 0 || !self.hedges.is_idle();
        earlier(next, busy.then_some(look))
    }

    /// A second attempt of a read that is not answered has nobody who waits for it, but it has a
    /// buffer.
    fn reset_for_hedges(&mut self, now: Instant) {
        let limit = u64::try_from(self.options.io_timeout.as_nanos()).unwrap_or(u64::MAX);
        let before = Instant::from_nanos(now.as_nanos().saturating_sub(limit));
        for association in self.hedges.overdue(before) {
            let Some(place) = self.queues.find(association) else { continue };
            if !std::mem::replace(&mut self.queues.at(place).overdue, true) {
                let (command, aborted) = (None, false);
                self.shared.commands.send(Command::IoTimeout { association, command, aborted });
            }
        }
    }

    /// Asks the controller that has a request to give it up, because nobody wants it any more. What it
    /// makes of that is told by the command's own completion. Where aborting is not wanted at all, or
    /// the queue cannot name the command, nothing is asked.
    pub(super) fn abort_unwanted(&mut self, at: u32, association: AssociationId) {
        let Some(place) = self.queues.find(association) else { return };
        let (tag, op) = (self.slab.tag(at), self.slab[at].op);
        let q = self.queues.at(place);
        if q.overdue || policy(op, &q.on_timeout) != OverdueAction::AbortThenReset {
            return;
        }
        let Some(cid) = q.queue.command_id(tag) else { return };
        let limit = q.on_timeout.abort_wait.min(self.options.io_timeout);
        let (channel, overdue) = (self.letters.id, false);
        self.shared.commands.send(Command::Abort { association, channel, cid, limit, overdue });
    }

    fn climb(&mut self, now: Instant) -> Option<Instant> {
        let mut list = std::mem::take(&mut self.overdue);
        list.retain_mut(|overdue| overdue.due > now || self.act(overdue, now));
        // One that ended meanwhile is found out when it is due.
        let next = list.iter().map(|overdue| overdue.due).min();
        self.overdue = list;
        next
    }

    /// Does the next thing about an overdue request; whether something is left to be done later.
    fn act(&mut self, overdue: &mut Overdue, now: Instant) -> bool {
        let Overdue { at, tag, association, .. } = *overdue;
        // Sent again since, or ended.
        let same = self.slab.find(tag) == Some(at) && self.slab[at].sent_at == Instant::NEVER;
        if !same || self.slab[at].sent_on != association {
            return false;
        }
        // One that is being taken apart ends without our help.
        let Some(place) = self.queues.find(association) else { return false };
        let q = self.queues.at(place);
        if q.overdue {
            return false;
        }
        let policy = policy(self.slab[at].op, &q.on_timeout);
        let wait = q.on_timeout.abort_wait.min(self.options.io_timeout);
        let command = q.queue.command_id(tag);
        let (commands, channel) = (&self.shared.commands, self.letters.id);
        match (overdue.step, policy, command) {
            (Step::Act, OverdueAction::AbortThenReset, Some(cid)) => {
                let limit = wait;
                commands.send(Command::Abort { association, channel, cid, limit, overdue: true });
                (overdue.step, overdue.due) = (Step::Reset, now + wait);
                true
            }
            _ => {
                q.overdue = true;
                let aborted = overdue.step == Step::Reset;
                let command = command.map(|cid| (channel, cid));
                commands.send(Command::IoTimeout { association, command, aborted });
                false
            }
        }
    }
}
