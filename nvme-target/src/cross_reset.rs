//! Cross-Controller Reset: one controller ends the life of another of the same host (TP8028; NVMe 2.3 §5.4.3).
//!
//! After a reset is reported as successful, nothing that the other controller still held is executed. Its connections
//! are closed by the threads that own them: where that takes a moment, the command is answered first, and log page 1Eh
//! and an event tell the end. An instance that is unknown has nothing left, and counts as reset at once.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::sync::Arc;

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::log::{CrossControllerResetEntry, CrossControllerResetLog, ResetState};
use nvme_core::spec::{Sqe, Status};

use crate::admin::Outcome;
use crate::aer::AsyncEvent;
use crate::controller::{Controller, Shared};
use crate::subsystem::State;

/// One life of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub cntlid: u16,
    pub ciu: u8,
    pub cirn: u64,
}

impl Instance {
    /// The `count`th life in its subsystem. Its number is random unless there is a seed.
    pub fn new(cntlid: u16, count: u64, seed: Option<u64>) -> Self {
        let life = (cntlid, count);
        let cirn = match seed {
            Some(seed) => BuildHasherDefault::<DefaultHasher>::default().hash_one((seed, life)),
            // keyed at random by the standard library
            None => RandomState::new().hash_one(life),
        };
        // zero would mean that there is no number
        Self { cntlid, ciu: count as u8, cirn: cirn.max(1) }
    }

    fn of(sqe: &Sqe) -> Self {
        let cdw10 = sqe.cdw10.get();
        let cirn = u64::from(sqe.cdw13.get()) << 32 | u64::from(sqe.cdw12.get());
        Self { cntlid: cdw10 as u16, ciu: (cdw10 >> 16) as u8, cirn }
    }
}

/// A life that has ended, while connections or commands of it are left.
#[derive(Debug)]
pub(crate) struct Ended {
    instance: Instance,
    host: (Nqn, Uuid),
    shared: Arc<Shared>,
    /// The controller that was asked to reset this one and has not told the end.
    reset_by: Option<u16>,
}

/// Bit 0 of the completion: the reset is done already.
const IMMEDIATE_RESET_SUCCESSFUL: u64 = 1 << 0;

impl State {
    /// Ends the life of a controller. Whether there was one.
    pub fn end(&mut self, cntlid: u16) -> bool {
        let Some(controller) = self.controllers.remove(&cntlid) else { return false };
        controller.close();
        // nothing else knows of those that this list alone still has
        self.ended.retain(|e| e.reset_by.is_some() || Arc::strong_count(&e.shared) > 1);
        let Controller { instance, host_nqn, host_id, shared, .. } = controller;
        self.ended.push(Ended { instance, host: (host_nqn, host_id), shared, reset_by: None });
        true
    }

    /// Carries out the command on behalf of controller `own`.
    pub fn cross_reset(&mut self, own: u16, sqe: &Sqe) -> Outcome {
        let wanted = Instance::of(sqe);
        let Some(ctrl) = self.controllers.get(&own).filter(|c| c.is_enabled()) else {
            return Outcome::Failed(Status::SEQUENCE_ERROR.with_dnr());
        };
        if ctrl.cross_resets == 0 {
            return Outcome::Failed(Status::INVALID_OPCODE.with_dnr());
        }
        if wanted.cntlid == own {
            return Outcome::Failed(Status::INVALID_FIELD.with_dnr());
        }
        let (limit, host) = (usize::from(ctrl.cross_resets), (ctrl.host_nqn.clone(), ctrl.host_id));
        let under_way = self.ended.iter().filter(|e| e.reset_by == Some(own)).count();
        let alive = self.controllers.get(&wanted.cntlid);
        let is_wanted =
            |c: &Controller| c.instance == wanted && (&c.host_nqn, c.host_id) == (&host.0, host.1);
        if alive.is_some_and(is_wanted) {
            if under_way >= limit {
                return Outcome::Failed(Status::CROSS_CONTROLLER_RESET_LIMIT_EXCEEDED);
            }
            self.end(wanted.cntlid);
        }
        let Some(ended) = self.ended.iter_mut().find(|e| e.instance == wanted && e.host == host)
        else {
            return Outcome::Done(IMMEDIATE_RESET_SUCCESSFUL);
        };
        ended.shared.stop();
        if !ended.shared.is_open() {
            return Outcome::Done(IMMEDIATE_RESET_SUCCESSFUL);
        }
        if ended.reset_by.is_some() {
            return Outcome::Failed(Status::CROSS_CONTROLLER_RESET_IN_PROGRESS);
        }
        if under_way >= limit {
            return Outcome::Failed(Status::CROSS_CONTROLLER_RESET_LIMIT_EXCEEDED);
        }
        ended.reset_by = Some(own);
        self.log_reset(own, wanted, ResetState::IN_PROGRESS);
        Outcome::Done(0)
    }

    /// A connection has ended: resets that waited for it may be done.
    pub fn finish_resets(&mut self) {
        let mut done = Vec::new();
        for ended in self.ended.iter_mut().filter(|e| !e.shared.is_open()) {
            done.extend(ended.reset_by.take().map(|by| (by, ended.instance)));
        }
        for (by, instance) in done {
            self.log_reset(by, instance, ResetState::SUCCESS);
            if let Some(ctrl) = self.controllers.get_mut(&by) {
                ctrl.raise(AsyncEvent::CROSS_CONTROLLER_RESET);
            }
        }
    }

    fn log_reset(&mut self, by: u16, of: Instance, state: ResetState) {
        let Some(ctrl) = self.controllers.get_mut(&by) else { return };
        ctrl.reset_log.retain(|e| (e.icid.get(), e.ciu) != (of.cntlid, of.ciu));
        ctrl.reset_log.push(CrossControllerResetEntry::new(of.cntlid, of.ciu, state));
    }
}

/// Log page 1Eh. Reading it without Retain Asynchronous Event takes the resets that have ended off it.
pub(crate) fn log(ctrl: &mut Controller, retain: bool) -> Vec<u8> {
    let mut page = CrossControllerResetLog::encode(&ctrl.reset_log);
    page.resize(CrossControllerResetLog::MAX_LEN, 0);
    if !retain {
        ctrl.reset_log.retain(|e| e.ccrs == ResetState::IN_PROGRESS);
    }
    page
}
