//! The commands that the controller layer has in flight: what each is for, and its limit.

use std::collections::{BTreeMap, VecDeque};

use super::abort::{self, Target};
use super::action::Action;
use super::link::Aborted;
use super::machine::{Controller, Phase};
use super::passthrough::Passthrough;
use crate::buffer::Buffer;
use crate::spec::{Cqe, Sqe, Status};
use crate::time::{Duration, Instant, earlier};
use crate::transport::{Completion, Data, HostMemory, Tag};

/// Slots of the admin queue that are kept for Keep Alive, Asynchronous Event Request and Abort, so
/// that none waits behind a scan or a flood of passthrough commands.
const RESERVED: usize = 2 + abort::AT_ONCE;

/// What a command is for: who takes its completion.
#[derive(Debug)]
pub(super) enum Purpose {
    Connect,
    RegisterRead,
    RegisterWrite,
    Identify,
    HostBehavior,
    NumberOfQueues,
    AsyncConfig,
    KeepAlive,
    EventRequest,
    ChangedList,
    NamespaceList,
    Descriptors(u32),
    Independent(u32),
    Namespace(u32),
    AnaLog,
    Apst,
    HostMemory(HostMemory),
    HostMemoryOff,
    IoConnect(u16),
    DeleteSq(u16),
    DeleteCq(u16),
    CreateCq(u16),
    CreateSq(u16),
    CrossReset(u64),
    ResetLog,
    Abort(Target),
    Passthrough(Passthrough),
}

impl Purpose {
    /// The command, as errors name it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Connect => "Connect of the admin queue",
            Self::RegisterRead => "Property Get",
            Self::RegisterWrite => "Property Set",
            Self::Identify => "Identify Controller",
            Self::HostBehavior => "Set Features (Host Behavior Support)",
            Self::NumberOfQueues => "Set Features (Number of Queues)",
            Self::AsyncConfig => "Set Features (Asynchronous Event Configuration)",
            Self::KeepAlive => "Keep Alive",
            Self::EventRequest => "Asynchronous Event Request",
            Self::ChangedList => "Get Log Page (Changed Namespace List)",
            Self::NamespaceList => "Identify (Active Namespace List)",
            Self::Descriptors(_) => "Identify (Namespace Identification Descriptors)",
            Self::Independent(_) => "Identify (I/O Command Set Independent Namespace)",
            Self::Namespace(_) => "Identify Namespace",
            Self::AnaLog => "Get Log Page (Asymmetric Namespace Access)",
            Self::Apst => "Set Features (Autonomous Power State Transition)",
            Self::HostMemory(_) | Self::HostMemoryOff => "Set Features (Host Memory Buffer)",
            Self::IoConnect(_) => "Connect of an I/O queue",
            Self::DeleteSq(_) => "Delete I/O Submission Queue",
            Self::DeleteCq(_) => "Delete I/O Completion Queue",
            Self::CreateCq(_) => "Create I/O Completion Queue",
            Self::CreateSq(_) => "Create I/O Submission Queue",
            Self::CrossReset(_) => "Cross-Controller Reset",
            Self::ResetLog => "Get Log Page (Cross-Controller Reset)",
            Self::Abort(_) => "Abort",
            Self::Passthrough(_) => "admin passthrough command",
        }
    }

    const fn is_reserved(&self) -> bool {
        matches!(self, Self::KeepAlive | Self::EventRequest | Self::Abort(_))
    }
}

/// A command that has been given to a queue.
#[derive(Debug)]
struct InFlight {
    qid: u16,
    purpose: Purpose,
    submitted: Instant,
    deadline: Instant,
    limit: Duration,
    /// It took too long, and is being aborted.
    overdue: bool,
}

/// A command that waits for a slot of the admin queue.
#[derive(Debug)]
pub(super) struct Waiting {
    sqe: Sqe,
    pub(super) data: Data,
    pub(super) purpose: Purpose,
    limit: Duration,
}

/// Commands in flight and commands waiting for a slot.
#[derive(Debug)]
pub(super) struct AdminTable {
    /// Commands that the admin queue takes at once, apart from the reserved slots.
    slots: usize,
    /// Never used again before 2^32 further commands, so an answer out of an old association finds
    /// nothing.
    next_tag: Tag,
    in_flight: BTreeMap<Tag, InFlight>,
    waiting: VecDeque<Waiting>,
}

impl AdminTable {
    pub(super) fn new(admin_entries: u16) -> Self {
        let capacity = usize::from(admin_entries.saturating_sub(1));
        Self {
            slots: capacity.saturating_sub(RESERVED).max(1),
            next_tag: 0,
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The earliest limit of a command in flight.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let at = self.in_flight.values().map(|f| f.deadline).fold(None, |a, d| earlier(a, Some(d)));
        at.filter(|at| *at != Instant::NEVER)
    }

    /// Passthrough commands that have not ended.
    pub(super) fn passthrough(&self) -> usize {
        let is = |p: &Purpose| matches!(p, Purpose::Passthrough(_));
        self.in_flight.values().filter(|f| is(&f.purpose)).count()
            + self.waiting.iter().filter(|w| is(&w.purpose)).count()
    }

    /// Abort commands in flight.
    pub(super) fn aborts(&self) -> usize {
        self.in_flight.values().filter(|f| matches!(f.purpose, Purpose::Abort(_))).count()
    }

    /// Gives a passthrough command time until `deadline`, once. Returns whether it got it.
    pub(super) fn give_time(&mut self, tag: Tag, deadline: Instant) -> bool {
        let Some(f) = self.in_flight.get_mut(&tag) else { return false };
        if f.overdue || !matches!(f.purpose, Purpose::Passthrough(_)) {
            return false;
        }
        (f.overdue, f.deadline) = (true, deadline);
        true
    }

    fn has_slot(&self) -> bool {
        let used = |f: &&InFlight| f.qid == 0 && !f.purpose.is_reserved();
        self.in_flight.values().filter(used).count() < self.slots
    }

    fn new_tag(&mut self) -> Tag {
        loop {
            let tag = self.next_tag;
            self.next_tag = tag.wrapping_add(1);
            if !self.in_flight.contains_key(&tag) {
                return tag;
            }
        }
    }

    /// Takes a passthrough command out, whichever tag it has.
    pub(super) fn take_passthrough(&mut self, tag: Option<Tag>) -> Option<Passthrough> {
        let is = |f: &InFlight| matches!(f.purpose, Purpose::Passthrough(_));
        let tag = match tag {
            Some(tag) => self.in_flight.get(&tag).filter(|f| is(f)).map(|_| tag)?,
            None => *self.in_flight.iter().find(|(_, f)| is(f))?.0,
        };
        match self.in_flight.remove(&tag)?.purpose {
            Purpose::Passthrough(passthrough) => Some(passthrough),
            _ => None,
        }
    }

    /// Forgets the commands of an I/O queue that has been dropped.
    pub(super) fn forget_queue(&mut self, qid: u16) {
        self.in_flight.retain(|_, f| f.qid != qid);
    }

    /// Forgets all commands but passthrough, whose owners are waiting; returns those that had not
    /// been sent.
    pub(super) fn forget_own(&mut self) -> VecDeque<Waiting> {
        self.in_flight.retain(|_, f| matches!(f.purpose, Purpose::Passthrough(_)));
        std::mem::take(&mut self.waiting)
    }
}

impl Controller {
    /// Sends a command on the admin queue, or when a slot is free.
    pub(super) fn send(&mut self, now: Instant, sqe: Sqe, data: Data, purpose: Purpose) {
        let limit = self.config.admin_timeout;
        self.send_within(now, sqe, data, purpose, limit);
    }

    /// Like [`Self::send`] with a limit of its own, which begins when the command is submitted.
    pub(super) fn send_within(
        &mut self,
        now: Instant,
        sqe: Sqe,
        data: Data,
        purpose: Purpose,
        limit: Duration,
    ) {
        let waiting = Waiting { sqe, data, purpose, limit };
        if waiting.purpose.is_reserved() || self.admin.has_slot() {
            self.submit(now, 0, waiting);
        } else {
            self.admin.waiting.push_back(waiting);
        }
    }

    /// Sends a command that reads `len` bytes.
    pub(super) fn send_read(&mut self, now: Instant, sqe: Sqe, len: usize, purpose: Purpose) {
        self.send(now, sqe, Data::Read(Buffer::zeroed(len)), purpose);
    }

    /// Sends a command on an I/O queue that is still the driver's.
    pub(super) fn send_on_io_queue(
        &mut self,
        now: Instant,
        qid: u16,
        sqe: Sqe,
        data: Data,
        purpose: Purpose,
    ) {
        let limit = self.config.connect_timeout;
        self.submit(now, qid, Waiting { sqe, data, purpose, limit });
    }

    fn submit(&mut self, now: Instant, qid: u16, command: Waiting) {
        let Waiting { sqe, data, purpose, limit } = command;
        let tag = self.admin.new_tag();
        // An event request is answered when something happens, be it never; and an Abort for the
        // sake of somebody who changed his mind is no test of the controller's health: other commands
        // are, the one that is to be aborted among them.
        let deadline = match purpose {
            Purpose::EventRequest | Purpose::Abort(Target { told: false, .. }) => Instant::NEVER,
            _ => now + limit,
        };
        let in_flight = InFlight { qid, purpose, submitted: now, deadline, limit, overdue: false };
        self.admin.in_flight.insert(tag, in_flight);
        self.actions.push_back(Action::Submit { qid, sqe, data, tag });
    }

    fn send_waiting(&mut self, now: Instant) {
        while self.has_association() && self.admin.has_slot() {
            let Some(waiting) = self.admin.waiting.pop_front() else { return };
            self.submit(now, 0, waiting);
        }
    }

    /// A command submitted by [`Action::Submit`] has ended. Between [`Action::Teardown`] and
    /// [`torn_down`](Self::torn_down) only the data of passthrough commands is of interest.
    pub fn completion(&mut self, now: Instant, qid: u16, completion: Completion) {
        let Completion { tag, cqe, data } = completion;
        if self.admin.in_flight.get(&tag).is_none_or(|f| f.qid != qid) {
            return;
        }
        let Some(InFlight { purpose, submitted, .. }) = self.admin.in_flight.remove(&tag) else {
            return;
        };
        let status = cqe.status();
        if !status.is(Status::ABORTED_BY_HOST) {
            self.link.keep_alive.answered(submitted);
        }
        if let Purpose::Passthrough(passthrough) = purpose {
            self.passthrough_done(now, passthrough, cqe, data);
        } else if !self.has_association() {
            return;
        } else if status.is(Status::ABORTED_BY_HOST) {
            // The queue is dying. Its own error, which comes next, says more than this status.
            let error = self.command_error(purpose.name(), status);
            self.link.aborted.get_or_insert(Aborted { at: now, error });
            return;
        } else {
            self.dispatch(now, purpose, &cqe, data);
        }
        self.send_waiting(now);
    }

    fn dispatch(&mut self, now: Instant, purpose: Purpose, cqe: &Cqe, data: Data) {
        if matches!(self.phase, Phase::ShuttingDown(_))
            && !matches!(
                purpose,
                Purpose::RegisterRead | Purpose::RegisterWrite | Purpose::HostMemoryOff
            )
        {
            return;
        }
        let buffer = data.into_buffer();
        let answer = if cqe.status().is_success() { Ok(buffer) } else { Err(cqe.status()) };
        let command = purpose.name();
        match purpose {
            Purpose::Connect => self.connected(now, cqe),
            Purpose::RegisterRead => match answer {
                Ok(_) => self.register_read(now, cqe.result()),
                Err(status) => self.register_refused(now, command, status),
            },
            Purpose::RegisterWrite => match answer {
                Ok(_) => self.register_written(now),
                Err(status) => self.register_refused(now, command, status),
            },
            Purpose::Identify => self.identified(now, command, answer),
            Purpose::HostBehavior => self.host_behavior_set(now),
            Purpose::NumberOfQueues => self.queues_granted(now, cqe),
            Purpose::AsyncConfig => self.events_configured(now),
            Purpose::KeepAlive => self.keep_alive_done(now, cqe.status()),
            Purpose::EventRequest => self.event_reported(now, cqe),
            Purpose::ChangedList => self.changed_list_read(now, answer.err()),
            Purpose::NamespaceList => self.namespace_list_read(now, answer),
            Purpose::Descriptors(nsid) => self.descriptors_read(now, nsid, answer),
            Purpose::Independent(nsid) => self.independent_read(now, nsid, answer),
            Purpose::Namespace(nsid) => self.namespace_read(now, nsid, answer),
            Purpose::AnaLog => self.ana_read(now, answer),
            Purpose::Apst => self.power_configured(now),
            Purpose::HostMemory(given) => self.host_memory_enabled(now, given, cqe.status()),
            Purpose::HostMemoryOff => self.host_memory_disabled(now),
            Purpose::IoConnect(qid) => self.io_queue_connected(now, qid, cqe.status()),
            Purpose::DeleteSq(qid) => self.delete_cq(now, qid),
            Purpose::DeleteCq(qid) => self.io_queue_deleted(now, qid),
            Purpose::CreateCq(qid) => self.cq_created(now, qid, cqe.status()),
            Purpose::CreateSq(qid) => self.sq_created(now, qid, cqe.status()),
            Purpose::CrossReset(user) => self.cross_reset_answered(now, user, cqe),
            Purpose::ResetLog => self.reset_log_read(now, answer),
            Purpose::Abort(target) => self.abort_done(now, target, cqe),
            // Taken by `completion`.
            Purpose::Passthrough(_) => {}
        }
    }

    /// A command that takes too long, and is not to be aborted or was not in time, ends the
    /// association: there is no other way to get the buffer back.
    pub(super) fn command_timeout(&mut self, now: Instant) {
        if !self.has_association() {
            return;
        }
        let late = self.admin.in_flight.iter().filter(|(_, f)| f.deadline <= now);
        for tag in late.map(|(tag, _)| *tag).collect::<Vec<_>>() {
            if self.abort_admin(now, tag) {
                continue;
            }
            if let Some(late) = self.admin.in_flight.get(&tag) {
                let error = self.timeout_error(late.purpose.name(), late.limit);
                return self.fail(now, error);
            }
        }
    }

    /// A queue ended commands by itself and has not said why.
    pub(super) fn aborted_timeout(&mut self, now: Instant) {
        if self.has_association()
            && let Some(aborted) = self.link.aborted.take_if(|a| a.at <= now)
        {
            self.fail(now, aborted.error);
        }
    }
}
