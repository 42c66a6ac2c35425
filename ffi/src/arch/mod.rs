//! `nvmeh_pin_release` on other processors than x86-64, where it is in `pins`, with its text.

use crate::pins::{nvmeh_pin, release};

/// Gives a pin back; as on x86-64.
///
/// # Safety
/// `pin` is NULL or a handle that is not used any more.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn nvmeh_pin_release(pin: *mut nvmeh_pin) {
    std::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "bl {release}",
        "ldp x29, x30, [sp], #16",
        "cbz x0, 2f",
        "b {close}",
        "2: ret",
        release = sym release,
        close = sym libc::dlclose,
    )
}

/// Gives a pin back. The shared object stays loaded.
///
/// # Safety
/// `pin` is NULL or a handle that is not used any more.
#[cfg(not(target_arch = "aarch64"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_pin_release(pin: *mut nvmeh_pin) {
    // SAFETY: the caller's promise.
    unsafe { release(pin) };
}
