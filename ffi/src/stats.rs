//! Statistics.

use std::ffi::c_int;

use crate::channel::{nvmeh_channel, with_state};
use crate::head::nvmeh_head;
use crate::object::{Sizable, enter, put};

/// What happened to the requests of a head, on all channels, since it was made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_head_stats {
    /// sizeof(struct nvmeh_head_stats), set by the caller; what was filled in, on return.
    pub size: usize,
    /// Requests that were moved to another path, or parked, after their path failed.
    pub failovers: u64,
    /// Requests sent again on account of their status.
    pub retries: u64,
    /// Times that a request was parked for want of a path.
    pub parked: u64,
    /// Requests that failed for want of a path.
    pub failed_no_path: u64,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_head_stats {}

/// What a channel did since it was made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_channel_stats {
    /// sizeof(struct nvmeh_channel_stats), set by the caller; what was filled in, on return.
    pub size: usize,
    /// Requests accepted.
    pub submitted: u64,
    /// Requests ended.
    pub completed: u64,
    /// Of these, without success.
    pub failed: u64,
    /// Bytes that were copied because an iovec had gaps.
    pub copied_bytes: u64,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_channel_stats {}

/// The counters of a head.
///
/// Returns 0, -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `head` is NULL or a handle, `out` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_head_get_stats(
    head: *const nvmeh_head,
    out: *mut nvmeh_head_stats,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(head, |h| {
            let s = h.head.stats();
            let value = nvmeh_head_stats {
                size: size_of::<nvmeh_head_stats>(),
                failovers: s.failovers,
                retries: s.retries,
                parked: s.parked,
                failed_no_path: s.failed_no_path,
            };
            put(out, &value)?;
            Ok(0)
        })
    }
}

/// The counters of a channel.
///
/// Returns 0, -EFAULT, -EINVAL (`size`), -EPERM, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle, `out` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_get_stats(
    channel: *const nvmeh_channel,
    out: *mut nvmeh_channel_stats,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with_state(channel, |s| {
            let value = nvmeh_channel_stats {
                size: size_of::<nvmeh_channel_stats>(),
                submitted: s.submitted,
                completed: s.completed,
                failed: s.failed,
                copied_bytes: s.copied,
            };
            put(out, &value)?;
            Ok(0)
        })
    }
}
