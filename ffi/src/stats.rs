//! Statistics.

use std::ffi::c_int;

use nvme_mpath::LatencyHistogram;

use crate::channel::{nvmeh_channel, with_state};
use crate::controller::nvmeh_controller;
use crate::error::Error;
use crate::head::nvmeh_head;
use crate::object::{Sizable, enter, put};
use crate::pins::put_list;

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
    /// Times that a write was held until a lost controller was fenced, or behind a held one.
    pub held: u64,
    /// Writes that are held now.
    pub held_now: u64,
    /// Reads that were sent down a second path because the first took too long.
    pub hedges: u64,
    /// Those among them that the second path answered first.
    pub hedges_won: u64,
    /// Reads that were not, because the budget was used up.
    pub hedges_denied: u64,
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
    /// Bytes that were copied because an iovec had gaps, or for NVMEH_HEDGE.
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
                held: s.held,
                held_now: s.held_now,
                hedges: s.hedges,
                hedges_won: s.hedges_won,
                hedges_denied: s.hedges_denied,
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

/// Reads and compares.
pub const NVMEH_LATENCY_READS: c_int = 0;
/// Everything else.
pub const NVMEH_LATENCY_WRITES: c_int = 1;

/// A bucket of a latency histogram: an eighth of a power of two wide, so that a time is known to 12 %.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_latency_bucket {
    /// sizeof(struct nvmeh_latency_bucket), set by the caller in the first of an array.
    pub size: usize,
    /// Where it ends, in nanoseconds.
    pub below_ns: u64,
    /// Commands that took less, and no less than where the bucket before ends.
    pub count: u64,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_latency_bucket {}

fn histogram(
    controller: &nvmeh_controller,
    direction: c_int,
) -> crate::error::Result<LatencyHistogram> {
    let latency = controller.controller.latency();
    match direction {
        NVMEH_LATENCY_READS => Ok(latency.reads),
        NVMEH_LATENCY_WRITES => Ok(latency.writes),
        _ => Err(Error::invalid(format!("{direction} is no direction: NVMEH_LATENCY_*"))),
    }
}

/// How long I/O took on a controller, as far as it came from channels with the option
/// latency_histograms: at most `count` buckets that are not empty, the shortest time first, which
/// lie `buckets[0].size` bytes apart. `direction`: NVMEH_LATENCY_*. Counts since the controller was
/// connected, through reconnects.
///
/// Returns how many buckets are not empty, or -EFAULT, -EINVAL (`direction`, `size`), -EBADF, -ECHILD.
/// Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `buckets` has room for `count` entries of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_latency(
    controller: *const nvmeh_controller,
    direction: c_int,
    buckets: *mut nvmeh_latency_bucket,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let histogram = histogram(c, direction)?;
            let entries = histogram.buckets().map(|(below, count)| nvmeh_latency_bucket {
                size: size_of::<nvmeh_latency_bucket>(),
                below_ns: u64::try_from(below.as_nanos()).unwrap_or(u64::MAX),
                count,
            });
            put_list(buckets, count, entries)?;
            Ok(histogram.buckets().count() as c_int)
        })
    }
}

/// A time in nanoseconds that `fraction` (0 to 1) of the commands of nvmeh_controller_latency() did not
/// exceed; 0 when none was counted.
///
/// Returns 0, -EFAULT, -EINVAL (`direction`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `controller` is NULL or a handle, `ns` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_controller_latency_quantile(
    controller: *const nvmeh_controller,
    direction: c_int,
    fraction: f64,
    ns: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(controller, |c| {
            let quantile = histogram(c, direction)?.quantile(fraction);
            if ns.is_null() {
                return Err(Error::null("ns"));
            }
            ns.write(u64::try_from(quantile.as_nanos()).unwrap_or(u64::MAX));
            Ok(0)
        })
    }
}
