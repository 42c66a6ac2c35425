//! What the state machines of the controllers ask for, carried out.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nvme_core::controller::{Action, ControllerEvent, RemovedCause, State};
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{Completion, Data, QueueStatus, Tag};

use super::Control;
use super::slot::{OwnQueue, Slot};
use super::unstopped::PATIENCE;
use crate::event::Event;
use crate::load::Board;
use crate::mailbox::Letter;
use crate::window::LossCause;

/// How long the control plane waits for channels to take the queues of a stopped association apart.
/// They are harmless by then; a channel that is never polled must not stop the others.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(1);

impl Control {
    /// Carries out everything that the controller at `at` asks for.
    pub(super) fn drain(&mut self, at: usize, now: Instant) {
        while let Some(action) = self.slots[at].as_mut().and_then(|s| s.machine.poll_action()) {
            match action {
                Action::Associate => self.associate(at, now),
                Action::OpenQueue(params) => self.open_queue(at, params, now),
                Action::Submit { qid, sqe, data, tag } => {
                    self.submit(at, qid, sqe, data, tag, now);
                }
                Action::ReadRegister { offset, size } => {
                    self.with_registers(at, |r| match size {
                        8 => Some(r.read64(offset)),
                        _ => Some(u64::from(r.read32(offset))),
                    });
                }
                Action::WriteRegister { offset, size, value } => {
                    self.with_registers(at, |r| {
                        match size {
                            8 => r.write64(offset, value),
                            _ => r.write32(offset, value as u32),
                        }
                        None
                    });
                }
                Action::Quirks(quirks) => {
                    let slot = self.slots[at].as_mut();
                    if let Some(association) = slot.and_then(|slot| slot.association.as_mut()) {
                        association.set_quirks(quirks);
                    }
                }
                Action::HostMemory(request) => {
                    if let Some(slot) = self.slots[at].as_mut() {
                        let association = slot.association.as_mut();
                        let given = association.map_or(Ok(None), |a| a.host_memory(request));
                        slot.machine.host_memory(now, given);
                    }
                }
                Action::QueueLive { qid, in_capsule } => {
                    if let Some(slot) = self.slots[at].as_mut() {
                        slot.in_capsule = in_capsule;
                    }
                    self.hand_over(at, qid);
                }
                Action::Abort { target, limit } => self.abort_admin(at, target, limit, now),
                Action::Teardown => self.tear_down(at, now),
                Action::Event(event) => self.on_event(at, event, now),
                // `Action` may grow; a driver that does not know an action cannot carry it out.
                _ => {}
            }
        }
    }

    fn associate(&mut self, at: usize, now: Instant) {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let Some(slot) = self.slots[at].as_mut() else { return };
        slot.id.epoch = epoch;
        slot.board = Arc::new(Board::new(slot.options.max_io_queues.max(1)));
        slot.status.facts.lock().associate(&slot.board);
        slot.traffic_seen = 0;
        self.assign_all(at, now);
        let occupied = self.slots[at].as_ref().and_then(|s| self.occupied(&s.status.address));
        let Some(slot) = self.slots[at].as_mut() else { return };
        if let Some(error) = occupied {
            return slot.machine.association_failed(now, error);
        }
        match slot.endpoint.associate(now) {
            Ok(association) => {
                slot.association = Some(association);
                self.look_at_opening(at, now);
            }
            Err(error) => slot.machine.association_failed(now, error),
        }
    }

    /// Goes on with an association once it has been opened. Nobody waits for that: it is looked at
    /// again and again, for as long as the state machine has patience.
    fn look_at_opening(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        slot.opening = None;
        let Some(association) = slot.association.as_mut() else { return };
        match association.opening(now) {
            Ok(Some(again)) => slot.opening = Some(again),
            Ok(None) => {
                let (kind, most) = (association.kind(), association.max_transfer());
                let hardware = association.hardware();
                slot.max_transfer = most;
                slot.machine.associated(now, kind, most, hardware);
            }
            Err(error) => {
                slot.association = None;
                slot.machine.association_failed(now, error);
            }
        }
    }

    fn open_queue(&mut self, at: usize, params: nvme_core::transport::QueueParams, now: Instant) {
        self.forget_queue(at, params.qid);
        let Some(slot) = self.slots[at].as_mut() else { return };
        let Some(association) = slot.association.as_mut() else { return };
        match association.open_queue(params, now) {
            Ok(queue) => {
                let qid = params.qid;
                slot.queues.push(OwnQueue { qid, queue, registered: None, told_ready: false });
                self.register(at, qid);
                self.repoll.push((at, qid));
            }
            Err(error) => slot.machine.queue_failed(now, params.qid, error),
        }
    }

    /// Registers the descriptor of a queue, anew if it has changed.
    pub(super) fn register(&mut self, at: usize, qid: u16) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let Some(own) = slot.queue(qid) else { return };
        let fd = own.queue.fd().map(|fd| fd.as_raw_fd());
        if fd == own.registered {
            return;
        }
        let registry = self.poll.registry();
        if let Some(old) = own.registered.take() {
            // The old descriptor may be closed already, and then it is not registered either.
            let _ = registry.deregister(&mut SourceFd(&old));
        }
        let Some(fd) = fd else { return };
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token((at << 16 | usize::from(qid)) + 1);
        if registry.register(&mut SourceFd(&fd), token, both).is_ok() {
            own.registered = Some(fd);
        }
    }

    fn submit(&mut self, at: usize, qid: u16, sqe: Sqe, data: Data, tag: Tag, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let rejected = match slot.queue(qid) {
            Some(own) => match own.queue.submit(sqe, data, tag) {
                Ok(()) => {
                    own.queue.flush();
                    return;
                }
                Err(rejected) => rejected.data,
            },
            None => data,
        };
        let cqe = Cqe::new(0, Status::ABORTED_BY_HOST, 0);
        slot.machine.completion(now, qid, Completion { tag, cqe, data: rejected });
    }

    fn with_registers(
        &mut self,
        at: usize,
        f: impl FnOnce(&mut dyn nvme_core::transport::Registers) -> Option<u64>,
    ) {
        let now = self.shared.clock.now();
        let Some(slot) = self.slots[at].as_mut() else { return };
        let registers = slot.association.as_mut().and_then(|a| a.registers());
        if let Some(value) = registers.and_then(f) {
            slot.machine.register_value(now, value);
        }
    }

    /// Polls the queues that have something to say, until none has.
    pub(super) fn poll_queues(&mut self, now: Instant) {
        self.slots.settle(now);
        for at in self.slots.due(now) {
            let Some(slot) = &self.slots[at] else { continue };
            for q in &slot.queues {
                let due = q.queue.deadline().is_some_and(|d| d <= now);
                if due || q.registered.is_none() || q.queue.has_pending_work() {
                    self.repoll.push((at, q.qid));
                }
            }
        }
        let mut rounds = 0;
        while !self.repoll.is_empty() && rounds < 16 {
            rounds += 1;
            for (at, qid) in std::mem::take(&mut self.repoll) {
                self.poll_queue(at, qid, now);
            }
        }
    }

    fn poll_queue(&mut self, at: usize, qid: u16, now: Instant) {
        let Some(Some(slot)) = self.slots.get_mut(at) else { return };
        let Some(own) = slot.queue(qid) else { return };
        let mut completions: Vec<Completion> = Vec::new();
        let status = own.queue.poll(now, &mut completions);
        let newly_ready = matches!(status, QueueStatus::Ready) && !own.told_ready;
        own.told_ready |= newly_ready;
        if newly_ready && let Some(queue) = own.queue.successor() {
            own.queue = queue;
        }
        let setup = own.queue.setup();
        for completion in completions {
            slot.machine.completion(now, qid, completion);
        }
        if newly_ready {
            slot.machine.queue_ready(now, qid, setup);
        }
        // What a dead queue still holds stays with the device when it is dropped.
        if let QueueStatus::Failed(error) | QueueStatus::Ending(error) = status {
            self.forget_queue(at, qid);
            if let Some(slot) = self.slots[at].as_mut() {
                slot.machine.queue_failed(now, qid, error);
            }
        } else {
            self.register(at, qid);
        }
        self.drain(at, now);
    }

    /// Takes a queue out of the control plane's care.
    pub(super) fn forget_queue(&mut self, at: usize, qid: u16) -> Option<OwnQueue> {
        let slot = self.slots[at].as_mut()?;
        let place = slot.queues.iter().position(|q| q.qid == qid)?;
        let mut own = slot.queues.swap_remove(place);
        if let Some(fd) = own.registered.take() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        Some(own)
    }

    pub(super) fn tear_down(&mut self, at: usize, now: Instant) {
        let Some(association) = self.slots[at].as_ref().map(|slot| slot.id) else { return };
        self.remember_ended(at, now);
        let Some(slot) = self.slots[at].as_mut() else { return };
        slot.opening = None;
        slot.killed_at = now;
        if let Some(mut association) = slot.association.take() {
            association.kill();
            slot.dying = Some(association);
        }
        let own: Vec<u16> = slot.queues.iter().map(|q| q.qid).collect();
        for qid in own {
            self.forget_queue(at, qid);
        }
        let Some(slot) = self.slots[at].as_mut() else { return };
        for qid in std::mem::take(&mut slot.map.spare) {
            slot.machine.unwant_queue(now, qid);
        }
        let handed = std::mem::take(&mut slot.map.handed);
        slot.map.releasing.clear();
        for channel in handed.into_values() {
            // A channel that is not polled does not collect dead queues.
            if let Some(letters) = self.channels.get(&channel)
                && !letters.retract(slot.id)
            {
                letters.send(Letter::QueueDown(slot.id));
                slot.map.releasing.insert(channel);
            }
        }
        if self.shutting_down {
            // Nothing follows that would have to wait.
            slot.map.releasing.clear();
        }
        slot.teardown_by = Some(now + TEARDOWN_LIMIT);
        self.set_paths_unready(at, now);
        self.finish_teardown(at, now);
        self.resetter_lost(association, now);
    }

    /// Whether nothing reaches memory any more by the association that was killed, or that is not waited
    /// for any more. Where that takes its time, nobody waits for it: it is looked at again and again.
    fn is_stopped(&mut self, at: usize, now: Instant) -> bool {
        let forced = self.shutting_down;
        let Some(slot) = self.slots[at].as_mut() else { return true };
        slot.stop_poll = None;
        let Some(dying) = slot.dying.as_mut() else { return true };
        let Some(again) = dying.stopping(now) else {
            slot.dying = None;
            return true;
        };
        if forced || now >= slot.killed_at + PATIENCE {
            self.leave_unstopped(at, now);
            return true;
        }
        slot.stop_poll = Some(again);
        // The channels take their queues apart only once they are harmless.
        slot.teardown_by = Some(now + TEARDOWN_LIMIT);
        false
    }

    /// Goes on once the dead association has been stopped, and all its queues have been taken apart
    /// or the time for that is up.
    pub(super) fn finish_teardown(&mut self, at: usize, now: Instant) {
        if !self.is_stopped(at, now) {
            return;
        }
        let Some(slot) = self.slots[at].as_mut() else { return };
        let over = slot.map.releasing.is_empty() || slot.teardown_by.is_some_and(|t| t <= now);
        if slot.teardown_by.is_some() && over {
            slot.teardown_by = None;
            slot.map.releasing.clear();
            slot.machine.torn_down(now);
            self.drain(at, now);
        }
    }

    pub(super) fn run_slot_timers(&mut self, at: usize, now: Instant) {
        if self.slots[at].as_ref().and_then(|s| s.opening).is_some_and(|at| at <= now) {
            self.look_at_opening(at, now);
            self.drain(at, now);
        }
        let Some(slot) = self.slots[at].as_mut() else { return };
        if slot.machine.deadline().is_some_and(|d| d <= now) {
            let traffic = slot.traffic();
            if traffic != slot.traffic_seen {
                slot.traffic_seen = traffic;
                slot.machine.note_io_completion();
            }
            slot.machine.handle_timeout(now);
            self.drain(at, now);
        }
        self.finish_teardown(at, now);
        self.finish_delete(at, now);
        let Some(slot) = self.slots[at].as_mut() else { return };
        if slot.restart_at.is_some_and(|t| t <= now) {
            slot.restart_at = None;
            self.start(at, now);
        }
    }

    fn on_event(&mut self, at: usize, event: ControllerEvent, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let (controller, address) = (slot.status.id, Arc::clone(&slot.status.address));
        match event {
            ControllerEvent::StateChanged { from, to } => {
                let mut facts = slot.status.facts.lock();
                (facts.state, facts.since) = (to, now);
                // One that was given up and begins anew, again and again, is told of when it lives.
                let tell = facts.removed.is_none() || to == State::Live;
                if to == State::Live {
                    facts.reconnects += u64::from(facts.last_error.is_some());
                    facts.last_error = None;
                    facts.removed = None;
                    slot.fail_fast = false;
                } else {
                    facts.scanned = false;
                    facts.host_memory = 0;
                }
                drop(facts);
                if tell {
                    self.emit(now, &Event::ControllerState { controller, address, from, to });
                }
                self.state_changed(at, to, now);
                if to == State::Live {
                    self.ask_for_resets(now);
                }
            }
            ControllerEvent::Identified(info) => {
                slot.status.facts.lock().info = Some(Arc::clone(&info));
                slot.info = Some(info);
                self.refuse_duplicate(at, now);
            }
            ControllerEvent::NamespaceReady(info) => self.namespace_ready(at, info, now),
            ControllerEvent::NamespaceGone { nsid, .. } => {
                self.namespace_left(at, nsid, LossCause::NamespaceGone, now);
            }
            ControllerEvent::NamespaceRefused { nsid, reason } => {
                let event = Event::NamespaceRefused { controller, address, nsid, reason };
                self.emit(now, &event);
            }
            ControllerEvent::ScanDone => slot.status.facts.lock().scanned = true,
            ControllerEvent::Ana(snapshot) => self.ana_read(at, snapshot, now),
            ControllerEvent::DiscoveryChanged => {
                self.emit(now, &Event::DiscoveryChanged { controller, address });
            }
            ControllerEvent::AsyncEvent { result } => {
                self.emit(now, &Event::AsyncEvent { controller, address, result });
            }
            ControllerEvent::Failed { error, .. } => {
                let changed = {
                    let mut facts = slot.status.facts.lock();
                    facts.last_error.replace(error.clone()).as_ref() != Some(&error)
                };
                if changed {
                    self.emit(now, &Event::ControllerFailed { controller, address, error });
                }
            }
            ControllerEvent::ScanFailed { error }
            | ControllerEvent::AnaFailed { error }
            | ControllerEvent::HostMemoryRefused { error }
            | ControllerEvent::QueueRefused { error, .. } => {
                self.emit(now, &Event::ControllerTrouble { controller, address, error });
            }
            ControllerEvent::HostMemory { bytes, .. } => {
                slot.status.facts.lock().host_memory = bytes;
            }
            ControllerEvent::CrossReset { user, outcome } => self.reset_ended(user, outcome, now),
            ControllerEvent::Abort { qid, cid, outcome } => {
                self.abort_answered(at, (qid, cid), outcome, now);
            }
            ControllerEvent::FastIoFail => {
                slot.fail_fast = true;
                self.set_awaited(at, now);
            }
            ControllerEvent::QueueUnavailable { qid, granted } => {
                self.queue_refused(at, qid, granted, now);
            }
            ControllerEvent::Admin(result) => {
                if let Some(reply) = slot.admin.remove(&result.user) {
                    *reply.0.lock() = Some(Ok(result));
                }
            }
            ControllerEvent::Removed(cause) => self.controller_removed(at, cause, now),
            _ => {}
        }
    }

    /// Two controllers of one subsystem cannot have the same identifier (`NVMe 2.1 §3.1.2`); one of
    /// them is not what it says. The one that is in use stays.
    fn refuse_duplicate(&mut self, at: usize, now: Instant) {
        let identity = |s: &Slot| s.info.as_ref().map(|i| (i.subnqn.clone(), i.cntlid));
        let Some(own) = self.slots[at].as_ref().and_then(identity) else { return };
        let is_twin = |s: &&Slot| {
            let other = s.id.slot as usize != at && s.machine.state() == State::Live;
            other && identity(s).as_ref() == Some(&own)
        };
        let twin = self.slots.iter().flatten().find(is_twin).map(|s| Arc::clone(&s.status.address));
        let Some(twin) = twin else { return };
        let reason = format!("controller ID {} is that of {twin} already", own.1);
        // A discovery controller is nobody's path, and its identifier of no consequence.
        if !own.0.is_discovery()
            && let Some(slot) = self.slots[at].as_mut()
        {
            slot.machine.reject(now, "Identify Controller", reason);
        }
    }

    pub(super) fn controller_removed(&mut self, at: usize, cause: RemovedCause, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let (controller, address) = (slot.status.id, Arc::clone(&slot.status.address));
        let deleted = cause == RemovedCause::Deleted;
        let already = slot.status.facts.lock().removed.replace(cause.clone());
        for (_, reply) in slot.admin.drain() {
            let (address, cause) = (address.to_string(), cause.clone());
            *reply.0.lock() = Some(Err(crate::HostError::Removed { address, cause }));
        }
        let loss = if deleted { LossCause::Disconnected } else { LossCause::LinkLost };
        let nsids: Vec<u32> = slot.namespaces.keys().copied().collect();
        let restart = slot.options.reattach_delay.filter(|_| !deleted && !self.shutting_down);
        // A path that is tried again and again is told of once.
        if already.as_ref() != Some(&cause) {
            let event = Event::ControllerRemoved { controller, address, cause };
            self.emit(now, &event);
        }
        for nsid in nsids {
            self.namespace_left(at, nsid, loss, now);
        }
        match (restart, self.slots[at].as_mut()) {
            (Some(delay), Some(slot)) => slot.restart_at = Some(now + delay),
            _ => self.drop_slot(at),
        }
    }
}
