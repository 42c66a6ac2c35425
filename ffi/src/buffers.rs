//! Memory: what C gives for a request, and memory that controllers on the PCI bus reach directly.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use libc::iovec;
use nvme_mpath::core::buffer::Buffer;
use nvme_mpath::core::memory::{Arena, DmaBuf, Memory};

use crate::error::{Error, Result};
use crate::host::nvmeh_host;
use crate::object::{Header, Object, duration, end, enter, give_to, look};

/// Most pieces of one request (IOV_MAX).
const MOST_PIECES: usize = 1024;

/// The pieces of a request whose data lie together in memory of the library's meanwhile.
pub(crate) struct Pieces {
    list: Box<[iovec]>,
    /// To be filled at the end.
    fill: bool,
}

impl Pieces {
    /// Fills the pieces.
    pub(crate) fn scatter(&self, mut data: &[u8]) {
        if !self.fill {
            return;
        }
        for piece in &self.list {
            let Some((part, rest)) = data.split_at_checked(piece.iov_len) else { return };
            // SAFETY: the program promised memory of this length until the request ends.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), piece.iov_base.cast(), part.len())
            };
            data = rest;
        }
    }
}

/// The memory of one request as a buffer. Pieces that follow each other in memory are one; others are
/// copied, and all are where `apart` says so.
///
/// # Safety
/// `iov` is NULL or has `count` entries; their memory is the request's until it ends.
pub(crate) unsafe fn gather(
    iov: *const iovec,
    count: c_int,
    fill: bool,
    apart: bool,
    spare: &mut Vec<Vec<u8>>,
) -> Result<(Buffer, Option<Pieces>)> {
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 || count > MOST_PIECES {
        return Err(Error::invalid(format!("an iovec has 1 to {MOST_PIECES} entries")));
    }
    if iov.is_null() {
        return Err(Error::null("iovec"));
    }
    // SAFETY: the caller's promise.
    let list = unsafe { std::slice::from_raw_parts(iov, count) };
    let mut total = 0usize;
    let mut together = true;
    let first = list.iter().find(|p| p.iov_len > 0).map_or(0, |p| p.iov_base.addr());
    for (at, piece) in list.iter().enumerate() {
        if piece.iov_base.is_null() && piece.iov_len > 0 {
            return Err(Error::new(libc::EFAULT, format!("iovec entry {at} is NULL")));
        }
        together &= piece.iov_len == 0 || piece.iov_base.addr() == first.wrapping_add(total);
        let sum = total.checked_add(piece.iov_len).filter(|sum| isize::try_from(*sum).is_ok());
        total = sum.ok_or_else(|| {
            let text = format!("the lengths of the iovec overflow at entry {at}");
            Error::new(libc::EOVERFLOW, text)
        })?;
    }
    // More than any command can move: not worth being gathered.
    if total > 1 << 30 {
        return Err(Error::new(libc::EMSGSIZE, format!("a request of {total} bytes")));
    }
    let base =
        list.iter().find(|p| p.iov_len > 0).and_then(|p| NonNull::new(p.iov_base.cast::<u8>()));
    let Some(base) = base else { return Ok((Buffer::empty(), None)) };
    if together && !apart {
        // SAFETY: the caller's promise, for memory without a gap.
        return Ok((unsafe { Buffer::from_raw_parts(base, total) }, None));
    }
    let mut memory = spare.pop().unwrap_or_default();
    memory.clear();
    if fill {
        memory.resize(total, 0);
    } else {
        for piece in list.iter().filter(|p| p.iov_len > 0) {
            // SAFETY: the caller's promise.
            memory.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
            });
        }
    }
    Ok((memory.into(), Some(Pieces { list: list.into(), fill })))
}

/// Memory that every controller reaches without a copy.
pub struct nvmeh_memory {
    header: Header,
    data: NonNull<u8>,
    size: usize,
    whose: Mutex<Whose>,
}

/// Whose memory it is.
enum Whose {
    Library { _memory: DmaBuf },
    Program { registration: Option<Arc<Arena>>, free: Arc<Free> },
}

/// Whether devices have let go of memory of the program's.
#[derive(Default)]
struct Free {
    is: Mutex<bool>,
    becomes: Condvar,
}

/// What the registration owns.
struct Owner(Arc<Free>);

impl Drop for Owner {
    fn drop(&mut self) {
        *self.0.is.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.becomes.notify_all();
    }
}

impl Object for nvmeh_memory {
    const MAGIC: u32 = 0x6e76_6d65;
    const WHAT: &'static str = "nvmeh_memory";

    fn header(&self) -> &Header {
        &self.header
    }
}

/// Allocates `size` bytes that all controllers of this host, present and future, reach without a
/// copy. To be used again and again; what it holds is left from earlier use. TCP takes any memory
/// equally well.
///
/// Returns 0, -EINVAL (size 0), -ENFILE (no memory, or RLIMIT_MEMLOCK too small), -EFAULT, -EBADF,
/// -ECHILD. Thread: any. Owner: the caller; nvmeh_memory_free(), before or after the host.
///
/// # Safety
/// The pointers are NULL, or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_memory_new(
    host: *mut nvmeh_host,
    size: usize,
    out: *mut *mut nvmeh_memory,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if out.is_null() {
                return Err(Error::null("out"));
            }
            if size == 0 || isize::try_from(size).is_err() {
                return Err(Error::invalid(format!("{size} bytes of memory cannot be had")));
            }
            let mut memory = h.host.dma_buf(size)?;
            let data = NonNull::from(memory.as_mut_slice()).cast();
            let (size, whose) = (memory.len(), Mutex::new(Whose::Library { _memory: memory }));
            let header = Header::new::<nvmeh_memory>();
            give_to(out, nvmeh_memory { header, data, size, whose });
            Ok(0)
        })
    }
}

/// Makes memory of the program's reachable without a copy, for all controllers of this host, present and
/// future. For devices it must begin and end on a page of 4 KiB; where it does not, data in it is copied.
/// It must stay until nvmeh_memory_unregister() has returned 0.
///
/// Returns 0, -EINVAL (size 0), -ENFILE (RLIMIT_MEMLOCK too small), -EFAULT, -EBADF, -ECHILD. Thread: any.
/// Owner of the handle: the caller; nvmeh_memory_unregister(), then nvmeh_memory_free().
///
/// # Safety
/// `host` is NULL or a handle; `data` is NULL, or valid for reads and writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_memory_register(
    host: *mut nvmeh_host,
    data: *mut c_void,
    size: usize,
    out: *mut *mut nvmeh_memory,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if out.is_null() {
                return Err(Error::null("out"));
            }
            let data = NonNull::new(data.cast::<u8>()).ok_or_else(|| Error::null("data"))?;
            if size == 0 || isize::try_from(size).is_err() {
                return Err(Error::invalid(format!("{size} bytes of memory")));
            }
            let free = Arc::new(Free::default());
            let owner = Box::new(Owner(Arc::clone(&free)));
            let registration =
                Some(h.host.register_memory(Memory::from_raw_parts(data, size, owner))?);
            let whose = Mutex::new(Whose::Program { registration, free });
            let header = Header::new::<nvmeh_memory>();
            give_to(out, nvmeh_memory { header, data, size, whose });
            Ok(0)
        })
    }
}

/// Ends the registration of memory of the program's, and waits until no device reaches it any more, at
/// most `timeout_ms`. No request that uses it may be under way.
///
/// Returns 0: the memory may be freed; -ETIMEDOUT: not yet, to be called again; -EINVAL: it was made by
/// nvmeh_memory_new(); -EFAULT, -EBADF, -ECHILD. Thread: any, one at a time.
///
/// # Safety
/// `memory` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_memory_unregister(
    memory: *mut nvmeh_memory,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(memory, |m| {
            let free = match &mut *m.whose.lock().unwrap_or_else(PoisonError::into_inner) {
                Whose::Library { .. } => {
                    return Err(Error::invalid(
                        "this memory is the library's: nvmeh_memory_free()",
                    ));
                }
                Whose::Program { registration, free } => {
                    drop(registration.take());
                    Arc::clone(free)
                }
            };
            let is = free.is.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = duration(timeout_ms);
            let waited = free.becomes.wait_timeout_while(is, limit, |is| !*is);
            let (is, _) = waited.unwrap_or_else(PoisonError::into_inner);
            is.then_some(0)
                .ok_or_else(|| Error::new(libc::ETIMEDOUT, "a device still reaches this memory"))
        })
    }
}

/// The address of the memory, a multiple of 64; NULL if `memory` is no handle. Thread: any.
///
/// # Safety
/// `memory` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_memory_data(memory: *const nvmeh_memory) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { look(memory) }.map_or(std::ptr::null_mut(), |m| m.data.as_ptr().cast())
}

/// The bytes of the memory; 0 if `memory` is no handle. Thread: any.
///
/// # Safety
/// `memory` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_memory_size(memory: *const nvmeh_memory) -> usize {
    // SAFETY: the caller's promise.
    unsafe { look(memory) }.map_or(0, |m| m.size)
}

/// Frees memory of the library's, or the handle of memory of the program's. No request that uses it may be
/// under way. NULL is fine. Thread: any.
///
/// # Safety
/// `memory` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_memory_free(memory: *mut nvmeh_memory) {
    // SAFETY: the caller's promise.
    unsafe { end(memory) };
}
