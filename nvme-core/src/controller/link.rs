//! What belongs to one association, and goes with it.

use super::abort::Aborts;
use super::action::ControllerError;
use super::ana_read::AnaReader;
use super::cross_reset::CrossResets;
use super::identify_check::Identified;
use super::io_queues::IoQueues;
use super::keep_alive::KeepAlive;
use super::retry::Retry;
use super::scan::Scan;
use crate::quirk::{Hardware, Quirks};
use crate::spec::registers::{Cap, Version};
use crate::time::{Duration, Instant, earlier};
use crate::transport::TransportKind;

/// Commands that a queue ended by itself; why, it says next.
#[derive(Debug)]
pub(super) struct Aborted {
    pub(super) at: Instant,
    pub(super) error: ControllerError,
}

/// The limit of a wait that is not that of one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) at: Instant,
    pub(super) what: &'static str,
    pub(super) limit: Duration,
}

/// One association, from [`Associate`](super::Action::Associate) until it is torn down.
#[derive(Debug)]
pub(super) struct Link {
    /// There is something to tear down.
    pub(super) present: bool,
    pub(super) kind: TransportKind,
    /// Most bytes that the transport moves with one command.
    pub(super) transport_max: Option<usize>,
    /// What the transport knows of the device.
    pub(super) hardware: Hardware,
    /// What is wrong with it, as far as it is known by now.
    pub(super) quirks: Quirks,
    /// Limit of the present step of bring-up.
    pub(super) limit: Option<Limit>,
    /// When to read `CSTS` again.
    pub(super) poll_at: Option<Instant>,
    /// A register in memory is being read.
    pub(super) reading: bool,
    pub(super) cap: Cap,
    pub(super) version: Version,
    /// Units of 500 ms that the controller may take to become ready (`CRTO.CRWMT`).
    pub(super) ready_timeout: u32,
    /// The controller that Connect gave.
    pub(super) cntlid: u16,
    pub(super) identified: Option<Identified>,
    /// Bytes of write data that go inside a command capsule of an I/O queue.
    pub(super) in_capsule: usize,
    pub(super) aborted: Option<Aborted>,
    pub(super) aborts: Aborts,
    pub(super) keep_alive: KeepAlive,
    pub(super) io: IoQueues,
    /// An event request that the controller failed.
    pub(super) events: Retry,
    pub(super) ana: AnaReader,
    pub(super) scan: Scan,
    pub(super) cross: CrossResets,
    /// The subsystem is being reset: the association ends then, for this reason.
    pub(super) resetting: Option<(Instant, String)>,
    /// The controller has a host memory buffer.
    pub(super) host_memory: bool,
    /// The controller said that it has shut down (`CSTS.SHST`): it executes nothing any more.
    pub(super) shut_down: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            present: false,
            kind: TransportKind::Fabrics,
            transport_max: None,
            hardware: Hardware::default(),
            quirks: Quirks::empty(),
            limit: None,
            poll_at: None,
            reading: false,
            cap: Cap::default(),
            version: Version::default(),
            ready_timeout: 0,
            cntlid: 0,
            identified: None,
            in_capsule: 0,
            aborted: None,
            aborts: Aborts::default(),
            keep_alive: KeepAlive::default(),
            io: IoQueues::default(),
            events: Retry::default(),
            ana: AnaReader::default(),
            scan: Scan::default(),
            cross: CrossResets::default(),
            resetting: None,
            host_memory: false,
            shut_down: false,
        }
    }
}

impl Link {
    pub(super) const fn associated(&self) -> bool {
        self.present
    }

    /// When the present step of bring-up wants to go on, or has failed.
    pub(super) fn step_deadline(&self) -> Option<Instant> {
        earlier(self.limit.map(|l| l.at), self.poll_at)
    }

    /// When anything else of an association that is made or used is due.
    pub(super) fn deadline(&self, live: bool) -> Option<Instant> {
        let at = earlier(self.keep_alive.deadline(), self.io.deadline());
        let at = earlier(at, self.resetting.as_ref().map(|(at, _)| *at));
        let at = earlier(at, self.cross.deadline());
        let at = earlier(at, self.events.at());
        earlier(at, earlier(self.ana.deadline(live), self.scan.deadline()))
    }
}
