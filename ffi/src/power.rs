//! Power states of a controller, and the reset of its whole subsystem.

use std::ffi::{c_char, c_int};

use nvme_mpath::HostError;
use nvme_mpath::core::controller::ControllerError;

use crate::controller::nvmeh_controller;
use crate::error::{Error, Result, status_errno};
use crate::object::{Sizable, duration, enter, text};
use crate::pins::put_list;

/// A power state of a controller.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_power_state {
    /// sizeof(struct nvmeh_power_state), set by the caller in the first of an array.
    pub size: usize,
    /// Most power that it takes, in 0.1 mW; 0: not reported.
    pub power: u32,
    /// 1 if no I/O is done in this state: the controller leaves it for a command.
    pub non_operational: u32,
    /// Longest time to enter it, in microseconds.
    pub entry_us: u64,
    /// Longest time to leave it, in microseconds.
    pub exit_us: u64,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_power_state {}

/// An error of a command that the library made; a controller's refusal has the errno of its status.
fn refusal(error: HostError) -> Error {
    match &error {
        HostError::Controller(ControllerError::Command { status, .. }) => {
            Error::new(status_errno(*status), error.to_string())
        }
        HostError::Controller(ControllerError::Invalid { .. }) => {
            Error::new(libc::EOPNOTSUPP, error.to_string())
        }
        _ => error.into(),
    }
}

fn never_live(c: &nvmeh_controller) -> Error {
    Error::new(libc::ENOTCONN, format!("{} never was live", c.controller.address()))
}

/// Lists the power states, the first is number 0: at most `count` entries, which lie `states[0].size`
/// bytes apart.
///
/// Returns how many there are; -ENOTCONN: it never was live; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD.
/// Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `states` has room for `count` entries of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_power_states(
    controller: *const nvmeh_controller,
    states: *mut nvmeh_power_state,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let info = c.controller.info().ok_or_else(|| never_live(c))?;
            let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
            let entries = info.power_states.iter().map(|state| nvmeh_power_state {
                size: size_of::<nvmeh_power_state>(),
                power: state.power,
                non_operational: u32::from(state.non_operational),
                entry_us: micros(state.entry),
                exit_us: micros(state.exit),
            });
            put_list(states, count, entries)?;
            Ok(info.power_states.len() as c_int)
        })
    }
}

/// Asks for the power state that the controller is in, at most `timeout_ms`.
///
/// Returns the state's number, 0 to 31; what the NVMe status means (see nvmeh_completion.result) if it
/// refuses; -ENOTCONN: not live; -ENODEV: gone for good; -ETIMEDOUT, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_power_state(
    controller: *mut nvmeh_controller,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let state = c.controller.power_state(duration(timeout_ms)).map_err(refusal)?;
            Ok(c_int::from(state))
        })
    }
}

/// Puts the controller into power state `state`, 0 to 31, waiting at most `timeout_ms`. It comes back from
/// a reset in the state that it chooses itself, and with the option apst_latency_ms leaves this one when it
/// is idle.
///
/// Returns 0; -EINVAL (`state`); errors and thread otherwise as nvmeh_controller_power_state().
///
/// # Safety
/// `controller` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_set_power_state(
    controller: *mut nvmeh_controller,
    state: u32,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let state: Result<u8> = match state {
                0..=31 => Ok(state as u8),
                _ => Err(Error::invalid(format!("{state} is no power state: 0 to 31"))),
            };
            c.controller.set_power_state(state?, duration(timeout_ms)).map_err(refusal)?;
            Ok(0)
        })
    }
}

/// Resets the whole subsystem, and with it all its controllers, those of other hosts included. They are
/// brought up again as after any loss; I/O waits. `reason` is what the events say. Returns at once.
///
/// Returns 0; -EOPNOTSUPP: the controller cannot do that, which is so over fabrics; -ENOTCONN: not live;
/// -EINVAL, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `reason` NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_subsystem_reset(
    controller: *mut nvmeh_controller,
    reason: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            c.controller.subsystem_reset(text(reason, "the reason")?).map_err(refusal)?;
            Ok(0)
        })
    }
}
