//! Loss of an association, the way back, and the end: error recovery, reconnect, `ctrl_loss_tmo`,
//! `fast_io_fail_tmo`, delete.

use super::action::{Action, ControllerError, ControllerEvent, RemovedCause};
use super::bringup::Step;
use super::link::Link;
use super::machine::{Controller, Phase};
use super::state::State;
use crate::spec::fabrics::property;
use crate::spec::registers::NSSR_RESET;
use crate::time::{Instant, earlier};
use crate::transport::TransportError;

/// What follows once the driver has taken the association apart.
#[derive(Debug)]
pub(super) enum Goal {
    /// Another attempt, not before this time.
    Retry(Instant),
    /// The end.
    Remove(RemovedCause),
}

/// The time without a live controller: what began it and what was tried.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// When it began; `None` while live, and before the start.
    since: Option<Instant>,
    /// Attempts that failed in it.
    attempts: u32,
    /// Waits begun in it; each is longer than the one before.
    waits: u32,
    /// `fast_io_fail_tmo` has been told.
    told: bool,
    /// It was asked for, by a start or a reset: then one attempt is made even if `ctrl_loss_tmo` is
    /// zero, which means only that a controller which was *lost* is not waited for.
    asked: bool,
}

impl Loss {
    pub(super) fn begin(&mut self, now: Instant, asked: bool) {
        *self = Self { since: Some(now), asked, ..Self::default() };
    }

    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

impl Controller {
    /// The association is gone: the driver has killed it and taken all its queues apart. The answer
    /// to [`Action::Teardown`].
    pub fn torn_down(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::TearingDown(_)) {
            return;
        }
        self.abort_passthrough_in_flight();
        self.link = Link::default();
        match std::mem::replace(&mut self.phase, Phase::Gone) {
            Phase::TearingDown(Goal::Retry(at)) => self.retry(now, at),
            Phase::TearingDown(Goal::Remove(cause)) => self.finish(cause),
            other => self.phase = other,
        }
    }

    /// Asks for a new association: a live controller is taken apart and brought up again at once,
    /// and a wait for the next attempt is cut short. In all other states nothing happens.
    pub fn reset(&mut self, now: Instant, reason: String) {
        match self.phase {
            Phase::Live => {
                let address = self.config.address.clone();
                self.fail(now, ControllerError::Reset { address, reason });
            }
            Phase::Waiting(_) => self.phase = Phase::Waiting(now),
            _ => {}
        }
    }

    /// Resets the whole subsystem (`NVMe 2.1 §3.7.1`): all its controllers go, this one's included,
    /// which is brought up again at once; the others find out by themselves (`CSTS.NSSRO`). Whether it
    /// was begun: the controller must be live and able to ([`ControllerInfo::subsystem_reset`]).
    ///
    /// [`ControllerInfo::subsystem_reset`]: super::ControllerInfo::subsystem_reset
    pub fn subsystem_reset(&mut self, now: Instant, reason: String) -> bool {
        let able = self.info.as_ref().is_some_and(|info| info.subsystem_reset);
        if !self.is_live() || !able || self.link.resetting.is_some() {
            return false;
        }
        let (offset, value) = (property::NSSR, NSSR_RESET.into());
        self.actions.push_back(Action::WriteRegister { offset, size: 4, value });
        // Ending the association now would withdraw what has just been asked for.
        self.link.resetting = Some((now, reason));
        true
    }

    /// The subsystem has been told to reset.
    pub(super) fn resetting_timeout(&mut self, now: Instant) {
        if let Some((_, reason)) = self.link.resetting.take_if(|(at, _)| *at <= now) {
            self.reset(now, reason);
        }
    }

    /// The layer above found that what the controller says of itself cannot be: the attempt fails,
    /// and another one follows. `what` is the structure, `reason` the field and its value.
    pub fn reject(&mut self, now: Instant, what: &'static str, reason: String) {
        let address = self.config.address.clone();
        self.fail(now, ControllerError::Invalid { address, what, reason });
    }

    /// Gives the controller up, from any state. A live one is told first (`CC.SHN`), in bounded
    /// time. Ends with [`ControllerEvent::Removed`]; does nothing when called again.
    pub fn delete(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle) {
            // The table of states has no way from New to Deleting.
            self.set_state(State::Connecting);
        }
        self.remove(now, RemovedCause::Deleted);
    }

    /// The association, or the attempt to make one, failed.
    pub(super) fn fail(&mut self, now: Instant, error: ControllerError) {
        if matches!(error, ControllerError::Transport(TransportError::Gone { .. })) {
            return self.taken_away(error);
        }
        match self.phase {
            Phase::Live => {
                self.set_state(State::Resetting);
                self.loss.begin(now, matches!(error, ControllerError::Reset { .. }));
            }
            Phase::BringUp(_) => self.loss.attempts = self.loss.attempts.saturating_add(1),
            // The controller could not be told that it is deleted; so be it.
            Phase::ShuttingDown(_) => return self.tear_down(Goal::Remove(RemovedCause::Deleted)),
            _ => return,
        }
        let at = self.next_attempt(now, &error);
        let in_time = self.removal_at().is_none_or(|end| at < end);
        self.emit(ControllerEvent::Failed {
            error,
            attempt: self.loss.attempts,
            retry_at: in_time.then_some(at),
        });
        if self.link.associated() {
            self.tear_down(Goal::Retry(at));
        } else {
            self.retry(now, at);
        }
    }

    /// The device is not there any more: nobody is left to be told, or waited for.
    fn taken_away(&mut self, error: ControllerError) {
        match self.phase {
            Phase::Live => {}
            Phase::BringUp(_) => self.loss.attempts = self.loss.attempts.saturating_add(1),
            Phase::ShuttingDown(_) => return self.tear_down(Goal::Remove(RemovedCause::Deleted)),
            _ => return,
        }
        let attempt = self.loss.attempts;
        self.emit(ControllerEvent::Failed { error, attempt, retry_at: None });
        self.set_state(State::Deleting);
        if self.link.associated() {
            self.tear_down(Goal::Remove(RemovedCause::Gone));
        } else {
            self.finish(RemovedCause::Gone);
        }
    }

    /// The controller said that it never will do what it was asked: trying again is of no use.
    pub(super) fn refuse(&mut self, now: Instant, error: ControllerError) {
        self.loss.attempts = self.loss.attempts.saturating_add(1);
        self.emit(ControllerEvent::Failed {
            error: error.clone(),
            attempt: self.loss.attempts,
            retry_at: None,
        });
        self.remove(now, RemovedCause::Refused(error));
    }

    fn next_attempt(&mut self, now: Instant, error: &ControllerError) -> Instant {
        if matches!(error, ControllerError::Reset { .. }) {
            return now;
        }
        let waits = self.loss.waits;
        self.loss.waits = waits.saturating_add(1);
        now + self.jitter.backoff(self.config.reconnect_delay, waits)
    }

    fn retry(&mut self, now: Instant, at: Instant) {
        self.link = Link::default();
        self.set_state(State::Connecting);
        if at <= now {
            self.begin_attempt(now);
        } else {
            self.phase = Phase::Waiting(at);
        }
    }

    /// Begins the end, whatever the phase; the first cause stays.
    pub(super) fn remove(&mut self, now: Instant, cause: RemovedCause) {
        match &mut self.phase {
            Phase::Gone | Phase::ShuttingDown(_) | Phase::TearingDown(Goal::Remove(_)) => return,
            Phase::TearingDown(goal) => {
                *goal = Goal::Remove(cause);
                self.set_state(State::Deleting);
                return;
            }
            Phase::Idle | Phase::Waiting(_) | Phase::BringUp(_) | Phase::Live => {}
        }
        self.set_state(State::Deleting);
        if self.is_live() {
            self.begin_shutdown(now);
        } else if self.has_association() && self.link.associated() {
            self.tear_down(Goal::Remove(cause));
        } else {
            self.finish(cause);
        }
    }

    fn finish(&mut self, cause: RemovedCause) {
        self.phase = Phase::Gone;
        self.link = Link::default();
        self.loss.end();
        self.set_state(State::Dead);
        self.emit(ControllerEvent::Removed(cause));
    }

    /// Has the association taken apart. What was asked of the driver and not yet taken is withdrawn,
    /// and the data of passthrough commands among it goes back to their owners.
    pub(super) fn tear_down(&mut self, goal: Goal) {
        self.phase = Phase::TearingDown(goal);
        let actions = std::mem::take(&mut self.actions);
        let mut withdrawn = Vec::new();
        for action in actions {
            match action {
                Action::Submit { data, tag, .. } => withdrawn.push((tag, data)),
                Action::Event(_) => self.actions.push_back(action),
                Action::Associate
                | Action::OpenQueue(_)
                | Action::ReadRegister { .. }
                | Action::WriteRegister { .. }
                | Action::HostMemory(_)
                | Action::Quirks(_)
                | Action::QueueLive { .. }
                | Action::Abort { .. }
                | Action::Teardown => {}
            }
        }
        self.actions.push_back(Action::Teardown);
        self.abort_unsent(withdrawn);
    }

    /// When the loss has lasted too long; `None`: never, or there is none.
    fn removal_at(&self) -> Option<Instant> {
        if self.loss.asked && self.loss.attempts == 0 {
            return None;
        }
        Some(self.loss.since? + self.config.ctrl_loss_tmo?)
    }

    fn fast_fail_at(&self) -> Option<Instant> {
        if self.loss.told {
            return None;
        }
        Some(self.loss.since? + self.config.fast_io_fail_tmo?)
    }

    /// The next of the two times that run from the loss, whatever else goes on.
    pub(super) fn loss_deadline(&self) -> Option<Instant> {
        if self.state.is_terminal() {
            return None;
        }
        earlier(self.removal_at(), self.fast_fail_at())
    }

    pub(super) fn loss_timeout(&mut self, now: Instant) {
        if self.state.is_terminal() {
            return;
        }
        if self.fast_fail_at().is_some_and(|at| at <= now) {
            self.loss.told = true;
            self.emit(ControllerEvent::FastIoFail);
        }
        if self.removal_at().is_some_and(|at| at <= now) {
            self.remove(now, RemovedCause::LossTimeout);
        }
    }

    /// All that bring-up has to do is done.
    pub(super) fn go_live(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::BringUp(Step::IoQueues)) || !self.set_state(State::Live) {
            return;
        }
        self.phase = Phase::Live;
        self.loss.end();
        self.send_event_request(now);
        self.rescan(now);
    }
}
