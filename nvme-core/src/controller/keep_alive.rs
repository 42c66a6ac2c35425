//! Keep Alive: telling the controller in time that this host still lives (`NVMe 2.1 §3.9`).

use super::admin::Purpose;
use super::machine::Controller;
use crate::spec::{Sqe, Status};
use crate::time::{Duration, Instant};
use crate::transport::Data;

/// The keep-alive timer of one association.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    timeout: Duration,
    /// Any command counts as a sign of life (`CTRATT.TBKAS`).
    traffic_based: bool,
    /// When to look next; `None`: no keep-alive.
    next: Option<Instant>,
    last_check: Instant,
    /// Something submitted since the last check was answered.
    traffic: bool,
    outstanding: bool,
}

impl KeepAlive {
    /// Begins; a `timeout` of zero means none.
    pub(super) fn start(&mut self, now: Instant, timeout: Duration, traffic_based: bool) {
        *self = Self { timeout, traffic_based, last_check: now, ..Self::default() };
        self.set(now, timeout);
    }

    /// Takes another timeout, counted from `now`.
    pub(super) fn set(&mut self, now: Instant, timeout: Duration) {
        self.timeout = timeout;
        self.next = (!timeout.is_zero()).then(|| now + self.interval());
    }

    /// Half of the timeout, so that one Keep Alive may be late. Where traffic counts, a quarter:
    /// a check that is passed over may have seen an answer as old as itself, and still the next one
    /// comes in time.
    fn interval(&self) -> Duration {
        let interval = self.timeout / if self.traffic_based { 4 } else { 2 };
        interval.max(Duration::from_millis(1))
    }

    /// A command submitted at `submitted` was answered.
    pub(super) fn answered(&mut self, submitted: Instant) {
        if submitted >= self.last_check {
            self.traffic = true;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
    }
}

impl Controller {
    /// Tells that I/O commands submitted since the last call have completed. Where the controller
    /// counts traffic as a sign of life, that saves a Keep Alive. Cheap; meant to be called about
    /// once in KATO/4, not for each command.
    pub fn note_io_completion(&mut self) {
        self.link.keep_alive.traffic = true;
    }

    /// The keep-alive timeout of the present association; zero: none.
    #[must_use]
    pub const fn keep_alive_period(&self) -> Duration {
        self.link.keep_alive.timeout
    }

    pub(super) fn keep_alive_timeout(&mut self, now: Instant) {
        let timer = &mut self.link.keep_alive;
        if timer.next.is_none_or(|at| at > now) {
            return;
        }
        timer.next = Some(now + timer.interval());
        let alive = std::mem::take(&mut timer.traffic) && timer.traffic_based;
        timer.last_check = now;
        // One that is not answered yet has its own limit.
        if alive || timer.outstanding {
            return;
        }
        timer.outstanding = true;
        let limit = timer.timeout;
        self.send_within(now, Sqe::keep_alive(), Data::None, Purpose::KeepAlive, limit);
    }

    pub(super) fn keep_alive_done(&mut self, now: Instant, status: Status) {
        self.link.keep_alive.outstanding = false;
        if status.is_success() {
            return;
        }
        if status.is(Status::INVALID_OPCODE) || status.is(Status::INVALID_FIELD) {
            // A controller that does not know the command does not wait for it either; resetting it
            // would only lead back to here.
            self.link.keep_alive.stop();
            return;
        }
        let error = self.command_error(Purpose::KeepAlive.name(), status);
        self.fail(now, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_to_commands_sent_since_the_last_check_count() {
        let at = Instant::from_nanos;
        let mut timer = KeepAlive::default();
        timer.start(at(1000), Duration::from_secs(4), true);
        timer.answered(at(999));
        assert!(!timer.traffic);
        timer.answered(at(1000));
        assert!(timer.traffic);
        assert_eq!(timer.deadline(), Some(at(1000) + Duration::from_secs(1)));
    }
}
