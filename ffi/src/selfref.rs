//! The reference that the shared object holds on itself while something of it has to run.
//!
//! Each pin, and the control thread for as long as it lives, hold a [`Token`]. The first one opens
//! the object once more with `dlopen`, so that a program may `dlclose` it meanwhile; the last one
//! gives that back. Giving it back may unmap the very code that does so, therefore it is done:
//!
//! - by the control thread, which runs our code to its end: from a detached thread that waits until
//!   the kernel has no thread of that number any more, and then *jumps* to `dlclose`, so that no
//!   frame of ours is left to return to;
//! - in `nvmeh_pin_release`, which a program may call that has no reference of its own any more: by
//!   the same jump; `dlclose` returns to the program;
//! - elsewhere the caller must have a reference of its own, so that nothing is unmapped before it
//!   has left: from a detached thread whose start is `dlclose` itself.
//!
//! glibc for its part keeps an object mapped while a thread lives that has a thread-local destructor
//! in it, and then until somebody next closes anything.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use nvme_mpath::{Keep, KeepFor};

/// Tokens that are out, and what `dlopen` gave for the first.
struct Account {
    tokens: usize,
    handle: *mut c_void,
}

// SAFETY: the handle is a name for the dynamic linker, which any thread may use.
unsafe impl Send for Account {}

static ACCOUNT: Mutex<Account> = Mutex::new(Account { tokens: 0, handle: null_mut() });

thread_local! {
    /// Whether the handle is to be left in `LEFT` instead of being closed.
    static LEAVE: Cell<bool> = const { Cell::new(false) };
    static LEFT: Cell<*mut c_void> = const { Cell::new(null_mut()) };
}

/// Keeps the object loaded until it is dropped.
struct Token {
    /// The thread that runs our code to its end after the drop, if it is not the maker itself.
    made_by: c_int,
    of_thread: bool,
}

/// What `HostOptions::keep_alive` wants.
pub(crate) fn keep(what: KeepFor) -> Keep {
    Box::new(Token::take(what == KeepFor::ControlThread))
}

fn tid() -> c_int {
    // SAFETY: no arguments, no errors.
    unsafe { libc::gettid() }
}

impl Token {
    fn take(of_thread: bool) -> Self {
        let mut account = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
        if account.tokens == 0 {
            account.handle = open_self();
        }
        account.tokens += 1;
        Self { made_by: tid(), of_thread }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let mut account = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
        account.tokens -= 1;
        if account.tokens > 0 {
            return;
        }
        let handle = std::mem::replace(&mut account.handle, null_mut());
        drop(account);
        if handle.is_null() {
            return;
        }
        if self.of_thread && self.made_by != tid() {
            close_after(handle, tid());
        } else if LEAVE.get() {
            LEFT.set(handle);
        } else {
            close_aside(handle);
        }
    }
}

/// Opens the object that this code is in once more. NULL if it is no shared object.
fn open_self() -> *mut c_void {
    #[cfg(feature = "test-hooks")]
    if std::env::var_os("NVMEH_TEST_NO_SELF_REFERENCE").is_some() {
        return null_mut();
    }
    // SAFETY: all-zero is a valid `Dl_info`.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here: fn(KeepFor) -> Keep = keep;
    // SAFETY: an address of ours, and room for the answer.
    if unsafe { libc::dladdr(here as *const c_void, &raw mut info) } == 0 {
        return null_mut();
    }
    // SAFETY: the name is the dynamic linker's, and the object is loaded, so that none of its
    // initialisers runs.
    unsafe { libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD) }
}

/// Starts a detached thread without the help of the standard library, whose threads run code of
/// this object at their end.
fn detach(start: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void) -> bool {
    // SAFETY: plain use of the interface; the attributes are initialised before they are used.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_attr_init(&raw mut attributes) != 0 {
            return false;
        }
        libc::pthread_attr_setdetachstate(&raw mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut thread: libc::pthread_t = std::mem::zeroed();
        let made = libc::pthread_create(&raw mut thread, &raw const attributes, start, argument);
        libc::pthread_attr_destroy(&raw mut attributes);
        made == 0
    }
}

/// Closes from a thread that runs nothing but `dlclose`.
fn close_aside(handle: *mut c_void) {
    type Start = extern "C" fn(*mut c_void) -> *mut c_void;
    // SAFETY: both take a pointer. What `dlclose` returns, a number in the register in which a
    // pointer is returned, is dropped with the detached thread.
    let start = unsafe {
        std::mem::transmute::<unsafe extern "C" fn(*mut c_void) -> c_int, Start>(libc::dlclose)
    };
    // Without a thread the object stays loaded, which harms nobody.
    detach(start, handle);
}

/// What [`wait_gone`] is told. Its memory is libc's, so that nothing of ours has to free it.
#[repr(C)]
struct After {
    handle: *mut c_void,
    tid: c_int,
}

/// Closes when thread `tid` of this process has ended.
fn close_after(handle: *mut c_void, tid: c_int) {
    // SAFETY: memory for one `After`, written before it is handed on.
    unsafe {
        let after = libc::malloc(size_of::<After>()).cast::<After>();
        if after.is_null() {
            return;
        }
        after.write(After { handle, tid });
        if !detach(wait_and_close, after.cast()) {
            libc::free(after.cast());
        }
    }
}

/// Waits until the thread is gone, as the kernel sees it: then it runs nothing of ours. Uses nothing
/// of the standard library, which could leave something to be done at this thread's end.
unsafe extern "C" fn wait_gone(after: *mut After) -> *mut c_void {
    // SAFETY: `close_after` wrote it, and hands it to this thread alone.
    unsafe {
        let After { handle, tid } = after.read();
        libc::free(after.cast());
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        while libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) == 0 {
            libc::nanosleep(&raw const pause, null_mut());
        }
        handle
    }
}

/// Frees a pin; what is left to be closed is the caller's.
pub(crate) fn leave_behind(f: impl FnOnce()) -> *mut c_void {
    LEAVE.set(true);
    f();
    LEAVE.set(false);
    LEFT.replace(null_mut())
}

/// The start of the thread that closes: calls, then jumps, so that nothing returns to this object.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn wait_and_close(after: *mut c_void) -> *mut c_void {
    std::arch::naked_asm!(
        "sub rsp, 8",
        "call {wait}",
        "add rsp, 8",
        "mov rdi, rax",
        "jmp qword ptr [rip + {close}@GOTPCREL]",
        wait = sym wait_gone,
        close = sym libc::dlclose,
    )
}

/// The start of the thread that closes: calls, then jumps, so that nothing returns to this object.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
extern "C" fn wait_and_close(after: *mut c_void) -> *mut c_void {
    std::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "bl {wait}",
        "ldp x29, x30, [sp], #16",
        "b {close}",
        wait = sym wait_gone,
        close = sym libc::dlclose,
    )
}

/// Elsewhere the object stays loaded once it has held itself.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
extern "C" fn wait_and_close(after: *mut c_void) -> *mut c_void {
    // SAFETY: as there.
    unsafe { wait_gone(after.cast()) };
    null_mut()
}
