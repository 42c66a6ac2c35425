//! The host memory buffer: memory of the host's that the controller uses as it likes
//! (`NVMe 2.1 §8.2.3`), given to it before it goes live and taken back before it is shut down.
//!
//! A controller that is reset loses it with `CC.EN`, and gets the same memory again where the transport
//! still has it at the same addresses. The memory is the association's: it is let go of only once the
//! device has been stopped, whatever the controller answered.

use super::action::{Action, ControllerError, ControllerEvent};
use super::admin::Purpose;
use super::bringup::Step;
use super::machine::Controller;
use crate::spec::feature::host_memory;
use crate::spec::identify::IdentifyController;
use crate::spec::{Sqe, Status};
use crate::time::{Duration, Instant};
use crate::transport::{Data, HostMemory, HostMemoryRequest, TransportError};

/// Unit of `HMPRE`, `HMMIN` and `HMMINDS`, and of what is given (`CC.MPS` 0).
const UNIT: u64 = 4096;

/// What the controller asks for, within `limit` bytes; `None` if it asks for nothing, or for more.
pub(super) fn wanted(id: &IdentifyController, limit: u64) -> Option<HostMemoryRequest> {
    let bytes = |units: u32| u64::from(units) * UNIT;
    let preferred = bytes(id.hmpre.get()).min(limit / UNIT * UNIT);
    let least = bytes(id.hmmin.get()).max(UNIT);
    (preferred >= least).then(|| HostMemoryRequest {
        preferred,
        least,
        least_piece: bytes(id.hmminds.get()),
        most_pieces: Some(id.hmmaxd.get()).filter(|most| *most != 0),
    })
}

impl Controller {
    /// Gives the controller its buffer, if it wants one; then come the I/O queues.
    pub(super) fn give_host_memory(&mut self, now: Instant) {
        self.enter(Step::HostMemory);
        let wanted = self.link.identified.as_ref().and_then(|id| id.host_memory);
        match wanted.filter(|_| !self.spare_memory) {
            Some(request) => {
                let limit = self.config.connect_timeout;
                self.limit(now, "getting a host memory buffer", limit);
                self.actions.push_back(Action::HostMemory(request));
            }
            None => self.host_memory_settled(now),
        }
    }

    /// The answer to [`Action::HostMemory`].
    pub fn host_memory(&mut self, now: Instant, got: Result<Option<HostMemory>, TransportError>) {
        if !self.at(Step::HostMemory) {
            return;
        }
        let given = match got {
            Ok(Some(given)) => given,
            Ok(None) => {
                let reason = "there is no memory in the pieces that it asks for".into();
                let address = self.config.address.clone();
                let error = TransportError::Memory { address, reason };
                return self.host_memory_refused(now, ControllerError::Transport(error));
            }
            Err(error) => return self.host_memory_refused(now, ControllerError::Transport(error)),
        };
        let flags = match given.returned {
            true => host_memory::ENABLE | host_memory::RETURN,
            false => host_memory::ENABLE,
        };
        let pages = u32::try_from(given.bytes / UNIT).unwrap_or(u32::MAX);
        let sqe = Sqe::host_memory_buffer(flags, pages, given.list, given.pieces);
        self.enter(Step::HostMemory);
        self.send(now, sqe, Data::None, Purpose::HostMemory(given));
    }

    pub(super) fn host_memory_enabled(&mut self, now: Instant, given: HostMemory, status: Status) {
        if !self.at(Step::HostMemory) {
            return;
        }
        if !status.is_success() {
            let error = self.command_error(Purpose::HostMemoryOff.name(), status);
            return self.host_memory_refused(now, error);
        }
        self.link.host_memory = true;
        let HostMemory { bytes, returned, .. } = given;
        self.emit(ControllerEvent::HostMemory { bytes, returned });
        self.host_memory_settled(now);
    }

    /// The buffer is an offer: without it the controller is slower, and as good.
    fn host_memory_refused(&mut self, now: Instant, error: ControllerError) {
        self.emit(ControllerEvent::HostMemoryRefused { error });
        self.host_memory_settled(now);
    }

    fn host_memory_settled(&mut self, now: Instant) {
        self.enter(Step::IoQueues);
        self.open_io_queues(now);
    }

    /// Asks for the buffer back; `host_memory_disabled` follows.
    pub(super) fn take_host_memory(&mut self, now: Instant, limit: Duration) {
        let sqe = Sqe::host_memory_buffer(0, 0, 0, 0);
        self.send_within(now, sqe, Data::None, Purpose::HostMemoryOff, limit);
    }
}
