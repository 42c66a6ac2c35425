//! Requests that move data, a function for each kind. Offsets and lengths are bytes, multiples of the
//! block size.

use std::ffi::{c_int, c_void};

use libc::iovec;
use nvme_mpath::IoOp;

use crate::channel::nvmeh_channel;
use crate::completion::nvmeh_callback;
use crate::head::nvmeh_head;
use crate::submit::{Target, Tell, What, block, submit};

/// Force unit access: a write is durable when it ends; a read comes from the medium.
pub const NVMEH_FUA: u32 = 1;

/// A read may be sent down a second path (nvmeh_head_set_hedged_reads()): its data are read into
/// memory of the channel's, and copied at the end. Other requests, and heads without hedged reads,
/// leave it alone.
pub const NVMEH_HEDGE: u32 = 2;

const fn one(buf: *mut c_void, len: usize) -> iovec {
    iovec { iov_base: buf, iov_len: len }
}

/// Reads `len` bytes at byte `offset` into `buf`. It may stay in a batch until the channel is polled,
/// armed or kicked. `callback` is called with `arg` at the end; NULL: the end is taken out by
/// nvmeh_channel_reap(). `id`, unless NULL, is set to a number by which the request can be cancelled.
/// The memory is the library's until the end.
///
/// Returns 0; -EAGAIN: the channel is full, poll and try again; -EINVAL: no length, or offset or length
/// no multiple of the block size, or a flag that does not exist; -ERANGE: not inside the namespace;
/// -EMSGSIZE: more than one request can move (nvmeh_head_geometry()); -EROFS, -EOPNOTSUPP (metadata
/// beside the data is missing, or not wanted), -EXDEV (a head of another host), -EOVERFLOW (lengths of
/// an iovec), -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD: nothing was submitted. Whatever goes wrong
/// later is told by the completion.
/// Thread: the channel's; from within a callback, too.
///
/// # Safety
/// The handles are NULL or handles; `buf` has `len` bytes that nobody else touches until the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_read(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    buf: *mut c_void,
    len: usize,
    offset: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let iov = one(buf, len);
    let what = What::new(IoOp::Read, offset, 0, flags);
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, what, Some((&raw const iov, 1)), tell) }
}

/// The same with memory in pieces. `iov` itself may be gone when the call returns. Pieces that follow
/// each other in memory are used as they are, others are copied.
///
/// Errors: as nvmeh_submit_read(); -EINVAL also: not 1 to 1,024 pieces. Thread: the channel's.
///
/// # Safety
/// The handles are NULL or handles; `iov` has `iovcnt` entries, whose memory nobody else touches until
/// the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_readv(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    iov: *const iovec,
    iovcnt: c_int,
    offset: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let what = What::new(IoOp::Read, offset, 0, flags);
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, what, Some((iov, iovcnt)), tell) }
}

/// Reads `len` bytes at byte `offset` into `buf`, and waits for the end. Other requests of the
/// channel go on meanwhile; they are called back for by the next poll.
///
/// Returns 0, what nvmeh_submit_read() returns, or the result of a completion. Thread: the channel's;
/// from within a callback, too.
///
/// # Safety
/// The handles are NULL or handles; `buf` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_read(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    buf: *mut c_void,
    len: usize,
    offset: u64,
    flags: u32,
) -> c_int {
    let iov = one(buf, len);
    let what = What::new(IoOp::Read, offset, 0, flags);
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, what, Some((&raw const iov, 1))) }
}

/// The same with memory in pieces.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles; `iov` has `iovcnt` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_readv(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    iov: *const iovec,
    iovcnt: c_int,
    offset: u64,
    flags: u32,
) -> c_int {
    let what = What::new(IoOp::Read, offset, 0, flags);
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, what, Some((iov, iovcnt))) }
}

/// Writes `len` bytes from `buf` to byte `offset`. It may stay in a batch until the channel is
/// polled, armed or kicked. `callback` is called with `arg` at the end; NULL: the end is taken out by
/// nvmeh_channel_reap(). `id`, unless NULL, is set to a number by which the request can be cancelled.
/// The memory is the library's until the end.
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles; `buf` has `len` bytes that nobody else touches until the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_write(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    buf: *const c_void,
    len: usize,
    offset: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let iov = one(buf.cast_mut(), len);
    let what = What::new(IoOp::Write, offset, 0, flags);
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, what, Some((&raw const iov, 1)), tell) }
}

/// The same with memory in pieces. `iov` itself may be gone when the call returns. Pieces that follow
/// each other in memory are used as they are, others are copied.
///
/// Errors: as nvmeh_submit_read(); -EINVAL also: not 1 to 1,024 pieces. Thread: the channel's.
///
/// # Safety
/// The handles are NULL or handles; `iov` has `iovcnt` entries, whose memory nobody else touches until
/// the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_writev(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    iov: *const iovec,
    iovcnt: c_int,
    offset: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let what = What::new(IoOp::Write, offset, 0, flags);
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, what, Some((iov, iovcnt)), tell) }
}

/// Writes `len` bytes from `buf` to byte `offset`, and waits for the end. Other requests of the
/// channel go on meanwhile; they are called back for by the next poll.
///
/// Returns 0, what nvmeh_submit_read() returns, or the result of a completion. Thread: the channel's;
/// from within a callback, too.
///
/// # Safety
/// The handles are NULL or handles; `buf` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_write(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    buf: *const c_void,
    len: usize,
    offset: u64,
    flags: u32,
) -> c_int {
    let iov = one(buf.cast_mut(), len);
    let what = What::new(IoOp::Write, offset, 0, flags);
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, what, Some((&raw const iov, 1))) }
}

/// The same with memory in pieces.
///
/// Errors and thread: as nvmeh_write().
///
/// # Safety
/// The handles are NULL or handles; `iov` has `iovcnt` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_writev(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    iov: *const iovec,
    iovcnt: c_int,
    offset: u64,
    flags: u32,
) -> c_int {
    let what = What::new(IoOp::Write, offset, 0, flags);
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, what, Some((iov, iovcnt))) }
}

/// Compares `len` bytes at byte `offset` with those in `buf`; -EILSEQ if they differ. It may stay in
/// a batch until the channel is polled, armed or kicked. `callback` is called with `arg` at the end;
/// NULL: the end is taken out by nvmeh_channel_reap(). `id`, unless NULL, is set to a number by which
/// the request can be cancelled. The memory is the library's until the end.
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles; `buf` has `len` bytes that nobody else touches until the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_compare(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    buf: *const c_void,
    len: usize,
    offset: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let iov = one(buf.cast_mut(), len);
    let what = What::new(IoOp::Compare, offset, 0, flags);
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, what, Some((&raw const iov, 1)), tell) }
}

/// The same with memory in pieces. `iov` itself may be gone when the call returns. Pieces that follow
/// each other in memory are used as they are, others are copied.
///
/// Errors: as nvmeh_submit_read(); -EINVAL also: not 1 to 1,024 pieces. Thread: the channel's.
///
/// # Safety
/// The handles are NULL or handles; `iov` has `iovcnt` entries, whose memory nobody else touches until
/// the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_comparev(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    iov: *const iovec,
    iovcnt: c_int,
    offset: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let what = What::new(IoOp::Compare, offset, 0, flags);
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, what, Some((iov, iovcnt)), tell) }
}

/// Compares `len` bytes at byte `offset` with those in `buf`; -EILSEQ if they differ, and waits for
/// the end. Other requests of the channel go on meanwhile; they are called back for by the next poll.
///
/// Returns 0, what nvmeh_submit_read() returns, or the result of a completion. Thread: the channel's;
/// from within a callback, too.
///
/// # Safety
/// The handles are NULL or handles; `buf` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_compare(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    buf: *const c_void,
    len: usize,
    offset: u64,
    flags: u32,
) -> c_int {
    let iov = one(buf.cast_mut(), len);
    let what = What::new(IoOp::Compare, offset, 0, flags);
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, what, Some((&raw const iov, 1))) }
}

/// The same with memory in pieces.
///
/// Errors and thread: as nvmeh_compare().
///
/// # Safety
/// The handles are NULL or handles; `iov` has `iovcnt` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_comparev(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    iov: *const iovec,
    iovcnt: c_int,
    offset: u64,
    flags: u32,
) -> c_int {
    let what = What::new(IoOp::Compare, offset, 0, flags);
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, what, Some((iov, iovcnt))) }
}
