//! Pins: what keeps the host, and this object, alive.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int, c_void};

use nvme_mpath::{PinGuard, PinReason};

use crate::error::{Error, Result};
use crate::host::nvmeh_host;
use crate::object::{Header, Object, Sizable, end, enter, fixed, give_to, put, text};
use crate::selfref::leave_behind;

/// A pin of the program's own. Thread: any.
pub struct nvmeh_pin {
    header: Header,
    _guard: PinGuard,
}

impl Object for nvmeh_pin {
    const MAGIC: u32 = 0x6e76_7069;
    const WHAT: &'static str = "nvmeh_pin";

    fn header(&self) -> &Header {
        &self.header
    }
}

/// The pin belongs to a removal that is pending.
pub const NVMEH_PIN_PENDING_REMOVAL: c_int = 1;
/// The pin is the program's own.
pub const NVMEH_PIN_USER: c_int = 2;

/// Who holds a pin.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_pin_holder {
    /// sizeof(struct nvmeh_pin_holder), set by the caller in the first of an array.
    pub size: usize,
    /// NVMEH_PIN_*.
    pub kind: c_int,
    /// Always 0.
    pub reserved: c_int,
    /// Since when, in milliseconds of the host's clock.
    pub since_ms: u64,
    /// Why, in words, cut if need be.
    pub reason: [c_char; 256],
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_pin_holder {}

/// Pins that are out: one for each removal that is pending, and those of the program.
///
/// Returns the number, or -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_pin_count(host: *const nvmeh_host) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(host, |h| Ok(h.host.pin_count() as c_int)) }
}

/// The most pins that were ever out at once. Returns and thread: as nvmeh_pin_count().
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_pin_peak(host: *const nvmeh_host) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(host, |h| Ok(h.host.pins_peak() as c_int)) }
}

/// Takes a pin: until nvmeh_pin_release() the host cannot be shut down, unless by force, and the
/// shared object stays loaded, although the program may dlclose() it. `reason` is what holders
/// are listed by.
///
/// Returns 0, -ESHUTDOWN, -EFAULT, -EINVAL, -EBADF, -ECHILD. Thread: any. Owner: the caller.
///
/// # Safety
/// `host` is NULL or a handle, `reason` NULL or a text, `out` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_pin_take(
    host: *mut nvmeh_host,
    reason: *const c_char,
    out: *mut *mut nvmeh_pin,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if out.is_null() {
                return Err(Error::null("out"));
            }
            let guard = h.host.pin(text(reason, "the pin's reason")?);
            let guard = guard.map_err(|e| Error::new(libc::ESHUTDOWN, e.to_string()))?;
            give_to(out, nvmeh_pin { header: Header::new::<nvmeh_pin>(), _guard: guard });
            Ok(0)
        })
    }
}

/// Lists who holds pins: at most `count` entries of `holders`, which lie `holders[0].size` bytes
/// apart. `holders` may be NULL if `count` is 0.
///
/// Returns how many holders there are, or -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle, `holders` has room for `count` entries of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_pin_holders(
    host: *const nvmeh_host,
    holders: *mut nvmeh_pin_holder,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let list = h.host.pins();
            put_list(holders, count, list.iter().map(entry))?;
            Ok(list.len() as c_int)
        })
    }
}

/// Fills an array of structures; the size in the first is the distance between them.
///
/// # Safety
/// `out` has room for `count` entries of the size that the first says.
pub(crate) unsafe fn put_list<T: Sizable>(
    out: *mut T,
    count: usize,
    list: impl Iterator<Item = T>,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    if out.is_null() {
        return Err(Error::null("array"));
    }
    // SAFETY: the caller's promise.
    unsafe {
        let stride = out.cast::<usize>().read();
        for (at, value) in list.take(count).enumerate() {
            let place = out.byte_add(stride * at);
            place.cast::<usize>().write_unaligned(stride);
            put(place, &value)?;
            place.cast::<usize>().write_unaligned(stride);
        }
    }
    Ok(())
}

fn entry(holder: &nvme_mpath::PinHolder) -> nvmeh_pin_holder {
    let kind = match &holder.reason {
        PinReason::PendingRemoval { .. } => NVMEH_PIN_PENDING_REMOVAL,
        _ => NVMEH_PIN_USER,
    };
    nvmeh_pin_holder {
        size: size_of::<nvmeh_pin_holder>(),
        kind,
        reserved: 0,
        since_ms: holder.since.as_nanos() / 1_000_000,
        reason: fixed(&holder.reason.to_string()),
    }
}

/// Frees a pin. Returns what is to be closed, or NULL.
pub(crate) unsafe extern "C" fn release(pin: *mut nvmeh_pin) -> *mut c_void {
    // SAFETY: the caller's promise.
    leave_behind(|| unsafe { end(pin) })
}

/// Gives a pin back. NULL is fine. This is the one function that may be called by a program that has
/// given up every reference of its own to the shared object: if the pin was the last, the object is
/// unmapped when the call returns. (The processor jumps from here to dlclose(), which returns to the
/// program.)
///
/// Thread: any.
///
/// # Safety
/// `pin` is NULL or a handle that is not used any more.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn nvmeh_pin_release(pin: *mut nvmeh_pin) {
    std::arch::naked_asm!(
        "sub rsp, 8",
        "call {release}",
        "add rsp, 8",
        "test rax, rax",
        "je 2f",
        "mov rdi, rax",
        "jmp qword ptr [rip + {close}@GOTPCREL]",
        "2: ret",
        release = sym release,
        close = sym libc::dlclose,
    )
}
