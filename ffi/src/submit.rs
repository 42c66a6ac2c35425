//! How a request of C's becomes one of a channel's: its bytes are blocks, its memory is a buffer, and
//! its end is told to whoever asked.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use libc::iovec;
use nvme_mpath::core::buffer::Buffer;
use nvme_mpath::{BlockingError, Geometry, IoOp, IoRequest, SubmitError};

use crate::buffers::{Pieces, gather};
use crate::channel::nvmeh_channel;
use crate::completion::nvmeh_callback;
use crate::error::{Error, Result, io_errno};
use crate::head::nvmeh_head;
use crate::in_flight::Ticket;
use crate::io::{NVMEH_FUA, NVMEH_HEDGE};
use crate::object::{enter, look};

/// What a request is to do, before its memory is looked at.
pub(crate) struct What {
    pub(crate) op: IoOp,
    pub(crate) offset: u64,
    /// Bytes, where there is no memory to say so.
    pub(crate) len: u64,
    pub(crate) flags: u32,
    /// Its own limit.
    pub(crate) timeout: Option<Duration>,
    /// Metadata beside the data, if there is some.
    pub(crate) metadata: Option<(NonNull<u8>, usize)>,
}

impl What {
    pub(crate) const fn new(op: IoOp, offset: u64, len: u64, flags: u32) -> Self {
        Self { op, offset, len, flags, timeout: None, metadata: None }
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
        unsafe {
            let apart = read && self.flags & NVMEH_HEDGE != 0;
            let (buffer, pieces) = gather(iov, n, read, apart, spare)?;
            let Some((at, len)) = self.metadata else { return Ok((buffer, pieces)) };
            Ok((buffer.with_metadata(Buffer::from_raw_parts(at, len)), pieces))
        }
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

/// A request that was not taken in, and its memory.
struct Refused {
    error: Error,
    buffer: Buffer,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, buffer: Buffer::empty() }
    }
}

impl From<SubmitError> for Refused {
    fn from(SubmitError { reason, buffer, .. }: SubmitError) -> Self {
        Self { error: reason.into(), buffer }
    }
}

/// A blocking request that did not succeed.
enum Failed {
    Refused(Error),
    Ended(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<BlockingError> for Failed {
    fn from(error: BlockingError) -> Self {
        match error {
            BlockingError::Submit(refused) => Self::Refused(refused.reason.into()),
            BlockingError::Io { error, uncertain, .. } => {
                let unknown = if uncertain { " (the outcome is unknown)" } else { "" };
                Self::Ended(Error::new(io_errno(&error).0, format!("{error}{unknown}")))
            }
            error => Self::Ended(Error::new(libc::EIO, error.to_string())),
        }
    }
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
            let make = |geometry: &_| Ok(request(&what, geometry, buffer, id)?);
            if let Err(Refused { error, buffer }) = state.channel()?.submit_with(head, make) {
                state.unbook(id, buffer);
                return Err(error);
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
            let make = |geometry: &_| Ok(request(&what, geometry, buffer, 0)?);
            let answer = state.channel()?.execute_with(head, make);
            // What is refused was not submitted.
            if !matches!(answer, Err(Failed::Refused(_))) {
                state.submitted += 1;
                state.completed += 1;
                state.failed += u64::from(answer.is_err());
            }
            match answer {
                Ok(buffer) => {
                    if let Some(pieces) = pieces {
                        pieces.scatter(buffer.as_slice());
                    }
                    Ok(0)
                }
                Err(Failed::Refused(error) | Failed::Ended(error)) => Err(error),
            }
        })
    }
}
