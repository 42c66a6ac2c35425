//! Telling a live controller that this host goes away (`NVMe 2.1 §3.6`), in bounded time.

use super::action::RemovedCause;
use super::bringup::configuration;
use super::machine::{Controller, Phase};
use super::recovery::Goal;
use crate::spec::fabrics::property;
use crate::spec::registers::{Cc, Csts};
use crate::time::{Duration, Instant, earlier};

/// The wait for the end of a shutdown: what `RTD3E` says, within these.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5);
/// How long the controller may take to give the host memory buffer back.
const HOST_MEMORY_LIMIT: Duration = Duration::from_millis(500);
/// How often `CSTS.SHST` is read.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A shutdown under way.
#[derive(Debug)]
pub(super) struct Shutdown {
    until: Instant,
    /// When it is asked for, even if the controller has not given the host memory buffer back.
    ask_at: Option<Instant>,
    poll_at: Option<Instant>,
}

impl Shutdown {
    pub(super) fn deadline(&self) -> Instant {
        let at = earlier(self.ask_at, self.poll_at);
        earlier(Some(self.until), at).unwrap_or(self.until)
    }
}

impl Controller {
    /// Asks for a normal shutdown. If that cannot be sent, or is not answered, the association is
    /// taken apart all the same.
    pub(super) fn begin_shutdown(&mut self, now: Instant) {
        let told = self.link.identified.as_ref().map_or(SHORTEST, |i| i.shutdown);
        let until = now + told.clamp(SHORTEST, LONGEST);
        let ask_at = self.link.host_memory.then_some(now + HOST_MEMORY_LIMIT);
        self.phase = Phase::ShuttingDown(Shutdown { until, ask_at, poll_at: None });
        self.link.keep_alive.stop();
        if self.link.host_memory {
            // The limit of the wait is `ask_at`; a late answer is no reason to fail.
            // What the controller keeps there it must have time to save (NVMe 2.1 §8.2.3).
            self.take_host_memory(now, 2 * LONGEST);
        } else {
            self.ask_shutdown(now);
        }
    }

    /// The controller has given the host memory buffer back, or refuses to.
    pub(super) fn host_memory_disabled(&mut self, now: Instant) {
        if let Phase::ShuttingDown(Shutdown { ask_at, .. }) = &mut self.phase
            && ask_at.take().is_some()
        {
            self.ask_shutdown(now);
        }
    }

    fn ask_shutdown(&mut self, now: Instant) {
        let cc = configuration(self.link.cap).with_shn(Cc::SHN_NORMAL);
        self.write_register(now, property::CC, 4, cc.0.into());
    }

    pub(super) fn shutdown_asked(&mut self, now: Instant) {
        self.read_register(now, property::CSTS, 4);
    }

    pub(super) fn shutdown_status(&mut self, now: Instant, value: u32) {
        let csts = Csts(value);
        self.link.shut_down = !csts.is_absent() && csts.shst() == Csts::SHST_COMPLETE;
        if csts.is_absent() || csts.shst() == Csts::SHST_COMPLETE {
            self.tear_down(Goal::Remove(RemovedCause::Deleted));
        } else if let Phase::ShuttingDown(shutdown) = &mut self.phase {
            shutdown.poll_at = Some(now + POLL_INTERVAL);
        }
    }

    pub(super) fn shutdown_timeout(&mut self, now: Instant) {
        let Phase::ShuttingDown(shutdown) = &mut self.phase else { return };
        if shutdown.until <= now {
            self.tear_down(Goal::Remove(RemovedCause::Deleted));
        } else if shutdown.ask_at.is_some_and(|at| at <= now) {
            self.host_memory_disabled(now);
        } else if shutdown.poll_at.is_some_and(|at| at <= now) {
            shutdown.poll_at = None;
            self.read_register(now, property::CSTS, 4);
        }
    }
}
