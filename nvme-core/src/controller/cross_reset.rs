//! Cross-Controller Reset: having this controller reset another one of the same subsystem, so that
//! what that one still holds of this host's commands is executed no more (TP8028; NVMe 2.3 §5.4.3).
//!
//! The text of TP8028 was not at hand. Command, log page and event are laid out as nvme-cli has
//! them; the order of events follows the series that is posted for Linux: a completion with the
//! Immediate Reset Successful bit is the end, after any other success the log page tells, which an
//! event says is worth reading. Here it is read from time to time as well, should the event be lost.

use super::action::ControllerEvent;
use super::admin::Purpose;
use super::machine::Controller;
use crate::buffer::Buffer;
use crate::spec::command::GetLogPage;
use crate::spec::log::{CrossControllerResetLog, ResetState, lid};
use crate::spec::{Cqe, Sqe, Status};
use crate::time::{Duration, Instant, earlier};
use crate::transport::Data;

/// How long after the command the log is read first, if no event comes; doubled each time.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(2);
/// Bit 0 of the completion's dword 0.
const IMMEDIATE_RESET_SUCCESSFUL: u32 = 1 << 0;

/// Names one life of a controller, from when it became ready until it is reset: to
/// Cross-Controller Reset, and to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ControllerInstance {
    /// Controller ID.
    pub cntlid: u16,
    /// Controller Instance Uniquifier.
    pub ciu: u8,
    /// Controller Instance Random Number; never zero.
    pub cirn: u64,
}

/// How an attempt to reset another controller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrossReset {
    /// The other controller is reset: nothing that it held will be executed.
    Done,
    /// The reset was tried and failed.
    Failed,
    /// The command was refused.
    Refused(Status),
}

/// A reset that was asked for and has not ended.
#[derive(Debug)]
struct Pending {
    user: u64,
    instance: ControllerInstance,
    /// The command was answered: the log tells the end.
    answered: bool,
}

/// The resets that one association was asked for.
#[derive(Debug, Default)]
pub(super) struct CrossResets {
    pending: Vec<Pending>,
    reading: bool,
    /// An event came while the log was being read.
    again: bool,
    look_at: Option<Instant>,
    pause: Duration,
}

impl CrossResets {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Controller {
    /// Asks this controller to reset another one of its subsystem.
    /// [`ControllerEvent::CrossReset`] tells the end, with `user`; if this association is lost
    /// before, nothing is told.
    ///
    /// Returns `false`, and does nothing, when the controller is not live, does not know the command
    /// (`CCRL` 0), or has as many such resets under way as it takes.
    pub fn reset_other(&mut self, now: Instant, instance: ControllerInstance, user: u64) -> bool {
        let limit = self.info.as_ref().map_or(0, |info| info.cross_resets);
        if !self.is_live() || self.link.cross.pending.len() >= usize::from(limit) {
            return false;
        }
        self.link.cross.pending.push(Pending { user, instance, answered: false });
        let ControllerInstance { cntlid, ciu, cirn } = instance;
        let sqe = Sqe::cross_controller_reset(cntlid, ciu, cirn);
        self.send(now, sqe, Data::None, Purpose::CrossReset(user));
        true
    }

    pub(super) fn cross_reset_answered(&mut self, now: Instant, user: u64, cqe: &Cqe) {
        let status = cqe.status();
        // The same reset was asked for before, and goes on: its entry is this one's, too.
        let going_on = status.is(Status::CROSS_CONTROLLER_RESET_IN_PROGRESS);
        if !status.is_success() && !going_on {
            return self.end_cross_reset(user, CrossReset::Refused(status));
        }
        if status.is_success() && cqe.dw0.get() & IMMEDIATE_RESET_SUCCESSFUL != 0 {
            return self.end_cross_reset(user, CrossReset::Done);
        }
        let cross = &mut self.link.cross;
        if let Some(pending) = cross.pending.iter_mut().find(|p| p.user == user) {
            pending.answered = true;
            cross.pause = FIRST_LOOK;
            cross.look_at = earlier(cross.look_at, Some(now + FIRST_LOOK));
        }
    }

    /// The event Cross-Controller Reset Completed came, or it is time to look without one.
    pub(super) fn read_reset_log(&mut self, now: Instant) {
        let cross = &mut self.link.cross;
        cross.look_at = None;
        if cross.reading {
            cross.again = true;
            return;
        }
        let len = CrossControllerResetLog::MAX_LEN;
        let request = GetLogPage::new(lid::CROSS_CONTROLLER_RESET, len as u64);
        if let Ok(sqe) = request.to_sqe() {
            cross.reading = true;
            self.send_read(now, sqe, len, Purpose::ResetLog);
        }
    }

    pub(super) fn reset_log_read(&mut self, now: Instant, answer: Result<Buffer, Status>) {
        self.link.cross.reading = false;
        let mut ended = Vec::new();
        // A page that cannot be read, or is none, says nothing; the driver has its own limit.
        if let Ok(buffer) = answer
            && let Ok(log) = CrossControllerResetLog::parse(buffer.as_slice())
        {
            for pending in self.link.cross.pending.iter().filter(|p| p.answered) {
                let own = log.entries().iter().rev().find(|e| {
                    e.icid.get() == pending.instance.cntlid && e.ciu == pending.instance.ciu
                });
                match own.map(|entry| entry.ccrs) {
                    Some(ResetState::SUCCESS) => ended.push((pending.user, CrossReset::Done)),
                    Some(ResetState::FAILED) => ended.push((pending.user, CrossReset::Failed)),
                    _ => {}
                }
            }
        }
        for (user, outcome) in ended {
            self.end_cross_reset(user, outcome);
        }
        let cross = &mut self.link.cross;
        if std::mem::take(&mut cross.again) {
            return self.read_reset_log(now);
        }
        if cross.pending.iter().any(|p| p.answered) {
            cross.look_at = Some(now + cross.pause);
            cross.pause = (cross.pause * 2).min(LAST_LOOK);
        }
    }

    fn end_cross_reset(&mut self, user: u64, outcome: CrossReset) {
        let before = self.link.cross.pending.len();
        self.link.cross.pending.retain(|p| p.user != user);
        if self.link.cross.pending.len() != before {
            self.emit(ControllerEvent::CrossReset { user, outcome });
        }
    }

    pub(super) fn cross_reset_timeout(&mut self, now: Instant) {
        if self.link.cross.look_at.is_some_and(|at| at <= now) {
            self.read_reset_log(now);
        }
    }
}
