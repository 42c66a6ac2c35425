//! I/O commands of the NVM command set.

use nvme_core::spec::command::{DsmAttributes, DsmRange, IoFlags};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::{Sqe, Status};
use zerocopy::FromBytes;

use crate::backing::Backing;
use crate::namespace::{IoView, Namespace};

/// Blocks of a command without limit of its own, in bytes: what 65536 blocks of 4096 bytes are.
pub(crate) const TRANSFER_MAX: u64 = 65536 * 4096;

/// Bytes of 256 ranges, all that Dataset Management can name.
const DSM_MAX: u32 = (DsmRange::MAX_PER_COMMAND * size_of::<DsmRange>()) as u32;

/// A checked command: what it does, and how much data it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Read { offset: u64, len: u32 },
    Write { offset: u64, len: u32, durable: bool },
    Compare { offset: u64, len: u32 },
    Zero { offset: u64, len: u64 },
    Deallocate { len: u32, act: bool },
    Flush,
}

impl Plan {
    /// Bytes that the host has to send.
    pub fn host_sends(self) -> u32 {
        match self {
            Self::Write { len, .. } | Self::Compare { len, .. } | Self::Deallocate { len, .. } => {
                len
            }
            _ => 0,
        }
    }

    /// Bytes that the host gets.
    pub fn host_gets(self) -> u32 {
        match self {
            Self::Read { len, .. } => len,
            _ => 0,
        }
    }
}

/// Checks a command before any of its data moves. `sgl_len` is the length that its SGL gives, `mdts` the largest
/// transfer in bytes.
pub(crate) fn plan<'a>(
    view: &'a IoView,
    sqe: &Sqe,
    sgl_len: u32,
    mdts: u64,
) -> Result<(&'a Namespace, Plan), Status> {
    let ns = view.find(sqe.nsid.get())?;
    let plan = match NvmOpcode(sqe.opcode) {
        NvmOpcode::READ => {
            let (offset, len) = transfer(ns, sqe, mdts)?;
            Plan::Read { offset, len }
        }
        NvmOpcode::WRITE => {
            let (offset, len) = transfer(ns, sqe, mdts)?;
            let flags = IoFlags::from_bits_retain(sqe.cdw12.get());
            Plan::Write { offset, len, durable: flags.contains(IoFlags::FORCE_UNIT_ACCESS) }
        }
        NvmOpcode::COMPARE => {
            let (offset, len) = transfer(ns, sqe, mdts)?;
            Plan::Compare { offset, len }
        }
        NvmOpcode::WRITE_ZEROES => {
            let (offset, len) = range(ns, sqe)?;
            Plan::Zero { offset, len }
        }
        NvmOpcode::DATASET_MANAGEMENT => {
            let ranges = (sqe.cdw10.get() & 0xff) + 1;
            let attributes = DsmAttributes::from_bits_retain(sqe.cdw11.get());
            let len = ranges * size_of::<DsmRange>() as u32;
            Plan::Deallocate { len, act: attributes.contains(DsmAttributes::DEALLOCATE) }
        }
        NvmOpcode::FLUSH => Plan::Flush,
        _ => return Err(Status::INVALID_OPCODE.with_dnr()),
    };
    let moved = plan.host_sends().max(plan.host_gets());
    let fits = match plan {
        // Linux always sends room for 256 ranges, however many there are
        Plan::Deallocate { .. } => (moved..=DSM_MAX).contains(&sgl_len),
        _ => sgl_len == moved,
    };
    if fits { Ok((ns, plan)) } else { Err(Status::SGL_INVALID_DATA_LENGTH.with_dnr()) }
}

/// Byte range of a block command, which lies inside the namespace.
fn range(ns: &Namespace, sqe: &Sqe) -> Result<(u64, u64), Status> {
    let slba = sqe.cdw10_11();
    let blocks = u64::from(sqe.cdw12.get() & 0xffff) + 1;
    if slba > ns.blocks || blocks > ns.blocks - slba {
        return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
    }
    // No overflow: the namespace has as many bytes.
    Ok((slba * ns.block(), blocks * ns.block()))
}

/// The same for a command that moves the blocks' data.
fn transfer(ns: &Namespace, sqe: &Sqe, mdts: u64) -> Result<(u64, u32), Status> {
    let (offset, len) = range(ns, sqe)?;
    match u32::try_from(len) {
        Ok(short) if len <= mdts => Ok((offset, short)),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

/// Reads into `out`, which has the planned length.
pub(crate) fn read(backing: &Backing, offset: u64, out: &mut [u8]) -> Result<(), Status> {
    backing.read(offset, out).map_err(|_| Status::UNRECOVERED_READ_ERROR)
}

/// Carries out everything but reads; `data` is what the host sent.
pub(crate) fn execute(ns: &Namespace, plan: Plan, data: &[u8]) -> Result<(), Status> {
    let backing = &ns.backing;
    match plan {
        Plan::Read { .. } => Ok(()),
        Plan::Write { offset, durable, .. } => backing
            .write(offset, data)
            .and_then(|()| if durable { backing.flush() } else { Ok(()) })
            .map_err(|_| Status::WRITE_FAULT),
        Plan::Compare { offset, .. } => match backing.compare(offset, data) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Status::COMPARE_FAILURE.with_dnr()),
            Err(_) => Err(Status::UNRECOVERED_READ_ERROR),
        },
        Plan::Zero { offset, len } => zero(ns, offset, len),
        Plan::Flush => backing.flush().map_err(|_| Status::WRITE_FAULT),
        Plan::Deallocate { act, len } => {
            deallocate(ns, act, data.get(..len as usize).unwrap_or_default())
        }
    }
}

/// Zeroes blocks, and their metadata.
fn zero(ns: &Namespace, offset: u64, len: u64) -> Result<(), Status> {
    let beside = |bytes| bytes / ns.block() * ns.metadata_beside();
    ns.backing
        .zero(offset, len)
        .and_then(|()| ns.beside.zero(beside(offset), beside(len)))
        .map_err(|_| Status::WRITE_FAULT)
}

/// Where the metadata of the blocks that a command moves is in `ns.beside`, and how long it is; `None`
/// if there is none.
pub(crate) fn beside(ns: &Namespace, plan: Plan) -> Option<(u64, usize)> {
    let (Plan::Read { offset, len }
    | Plan::Write { offset, len, .. }
    | Plan::Compare { offset, len }) = plan
    else {
        return None;
    };
    let each = ns.metadata_beside();
    let bytes = u64::from(len) / ns.block() * each;
    (each != 0).then_some((offset / ns.block() * each, bytes as usize))
}

/// Carries out the part of a command that is about metadata beside the data, other than a read's.
pub(crate) fn execute_beside(
    ns: &Namespace,
    plan: Plan,
    offset: u64,
    metadata: &[u8],
) -> Result<(), Status> {
    match plan {
        Plan::Write { .. } => ns.beside.write(offset, metadata).map_err(|_| Status::WRITE_FAULT),
        Plan::Compare { .. } => match ns.beside.compare(offset, metadata) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Status::COMPARE_FAILURE.with_dnr()),
            Err(_) => Err(Status::UNRECOVERED_READ_ERROR),
        },
        _ => Ok(()),
    }
}

fn deallocate(ns: &Namespace, act: bool, data: &[u8]) -> Result<(), Status> {
    let Ok(ranges) = <[DsmRange]>::ref_from_bytes(data) else {
        return Err(Status::SGL_INVALID_DATA_LENGTH.with_dnr());
    };
    for range in ranges {
        let (slba, blocks) = (range.slba.get(), u64::from(range.blocks.get()));
        if slba > ns.blocks || blocks > ns.blocks - slba {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        if act {
            zero(ns, slba * ns.block(), blocks * ns.block())?;
        }
    }
    Ok(())
}
