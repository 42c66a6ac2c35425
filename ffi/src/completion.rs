//! The end of a request, and who is told of it.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_int, c_void};

use crate::object::Sizable;

/// What is known of a request's outcome: nothing, although it failed. It would have changed the
/// namespace, and was sent on a connection that was lost before the answer came, or was aborted: the
/// controller may have executed it, or a part of it, or, if its connection was lost, may still do so.
pub const NVMEH_OUTCOME_UNKNOWN: u32 = 1;

/// The request's channel was destroyed while a device had the request that does not stop: the device may
/// still write to the request's memory, which must be neither used nor freed while the process lives.
pub const NVMEH_MEMORY_KEPT: u32 = 2;

/// The end of a request: exactly one for each that was accepted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_completion {
    /// sizeof(struct nvmeh_completion); set by the caller in the first of an array.
    pub size: usize,
    /// The number that the submission gave.
    pub id: u64,
    /// The pointer given with the request.
    pub arg: *mut c_void,
    /// 0, or a negative errno.
    pub result: c_int,
    /// NVMEH_OUTCOME_*.
    pub flags: u32,
    /// NVMe status if a controller answered with an error: SCT << 8 | SC. 0 otherwise.
    pub nvme_status: u32,
    /// Always 0.
    pub reserved: u32,
    /// Dwords 0 and 1 of the controller's answer, if it succeeded: of use for passthrough.
    pub value: u64,
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_completion {}

/// Called at the end of a request, from within nvmeh_channel_poll(), nvmeh_channel_reap() or
/// nvmeh_channel_destroy(), on the thread that called it, with no lock held. It may call any function
/// of this library: submit, cancel, poll, close and destroy included. One that blocks holds up its
/// own channel and nothing else. `completion` is valid during the call.
pub type nvmeh_callback =
    Option<unsafe extern "C" fn(completion: *const nvmeh_completion, arg: *mut c_void)>;
