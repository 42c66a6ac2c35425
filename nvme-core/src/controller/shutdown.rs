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
/// How often `CSTS.SHST` is read.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A shutdown under way.
#[derive(Debug)]
pub(super) struct Shutdown {
    until: Instant,
    poll_at: Option<Instant>,
}

impl Shutdown {
    pub(super) fn deadline(&self) -> Instant {
        earlier(Some(self.until), self.poll_at).unwrap_or(self.until)
    }
}

impl Controller {
    /// Asks for a normal shutdown. If that cannot be sent, or is not answered, the association is
    /// taken apart all the same.
    pub(super) fn begin_shutdown(&mut self, now: Instant) {
        let told = self.link.identified.as_ref().map_or(SHORTEST, |i| i.shutdown);
        let until = now + told.clamp(SHORTEST, LONGEST);
        self.phase = Phase::ShuttingDown(Shutdown { until, poll_at: None });
        self.link.keep_alive.stop();
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
        } else if shutdown.poll_at.is_some_and(|at| at <= now) {
            shutdown.poll_at = None;
            self.read_register(now, property::CSTS, 4);
        }
    }
}
