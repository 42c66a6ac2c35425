//! Requests by structure: everything that a request can be told.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use libc::iovec;
use nvme_mpath::IoOp;

use crate::channel::nvmeh_channel;
use crate::completion::nvmeh_callback;
use crate::error::{Error, Result, tell};
use crate::head::nvmeh_head;
use crate::object::{Sizable, duration, take};
use crate::options::NVMEH_FOREVER;
use crate::submit::{Target, Tell, What, block, submit};

/// Read.
pub const NVMEH_OP_READ: c_int = 1;
/// Write.
pub const NVMEH_OP_WRITE: c_int = 2;
/// Compare with what is there.
pub const NVMEH_OP_COMPARE: c_int = 3;
/// Make read as zeroes.
pub const NVMEH_OP_WRITE_ZEROES: c_int = 4;
/// Not needed any more.
pub const NVMEH_OP_DISCARD: c_int = 5;
/// Make durable.
pub const NVMEH_OP_FLUSH: c_int = 6;

/// A request, with everything that one can be told. Members that do not apply are 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_request {
    /// sizeof(struct nvmeh_request), set by the caller.
    pub size: usize,
    /// NVMEH_OP_*.
    pub op: c_int,
    /// NVMEH_FUA, NVMEH_HEDGE.
    pub flags: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes, where there is no memory to say so: write zeroes, discard.
    pub len: u64,
    /// Memory: read, write, compare. It need not outlive the call, what it points to must.
    pub iov: *const iovec,
    /// Its entries.
    pub iovcnt: c_int,
    /// Always 0.
    pub reserved: c_int,
    /// The request is given up so long after its submission, in milliseconds, 0 or NVMEH_FOREVER: never.
    /// One that waits (for a path, for room, for a retry, for a fence) then ends with -ETIMEDOUT. One that
    /// a controller has is aborted as by nvmeh_channel_cancel(), and is not sent again.
    pub timeout_ms: u64,
    /// Called at its end; NULL: nvmeh_channel_reap().
    pub callback: nvmeh_callback,
    /// What it is given.
    pub arg: *mut c_void,
    /// Metadata beside the data, where nvmeh_geometry.extended_metadata is 0 and metadata_size is not:
    /// as many bytes as all blocks of the request have together. The library's until the end. Only on PCIe.
    pub metadata: *mut c_void,
    /// Its bytes; 0: none.
    pub metadata_len: u64,
}

// SAFETY: `repr(C)`, its size first; all zeroes are valid, and C answers for what it sets.
unsafe impl Sizable for nvmeh_request {}

/// The memory of a request, for [`submit`].
type Memory = Option<(*const iovec, c_int)>;

/// # Safety
/// `request` is NULL or valid for as many bytes as its first member says.
unsafe fn parts(request: *const nvmeh_request) -> Result<(What, Memory, nvmeh_request)> {
    // Up to `iov` it must be there.
    let least = std::mem::offset_of!(nvmeh_request, iov);
    // SAFETY: the caller's promise.
    let r = unsafe { take(request, "a request", least) }?;
    let op = match r.op {
        NVMEH_OP_READ => IoOp::Read,
        NVMEH_OP_WRITE => IoOp::Write,
        NVMEH_OP_COMPARE => IoOp::Compare,
        NVMEH_OP_WRITE_ZEROES => IoOp::WriteZeroes,
        NVMEH_OP_DISCARD => IoOp::Discard,
        NVMEH_OP_FLUSH => IoOp::Flush,
        other => return Err(Error::invalid(format!("{other} is no operation: NVMEH_OP_*"))),
    };
    let timeout = match r.timeout_ms {
        0 | NVMEH_FOREVER => None,
        ms => Some(duration(ms)),
    };
    let moves = matches!(op, IoOp::Read | IoOp::Write | IoOp::Compare);
    let memory = moves.then_some((r.iov, r.iovcnt));
    let metadata = match usize::try_from(r.metadata_len) {
        Ok(0) => None,
        Ok(len) if len <= isize::MAX as usize => {
            let at = NonNull::new(r.metadata.cast::<u8>());
            Some((at.ok_or_else(|| Error::null("metadata"))?, len))
        }
        _ => {
            let text = format!("{} bytes of metadata", r.metadata_len);
            return Err(Error::new(libc::EMSGSIZE, text));
        }
    };
    let (offset, len, flags) = (r.offset, r.len, r.flags);
    let what = What { op, offset, len, flags, timeout, metadata };
    Ok((what, memory, r))
}

/// Submits a request. `id` as in nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read(); -EINVAL also: no such operation, or `size`; -EOPNOTSUPP
/// also: a member that this version does not know is set.
///
/// # Safety
/// The handles are NULL or handles; `request` is NULL or valid for as many bytes as its first member
/// says; its memory is touched by nobody else until the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    request: *const nvmeh_request,
    id: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match parts(request) {
            Err(error) => tell(&error),
            Ok((what, memory, r)) => {
                let tell = Tell { callback: r.callback, arg: r.arg, id };
                submit(Target { channel, head }, what, memory, tell)
            }
        }
    }
}

/// Submits a request, and waits for its end. Callback and argument are not used.
///
/// Returns 0, what nvmeh_submit() returns, or the result of a completion. Thread: the channel's; from
/// within a callback, too.
///
/// # Safety
/// As for nvmeh_submit().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_execute(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    request: *const nvmeh_request,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match parts(request) {
            Err(error) => tell(&error),
            Ok((what, memory, _)) => block(Target { channel, head }, what, memory),
        }
    }
}
