//! What programs and channels ask of the control plane.

use std::collections::BTreeSet;
use std::sync::Arc;

use nvme_core::controller::{Controller as Machine, ControllerConfig, RemovedCause};
use nvme_core::nqn::Nqn;
use nvme_core::spec::Sqe;
use nvme_core::time::Instant;
use nvme_core::transport::{Data, Endpoint};

use super::Control;
use super::slot::{QueueMap, Slot};
use crate::controller::{AdminReply, ControllerStatus};
use crate::error::HostError;
use crate::event::Event;
use crate::ids::{AssociationId, ControllerId};
use crate::load::Board;
use crate::mailbox::Command;
use crate::options::{ControllerOptions, OverdueAction};

impl Control {
    pub(super) fn carry_out(&mut self, command: Command, now: Instant) {
        match command {
            Command::Connect { status, endpoint, options } => {
                self.connect(status, endpoint, *options, now);
            }
            Command::Disconnect(id) => {
                if let Some(&at) = self.by_id.get(&id) {
                    self.delete_slot(at, now);
                }
            }
            Command::Reset(id, reason) => {
                self.with_machine(id, now, |m| m.reset(now, reason));
            }
            Command::SubsystemReset(id, reason) => self.with_machine(id, now, |m| {
                m.subsystem_reset(now, reason);
            }),
            Command::Rescan(id) => self.with_machine(id, now, |m| m.rescan(now)),
            Command::Admin { controller, sqe, data, reply } => {
                self.submit_admin(controller, sqe, data, reply, now);
            }
            Command::ChannelOpened(channel) => self.channel_opened(channel, now),
            Command::ChannelClosed(id) => self.channel_closed(id, now),
            Command::QueueFailed { association, channel, error } => {
                if let Some(at) = self.find_association(association)
                    && let Some(slot) = self.slots[at].as_mut()
                {
                    // The channel has it until it is released, which may be long after.
                    let mut handed = slot.map.handed.iter();
                    let qid = handed.find(|(_, c)| **c == channel).map(|(q, _)| *q);
                    if let Some(qid) = qid {
                        slot.machine.queue_failed(now, qid, error);
                        self.drain(at, now);
                    }
                }
            }
            Command::QueueReleased { association, channel } => {
                self.queue_released(association, channel, now);
            }
            Command::QueueReturned { association, channel, queue } => {
                self.queue_returned(association, channel, queue);
            }
            Command::AnaError { association, nsid } => self.ana_error(association, nsid, now),
            Command::Abort { association, channel, cid, limit, overdue } => {
                self.abort(association, (channel, cid), limit, overdue, now);
            }
            Command::IoTimeout { association, command, aborted } => {
                self.io_timeout(association, command, aborted, now);
            }
            Command::MarginalChanged(id) => {
                if let Some(&at) = self.by_id.get(&id) {
                    self.marginal_changed(at, now);
                }
            }
            Command::Fence { association, channel } => self.fence(association, channel, now),
            Command::FenceNeedless { association, channel } => {
                self.fence_needless(association, channel);
            }
            Command::RemovalRearmed(head, timer) => self.removal_rearmed(&head, timer, now),
            Command::FinishRemoval(head) => self.finish_removal(&head, now),
            Command::HeadChanged => self.views_changed = true,
            Command::Shutdown { limit } => self.shut_down(limit),
            Command::Orphaned => self.orphaned = true,
        }
    }

    fn submit_admin(
        &mut self,
        id: ControllerId,
        sqe: Sqe,
        data: Data,
        reply: Arc<AdminReply>,
        now: Instant,
    ) {
        let at = self.by_id.get(&id).copied();
        let Some((at, slot)) = at.and_then(|at| Some((at, self.slots[at].as_mut()?))) else {
            let (address, cause) = (format!("controller {id}"), RemovedCause::Deleted);
            *reply.0.lock() = Some(Err(HostError::Removed { address, cause }));
            return;
        };
        let user = slot.next_admin;
        slot.next_admin += 1;
        if slot.machine.submit_admin(now, sqe, data, user).is_ok() {
            slot.admin.insert(user, reply);
        } else {
            let (address, state) = (slot.status.address.to_string(), slot.machine.state());
            *reply.0.lock() = Some(Err(HostError::NotLive { address, state }));
        }
        self.drain(at, now);
    }

    fn with_machine(&mut self, id: ControllerId, now: Instant, f: impl FnOnce(&mut Machine)) {
        let Some(&at) = self.by_id.get(&id) else { return };
        if let Some(slot) = self.slots[at].as_mut() {
            f(&mut slot.machine);
            self.drain(at, now);
        }
    }

    fn connect(
        &mut self,
        status: Arc<ControllerStatus>,
        endpoint: Arc<dyn Endpoint>,
        options: ControllerOptions,
        now: Instant,
    ) {
        if self.shutting_down {
            status.facts.lock().removed = Some(RemovedCause::Deleted);
            self.shared.controllers.lock().remove(&status.id);
            return;
        }
        let at = self.slots.vacancy();
        self.by_id.insert(status.id, at);
        let machine = self.machine(&status, &*endpoint, &options, now);
        self.slots[at] = Some(Slot {
            status,
            endpoint,
            options,
            machine,
            id: AssociationId { slot: at as u32, epoch: 0 },
            association: None,
            opening: None,
            dying: None,
            stop_poll: None,
            killed_at: now,
            max_transfer: None,
            board: Arc::new(Board::new(0)),
            queues: Vec::new(),
            map: QueueMap::default(),
            in_capsule: 0,
            teardown_by: None,
            delete_by: None,
            restart_at: None,
            handed_out: false,
            fence_waiting: BTreeSet::new(),
            info: None,
            namespaces: Default::default(),
            ana: None,
            fail_fast: false,
            admin: Default::default(),
            next_admin: 0,
            traffic_seen: 0,
        });
        if let Some(slot) = self.slots[at].as_mut() {
            slot.machine.start(now);
        }
        self.drain(at, now);
    }

    /// A state machine for a controller that starts from nothing.
    fn machine(
        &self,
        status: &ControllerStatus,
        endpoint: &dyn Endpoint,
        options: &ControllerOptions,
        now: Instant,
    ) -> Machine {
        let host = &self.shared.options;
        let subnqn = endpoint.subsystem_nqn().and_then(|n| Nqn::new(n).ok());
        let address = status.address.to_string();
        let mut config = ControllerConfig::new(host.hostnqn.clone(), host.hostid, subnqn, address);
        config.keep_alive = options.keep_alive;
        config.reconnect_delay = options.reconnect_delay;
        config.ctrl_loss_tmo = options.ctrl_loss_tmo;
        config.fast_io_fail_tmo = options.fast_io_fail_tmo;
        config.io_entries = options.io_entries.clamp(16, 1024);
        config.max_io_queues = options.max_io_queues.max(1);
        config.admin_timeout = options.admin_timeout;
        config.abort_admin = options.on_timeout.admin == OverdueAction::AbortThenReset;
        config.abort_timeout = options.on_timeout.abort_wait;
        config.connect_timeout = options.connect_timeout;
        config.apst_latency = options.apst_latency;
        config.host_memory = options.host_memory;
        config.quirks.clone_from(&host.quirks);
        config.seed = host.seed ^ now.as_nanos();
        Machine::new(config)
    }

    /// Begins anew with a controller that was given up.
    pub(super) fn start(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_ref() else { return };
        let machine = self.machine(&slot.status, &*slot.endpoint, &slot.options, now);
        let Some(slot) = self.slots[at].as_mut() else { return };
        slot.machine = machine;
        slot.map = QueueMap::default();
        slot.fail_fast = false;
        slot.machine.start(now);
        self.drain(at, now);
    }

    /// Forgets a controller that is gone for good.
    pub(super) fn drop_slot(&mut self, at: usize) {
        let Some(slot) = self.slots[at].take() else { return };
        let now = self.shared.clock.now();
        self.by_id.remove(&slot.status.id);
        self.shared.controllers.lock().remove(&slot.status.id);
        let told = slot.status.facts.lock().removed.replace(RemovedCause::Deleted);
        if told.is_none() {
            let (controller, address) = (slot.status.id, Arc::clone(&slot.status.address));
            let cause = RemovedCause::Deleted;
            self.emit(now, &Event::ControllerRemoved { controller, address, cause });
        } else {
            // The first cause stays: it is the reason, the end is only its consequence.
            slot.status.facts.lock().removed = told;
        }
    }
}
