//! One controller: its registers, features and what its host has yet to learn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::log::CrossControllerResetEntry;
use nvme_core::spec::{Cqe, Status};
use parking_lot::Mutex;

use crate::aer::{Aer, AsyncEvent, OAES_DISCOVERY, OAES_IO, OAES_IO_RESETS};
use crate::cross_reset::Instance;

/// Entries that the error log keeps (ELPE is one less).
pub(crate) const ERROR_LOG_ENTRIES: usize = 64;
/// Namespaces that the changed namespace list names before it says "too many" (NVMe 2.1 §5.1.12.1.5).
pub(crate) const CHANGED_LIST_MAX: usize = 1024;
/// Longest time between two looks at a keep alive timer.
const KEEP_ALIVE_TICK: Duration = Duration::from_millis(500);

/// The way back to the host: one queue's connection, as the model sees it.
pub(crate) trait Peer: Send + Sync + fmt::Debug {
    /// Sends a completion.
    fn complete(&self, cqe: Cqe);
    /// Aborts an outstanding command; `reply` gets the completion of Abort command `abort_cid`.
    fn abort(&self, cid: u16, reply: Arc<dyn Peer>, abort_cid: u16);
    /// Ends the connection.
    fn close(&self);
}

/// What the queues of a controller look at for every command.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// CC.EN and CSTS.RDY.
    ready: AtomicBool,
    /// A command has come since the keep alive timer last looked.
    traffic: AtomicBool,
    /// Connections of the controller; changed with the subsystem's lock held.
    open: AtomicU32,
    /// Commands that outlived their connection are not to be executed any more.
    stopped: Mutex<bool>,
}

impl Shared {
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A connection of the controller came.
    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of the controller has ended.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// From here on no command is begun. One that outlived its connection has been executed whole, or
    /// never is; those of connections that are still open end with the connection.
    pub fn stop(&self) {
        self.ready.store(false, Ordering::Release);
        *self.stopped.lock() = true;
    }

    /// Executes a command that outlived its connection, unless the controller was stopped.
    pub fn outlive(&self, execute: impl FnOnce()) {
        let stopped = self.stopped.lock();
        if !*stopped {
            execute();
        }
    }

    pub fn note_traffic(&self) {
        // a store only where it changes something: the line is shared by all queues
        if !self.traffic.load(Ordering::Relaxed) {
            self.traffic.store(true, Ordering::Relaxed);
        }
    }
}

/// One entry of the error log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorRecord {
    pub count: u64,
    pub sqid: u16,
    pub cid: u16,
    pub status: Status,
    pub lba: u64,
    pub nsid: u32,
}

/// Which namespaces have changed since the host read the list.
#[derive(Debug, Default)]
pub(crate) struct ChangedNamespaces {
    nsids: BTreeSet<u32>,
    overflow: bool,
}

impl ChangedNamespaces {
    pub fn note(&mut self, nsid: u32) {
        if self.nsids.len() >= CHANGED_LIST_MAX {
            self.overflow = true;
        } else {
            self.nsids.insert(nsid);
        }
    }

    /// The list as the log page shows it.
    pub fn list(&self) -> Vec<u32> {
        if self.overflow { vec![u32::MAX] } else { self.nsids.iter().copied().collect() }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What the keep alive timer found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    /// Look again then.
    Next(Instant),
    /// The host was silent for too long.
    Expired,
    /// No timer is running: there is no controller.
    Off,
}

#[derive(Debug)]
pub(crate) struct Controller {
    pub cntlid: u16,
    pub discovery: bool,
    pub listener: usize,
    pub host_nqn: Nqn,
    pub host_id: Uuid,
    pub cc: u32,
    pub csts: u32,
    /// Milliseconds; 0 is off.
    pub kato: u32,
    last_seen: Instant,
    pub shared: Arc<Shared>,
    pub admin: Arc<dyn Peer>,
    pub queues: BTreeMap<u16, Arc<dyn Peer>>,
    pub aer: Aer,
    pub changed: ChangedNamespaces,
    pub errors: VecDeque<ErrorRecord>,
    pub error_count: u64,
    pub arbitration: u32,
    pub host_behavior: Vec<u8>,
    pub power_state: u8,
    /// The table of autonomous power state transitions; empty before it was set.
    pub apst: Vec<u8>,
    pub apst_enabled: bool,
    /// This life of the controller.
    pub instance: Instance,
    /// Resets of other controllers that may be under way at once.
    pub cross_resets: u8,
    /// What became of those that were asked for.
    pub reset_log: Vec<CrossControllerResetEntry>,
}

/// Who connects, and how.
pub(crate) struct NewController {
    pub cntlid: u16,
    pub instance: Instance,
    pub discovery: bool,
    pub listener: usize,
    pub host_nqn: Nqn,
    pub host_id: Uuid,
    pub kato: u32,
    pub admin: Arc<dyn Peer>,
    pub cross_resets: u8,
    pub now: Instant,
}

/// Controller configuration and status bits (NVMe 2.1 §3.1.4.5, §3.1.4.6).
mod bits {
    pub const CC_EN: u32 = 1 << 0;
    pub const CSTS_RDY: u32 = 1 << 0;
    pub const CSTS_CFS: u32 = 1 << 1;
    pub const CSTS_SHST: u32 = 3 << 2;
    pub const CSTS_SHST_COMPLETE: u32 = 2 << 2;
}

impl Controller {
    pub fn new(new: NewController) -> Self {
        Self {
            cntlid: new.cntlid,
            discovery: new.discovery,
            listener: new.listener,
            host_nqn: new.host_nqn,
            host_id: new.host_id,
            cc: 0,
            csts: 0,
            kato: new.kato,
            last_seen: new.now,
            shared: Arc::default(),
            admin: new.admin,
            queues: BTreeMap::new(),
            aer: Aer::new(events(new.discovery, new.cross_resets)),
            changed: ChangedNamespaces::default(),
            errors: VecDeque::new(),
            error_count: 0,
            arbitration: 0,
            host_behavior: vec![0; 512],
            power_state: 0,
            apst: Vec::new(),
            apst_enabled: false,
            instance: new.instance,
            cross_resets: new.cross_resets,
            reset_log: Vec::new(),
        }
    }

    pub fn supported_events(&self) -> u32 {
        events(self.discovery, self.cross_resets)
    }

    pub fn is_enabled(&self) -> bool {
        self.cc & bits::CC_EN != 0 && self.csts & bits::CSTS_RDY != 0
    }

    /// A write to the controller configuration (NVMe 2.1 §3.1.4.5). Everything happens at once: there is nothing to
    /// wait for when memory is made ready or shut down.
    pub fn configure(&mut self, cc: u32, now: Instant) {
        let was = self.cc;
        self.cc = cc;
        let enabled = |cc: u32| cc & bits::CC_EN != 0;
        let shutdown = |cc: u32| cc >> 14 & 0x3 != 0;
        if enabled(cc) && !enabled(was) {
            self.enable(now);
        }
        if !enabled(cc) && enabled(was) {
            self.disable();
        }
        if shutdown(cc) && !shutdown(was) {
            self.disable();
            self.csts = self.csts & !bits::CSTS_SHST | bits::CSTS_SHST_COMPLETE;
        }
        if !shutdown(cc) && shutdown(was) {
            self.csts &= !bits::CSTS_SHST;
        }
    }

    fn enable(&mut self, now: Instant) {
        let field = |shift: u32, mask: u32| self.cc >> shift & mask;
        let sizes_fit = self.discovery || (field(16, 0xf) == 6 && field(20, 0xf) == 4);
        let css_fits = matches!(field(4, 0x7), 0 | 6);
        if !sizes_fit || !css_fits || field(7, 0xf) != 0 || field(11, 0x7) != 0 {
            self.csts |= bits::CSTS_CFS;
            return;
        }
        self.csts = bits::CSTS_RDY;
        self.last_seen = now;
        self.shared.ready.store(true, Ordering::Release);
    }

    fn disable(&mut self) {
        self.csts &= !(bits::CSTS_RDY | bits::CSTS_CFS);
        self.cc &= !bits::CC_EN;
        self.shared.ready.store(false, Ordering::Release);
        self.aer.reset(self.supported_events());
    }

    /// The controller fails: CSTS.CFS is set, commands are refused.
    pub fn fail(&mut self) {
        self.csts |= bits::CSTS_CFS;
        self.shared.ready.store(false, Ordering::Release);
    }

    /// Sends an event to the host, or keeps it for the next request.
    pub fn raise(&mut self, event: AsyncEvent) {
        if !self.is_enabled() {
            return;
        }
        if let Some((cid, result)) = self.aer.raise(event) {
            self.admin.complete(Cqe::new(cid, Status::SUCCESS, result));
        }
    }

    pub fn record_error(&mut self, mut record: ErrorRecord) {
        self.error_count += 1;
        record.count = self.error_count;
        self.errors.truncate(ERROR_LOG_ENTRIES - 1);
        self.errors.push_front(record);
    }

    /// Looks at the keep alive timer (NVMe 2.1 §3.9). Any command counts as a sign of life (TBKAS).
    pub fn keep_alive(&mut self, now: Instant, grace: Duration) -> KeepAlive {
        if self.shared.traffic.swap(false, Ordering::Relaxed) || self.kato == 0 {
            self.last_seen = now;
        }
        let deadline = self.last_seen + Duration::from_millis(self.kato.into()) + grace;
        if self.kato != 0 && now >= deadline {
            return KeepAlive::Expired;
        }
        // the timeout may be changed meanwhile, so never sleep for all of it
        let tick = now + KEEP_ALIVE_TICK;
        KeepAlive::Next(if self.kato == 0 { tick } else { deadline.min(tick) })
    }

    /// Ends all connections of the association.
    pub fn close(&self) {
        for queue in self.queues.values() {
            queue.close();
        }
        self.admin.close();
    }
}

const fn events(discovery: bool, cross_resets: u8) -> u32 {
    match (discovery, cross_resets) {
        (true, _) => OAES_DISCOVERY,
        (false, 0) => OAES_IO,
        (false, _) => OAES_IO_RESETS,
    }
}
