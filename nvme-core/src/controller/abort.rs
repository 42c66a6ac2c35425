//! Abort: asking the controller to give up a command that it does not answer (`NVMe 2.1 §5.1.1`).

use std::collections::VecDeque;

use super::action::{Action, ControllerEvent};
use super::admin::Purpose;
use super::machine::Controller;
use crate::spec::{Cqe, Sqe, Status};
use crate::time::{Duration, Instant};
use crate::transport::{Data, Tag};

/// Most Abort commands in flight, whatever the controller allows; so many slots of the admin queue
/// are kept for them.
pub(super) const AT_ONCE: usize = 4;
/// Most that wait for one of those. What is past it is not aborted; its owner's patience ends by
/// itself.
const MOST_WAITING: usize = 64;

/// A command by its name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) qid: u16,
    pub(super) cid: u16,
    /// Whether somebody waits to hear what the controller says.
    pub(super) told: bool,
}

/// What became of an Abort command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbortOutcome {
    /// The controller says that it has aborted the command, whose own completion tells the rest.
    Aborted,
    /// The controller has not aborted it: it has ended, or cannot be aborted. It may still be
    /// answered.
    NotAborted,
    /// The controller refused the Abort command itself.
    Refused(Status),
}

/// Aborts that wait because as many as the controller takes are in flight.
#[derive(Debug, Default)]
pub(super) struct Aborts {
    /// What is to be aborted, how long the answer may take, and until when it is of interest.
    waiting: VecDeque<(Target, Duration, Instant)>,
}

impl Controller {
    /// Asks the controller to give up the command with identifier `cid` of queue `qid`, as soon as it
    /// takes another Abort (its Abort Command Limit). [`ControllerEvent::Abort`] tells what it said;
    /// if it does not say anything within `limit`, the association ends. The command itself ends, if
    /// at all, on its own queue. Does nothing unless the controller is live.
    pub fn abort(&mut self, now: Instant, qid: u16, cid: u16, limit: Duration) {
        self.request_abort(now, Target { qid, cid, told: true }, limit);
    }

    /// The same for a command that nobody wants any more, although it is not late: nothing is told, and
    /// nothing follows if this is not answered, but that the controller has one Abort less to give.
    /// `limit`: how long it may wait for others to be answered.
    pub fn abort_unwanted(&mut self, now: Instant, qid: u16, cid: u16, limit: Duration) {
        self.request_abort(now, Target { qid, cid, told: false }, limit);
    }

    fn request_abort(&mut self, now: Instant, target: Target, limit: Duration) {
        if !self.is_live() {
            return;
        }
        let waiting = &mut self.link.aborts.waiting;
        if waiting.len() < MOST_WAITING {
            waiting.push_back((target, limit, now + limit));
        }
        self.send_aborts(now);
    }

    fn send_aborts(&mut self, now: Instant) {
        // ACL is one less than the number (`NVMe 2.1 §5.1.13.2.1`).
        let allowed = self.link.identified.as_ref().map_or(1, |id| usize::from(id.abort_limit) + 1);
        while self.admin.aborts() < allowed.min(AT_ONCE) {
            let Some((target, limit, until)) = self.link.aborts.waiting.pop_front() else { return };
            if until > now {
                let sqe = Sqe::abort(target.qid, target.cid);
                self.send_within(now, sqe, Data::None, Purpose::Abort(target), limit);
            }
        }
    }

    pub(super) fn abort_done(&mut self, now: Instant, target: Target, cqe: &Cqe) {
        if !self.is_live() {
            return;
        }
        let outcome = match cqe.status() {
            status if !status.is_success() => AbortOutcome::Refused(status),
            // Bit 0 of dword 0.
            _ if cqe.dw0.get() & 1 == 0 => AbortOutcome::Aborted,
            _ => AbortOutcome::NotAborted,
        };
        let Target { qid, cid, told } = target;
        if told {
            self.emit(ControllerEvent::Abort { qid, cid, outcome });
        }
        self.send_aborts(now);
    }

    /// A command of the user's own takes too long: if it may be aborted and has not been asked for
    /// yet, it gets that chance, and so much more time. Returns whether it does.
    pub(super) fn abort_admin(&mut self, now: Instant, tag: Tag) -> bool {
        let limit = self.config.abort_timeout;
        let may = self.config.abort_admin && self.is_live();
        let given = may && self.admin.give_time(tag, now + limit);
        if given {
            self.actions.push_back(Action::Abort { target: tag, limit });
        }
        given
    }
}
