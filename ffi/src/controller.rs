//! A controller: one path to a subsystem.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int};

use nvme_mpath::Controller;
use nvme_mpath::core::controller::State;

use crate::error::Error;
use crate::object::{Header, Object, duration, end, enter, put_text, text};

/// A handle of a controller. Freeing it does not disconnect. Thread: any, several at once; what waits
/// must not be called while another thread is in nvmeh_host_drive() on a host that the program
/// drives.
pub struct nvmeh_controller {
    header: Header,
    pub(crate) controller: Controller,
}

impl Object for nvmeh_controller {
    const MAGIC: u32 = 0x6e76_636f;
    const WHAT: &'static str = "nvmeh_controller";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl nvmeh_controller {
    pub(crate) fn new(controller: Controller) -> Self {
        Self { header: Header::new::<Self>(), controller }
    }
}

/// Made, nothing sent yet.
pub const NVMEH_CONTROLLER_NEW: c_int = 0;
/// In use.
pub const NVMEH_CONTROLLER_LIVE: c_int = 1;
/// Being taken apart to be brought up again.
pub const NVMEH_CONTROLLER_RESETTING: c_int = 2;
/// Being brought up, or waiting for the next attempt.
pub const NVMEH_CONTROLLER_CONNECTING: c_int = 3;
/// Going away.
pub const NVMEH_CONTROLLER_DELETING: c_int = 4;
/// Gone for good.
pub const NVMEH_CONTROLLER_DEAD: c_int = 5;
/// A state that this version has no number for.
pub const NVMEH_CONTROLLER_OTHER: c_int = 255;

pub(crate) const fn state_number(state: State) -> c_int {
    match state {
        State::New => NVMEH_CONTROLLER_NEW,
        State::Live => NVMEH_CONTROLLER_LIVE,
        State::Resetting => NVMEH_CONTROLLER_RESETTING,
        State::Connecting => NVMEH_CONTROLLER_CONNECTING,
        State::Deleting | State::DeletingNoIo => NVMEH_CONTROLLER_DELETING,
        State::Dead => NVMEH_CONTROLLER_DEAD,
        _ => NVMEH_CONTROLLER_OTHER,
    }
}

/// Waits until the controller is live and its namespaces have been looked at.
///
/// Returns 0; -ECONNREFUSED: an attempt failed and it never was live (the library goes on trying all
/// the same); -ENODEV: given up; -ETIMEDOUT, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_wait_ready(
    controller: *mut nvmeh_controller,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.wait_ready(duration(timeout_ms))?;
            Ok(0)
        })
    }
}

/// Its state, NVMEH_CONTROLLER_*. Or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_state(controller: *const nvmeh_controller) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(controller, |c| Ok(state_number(c.controller.state()))) }
}

/// Its number, never reused within a host. Or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_id(controller: *const nvmeh_controller) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(controller, |c| Ok(c.controller.id().as_u32() as c_int)) }
}

/// Its address, such as "tcp://192.0.2.7:4420", cut to `size` bytes.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_address(
    controller: *const nvmeh_controller,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(controller, |c| put_text(c.controller.address(), buf, size)) }
}

/// The NQN of its subsystem, cut to `size` bytes.
///
/// Returns the length of the whole; -ENOTCONN: it never was live; -EFAULT, -EBADF, -ECHILD.
/// Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_subsystem(
    controller: *const nvmeh_controller,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let info = c.controller.info();
            let info = info.ok_or_else(|| {
                let text = format!("{} never was live", c.controller.address());
                Error::new(libc::ENOTCONN, text)
            })?;
            put_text(info.subnqn.as_str(), buf, size)
        })
    }
}

/// Why it was last lost, or failed to come up, cut to `size` bytes; empty if nothing is known.
///
/// Returns the length of the whole, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_last_error(
    controller: *const nvmeh_controller,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let error = c.controller.last_error().map(|e| e.to_string());
            put_text(&error.unwrap_or_default(), buf, size)
        })
    }
}

/// Disconnects, in an orderly way. Its paths leave with NVMEH_CAUSE_DISCONNECTED. Returns at once: 0,
/// or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_disconnect(controller: *mut nvmeh_controller) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.disconnect();
            Ok(0)
        })
    }
}

/// Waits until the controller is gone for good.
///
/// Returns 0, -ETIMEDOUT, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_wait_removed(
    controller: *mut nvmeh_controller,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.wait_removed(duration(timeout_ms))?;
            Ok(0)
        })
    }
}

/// Takes the controller down and brings it up again. I/O goes elsewhere, or waits. `reason` is what
/// messages say. Returns at once: 0, or -EFAULT, -EINVAL, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `reason` NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_reset(
    controller: *mut nvmeh_controller,
    reason: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.reset(text(reason, "the reason")?);
            Ok(0)
        })
    }
}

/// Looks at the namespaces again. Returns at once: 0, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_rescan(controller: *mut nvmeh_controller) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.rescan();
            Ok(0)
        })
    }
}

/// Gives a handle up; does not disconnect. NULL is fine. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_free(controller: *mut nvmeh_controller) {
    // SAFETY: the caller's promise.
    unsafe { end(controller) };
}
