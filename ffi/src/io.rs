//! Requests. Offsets and lengths are bytes, multiples of the block size.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use libc::iovec;
use nvme_mpath::core::buffer::Buffer;
use nvme_mpath::{BlockingError, Geometry, IoOp, IoRequest};

use crate::buffers::{Pieces, gather};
use crate::channel::{Ticket, nvmeh_callback, nvmeh_channel};
use crate::error::{Error, Result, io_errno};
use crate::head::nvmeh_head;
use crate::object::{enter, look};

/// Force unit access: a write is durable when it ends; a read comes from the medium.
pub const NVMEH_FUA: u32 = 1;

/// A read may be sent down a second path (nvmeh_head_set_hedged_reads()): its data are read into
/// memory of the channel's, and copied at the end. Other requests, and heads without hedged reads,
/// leave it alone.
pub const NVMEH_HEDGE: u32 = 2;

/// What a request is to do, before its memory is looked at.
pub(crate) struct What {
    pub(crate) op: IoOp,
    pub(crate) offset: u64,
    /// Bytes, where there is no memory to say so.
    pub(crate) len: u64,
    pub(crate) flags: u32,
    /// Its own limit.
    pub(crate) timeout: Option<Duration>,
}

impl What {
    const fn new(op: IoOp, offset: u64, len: u64, flags: u32) -> Self {
        Self { op, offset, len, flags, timeout: None }
    }

    /// Takes the memory in; see [`gather`].
    unsafe fn memory(
        &self,
        memory: Option<(*const iovec, c_int)>,
        spare: &mut Vec<Vec<u8>>,
    ) -> Result<(Buffer, Option<Pieces>)> {
        let Some((iov, n)) = memory else { return Ok((Buffer::empty(), None)) };
        let read = self.op == IoOp::Read;
        // SAFETY: the caller's promise.
        unsafe { gather(iov, n, read, read && self.flags & NVMEH_HEDGE != 0, spare) }
    }
}

/// Where to.
pub(crate) struct Target {
    pub(crate) channel: *mut nvmeh_channel,
    pub(crate) head: *const nvmeh_head,
}

/// How its end is told.
pub(crate) struct Tell {
    pub(crate) callback: nvmeh_callback,
    pub(crate) arg: *mut c_void,
    pub(crate) id: *mut u64,
}

fn blocks(bytes: u64, block_size: u32, what: &str) -> Result<u64> {
    let size = u64::from(block_size);
    if !bytes.is_multiple_of(size) {
        let text = format!("{what} {bytes} is no multiple of the block size, {block_size} bytes");
        return Err(Error::invalid(text));
    }
    Ok(bytes / size)
}

/// Makes the request. `number` becomes its number.
fn request(what: &What, geometry: &Geometry, buffer: Buffer, number: u64) -> Result<IoRequest> {
    let block_size = geometry.block_size;
    if geometry.metadata_size != 0 && matches!(what.op, IoOp::Read | IoOp::Write | IoOp::Compare) {
        let text = format!("blocks with {} bytes of metadata", geometry.metadata_size);
        return Err(Error::new(libc::EOPNOTSUPP, text));
    }
    if what.flags & !(NVMEH_FUA | NVMEH_HEDGE) != 0 {
        let text = format!("flags {:#x}: there are NVMEH_FUA, NVMEH_HEDGE", what.flags);
        return Err(Error::invalid(text));
    }
    let slba = blocks(what.offset, block_size, "offset")?;
    let count = u32::try_from(blocks(what.len, block_size, "length")?)
        .map_err(|_| Error::new(libc::EMSGSIZE, format!("a request of {} bytes", what.len)))?;
    if count == 0 && matches!(what.op, IoOp::WriteZeroes | IoOp::Discard) {
        return Err(Error::invalid("a request of length zero"));
    }
    let request = match what.op {
        IoOp::Read => IoRequest::read(slba, buffer, number),
        IoOp::Write => IoRequest::write(slba, buffer, number),
        IoOp::Compare => IoRequest::compare(slba, buffer, number),
        IoOp::WriteZeroes => IoRequest::write_zeroes(slba, count, number),
        IoOp::Discard => IoRequest::discard(slba, count, number),
        _ => IoRequest::flush(number),
    };
    let request = if what.flags & NVMEH_FUA != 0 { request.fua() } else { request };
    Ok(match what.timeout {
        Some(limit) => request.timeout(limit),
        None => request,
    })
}

/// # Safety
/// The handles are NULL or handles; `iov`, if there is one, has `count` entries, whose memory is the
/// request's until it ends.
pub(crate) unsafe fn submit(
    to: Target,
    what: What,
    memory: Option<(*const iovec, c_int)>,
    tell: Tell,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(to.channel, |c| {
            let head = &look(to.head)?.head;
            let mut state = c.state()?;
            state.channel()?;
            let (buffer, pieces) = what.memory(memory, &mut state.spare)?;
            let copied = pieces.as_ref().map_or(0, |_| buffer.len() as u64);
            let ticket = Ticket { callback: tell.callback, arg: tell.arg, op: what.op, pieces };
            let id = state.book(ticket);
            let request = match request(&what, &head.geometry(), buffer, id) {
                Ok(request) => request,
                Err(error) => {
                    state.unbook(id, Buffer::empty());
                    return Err(error);
                }
            };
            if let Err(refused) = state.channel()?.submit(head, request) {
                state.unbook(id, refused.buffer);
                return Err(refused.reason.into());
            }
            state.submitted += 1;
            state.copied += copied;
            if !tell.id.is_null() {
                tell.id.write(id);
            }
            Ok(0)
        })
    }
}

/// # Safety
/// As for [`submit`].
pub(crate) unsafe fn block(to: Target, what: What, memory: Option<(*const iovec, c_int)>) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(to.channel, |c| {
            let head = &look(to.head)?.head;
            let mut state = c.state()?;
            state.channel()?;
            let (buffer, pieces) = what.memory(memory, &mut state.spare)?;
            let request = request(&what, &head.geometry(), buffer, 0)?;
            state.submitted += 1;
            let answer = state.channel()?.execute(head, request);
            state.completed += 1;
            state.failed += u64::from(answer.is_err());
            match answer {
                Ok(buffer) => {
                    if let Some(pieces) = pieces {
                        pieces.scatter(buffer.as_slice());
                    }
                    Ok(0)
                }
                Err(BlockingError::Submit(refused)) => Err(refused.reason.into()),
                Err(BlockingError::Io { error, uncertain, .. }) => {
                    let unknown = if uncertain { " (the outcome is unknown)" } else { "" };
                    Err(Error::new(io_errno(&error).0, format!("{error}{unknown}")))
                }
                Err(error) => Err(Error::new(libc::EIO, error.to_string())),
            }
        })
    }
}

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
/// -EMSGSIZE: more than one request can move (nvmeh_head_geometry()); -EROFS, -EOPNOTSUPP (blocks
/// with metadata), -EXDEV (a head of another host), -EOVERFLOW (lengths of an iovec), -ESHUTDOWN,
/// -EPERM, -EFAULT, -EBADF, -ECHILD: nothing was submitted. Whatever goes wrong later is told by the
/// completion.
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

/// Makes `len` bytes at byte `offset` read as zeroes, without sending them; at most 65,536 blocks.
/// `callback`, `arg` and `id` as in nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles, `id` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_write_zeroes(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe {
        submit(
            Target { channel, head },
            What::new(IoOp::WriteZeroes, offset, len, flags),
            None,
            tell,
        )
    }
}

/// Makes `len` bytes at byte `offset` read as zeroes, without sending them; at most 65,536 blocks,
/// and waits for the end.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_write_zeroes(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
    flags: u32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        block(Target { channel, head }, What::new(IoOp::WriteZeroes, offset, len, flags), None)
    }
}

/// Tells the controller that `len` bytes at byte `offset` are not needed any more (Dataset
/// Management, Deallocate); what they read as afterwards is the controller's to say. `callback`,
/// `arg` and `id` as in nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles, `id` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_discard(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe {
        submit(Target { channel, head }, What::new(IoOp::Discard, offset, len, 0), None, tell)
    }
}

/// Tells the controller that `len` bytes at byte `offset` are not needed any more (Dataset
/// Management, Deallocate); what they read as afterwards is the controller's to say, and waits for
/// the end.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_discard(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, What::new(IoOp::Discard, offset, len, 0), None) }
}

/// Makes what was written before, and has ended, durable. `callback`, `arg` and `id` as in
/// nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles, `id` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_flush(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, What::new(IoOp::Flush, 0, 0, 0), None, tell) }
}

/// Makes what was written before, and has ended, durable, and waits for the end.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_flush(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, What::new(IoOp::Flush, 0, 0, 0), None) }
}
