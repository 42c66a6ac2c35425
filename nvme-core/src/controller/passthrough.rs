//! Admin commands of the user's own.

use std::sync::Arc;

use super::action::{AdminResult, ControllerEvent};
use super::admin::Purpose;
use super::machine::Controller;
use crate::spec::feature::fid;
use crate::spec::opcode::AdminOpcode;
use crate::spec::{Cqe, Sqe, Status};
use crate::time::{Duration, Instant};
use crate::transport::{Data, Tag, TransportKind};

/// Most passthrough commands that have not ended at once.
const MOST: usize = 64;

/// Whose command it is, and what its success changes here.
#[derive(Debug)]
pub(super) struct Passthrough {
    user: u64,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    None,
    /// The keep-alive timeout is another one.
    KeepAlive(Duration),
    /// Namespaces came, went or changed.
    Namespaces,
}

impl Effect {
    fn of(sqe: &Sqe) -> Self {
        match AdminOpcode(sqe.opcode) {
            AdminOpcode::SET_FEATURES if sqe.cdw10.get() as u8 == fid::KEEP_ALIVE_TIMER => {
                Self::KeepAlive(Duration::from_millis(sqe.cdw11.get().into()))
            }
            AdminOpcode::NAMESPACE_MANAGEMENT
            | AdminOpcode::NAMESPACE_ATTACHMENT
            | AdminOpcode::FORMAT_NVM
            | AdminOpcode::SANITIZE => Self::Namespaces,
            _ => Self::None,
        }
    }
}

/// Commands that only the controller layer itself may send: another one would take its queues or
/// its one event request away, or have the controller write to memory that is none of its.
fn is_reserved(sqe: &Sqe) -> bool {
    if AdminOpcode(sqe.opcode) == AdminOpcode::SET_FEATURES {
        return sqe.cdw10.get() as u8 == fid::HOST_MEMORY_BUFFER;
    }
    matches!(
        AdminOpcode(sqe.opcode),
        AdminOpcode::CREATE_IO_CQ
            | AdminOpcode::CREATE_IO_SQ
            | AdminOpcode::DELETE_IO_CQ
            | AdminOpcode::DELETE_IO_SQ
            | AdminOpcode::ASYNC_EVENT_REQUEST
            | AdminOpcode::FABRICS
    )
}

impl Controller {
    /// Sends an admin command of the user's own; [`ControllerEvent::Admin`] tells its end, with
    /// `user`. It has the limit of all admin commands (`admin_timeout`): if it takes longer, the
    /// controller is reset. The data pointer is the transport's to write.
    ///
    /// # Errors
    /// The data comes back when the controller is not live, when 64 such commands have not ended,
    /// or when the command is one that would take the controller layer's own queues or events away
    /// (queue creation and deletion, Asynchronous Event Request, fabrics commands).
    pub fn submit_admin(
        &mut self,
        now: Instant,
        sqe: Sqe,
        data: Data,
        user: u64,
    ) -> Result<(), Data> {
        if !self.is_live() || is_reserved(&sqe) || self.admin.passthrough() >= MOST {
            return Err(data);
        }
        let passthrough = Passthrough { user, effect: Effect::of(&sqe) };
        self.send(now, sqe, data, Purpose::Passthrough(passthrough));
        Ok(())
    }

    pub(super) fn passthrough_done(
        &mut self,
        now: Instant,
        passthrough: Passthrough,
        cqe: Cqe,
        data: Data,
    ) {
        let Passthrough { user, effect } = passthrough;
        self.emit(ControllerEvent::Admin(Arc::new(AdminResult { user, cqe, data })));
        if !cqe.status().is_success() || !self.is_live() {
            return;
        }
        match effect {
            Effect::None => {}
            Effect::KeepAlive(timeout) if self.link.kind == TransportKind::Fabrics => {
                self.link.keep_alive.set(now, timeout);
            }
            Effect::KeepAlive(_) => {}
            Effect::Namespaces => self.rescan(now),
        }
    }

    fn abort_passthrough(&mut self, passthrough: &Passthrough, data: Data) {
        let cqe = Cqe::new(0, Status::ABORTED_BY_HOST, 0);
        let result = AdminResult { user: passthrough.user, cqe, data };
        self.emit(ControllerEvent::Admin(Arc::new(result)));
    }

    /// Ends the passthrough commands that no queue has: those of withdrawn actions, and those that
    /// waited for a slot.
    pub(super) fn abort_unsent(&mut self, withdrawn: Vec<(Tag, Data)>) {
        for (tag, data) in withdrawn {
            if let Some(passthrough) = self.admin.take_passthrough(Some(tag)) {
                self.abort_passthrough(&passthrough, data);
            }
        }
        for waiting in self.admin.forget_own() {
            if let Purpose::Passthrough(passthrough) = waiting.purpose {
                self.abort_passthrough(&passthrough, waiting.data);
            }
        }
    }

    /// Ends the passthrough commands whose queue is gone and which did not come back from it.
    pub(super) fn abort_passthrough_in_flight(&mut self) {
        while let Some(passthrough) = self.admin.take_passthrough(None) {
            self.abort_passthrough(&passthrough, Data::None);
        }
    }
}
