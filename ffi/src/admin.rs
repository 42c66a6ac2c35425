//! What a controller says of itself, and commands to it.

use std::ffi::{c_char, c_int, c_void};

use nvme_mpath::core::spec::command::Sqe;
use nvme_mpath::core::transport::Data;

use crate::controller::nvmeh_controller;
use crate::error::{Error, Result, status_errno};
use crate::object::{Sizable, duration, enter, fixed, millis, put, put_text, take};

/// What a controller says of itself.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_controller_info {
    /// sizeof(struct nvmeh_controller_info), set by the caller; what was filled in, on return.
    pub size: usize,
    /// Bytes of one command at most; 0: no limit told.
    pub max_transfer: u64,
    /// Times that it came back after a loss.
    pub reconnects: u64,
    /// Controller ID.
    pub cntlid: u32,
    /// Version register, such as 0x00020100 for 2.1.
    pub version: u32,
    /// Optional NVM commands (ONCS), raw.
    pub oncs: u32,
    /// I/O queues granted on this association: so many channels can use it.
    pub io_queues: u32,
    /// Entries of each.
    pub io_entries: u32,
    /// 1 if the subsystem may have more than one controller.
    pub multi_controller: u32,
    /// 1 if the subsystem reports ANA.
    pub ana: u32,
    /// 1 if there is a volatile write cache: a flush means something.
    pub volatile_write_cache: u32,
    /// Milliseconds for which it may still execute commands after it has noticed the loss of its host
    /// (CQT); 0: not reported.
    pub quiesce_ms: u64,
    /// Serial number.
    pub serial: [c_char; 24],
    /// Model number.
    pub model: [c_char; 48],
    /// Firmware revision.
    pub firmware: [c_char; 16],
    /// Bytes of the host memory buffer that it has now; 0: none.
    pub host_memory: u64,
    /// 1 if it can reset the whole subsystem: nvmeh_controller_subsystem_reset().
    pub subsystem_reset: u32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_controller_info {}

/// What the controller says of itself, as of its latest association.
///
/// Returns 0; -ENOTCONN: it never was live; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `out` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_get_info(
    controller: *const nvmeh_controller,
    out: *mut nvmeh_controller_info,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let info = c.controller.info().ok_or_else(|| {
                let text = format!("{} never was live", c.controller.address());
                Error::new(libc::ENOTCONN, text)
            })?;
            let value = nvmeh_controller_info {
                size: size_of::<nvmeh_controller_info>(),
                max_transfer: info.max_transfer.unwrap_or(0) as u64,
                reconnects: c.controller.reconnects(),
                cntlid: u32::from(info.cntlid),
                version: info.version,
                oncs: u32::from(info.oncs),
                io_queues: u32::from(info.io_queues),
                io_entries: u32::from(info.io_entries),
                multi_controller: u32::from(info.multi_controller),
                ana: u32::from(info.ana),
                volatile_write_cache: u32::from(info.volatile_write_cache),
                quiesce_ms: millis(info.quiesce_time),
                serial: fixed(&info.serial),
                model: fixed(&info.model),
                firmware: fixed(&info.firmware),
                host_memory: c.controller.host_memory(),
                subsystem_reset: u32::from(info.subsystem_reset),
                reserved: 0,
            };
            put(out, &value)?;
            Ok(0)
        })
    }
}

/// Why it is gone for good, cut to `size` bytes; empty while it is not. With the option
/// reattach_delay_ms it may come back all the same.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_removed(
    controller: *const nvmeh_controller,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let cause = c.controller.removed().map(|cause| cause.to_string());
            put_text(&cause.unwrap_or_default(), buf, size)
        })
    }
}

/// No data.
pub const NVMEH_DATA_NONE: c_int = 0;
/// From the controller.
pub const NVMEH_DATA_IN: c_int = 1;
/// To the controller.
pub const NVMEH_DATA_OUT: c_int = 2;

/// An admin command, and its answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_admin {
    /// sizeof(struct nvmeh_admin), set by the caller.
    pub size: usize,
    /// Opcode.
    pub opcode: u32,
    /// Namespace ID.
    pub nsid: u32,
    /// Command dword 2.
    pub cdw2: u32,
    /// Command dword 3.
    pub cdw3: u32,
    /// Command dwords 10 to 15.
    pub cdw10: [u32; 6],
    /// NVMEH_DATA_*.
    pub direction: c_int,
    /// Always 0.
    pub reserved: u32,
    /// Data, or room for them.
    pub data: *mut c_void,
    /// Bytes, at most 16 MiB.
    pub data_len: u64,
    /// Dwords 0 and 1 of the completion, on return.
    pub result: u64,
    /// NVMe status if the controller answered with an error, on return: SCT << 8 | SC. 0 otherwise.
    pub nvme_status: u32,
    /// 0, on return.
    pub reserved2: u32,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_admin {}

/// More than any admin command moves.
const MOST_DATA: u64 = 16 << 20;

/// The data phase, in memory of the library's: a command that outlives the call touches nothing of C's.
///
/// # Safety
/// `a.data` is NULL, or valid for `a.data_len` bytes.
unsafe fn data_of(a: &nvmeh_admin) -> Result<Data> {
    if a.direction == NVMEH_DATA_NONE {
        return Ok(Data::None);
    }
    if a.data_len == 0 || a.data_len > MOST_DATA {
        let text = format!("{} bytes of data: 1 to {MOST_DATA}", a.data_len);
        return Err(Error::new(libc::EMSGSIZE, text));
    }
    if a.data.is_null() {
        return Err(Error::null("data"));
    }
    let len = a.data_len as usize;
    match a.direction {
        NVMEH_DATA_IN => Ok(Data::Read(vec![0; len].into())),
        NVMEH_DATA_OUT => {
            // SAFETY: the caller's promise.
            let data = unsafe { std::slice::from_raw_parts(a.data.cast::<u8>(), len) };
            Ok(Data::Write(data.to_vec().into()))
        }
        other => Err(Error::invalid(format!("{other} is no direction: NVMEH_DATA_*"))),
    }
}

fn sqe_of(a: &nvmeh_admin) -> Result<Sqe> {
    let opcode = u8::try_from(a.opcode);
    let opcode = opcode.map_err(|_| Error::invalid(format!("{:#x} is no opcode", a.opcode)))?;
    let [cdw10, cdw11, cdw12, cdw13, cdw14, cdw15] = a.cdw10.map(Into::into);
    let (cdw2, cdw3) = (a.cdw2.into(), a.cdw3.into());
    let nsid = a.nsid.into();
    let rest = Sqe::default();
    Ok(Sqe { opcode, nsid, cdw2, cdw3, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, ..rest })
}

/// Sends an admin command and waits for its end, at most `timeout_ms`. It is not retried. The caller
/// answers for what the command does: nothing here keeps it from changing what the library relies on.
///
/// Returns 0; what the NVMe status means (see nvmeh_completion.result), with `nvme_status` set;
/// -ENOTCONN: not live; -ENODEV: gone for good; -ETIMEDOUT (the command goes on, and touches nothing of
/// the program's); -EMSGSIZE (`data_len`), -EINVAL, -EOPNOTSUPP (a member that this version does not know
/// is set), -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `admin` NULL or valid for as many bytes as its first member says,
/// its `data` for as many as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_admin(
    controller: *mut nvmeh_controller,
    admin: *mut nvmeh_admin,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let mut a = take(admin, "an admin command", size_of::<nvmeh_admin>())?;
            let (sqe, data) = (sqe_of(&a)?, data_of(&a)?);
            let answer = c.controller.admin(sqe, data, duration(timeout_ms))?;
            if let Data::Read(buffer) = &answer.data {
                let len = buffer.len().min(a.data_len as usize);
                let to = a.data.cast::<u8>();
                std::ptr::copy_nonoverlapping(buffer.as_slice().as_ptr(), to, len);
            }
            let status = answer.cqe.status();
            let good = status.is_success();
            (a.result, a.reserved2) = (answer.cqe.result(), 0);
            a.nvme_status = if good { 0 } else { u32::from(status.code().raw()) };
            put(admin, &a)?;
            if good {
                return Ok(0);
            }
            let text =
                format!("admin command {:#04x} on {}: {status}", a.opcode, c.controller.address());
            Err(Error::new(status_errno(status), text))
        })
    }
}
