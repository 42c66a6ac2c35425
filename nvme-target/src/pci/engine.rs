//! The device itself: registers, queues, and the turn in which it does what there is to do.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::registers::{Aqa, Cap, Cc, Csts, NSSR_RESET, offset};
use nvme_core::spec::{Cqe, Sqe, Status};

use super::cmb::CmbState;
use super::config::{PciConfig, PciFault};
use super::data::Piece;
use super::device::PciStats;
use super::host_memory::HostBuffer;
use super::memory::{Doorbells, HostMemory, Interrupts};
use super::peer::{Inbox, Message, QueuePeer};
use super::rings::{Answer, CompletionQueue, SubmissionQueue};
use super::shadow::Shadow;
use crate::aer::AsyncEvent;
use crate::controller::{Controller, NewController};
use crate::cross_reset::Instance;
use crate::directory::Directory;
use crate::fabrics::Binding;
use crate::io::TRANSFER_MAX;
use crate::subsystem::Subsystem;

/// Admin commands that are kept for whoever asks.
const ADMIN_COMMANDS_MAX: usize = 1024;

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
    inbox: Arc<Inbox>,
    pub(super) binding: Binding,
    pub(super) bus: Option<Bus>,
    pub(super) cmb: CmbState,
    pub(super) doorbells: Option<Arc<dyn Doorbells>>,
    plugged: bool,
    bus_master: bool,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// Works: enabled, ready, and nothing fatal has happened.
    pub(super) running: bool,
    fatal: bool,
    /// CSTS.NSSRO, and the resets of the subsystem that have been gone through.
    nssro: bool,
    subsystem_resets: u64,
    pub(super) sqs: BTreeMap<u16, SubmissionQueue>,
    pub(super) cqs: BTreeMap<u16, CompletionQueue>,
    pub(super) shadow: Option<Shadow>,
    pub(super) buffer_given: Option<HostBuffer>,
    pub(super) buffer_before: Option<HostBuffer>,
    pub(super) kept: VecDeque<Kept>,
    pub(super) faults: Vec<PciFault>,
    pub(super) pieces: Vec<Piece>,
    pub(super) buffer: Vec<u8>,
    admin_commands: Vec<Sqe>,
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

    // ---- registers ----

    fn cap(&self) -> u64 {
        let entries = self.subsystem.lock().limits.queue_entries;
        let mqes = self.config.mqes.unwrap_or(entries.saturating_sub(1));
        Cap(0)
            .with_mqes(mqes.into())
            .with_cqr(1)
            .with_to(self.config.ready_units.into())
            .with_dstrd(self.config.dstrd.into())
            .with_css(Cap::CSS_NVM | Cap::CSS_IOCS)
            .with_mpsmin(self.config.mpsmin.into())
            .with_mpsmax(self.config.mpsmin.into())
            .with_nssrs(self.config.subsystem_reset.into())
            .with_cmbs(self.config.cmb.is_some().into())
            .0
    }

    fn cc_csts(&self) -> (u32, u32) {
        let state = self.subsystem.lock();
        let (cc, mut csts) =
            state.controllers.get(&self.binding.cntlid).map_or((0, 2), |c| (c.cc, c.csts));
        if self.fatal {
            csts |= Csts(0).with_cfs(1).0;
        }
        if self.nssro {
            csts |= Csts(0).with_nssro(1).0;
        }
        if !self.running && !self.fatal {
            csts &= !Csts(0).with_rdy(1).0;
        }
        (cc, csts)
    }

    /// 8 bytes of the register file.
    pub fn register(&mut self, at: usize) -> u64 {
        self.follow_subsystem();
        if !self.plugged {
            return u64::MAX;
        }
        if self.has(PciFault::Zeroes) {
            return 0;
        }
        let version = || u64::from(self.subsystem.lock().limits.version);
        match at {
            offset::CAP => self.cap(),
            offset::VS => version(),
            // CC is the upper half of one word, CSTS of the next.
            0x10 => u64::from(self.cc_csts().0) << 32,
            0x18 => u64::from(self.cc_csts().1) << 32,
            0x20 => u64::from(self.aqa) << 32,
            offset::ASQ => self.asq,
            offset::ACQ => self.acq,
            offset::CMBLOC => self.cmb_registers(),
            offset::CMBMSC => self.cmb_control(),
            offset::CMBSTS => self.cmb_status(),
            _ => 0,
        }
    }

    pub fn set_register(&mut self, at: usize, value: u32, now: Instant) {
        let half = |word: u64, high: bool| match high {
            true => word & 0xffff_ffff | u64::from(value) << 32,
            false => word & !0xffff_ffff | u64::from(value),
        };
        self.follow_subsystem();
        if !self.plugged {
            return;
        }
        match at {
            offset::NSSR if self.config.subsystem_reset && value == NSSR_RESET => {
                self.subsystem.resets.fetch_add(1, Ordering::AcqRel);
                self.follow_subsystem();
            }
            offset::CSTS if Csts(value).nssro() == 1 => self.nssro = false,
            offset::CC => self.configure(value, now),
            offset::AQA => self.aqa = value,
            offset::ASQ | 0x2c => self.asq = half(self.asq, at != offset::ASQ) & !0xfff,
            offset::ACQ | 0x34 => self.acq = half(self.acq, at != offset::ACQ) & !0xfff,
            offset::CMBMSC | 0x54 => {
                self.control_cmb(half(self.cmb_control(), at != offset::CMBMSC));
            }
            _ => {}
        }
    }

    fn configure(&mut self, value: u32, now: Instant) {
        let enable = Cc(value).en() == 1;
        if !enable && self.running && self.has(PciFault::StuckEnabled) {
            return;
        }
        let was = self.cc_csts().0;
        if Cc(value).shn() != 0 && Cc(was).shn() == 0 && self.buffer_given.is_some() {
            self.stats.host_memory_at_shutdown += 1;
        }
        if enable && Cc(was).en() == 0 {
            self.stats.enables += 1;
            self.forget_queues();
        }
        let ready = {
            let mut state = self.subsystem.lock();
            let Some(ctrl) = state.controllers.get_mut(&self.binding.cntlid) else { return };
            if enable && Cc(was).en() == 0 {
                // Whatever the last use has left behind is gone.
                let fresh = new_controller(self.binding.cntlid, self.config.port, &self.inbox);
                self.binding.shared = Arc::clone(&fresh.shared);
                *ctrl = fresh;
            }
            ctrl.configure(value, now);
            ctrl.is_enabled()
        };
        self.running = ready && !self.has(PciFault::NeverReady);
        if !ready {
            self.fatal = false;
            self.forget_queues();
        } else if Cc(was).en() == 0 {
            let aqa = Aqa(self.aqa);
            self.clear_doorbell(0, false);
            self.clear_doorbell(0, true);
            self.cqs.insert(0, CompletionQueue::new(self.acq, aqa.acqs() + 1, Some(0)));
            self.sqs.insert(0, SubmissionQueue::new(self.asq, aqa.asqs() + 1, 0));
        }
    }

    fn forget_queues(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.kept.clear();
        self.shadow = None;
        self.end_host_memory();
    }

    /// Everything as after power on, except for what the device is connected to.
    fn initialise(&mut self) {
        self.forget_queues();
        (self.aqa, self.asq, self.acq) = (0, 0, 0);
        self.reset_cmb();
        (self.running, self.fatal, self.bus_master) = (false, false, false);
        while self.inbox.take().is_some() {}
        let fresh = new_controller(self.binding.cntlid, self.config.port, &self.inbox);
        self.binding.shared = Arc::clone(&fresh.shared);
        self.subsystem.lock().controllers.insert(self.binding.cntlid, fresh);
    }

    /// Goes through a reset of the subsystem that has taken place.
    fn follow_subsystem(&mut self) {
        let resets = self.subsystem.resets.load(Ordering::Acquire);
        if self.subsystem_resets != resets {
            self.subsystem_resets = resets;
            self.initialise();
            self.nssro = true;
        }
    }

    pub fn reset(&mut self) -> bool {
        if self.plugged {
            self.stats.resets += 1;
            // A function level reset clears Bus Master Enable; the backend restores it.
            self.initialise();
        }
        self.plugged
    }

    pub fn set_bus_master(&mut self, on: bool) -> bool {
        self.bus_master = on && self.plugged;
        self.plugged
    }

    pub fn unplug(&mut self) {
        self.initialise();
        self.plugged = false;
    }

    pub fn plug(&mut self) {
        if !self.plugged {
            self.initialise();
            self.buffer_before = None;
            self.plugged = true;
        }
    }

    // ---- faults ----

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

    // ---- the turn ----

    pub fn doorbell(&mut self, at: usize, value: u32) {
        self.follow_subsystem();
        let stride = 4usize << self.config.dstrd;
        let (number, rest) = (at / stride, at % stride);
        let qid = u16::try_from(number / 2).unwrap_or(u16::MAX);
        let sq = number.is_multiple_of(2);
        let known = if rest != 0 || !self.running {
            None
        } else if sq {
            self.stats.sq_doorbells += 1;
            let queue = self.sqs.get_mut(&qid).filter(|q| value < q.entries);
            queue.map(|q| q.tail = value)
        } else {
            self.stats.cq_doorbells += 1;
            let queue = self.cqs.get_mut(&qid).filter(|q| value < q.entries);
            queue.map(|q| q.head = value)
        };
        if known.is_none() {
            self.stats.bad_doorbells += 1;
            if self.running {
                // Error, Write to Invalid Doorbell Register (NVMe 2.1 §5.1.2.1).
                let event = AsyncEvent { event_type: 0, info: 0, log: 1 };
                self.subsystem.lock().raise(event, |c| c.cntlid == self.binding.cntlid);
            }
        }
    }

    /// Does everything that there is to do now; whether there was anything.
    pub fn step(&mut self, now: Instant) -> bool {
        self.follow_subsystem();
        let mut worked = false;
        while let Some(message) = self.inbox.take() {
            worked = true;
            self.receive(message);
        }
        self.look_at_doorbells();
        let Some(memory) = self.memory().filter(|_| self.running) else { return worked };
        if self.has(PciFault::Stall) {
            self.scribble(&*memory);
        }
        self.use_host_memory(&*memory, 1);
        worked |= self.release(&*memory, now);
        let mut next = self.sqs.keys().next().copied();
        while let Some(qid) = next {
            worked |= self.drain_queue(&*memory, qid, now);
            next = self.sqs.range(qid.saturating_add(1)..).next().map(|(qid, _)| *qid);
        }
        worked | self.post(&*memory)
    }

    /// Carries out what is on a submission queue; whether there was anything.
    fn drain_queue(&mut self, memory: &dyn HostMemory, qid: u16, now: Instant) -> bool {
        let mut worked = false;
        while self.running {
            self.look_at_tail(memory, qid);
            let Some(queue) = self.sqs.get_mut(&qid) else { break };
            match queue.fetch(memory) {
                Ok(Some(sqe)) => {
                    worked = true;
                    self.stats.commands += 1;
                    if qid == 0 && self.admin_commands.len() < ADMIN_COMMANDS_MAX {
                        self.admin_commands.push(sqe);
                    }
                    self.command(memory, qid, &sqe, now);
                }
                Ok(None) => {
                    let Some(shadow) = self.shadow else { break };
                    // Asked first and looked at then, so that nothing comes in between.
                    shadow.ask(memory, qid, false, queue.tail);
                    if !self.look_at_tail(memory, qid) {
                        break;
                    }
                }
                Err(()) => {
                    self.stats.dma_errors += 1;
                    self.fail();
                }
            }
        }
        worked
    }

    /// Takes over the tail that is in memory; whether it is another.
    fn look_at_tail(&mut self, memory: &dyn HostMemory, qid: u16) -> bool {
        let tail = self.shadow.and_then(|s| s.doorbell(memory, qid, false));
        let (Some(queue), Some(tail)) = (self.sqs.get_mut(&qid), tail) else { return false };
        let moved = tail < queue.entries && tail != queue.tail;
        if moved {
            queue.tail = tail;
        }
        moved
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Complete(cqe) => self.push_answer(0, 0, cqe, false),
            Message::Close => self.fail(),
            Message::Abort { qid, cid, abort_cid } => {
                let held = |k: &Kept| k.qid == qid && k.sqe.cid.get() == cid;
                let at = self.kept.iter().position(held);
                if at.and_then(|at| self.kept.remove(at)).is_some() {
                    self.answer(qid, Cqe::new(cid, Status::ABORT_REQUESTED, 0));
                }
                let not_aborted = u64::from(at.is_none());
                self.answer(0, Cqe::new(abort_cid, Status::SUCCESS, not_aborted));
            }
        }
    }

    /// Writes answers to the completion queues, and raises interrupts.
    fn post(&mut self, memory: &dyn HostMemory) -> bool {
        let mut posted = false;
        let mut failed = false;
        for (qid, queue) in &mut self.cqs {
            let look = |queue: &mut CompletionQueue| {
                let head = self.shadow.and_then(|s| s.doorbell(memory, *qid, true));
                if let Some(head) = head.filter(|head| *head < queue.entries) {
                    queue.head = head;
                }
            };
            look(queue);
            let mut done = queue.post(memory);
            if let (Ok(first), true, Some(shadow)) = (done, queue.is_blocked(), self.shadow) {
                shadow.ask(memory, *qid, true, queue.head);
                look(queue);
                done = queue.post(memory).map(|second| first | second);
            }
            match done {
                Ok(true) => {
                    posted = true;
                    if let (Some(vector), Some(bus)) = (queue.vector, &self.bus) {
                        bus.interrupts.raise(vector);
                    }
                }
                Ok(false) => {}
                Err(()) => failed = true,
            }
        }
        if failed {
            self.stats.dma_errors += 1;
            self.fail();
        }
        posted
    }

    /// An answer to a command of queue `qid`.
    pub(super) fn answer(&mut self, qid: u16, cqe: Cqe) {
        let Some(sq) = self.sqs.get(&qid) else { return };
        let cqid = sq.cqid;
        self.push_answer(qid, cqid, cqe, false);
    }

    pub(super) fn push_answer(&mut self, qid: u16, cqid: u16, mut cqe: Cqe, stale_phase: bool) {
        if let Some(sq) = self.sqs.get(&qid) {
            cqe.sqhd = (sq.head as u16).into();
        }
        cqe.sqid = qid.into();
        if let Some(cq) = self.cqs.get_mut(&cqid) {
            cq.push(Answer { cqe, stale_phase });
        }
    }

    /// An answer that is not touched any more.
    pub(super) fn push_forged(&mut self, cqid: u16, cqe: Cqe, stale_phase: bool) {
        if let Some(cq) = self.cqs.get_mut(&cqid) {
            cq.push(Answer { cqe, stale_phase });
        }
    }

    /// How long until a held command is due.
    pub fn next_timer(&self, now: Instant) -> Option<Duration> {
        if self.has(PciFault::Stall) && !self.kept.is_empty() {
            return Some(Duration::from_millis(1));
        }
        let next = self.kept.iter().filter_map(|k| k.until).min()?;
        Some(next.saturating_duration_since(now))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.subsystem.lock().controllers.remove(&self.binding.cntlid);
    }
}

/// The controller as it is before it is enabled. A host at a PCI function has no name.
fn new_controller(cntlid: u16, port: usize, inbox: &Arc<Inbox>) -> Controller {
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

impl Engine {
    /// The letter box, for the model's way back to one queue.
    pub(super) fn peer(&self, qid: u16) -> Arc<QueuePeer> {
        Arc::new(QueuePeer { qid, inbox: Arc::clone(&self.inbox) })
    }
}
