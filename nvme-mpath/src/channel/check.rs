//! Whether a request can be right, and the number of blocks that it is about.

use nvme_core::buffer::Buffer;
use nvme_core::spec::BlockCount;
use nvme_core::transport::Data;

use super::request::Asked;
use crate::error::{IoOp, SubmitReason};
use crate::view::Geometry;

/// What must hold of a request of the usual kind, which moves whole blocks and no metadata, in as
/// few words as will do. Whatever does not fit in here is looked at by [`check`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// A bit for each operation that is of this kind.
    ops: u32,
    /// Bytes of a block, as a power of two; and the bits below that.
    shift: u32,
    rest: usize,
    /// Most bytes, less one: no more than one command can be about.
    last: usize,
    /// Blocks of the namespace.
    blocks: u64,
}

impl Limits {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let bit = |op: IoOp| 1 << op as u32;
        let ops = match (geometry.metadata_size, geometry.read_only, geometry.max_transfer) {
            (_, _, 0) => 0,
            (0, false, _) => bit(IoOp::Read) | bit(IoOp::Write) | bit(IoOp::Compare),
            (0, true, _) => bit(IoOp::Read) | bit(IoOp::Compare),
            _ => 0,
        };
        let (shift, rest) =
            (geometry.block_size.trailing_zeros(), geometry.block_size as usize - 1);
        // What is longer is looked at closely.
        let most = (BlockCount::MAX.get() as usize) << shift;
        let last = geometry.max_transfer.min(most).saturating_sub(1);
        Self { ops, shift, rest, last, blocks: geometry.blocks }
    }

    /// The number of blocks of a request; `None` if it is not of the usual kind, or not right.
    #[inline]
    pub(super) fn blocks(&self, asked: &Asked, data: &Data) -> Option<BlockCount> {
        if self.ops & 1 << asked.op as u32 == 0 {
            return None;
        }
        let len = data.buffer()?.plain_len()?;
        // Zero is more than all.
        if len & self.rest != 0 || len.wrapping_sub(1) > self.last {
            return None;
        }
        let blocks = len >> self.shift;
        let end = asked.slba.checked_add(blocks as u64)?;
        (end <= self.blocks).then(|| BlockCount::from_nlb((blocks - 1) as u16))
    }
}

/// The number of blocks of any request.
#[cold]
pub(super) fn check(geometry: &Geometry, asked: &Asked, data: &Data) -> Result<u32, SubmitReason> {
    let blocks = match asked.op {
        IoOp::Flush | IoOp::Passthrough => return Ok(0),
        IoOp::WriteZeroes | IoOp::Discard => check_count(geometry, asked)?,
        IoOp::Read | IoOp::Write | IoOp::Compare => check_data(geometry, data)?,
    };
    if geometry.read_only && asked.op.modifies() {
        return Err(SubmitReason::ReadOnly);
    }
    let (slba, capacity) = (asked.slba, geometry.blocks);
    if slba.checked_add(blocks.into()).is_none_or(|end| end > capacity) {
        return Err(SubmitReason::OutOfRange { slba, blocks: blocks.into(), capacity });
    }
    Ok(blocks)
}

/// The same of the number of blocks where that is given.
fn check_count(geometry: &Geometry, asked: &Asked) -> Result<u32, SubmitReason> {
    let (blocks, block_size) = (asked.blocks, geometry.block_size);
    let size = block_size as usize;
    match asked.op {
        IoOp::WriteZeroes if blocks == 0 || blocks > 1 << 16 => {
            Err(SubmitReason::TooLarge { len: blocks as usize * size, max: (1 << 16) * size })
        }
        IoOp::Discard if blocks == 0 => Err(SubmitReason::Unaligned { len: 0, block_size }),
        _ => Ok(blocks),
    }
}

/// The same of the data, with the metadata that the namespace's blocks have.
fn check_data(geometry: &Geometry, data: &Data) -> Result<u32, SubmitReason> {
    let (len, block_size, max) = (data.len(), geometry.buffer_block(), geometry.max_transfer);
    if len == 0 || !len.is_multiple_of(block_size as usize) {
        return Err(SubmitReason::Unaligned { len, block_size });
    }
    let blocks = u32::try_from(len / block_size as usize).ok().filter(|_| len <= max);
    let blocks = blocks.ok_or(SubmitReason::TooLarge { len, max })?;
    let beside = if geometry.extended_metadata { 0 } else { usize::from(geometry.metadata_size) };
    let given = data.buffer().and_then(Buffer::metadata).map_or(0, <[u8]>::len);
    let wanted = blocks as usize * beside;
    if given == wanted && data.has_metadata() == (wanted != 0) {
        Ok(blocks)
    } else {
        Err(SubmitReason::Metadata { given, wanted })
    }
}
