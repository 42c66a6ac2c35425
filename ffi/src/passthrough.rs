//! I/O commands as the program makes them.

use std::ffi::{c_int, c_void};

use nvme_mpath::core::buffer::Buffer;
use nvme_mpath::{BlockingError, IoOp, PassthroughCommand};

use crate::buffers::gather;
use crate::channel::nvmeh_channel;
use crate::completion::nvmeh_callback;
use crate::error::{Error, Result, io_errno};
use crate::head::nvmeh_head;
use crate::in_flight::Ticket;
use crate::object::{Sizable, duration, enter, look, put, take};
use crate::options::NVMEH_FOREVER;

/// An I/O command of the program's. The namespace identifier, the command identifier and the data pointer
/// are the library's to fill in; there is no metadata, and nothing is fused.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_passthrough {
    /// sizeof(struct nvmeh_passthrough), set by the caller.
    pub size: usize,
    /// Opcode. Its lowest two bits are the direction of the data.
    pub opcode: u32,
    /// 1: executing it again has no other effect than executing it once. It is then retried, fails over,
    /// and waits for a path like any other request. 0: it goes down one path, once.
    pub idempotent: u32,
    /// Command dwords 2 and 3.
    pub cdw2: [u32; 2],
    /// Command dwords 10 to 15. If they speak of a length, `data_len` has to be that long: a controller
    /// moves what the command says. Of Read, Write, Compare and Zone Append it is checked.
    pub cdw10: [u32; 6],
    /// Data, or room for them. The library's until the end.
    pub data: *mut c_void,
    /// Bytes; 0 if it moves nothing.
    pub data_len: u64,
    /// As in struct nvmeh_request.
    pub timeout_ms: u64,
    /// Called at its end; NULL: nvmeh_channel_reap().
    pub callback: nvmeh_callback,
    /// What it is given.
    pub arg: *mut c_void,
    /// Dwords 0 and 1 of the completion, after nvmeh_execute_passthrough(). Otherwise
    /// nvmeh_completion.value has them.
    pub value: u64,
    /// NVMe status if the controller answered with an error, after nvmeh_execute_passthrough():
    /// SCT << 8 | SC. 0 otherwise.
    pub nvme_status: u32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, its size first; all zeroes are valid, and C answers for what it sets.
unsafe impl Sizable for nvmeh_passthrough {}

fn command_of(p: &nvmeh_passthrough) -> Result<PassthroughCommand> {
    let opcode = u8::try_from(p.opcode);
    let opcode = opcode.map_err(|_| Error::invalid(format!("{:#x} is no opcode", p.opcode)))?;
    let mut command = PassthroughCommand::new(opcode).dwords(p.cdw10);
    command.cdw2_3 = p.cdw2;
    command.idempotent = p.idempotent != 0;
    command.timeout = match p.timeout_ms {
        0 | NVMEH_FOREVER => None,
        ms => Some(duration(ms)),
    };
    Ok(command)
}

/// # Safety
/// `p.data` is NULL, or valid for `p.data_len` bytes until the request ends.
unsafe fn buffer_of(p: &nvmeh_passthrough) -> Result<Buffer> {
    if p.data_len == 0 {
        return Ok(Buffer::empty());
    }
    let len = usize::try_from(p.data_len)
        .map_err(|_| Error::new(libc::EMSGSIZE, format!("a command of {} bytes", p.data_len)))?;
    let piece = libc::iovec { iov_base: p.data, iov_len: len };
    // SAFETY: the caller's promise; a single piece is never copied, so that the direction does not matter.
    Ok(unsafe { gather(&raw const piece, 1, false, false, &mut Vec::new()) }?.0)
}

/// The members up to `callback` must be there.
const LEAST: usize = std::mem::offset_of!(nvmeh_passthrough, callback);

/// Hands in an I/O command as it is, to be sent down one of the head's paths. `id` as in
/// nvmeh_submit_read(). It ends like any request; nvmeh_completion.value is what the controller answered.
///
/// One that is not idempotent fails without a path (-EHOSTUNREACH), fails with each status that is no
/// success, and with -EIO and NVMEH_OUTCOME_UNKNOWN if its connection is lost before the answer. The caller
/// answers for what the command does.
///
/// Returns 0; -EINVAL: `opcode` is none of an I/O command, or `data_len` does not fit it; otherwise as
/// nvmeh_submit(). Thread: the channel's; from within a callback, too.
///
/// # Safety
/// The handles are NULL or handles; `command` is NULL or valid for as many bytes as its first member says;
/// its data are touched by nobody else until the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_passthrough(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    command: *const nvmeh_passthrough,
    id: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            let head = &look(head)?.head;
            let p = take(command, "a command", LEAST)?;
            let (command, buffer) = (command_of(&p)?, buffer_of(&p)?);
            let mut state = c.state()?;
            state.channel()?;
            let (callback, arg) = (p.callback, p.arg);
            let ticket = Ticket { callback, arg, op: IoOp::Passthrough, pieces: None };
            let number = state.book(ticket);
            let channel = state.channel()?;
            if let Err(refused) = channel.submit_passthrough(head, command, buffer, number) {
                state.unbook(number, refused.buffer);
                return Err(refused.reason.into());
            }
            state.submitted += 1;
            if !id.is_null() {
                id.write(number);
            }
            Ok(0)
        })
    }
}

/// Hands in an I/O command as nvmeh_submit_passthrough() does, and waits for its end. `value` and
/// `nvme_status` are set. Callback and argument are not used.
///
/// Returns 0, what nvmeh_submit_passthrough() returns, or the result of a completion. Thread: the
/// channel's; from within a callback, too.
///
/// # Safety
/// As for nvmeh_submit_passthrough(); `command` is valid for writes, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_execute_passthrough(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    command: *mut nvmeh_passthrough,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            let head = &look(head)?.head;
            let mut p = take(command, "a command", LEAST)?;
            let (passed, buffer) = (command_of(&p)?, buffer_of(&p)?);
            let mut state = c.state()?;
            state.channel()?;
            state.submitted += 1;
            let answer = state.channel()?.execute_passthrough(head, passed, buffer);
            state.completed += 1;
            state.failed += u64::from(answer.is_err());
            let (value, status, result) = match answer {
                Ok((_, value)) => (value, 0, Ok(0)),
                Err(BlockingError::Submit(refused)) => (0, 0, Err(refused.reason.into())),
                Err(BlockingError::Io { error, uncertain, .. }) => {
                    let unknown = if uncertain { " (the outcome is unknown)" } else { "" };
                    let (errno, status) = io_errno(&error);
                    (0, status, Err(Error::new(errno, format!("{error}{unknown}"))))
                }
                Err(error) => (0, 0, Err(Error::new(libc::EIO, error.to_string()))),
            };
            (p.value, p.nvme_status) = (value, u32::from(status));
            put(command, &p)?;
            result
        })
    }
}
