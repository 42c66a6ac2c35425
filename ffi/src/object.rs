//! What all objects have in common: the check of a handle, the catching of panics, the end.
//!
//! The memory of an object that was freed is kept for a while ([`KEPT`] objects), marked as dead, so
//! that a handle that is used or freed once more is found out. This is best effort: after that many
//! other objects have been freed, nothing can be said.

use std::alloc::Layout;
use std::any::Any;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result, tell};

/// Objects that were freed and whose memory is kept.
const KEPT: usize = 256;

const DEAD: u32 = 0xdead_0b1e;

/// Times that this process was made by a fork: objects of before belong to the parent.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The part of an object that stays readable after its end.
pub(crate) struct Header {
    magic: AtomicU32,
    poisoned: AtomicBool,
    forks: u32,
}

impl Header {
    pub(crate) fn new<T: Object>() -> Self {
        Self {
            magic: AtomicU32::new(T::MAGIC),
            poisoned: AtomicBool::new(false),
            forks: FORKS.load(Ordering::Relaxed),
        }
    }
}

/// Something that C has a handle of.
pub(crate) trait Object: Sized {
    /// Tells the kinds apart.
    const MAGIC: u32;
    /// What it is called.
    const WHAT: &'static str;

    fn header(&self) -> &Header;
}

/// Gives C a handle of a new object.
pub(crate) fn give<T: Object>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}

/// Gives C a handle by an out parameter.
///
/// # Safety
/// `out` is valid for a write.
pub(crate) unsafe fn give_to<T: Object>(out: *mut *mut T, object: T) {
    // SAFETY: the caller's promise.
    unsafe { out.write(give(object)) };
}

/// The object of a handle, if it is one.
///
/// # Safety
/// `ptr` is NULL, or was given out by this library as a `T`.
pub(crate) unsafe fn look<'a, T: Object>(ptr: *const T) -> Result<&'a T> {
    if ptr.is_null() {
        return Err(Error::null(T::WHAT));
    }
    // SAFETY: the memory of an object is kept for a while after its end, and its header has no
    // destructor.
    let object = unsafe { &*ptr };
    let header = object.header();
    if header.magic.load(Ordering::Relaxed) != T::MAGIC {
        let text = format!("this {} was freed, or never was one", T::WHAT);
        return Err(Error::new(libc::EBADF, text));
    }
    if header.forks != FORKS.load(Ordering::Relaxed) {
        let text = format!("this {} belongs to the parent process", T::WHAT);
        return Err(Error::new(libc::ECHILD, text));
    }
    if header.poisoned.load(Ordering::Relaxed) {
        let text = format!("the library has failed inside this {}: only free it", T::WHAT);
        return Err(Error::new(libc::ENOTRECOVERABLE, text));
    }
    Ok(object)
}

/// An entry about an object: checks the handle, runs `f`, keeps the error. A panic is an error, and
/// the object refuses everything from then on.
///
/// # Safety
/// As for [`look`].
pub(crate) unsafe fn enter<T: Object>(ptr: *const T, f: impl FnOnce(&T) -> Result<c_int>) -> c_int {
    // SAFETY: the caller's promise.
    let object = match unsafe { look(ptr) } {
        Ok(object) => object,
        Err(error) => return tell(&error),
    };
    match catch_unwind(AssertUnwindSafe(|| f(object))) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => tell(&error),
        Err(panic) => {
            object.header().poisoned.store(true, Ordering::Relaxed);
            tell(&failed(&*panic))
        }
    }
}

/// An entry about no object.
pub(crate) fn plain(f: impl FnOnce() -> Result<c_int>) -> c_int {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => tell(&error),
        Err(panic) => tell(&failed(&*panic)),
    }
}

fn failed(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = format!("the library failed: {}", text.unwrap_or("for no stated reason"));
    Error::new(libc::ENOTRECOVERABLE, text)
}

/// Ends an object. NULL, and one that was freed, is left alone; in the child of a fork nothing but
/// the handle ends.
///
/// # Safety
/// As for [`look`].
pub(crate) unsafe fn end<T: Object>(ptr: *mut T) {
    if ptr.is_null() {
        return;
    }
    // SAFETY: as in `look`.
    let header = unsafe { (*ptr).header() };
    let died = header.magic.compare_exchange(T::MAGIC, DEAD, Ordering::AcqRel, Ordering::Relaxed);
    if died.is_err() {
        let text = format!("this {} was freed before, or never was one", T::WHAT);
        tell(&Error::new(libc::EBADF, text));
        return;
    }
    if header.forks != FORKS.load(Ordering::Relaxed) {
        // What is inside belongs to the parent, down to the connections.
        return;
    }
    // SAFETY: it was made by `give`, and the exchange above makes this the one end of it. The
    // header keeps what was stored in it: it has no destructor.
    let ended = catch_unwind(AssertUnwindSafe(|| unsafe { ptr.drop_in_place() }));
    if let Err(panic) = ended {
        tell(&failed(&*panic));
    }
    keep(ptr.cast(), Layout::new::<T>());
}

/// Memory of objects that were freed.
struct Grave(VecDeque<(*mut u8, Layout)>);

// SAFETY: only addresses, and nobody else has them.
unsafe impl Send for Grave {}

static GRAVES: Mutex<Grave> = Mutex::new(Grave(VecDeque::new()));

fn keep(ptr: *mut u8, layout: Layout) {
    let mut graves = GRAVES.lock().unwrap_or_else(PoisonError::into_inner);
    graves.0.push_back((ptr, layout));
    if graves.0.len() > KEPT
        && let Some((ptr, layout)) = graves.0.pop_front()
    {
        // SAFETY: `ptr` came from a `Box` of this layout, whose contents were dropped.
        unsafe { std::alloc::dealloc(ptr, layout) };
    }
}

/// Runs when the shared object is unloaded, and at the end of the process.
extern "C" fn unload() {
    let Ok(mut graves) = GRAVES.try_lock() else { return };
    for (ptr, layout) in std::mem::take(&mut graves.0) {
        // SAFETY: as in `keep`.
        unsafe { std::alloc::dealloc(ptr, layout) };
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static UNLOAD: extern "C" fn() = unload;

/// Asks to be told of forks.
pub(crate) fn watch_forks() {
    extern "C" fn in_child() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only adds to a number. It is taken off when the object is unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// A text that C gave.
///
/// # Safety
/// `ptr` is NULL or a text with an end, unchanged while the result is used.
pub(crate) unsafe fn text<'a>(ptr: *const c_char, what: &str) -> Result<&'a str> {
    if ptr.is_null() {
        return Err(Error::null(what));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(ptr) };
    text.to_str().map_err(|_| Error::invalid(format!("{what} is no UTF-8 text")))
}

/// Writes a text for C into `room`, cut if need be. Returns the bytes that it needs, without its end.
///
/// # Safety
/// `buf` is NULL or valid for writes of `room` bytes.
pub(crate) unsafe fn put_text(text: &str, buf: *mut c_char, room: usize) -> Result<c_int> {
    if room > 0 {
        if buf.is_null() {
            return Err(Error::null("buffer"));
        }
        let len = text.len().min(room - 1);
        // SAFETY: the caller's promise; `len` + 1 is at most `room`.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), buf.cast(), len);
            buf.add(len).write(0);
        }
    }
    c_int::try_from(text.len()).map_err(|_| Error::new(libc::EOVERFLOW, "a text without measure"))
}

/// A structure that C gives room for. Its first member is its size in bytes as C knows it.
///
/// # Safety
/// `repr(C)`, first member a `usize`, every bit pattern valid.
pub(crate) unsafe trait Sizable: Copy {}

/// Fills a structure of C's, as much of it as C knows; its size becomes what was written.
///
/// # Safety
/// `out` is NULL, or valid for reads of a `usize`, and for writes of as many bytes as that says.
pub(crate) unsafe fn put<T: Sizable>(out: *mut T, value: &T) -> Result<()> {
    if out.is_null() {
        return Err(Error::null("structure"));
    }
    // SAFETY: the caller's promise.
    let room = unsafe { out.cast::<usize>().read() };
    if room < size_of::<usize>() * 2 {
        let text = format!("a structure of size {room}: its first member must say its size");
        return Err(Error::invalid(text));
    }
    let len = room.min(size_of::<T>());
    // SAFETY: the caller's promise; `len` is within both.
    unsafe {
        std::ptr::copy_nonoverlapping(std::ptr::from_ref(value).cast::<u8>(), out.cast(), len);
        out.cast::<usize>().write(len);
    }
    Ok(())
}

/// Takes in a structure that C filled: what C does not know is 0. `least` bytes must be there; of what this
/// version does not know, nothing may be set.
///
/// # Safety
/// `from` is NULL, or valid for reads of a `usize`, and of as many bytes as that says.
pub(crate) unsafe fn take<T: Sizable>(from: *const T, what: &str, least: usize) -> Result<T> {
    if from.is_null() {
        return Err(Error::null(what));
    }
    // SAFETY: the caller's promise.
    let room = unsafe { from.cast::<usize>().read() };
    if room < least || room > 1 << 16 {
        let text = format!("{what} of size {room}: its first member must say its size");
        return Err(Error::invalid(text));
    }
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let len = room.min(size_of::<T>());
    // SAFETY: the caller's promise; `len` is within both; all zeroes are a valid `T`.
    unsafe {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast(), len);
        let more = std::slice::from_raw_parts(from.cast::<u8>().add(len), room - len);
        if more.iter().any(|byte| *byte != 0) {
            let text = format!("{what} has a member set that this version does not know");
            return Err(Error::new(libc::EOPNOTSUPP, text));
        }
        Ok(value.assume_init())
    }
}

/// A text in an array of fixed length, cut if need be, with an end.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    let room = out.iter_mut().take(N - 1);
    room.zip(text.as_bytes()).for_each(|(to, from)| *to = *from as c_char);
    out
}

/// Milliseconds, [`NVMEH_FOREVER`](crate::NVMEH_FOREVER) for no end.
pub(crate) fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The time that C named.
pub(crate) fn duration(ms: u64) -> std::time::Duration {
    if ms == u64::MAX { std::time::Duration::MAX } else { std::time::Duration::from_millis(ms) }
}
