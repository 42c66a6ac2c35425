//! Hosts without a thread of the library's: the program drives them.

use std::ffi::c_int;

use nvme_mpath::core::time::Clock;

use crate::error::Error;
use crate::host::nvmeh_host;
use crate::object::{duration, enter, millis};
use crate::options::NVMEH_FOREVER;

/// Runs the control plane of a host that was made with control_thread off: for at most `timeout_ms`,
/// or until something was done. To be called again and again, from one thread at a time; it calls
/// nothing back.
///
/// Returns 1: call again; 0: the host has ended; -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_drive(host: *mut nvmeh_host, timeout_ms: u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(host, |h| Ok(c_int::from(h.host.drive(duration(timeout_ms))))) }
}

/// How long a host that was made with control_thread off may be left alone: nvmeh_host_drive() has
/// something to do after `ms` milliseconds, 0: at once, NVMEH_FOREVER: not before somebody asks for
/// something. A peer may say something at any time: a program that sleeps longer than a few milliseconds
/// learns of it so much later.
///
/// Returns 0; NVMEH_FOREVER if the library runs a thread; -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle, `ms` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_deadline(host: *const nvmeh_host, ms: *mut u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let due = h.host.deadline();
            let now = h.clock.now();
            if ms.is_null() {
                return Err(Error::null("ms"));
            }
            // What is due within a millisecond is not due before it: rounded up.
            let left = due.map(|due| due.saturating_since(now));
            let round =
                |left: std::time::Duration| millis(left + std::time::Duration::from_micros(999));
            ms.write(left.map_or(NVMEH_FOREVER, round));
            Ok(0)
        })
    }
}

/// Begins what nvmeh_host_shutdown() does, or with `force` (not 0) what nvmeh_host_shutdown_forced() does,
/// and returns at once. For hosts that the program drives: the end is there when nvmeh_host_drive() returns
/// 0.
///
/// Returns 0; -EBUSY: pins are out and `force` is 0, nothing was done; -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_begin_shutdown(host: *mut nvmeh_host, force: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            h.host.begin_shutdown(force != 0)?;
            Ok(0)
        })
    }
}
