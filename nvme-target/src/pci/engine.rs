//! The device itself: what it is made of. What it does is in `registers`, `reset` and `turn`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::Sqe;

use super::cmb::CmbState;
use super::config::{PciConfig, PciFault};
use super::data::Piece;
use super::device::PciStats;
use super::host_memory::HostBuffer;
use super::memory::{Doorbells, HostMemory, Interrupts};
use super::peer::{Inbox, QueuePeer};
use super::rings::{CompletionQueue, SubmissionQueue};
use super::shadow::Shadow;
use crate::controller::{Controller, NewController};
use crate::cross_reset::Instance;
use crate::directory::Directory;
use crate::fabrics::Binding;
use crate::io::TRANSFER_MAX;
use crate::subsystem::Subsystem;

/// An I/O command that is held back.
pub(super) struct Kept {
    pub qid: u16,
    pub sqe: Sqe,
    /// When it is carried out; `None`: when the faults end.
    pub until: Option<Instant>,
    /// Where a read's data goes.
    pub pieces: Vec<Piece>,
}

/// What connects the device to a machine.
#[derive(Clone)]
pub(super) struct Bus {
    pub memory: Arc<dyn HostMemory>,
    pub interrupts: Arc<dyn Interrupts>,
}

pub(crate) struct Engine {
    pub(super) directory: Arc<Directory>,
    pub(super) subsystem: Arc<Subsystem>,
    pub(super) config: PciConfig,
    pub(super) inbox: Arc<Inbox>,
    pub(super) binding: Binding,
    pub(super) bus: Option<Bus>,
    pub(super) cmb: CmbState,
    pub(super) doorbells: Option<Arc<dyn Doorbells>>,
    pub(super) plugged: bool,
    pub(super) bus_master: bool,
    pub(super) aqa: u32,
    pub(super) asq: u64,
    pub(super) acq: u64,
    /// Works: enabled, ready, and nothing fatal has happened.
    pub(super) running: bool,
    pub(super) fatal: bool,
    /// CSTS.NSSRO, and the resets of the subsystem that have been gone through.
    pub(super) nssro: bool,
    pub(super) subsystem_resets: u64,
    pub(super) sqs: BTreeMap<u16, SubmissionQueue>,
    pub(super) cqs: BTreeMap<u16, CompletionQueue>,
    pub(super) shadow: Option<Shadow>,
    pub(super) buffer_given: Option<HostBuffer>,
    pub(super) buffer_before: Option<HostBuffer>,
    pub(super) kept: VecDeque<Kept>,
    pub(super) faults: Vec<PciFault>,
    pub(super) pieces: Vec<Piece>,
    pub(super) buffer: Vec<u8>,
    pub(super) admin_commands: Vec<Sqe>,
    pub stats: PciStats,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} queues)", self.sqs.len())
    }
}

impl Engine {
    /// `None` if the subsystem has no controller identifier left.
    pub fn new(
        directory: Arc<Directory>,
        subsystem: Arc<Subsystem>,
        config: PciConfig,
        inbox: Arc<Inbox>,
    ) -> Option<Self> {
        let mut state = subsystem.lock();
        let cntlid = state.free_cntlid()?;
        let controller = new_controller(cntlid, config.port, &inbox);
        let shared = Arc::clone(&controller.shared);
        state.controllers.insert(cntlid, controller);
        let max_transfer = match state.limits.mdts {
            0 => TRANSFER_MAX,
            mdts => 4096 << mdts,
        };
        drop(state);
        let subsystem_resets = subsystem.resets.load(Ordering::Acquire);
        let binding = Binding {
            view: subsystem.view(config.port),
            subsystem: Arc::clone(&subsystem),
            cntlid,
            qid: 0,
            entries: 0,
            flow_control: true,
            shared,
            max_transfer,
            in_capsule: 0,
        };
        Some(Self {
            directory,
            subsystem,
            config,
            inbox,
            binding,
            bus: None,
            cmb: CmbState::default(),
            doorbells: None,
            plugged: true,
            bus_master: false,
            aqa: 0,
            asq: 0,
            acq: 0,
            running: false,
            fatal: false,
            nssro: false,
            subsystem_resets,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            shadow: None,
            buffer_given: None,
            buffer_before: None,
            kept: VecDeque::new(),
            faults: Vec::new(),
            pieces: Vec::new(),
            buffer: Vec::new(),
            admin_commands: Vec::new(),
            stats: PciStats::default(),
        })
    }

    pub fn attach(&mut self, memory: Arc<dyn HostMemory>, interrupts: Arc<dyn Interrupts>) {
        self.bus = Some(Bus { memory, interrupts });
        self.join();
    }

    pub fn cntlid(&self) -> u16 {
        self.binding.cntlid
    }

    pub fn is_plugged(&self) -> bool {
        self.plugged
    }

    pub fn take_admin_commands(&mut self) -> Vec<Sqe> {
        std::mem::take(&mut self.admin_commands)
    }

    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Memory, if the function may reach it.
    pub(super) fn memory(&self) -> Option<Arc<dyn HostMemory>> {
        let bus = self.bus.as_ref().filter(|_| self.bus_master && self.plugged)?;
        Some(self.joined(&bus.memory))
    }

    /// The letter box, for the model's way back to one queue.
    pub(super) fn peer(&self, qid: u16) -> Arc<QueuePeer> {
        Arc::new(QueuePeer { qid, inbox: Arc::clone(&self.inbox) })
    }

    pub fn add_fault(&mut self, fault: PciFault) {
        self.faults.push(fault);
    }

    pub fn clear_faults(&mut self) {
        self.faults.clear();
        for kept in &mut self.kept {
            kept.until.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn has(&self, fault: PciFault) -> bool {
        self.faults.contains(&fault)
    }

    /// A fault that acts once.
    pub(super) fn take_fault<T>(&mut self, want: impl Fn(PciFault) -> Option<T>) -> Option<T> {
        let at = self.faults.iter().position(|f| want(*f).is_some())?;
        want(self.faults.remove(at))
    }

    /// Something has happened after which only a reset helps.
    pub(super) fn fail(&mut self) {
        self.fatal = true;
        self.running = false;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.subsystem.lock().controllers.remove(&self.binding.cntlid);
    }
}

/// The controller as it is before it is enabled. A host at a PCI function has no name.
pub(super) fn new_controller(cntlid: u16, port: usize, inbox: &Arc<Inbox>) -> Controller {
    Controller::new(NewController {
        cntlid,
        instance: Instance::new(cntlid, 1, None),
        discovery: false,
        listener: port,
        host_nqn: Nqn::from_uuid(Uuid::default()),
        host_id: Uuid::default(),
        kato: 0,
        admin: Arc::new(QueuePeer { qid: 0, inbox: Arc::clone(inbox) }),
        // prohibited on controllers in memory
        cross_resets: 0,
        now: Instant::now(),
    })
}
