//! I/O commands, and how any command is answered.

use nvme_core::spec::{Cqe, Status};
use nvme_core::transport::{Data, Tag};

use crate::port::{Io, Port};
use crate::wire::{InFlight, Wire};

pub(crate) fn io(
    port: &mut Port,
    wire: &mut Wire,
    command: &mut InFlight,
    tag: Tag,
) -> Option<(Status, u64)> {
    if port.mdts != 0 && command.data.len() > 4096 << port.mdts {
        return Some((Status::INVALID_FIELD.with_dnr(), 0));
    }
    match port.io {
        Io::Hold => {
            wire.held.insert(tag);
            None
        }
        Io::Fail(status) => Some((status, 0)),
        Io::Answer => {
            execute(port, command);
            Some((Status::SUCCESS, 0))
        }
    }
}

pub(crate) fn execute(port: &mut Port, command: &mut InFlight) {
    if let Data::Read(buffer) = &mut command.data {
        buffer.as_mut_slice().fill(port.content);
    }
    let sqe = &command.sqe;
    let slba = u64::from(sqe.cdw11.get()) << 32 | u64::from(sqe.cdw10.get());
    let byte = match &command.data {
        Data::Write(b) | Data::Read(b) => b.as_slice().first().copied().unwrap_or(0),
        Data::None => 0,
    };
    port.executed.push((sqe.nsid.get(), sqe.opcode, slba, byte));
}

pub(crate) fn fill(command: &mut InFlight, bytes: &[u8]) -> Option<(Status, u64)> {
    if let Data::Read(buffer) = &mut command.data {
        let len = buffer.len().min(bytes.len());
        buffer.as_mut_slice()[..len].copy_from_slice(&bytes[..len]);
    }
    Some((Status::SUCCESS, 0))
}

/// The completion entry for an answer.
pub(crate) fn cqe(status: Status, result: u64) -> Cqe {
    Cqe::new(0, status, result)
}
