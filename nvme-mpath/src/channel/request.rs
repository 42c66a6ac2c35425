//! Requests: what a program hands in, and what it gets back.

use nvme_core::buffer::Buffer;
use nvme_core::spec::command::DsmRange;
use nvme_core::time::Duration;
use nvme_core::transport::Data;
use zerocopy::IntoBytes;

use super::slab::Flags;
use crate::error::{IoError, IoOp, SubmitError, SubmitReason};

/// One I/O to be done.
///
/// Where blocks have metadata ([`Geometry::metadata_size`](crate::Geometry::metadata_size)), buffers
/// that are read, written or compared have it, too: after each block's data, or beside all of it
/// ([`Buffer::with_metadata`]), as the namespace's format says.
#[derive(Debug)]
pub struct IoRequest {
    pub(super) asked: Asked,
    pub(super) data: Data,
}

/// What is asked for in a request, apart from its data, which has to be in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) user_data: u64,
    pub(super) slba: u64,
    pub(super) blocks: u32,
    /// What is known of it at this time.
    pub(super) flags: Flags,
    pub(super) op: IoOp,
    pub(super) timeout: Option<Duration>,
}

/// A request is given back.
#[cold]
pub(super) fn refused(data: &mut Data, reason: SubmitReason) -> SubmitError {
    SubmitError { reason, buffer: std::mem::take(data).into_buffer() }
}

impl IoRequest {
    #[inline]
    pub(super) const fn new(op: IoOp, slba: u64, blocks: u32, data: Data, user_data: u64) -> Self {
        let (flags, timeout) = (Flags::NONE, None);
        Self { asked: Asked { user_data, slba, blocks, flags, op, timeout }, data }
    }

    /// Reads as many blocks as fit into `buffer`, from logical block `slba` on.
    #[must_use]
    #[inline]
    pub const fn read(slba: u64, buffer: Buffer, user_data: u64) -> Self {
        Self::new(IoOp::Read, slba, 0, Data::Read(buffer), user_data)
    }

    /// Writes the blocks in `buffer` to logical block `slba` and on.
    #[must_use]
    #[inline]
    pub const fn write(slba: u64, buffer: Buffer, user_data: u64) -> Self {
        Self::new(IoOp::Write, slba, 0, Data::Write(buffer), user_data)
    }

    /// Makes what was written before durable.
    #[must_use]
    pub fn flush(user_data: u64) -> Self {
        Self::new(IoOp::Flush, 0, 0, Data::None, user_data)
    }

    /// Makes `blocks` blocks from `slba` on read as zeroes, without sending them. 1..=65,536 blocks.
    #[must_use]
    pub fn write_zeroes(slba: u64, blocks: u32, user_data: u64) -> Self {
        Self::new(IoOp::WriteZeroes, slba, blocks, Data::None, user_data)
    }

    /// Tells the controller that `blocks` blocks from `slba` on are not needed any more (Dataset
    /// Management with Deallocate, NVM 1.1 §3.3.3). What they read as afterwards is the
    /// controller's to say. At least one block.
    #[must_use]
    pub fn discard(slba: u64, blocks: u32, user_data: u64) -> Self {
        let range = DsmRange::new(slba, blocks);
        let data = Data::Write(Buffer::from(range.as_bytes().to_vec()));
        let mut request = Self::new(IoOp::Discard, slba, blocks, data, user_data);
        request.asked.flags = Flags::OWN_DATA;
        request
    }

    /// Compares the blocks from `slba` on with those in `buffer`. If they differ, it fails with the
    /// status Compare Failure (NVM 1.1 §3.3.1).
    #[must_use]
    pub fn compare(slba: u64, buffer: Buffer, user_data: u64) -> Self {
        Self::new(IoOp::Compare, slba, 0, Data::Write(buffer), user_data)
    }

    /// The request is given up so long after its submission, on the host's clock. One that waits, for
    /// a path, for room, for its time or for a fence, then ends with
    /// [`IoError::Expired`]. One that a controller has is not given back before it is safe: it is
    /// aborted, as by [`Channel::cancel`](crate::Channel::cancel), and not sent again. Without this a
    /// request waits as long as head and channel allow.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.asked.timeout = Some(limit);
        self
    }

    /// Force unit access: the write is durable when it completes; a read comes from the medium.
    #[must_use]
    pub const fn fua(mut self) -> Self {
        self.asked.flags.set(Flags::FUA);
        self
    }
}

/// The end of a request: exactly one for each that was accepted.
#[derive(Debug)]
pub struct IoCompletion {
    /// The number given with the request.
    pub user_data: u64,
    /// What was done.
    pub op: IoOp,
    /// First logical block.
    pub slba: u64,
    /// How it went.
    pub result: Result<(), Box<IoError>>,
    /// The request's buffer, with its metadata if it had some. After a failed read its contents are undefined.
    pub buffer: Buffer,
    /// What Dwords 0 and 1 of the answer carry, if it succeeded: of use for passthrough.
    pub value: u64,
    /// The outcome is open: the request failed, would have changed the namespace, and was sent at
    /// least once on a connection that was lost before the answer came, or was aborted. The controller
    /// may have executed it, or a part of it, or, if its connection was lost, may still do so.
    pub uncertain: bool,
    /// The buffer is not the request's, but another one of the same length in exchange for it; see
    /// [`HedgeOptions`](crate::HedgeOptions).
    pub exchanged: bool,
    pub(crate) blocking: bool,
}

impl IoCompletion {
    /// The usual one.
    #[inline]
    pub(super) const fn success(
        user_data: u64,
        op: IoOp,
        slba: u64,
        buffer: Buffer,
        value: u64,
    ) -> Self {
        let (result, uncertain, exchanged, blocking) = (Ok(()), false, false, false);
        Self { user_data, op, slba, result, buffer, value, uncertain, exchanged, blocking }
    }
}
