//! The delayed removal of a head.

use std::ffi::c_int;
use std::sync::Arc;

use nvme_mpath::{DelayedRemoval, Head};

use crate::error::Error;
use crate::head::nvmeh_head;
use crate::host::{window_of, with_window};
use crate::object::enter;
use crate::options::window;

/// Changes the window for one cause, or for each.
///
/// # Safety
/// `head` is NULL or a handle.
unsafe fn change(
    head: *mut nvmeh_head,
    cause: c_int,
    ms: u64,
    set: fn(&Arc<Head>, DelayedRemoval),
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            set(&h.head, with_window(h.head.delayed_removal(), cause, window(ms))?);
            Ok(0)
        })
    }
}

/// Sets how long this head outlives its last path, in milliseconds: 0: not at all; NVMEH_FOREVER:
/// without end. A removal that is pending is counted anew from the moment of the loss; if it is over
/// by the new count, the head is removed now. `cause`: as in nvmeh_host_set_delayed_removal().
///
/// Returns 0, -EINVAL (no such cause), -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_delayed_removal(
    head: *mut nvmeh_head,
    cause: c_int,
    ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { change(head, cause, ms, Head::set_delayed_removal) }
}

/// Reads what nvmeh_head_set_delayed_removal() sets.
///
/// Returns 0, -EINVAL, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `ms` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_delayed_removal(
    head: *const nvmeh_head,
    cause: c_int,
    ms: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let value = window_of(&h.head.delayed_removal(), cause)?;
            if ms.is_null() {
                return Err(Error::null("ms"));
            }
            ms.write(value);
            Ok(0)
        })
    }
}

/// Cancels a removal that is pending: the head then waits for a path without end, pinned, until one
/// returns, nvmeh_head_remove_now(), a change of its windows, or a forced shutdown.
///
/// Returns 1: one was pending; 0: none was; -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_cancel_removal(head: *mut nvmeh_head) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(head, |h| Ok(c_int::from(h.head.cancel_removal()))) }
}

/// Removes a head whose removal is pending now.
///
/// Returns 1: one was pending; 0: none was, nothing was done; -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_remove_now(head: *mut nvmeh_head) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(head, |h| Ok(c_int::from(h.head.remove_now()))) }
}

/// As nvmeh_head_set_delayed_removal(), but a removal that is pending keeps its time, as on Linux.
///
/// Returns 0, -EINVAL (no such cause), -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_set_next_delayed_removal(
    head: *mut nvmeh_head,
    cause: c_int,
    ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { change(head, cause, ms, Head::set_next_delayed_removal) }
}
