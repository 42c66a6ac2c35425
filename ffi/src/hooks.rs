//! What the tests need and no release has.

use std::ffi::c_int;

use crate::head::nvmeh_head;
use crate::object::enter;

/// Panics inside an entry.
///
/// # Safety
/// `head` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_test_panic(head: *mut nvmeh_head) -> c_int {
    // The one panic on purpose in this library, built with the feature `test-hooks` only. `enter` catches
    // it as any other: the answer is -ENOTRECOVERABLE, and `bad_input.c` looks that it is.
    // SAFETY: the caller's promise.
    unsafe { enter(head, |_| panic!("on purpose")) }
}
