//! Requests that move no data: Write Zeroes, Dataset Management, Flush. Offsets and lengths are bytes,
//! multiples of the block size.

use std::ffi::{c_int, c_void};

use nvme_mpath::IoOp;

use crate::channel::nvmeh_channel;
use crate::completion::nvmeh_callback;
use crate::head::nvmeh_head;
use crate::submit::{Target, Tell, What, block, submit};

/// Makes `len` bytes at byte `offset` read as zeroes, without sending them; at most 65,536 blocks.
/// `callback`, `arg` and `id` as in nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles, `id` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_write_zeroes(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
    flags: u32,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe {
        submit(
            Target { channel, head },
            What::new(IoOp::WriteZeroes, offset, len, flags),
            None,
            tell,
        )
    }
}

/// Makes `len` bytes at byte `offset` read as zeroes, without sending them; at most 65,536 blocks,
/// and waits for the end.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_write_zeroes(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
    flags: u32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        block(Target { channel, head }, What::new(IoOp::WriteZeroes, offset, len, flags), None)
    }
}

/// Tells the controller that `len` bytes at byte `offset` are not needed any more (Dataset
/// Management, Deallocate); what they read as afterwards is the controller's to say. `callback`,
/// `arg` and `id` as in nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles, `id` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_discard(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe {
        submit(Target { channel, head }, What::new(IoOp::Discard, offset, len, 0), None, tell)
    }
}

/// Tells the controller that `len` bytes at byte `offset` are not needed any more (Dataset
/// Management, Deallocate); what they read as afterwards is the controller's to say, and waits for
/// the end.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_discard(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    offset: u64,
    len: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, What::new(IoOp::Discard, offset, len, 0), None) }
}

/// Makes what was written before, and has ended, durable. `callback`, `arg` and `id` as in
/// nvmeh_submit_read().
///
/// Errors and thread: as nvmeh_submit_read().
///
/// # Safety
/// The handles are NULL or handles, `id` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_submit_flush(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
    callback: nvmeh_callback,
    arg: *mut c_void,
    id: *mut u64,
) -> c_int {
    let tell = Tell { callback, arg, id };
    // SAFETY: the caller's promise.
    unsafe { submit(Target { channel, head }, What::new(IoOp::Flush, 0, 0, 0), None, tell) }
}

/// Makes what was written before, and has ended, durable, and waits for the end.
///
/// Errors and thread: as nvmeh_read().
///
/// # Safety
/// The handles are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_flush(
    channel: *mut nvmeh_channel,
    head: *const nvmeh_head,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { block(Target { channel, head }, What::new(IoOp::Flush, 0, 0, 0), None) }
}
