//! A channel: the I/O of one thread.
//!
//! A callback is called with nothing borrowed, so that it may call everything: completions are first
//! taken out of the channel, then handed out one by one. A channel that is closed by a callback ends
//! when the outermost call on it returns.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::cell::{Cell, RefCell, RefMut};
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use crate::completion::nvmeh_completion;
use crate::error::{Error, Result, tell};
use crate::host::nvmeh_host;
use crate::in_flight::State;
use crate::object::{Header, Object, duration, end, enter, give_to, look};
use crate::options::{Settings, nvmeh_options, settings, wrong_kind};
use crate::pins::put_list;

/// The I/O of one thread. Thread: the one that made it, or that nvmeh_channel_adopt() named last; a
/// build with debug assertions answers others with -EPERM, a release build does not look.
pub struct nvmeh_channel {
    header: Header,
    state: RefCell<State>,
    owner: Cell<libc::pthread_t>,
    /// Calls that hand out completions, one within the other.
    depth: Cell<u32>,
    /// To be freed when the outermost of them returns.
    doomed: Cell<bool>,
}

impl Object for nvmeh_channel {
    const MAGIC: u32 = 0x6e76_6368;
    const WHAT: &'static str = "nvmeh_channel";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl nvmeh_channel {
    fn check_thread(&self) -> Result<()> {
        // SAFETY: no arguments, no errors.
        if cfg!(debug_assertions) && self.owner.get() != unsafe { libc::pthread_self() } {
            let text = "this channel belongs to another thread: nvmeh_channel_adopt()";
            return Err(Error::new(libc::EPERM, text));
        }
        Ok(())
    }

    /// The state, for a moment in which nothing is called back.
    pub(crate) fn state(&self) -> Result<RefMut<'_, State>> {
        self.check_thread()?;
        self.state.try_borrow_mut().map_err(|_| {
            Error::new(libc::EBUSY, "this channel is being used further up on this stack")
        })
    }

    /// Calls back for at most `most` requests that have ended. Returns for how many.
    fn tell(&self, most: usize) -> Result<usize> {
        let mut count = 0;
        while count < most || self.doomed.get() {
            let Some(finished) = self.state()?.told.pop_front() else { break };
            count += 1;
            if let Some(callback) = finished.callback {
                let arg = finished.completion.arg;
                // SAFETY: the program gave the function for this; nothing is borrowed.
                unsafe { callback(&raw const finished.completion, arg) };
            }
        }
        Ok(count)
    }
}

/// A call that hands out completions. The channel is freed behind it if a callback closed it.
///
/// # Safety
/// `ptr` is NULL or a handle.
unsafe fn hand_out(
    ptr: *mut nvmeh_channel,
    f: impl FnOnce(&nvmeh_channel) -> Result<usize>,
) -> c_int {
    let mut free = false;
    // SAFETY: the caller's promise.
    let answer = unsafe {
        enter(ptr, |c| {
            c.check_thread()?;
            c.depth.set(c.depth.get() + 1);
            let answer = f(c);
            c.depth.set(c.depth.get() - 1);
            free = c.doomed.get() && c.depth.get() == 0;
            Ok(answer?.min(c_int::MAX as usize) as c_int)
        })
    };
    if free {
        // SAFETY: as above; nobody is in it any more.
        unsafe { end(ptr) };
    }
    answer
}

/// Makes a channel. `options`: of NVMEH_OPTIONS_CHANNEL, or NULL. It belongs to this thread.
///
/// Returns 0, -EFAULT, -EINVAL (options of another kind), -ENFILE, -ESHUTDOWN, -EBADF, -ECHILD.
/// Thread: any. Owner: the caller; nvmeh_channel_destroy(), before or after the host.
///
/// # Safety
/// The pointers are NULL, or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_new(
    host: *mut nvmeh_host,
    options: *const nvmeh_options,
    out: *mut *mut nvmeh_channel,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if out.is_null() {
                return Err(Error::null("out"));
            }
            let options = match settings(options)? {
                None => nvme_mpath::ChannelOptions::default(),
                Some(Settings::Channel(options)) => options,
                Some(_) => return Err(wrong_kind("channel")),
            };
            let state = State::new(h.host.channel(options)?);
            let channel = nvmeh_channel {
                header: Header::new::<nvmeh_channel>(),
                state: RefCell::new(state),
                owner: Cell::new(libc::pthread_self()),
                depth: Cell::new(0),
                doomed: Cell::new(false),
            };
            give_to(out, channel);
            Ok(0)
        })
    }
}

/// Makes the channel this thread's. The thread that had it must not be in it, and its use must have
/// happened before (a lock, a join).
///
/// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_adopt(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            c.owner.set(libc::pthread_self());
            Ok(0)
        })
    }
}

/// The descriptor to wait on for reading, in epoll, poll or any event loop, after
/// nvmeh_channel_arm() returned 1. It is the same for the life of the channel. Not to be read or
/// closed.
///
/// Returns the descriptor, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_fd(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(channel, |c| Ok(c.state()?.channel()?.as_fd().as_raw_fd())) }
}

/// Gets ready to sleep: sends what was submitted and sets the channel's timer.
///
/// Returns 1: sleep on nvmeh_channel_fd() until it is readable, then poll; 0: poll now, there is
/// something to do already; or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_arm(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            let mut state = c.state()?;
            let waiting = !state.told.is_empty() || !state.quiet.is_empty();
            Ok(c_int::from(!waiting && state.channel()?.prepare_to_sleep()))
        })
    }
}

/// Sleeps until polling is worth while, for at most `timeout_ms`. For programs without an event loop.
///
/// Returns 0, -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_wait(channel: *mut nvmeh_channel, timeout_ms: u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            let mut state = c.state()?;
            if state.told.is_empty() && state.quiet.is_empty() {
                state.channel()?.wait(duration(timeout_ms));
            }
            Ok(0)
        })
    }
}

/// Makes progress: sends, receives, and calls back for at most `max` requests that have ended (0: for
/// all). Never blocks. Requests without a callback are kept for nvmeh_channel_reap().
///
/// Returns how many were called back for, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread:
/// the channel's; from within a callback, too.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_poll(channel: *mut nvmeh_channel, max: u32) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        hand_out(channel, |c| {
            c.state()?.take_done()?;
            c.tell(if max == 0 { usize::MAX } else { max as usize })
        })
    }
}

/// Makes progress as nvmeh_channel_poll() does, callbacks included, and takes at most `count` requests
/// out that ended and have no callback. The entries lie `out[0].size` bytes apart.
///
/// Returns how many were taken out, or -ESHUTDOWN, -EPERM, -EFAULT, -EINVAL (`size`), -EBADF,
/// -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle, `out` has room for `count` entries of the size that it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_reap(
    channel: *mut nvmeh_channel,
    out: *mut nvmeh_completion,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        hand_out(channel, |c| {
            c.state()?.take_done()?;
            c.tell(usize::MAX)?;
            let mut state = c.state()?;
            let count = count.min(state.quiet.len());
            put_list(out, count, state.quiet.iter().copied())?;
            state.quiet.drain(..count);
            Ok(count)
        })
    }
}

/// Sends what was submitted, without polling. nvmeh_channel_poll() and nvmeh_channel_arm() do it,
/// too. (The NVMe command is nvmeh_submit_flush().)
///
/// Returns 0, -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_kick(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            c.state()?.channel()?.flush();
            Ok(0)
        })
    }
}

/// Cancels one request. One that waits (for a path, for room, for a retry) ends with -ECANCELED at
/// the next poll. One that a controller has is aborted (not where the options on_timeout_reads and
/// on_timeout_writes say reset). It is given back when its answer comes or its connection is gone, and
/// not before: its memory may be in use. If the controller has aborted it, that is -ECANCELED; if it had
/// done it, or does not abort, its own answer. It is not sent again. A write that was cancelled while its
/// outcome was open, or was aborted, says so: NVMEH_OUTCOME_UNKNOWN.
///
/// Returns 1: it will end as told; 0: it has ended already, or was cancelled before; or -ESHUTDOWN,
/// -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's; from within a callback, too.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_cancel(channel: *mut nvmeh_channel, id: u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            let mut state = c.state()?;
            let known = state.knows(id);
            let channel = state.channel()?;
            Ok(c_int::from(known && channel.cancel(id) > 0))
        })
    }
}

/// Cancels all requests, as nvmeh_channel_cancel() does one.
///
/// Returns how many, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_cancel_all(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(channel, |c| Ok(c.state()?.channel()?.cancel_all() as c_int)) }
}

/// Requests under way: submitted, and not called back for nor reaped.
///
/// Returns the number, or -ESHUTDOWN, -EPERM, -EFAULT, -EBADF, -ECHILD. Thread: the channel's.
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_in_flight(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(channel, |c| {
            let mut state = c.state()?;
            let told = state.told.len() + state.quiet.len();
            Ok((state.channel()?.in_flight() + told) as c_int)
        })
    }
}

/// Requests that wait for a path. Returns and thread: as nvmeh_channel_in_flight().
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_parked(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(channel, |c| Ok(c.state()?.channel()?.parked() as c_int)) }
}

/// Writes that are held: until a controller that was lost with them is certain not to execute them any
/// more, or until a held write to the same blocks has ended (the option `fence`). Returns and thread: as
/// nvmeh_channel_in_flight().
///
/// # Safety
/// `channel` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_held(channel: *mut nvmeh_channel) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(channel, |c| Ok(c.state()?.channel()?.held() as c_int)) }
}

/// Closes a channel. Requests under way are called back for with -ECANCELED before it returns, those
/// that write with NVMEH_OUTCOME_UNKNOWN; when it returns, nothing touches their memory any more, but
/// for those with NVMEH_MEMORY_KEPT.
/// Requests without a callback are not told of. From within a callback of the channel it closes it
/// and returns; the rest is called back for when that callback has returned. NULL is fine.
///
/// What a controller on a PCI bus has is cancelled first, as by nvmeh_channel_cancel_all(), and waited
/// for: until it has been aborted, or the controller has been reset, which it is after io_timeout. It
/// may end as it would have without that. For a device that does not stop then, this waits no longer than
/// five seconds: what it has is called back for with NVMEH_MEMORY_KEPT, and its memory stays the device's.
/// Otherwise this does not block.
///
/// Thread: the channel's (a debug build leaves it alone on another, and says so by
/// nvmeh_last_error()). In the child of a fork nothing but the handle ends.
///
/// # Safety
/// `channel` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_channel_destroy(channel: *mut nvmeh_channel) {
    if channel.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    match unsafe { look(channel) } {
        Err(error) if error.errno == libc::EBADF => {
            tell(&error);
            return;
        }
        // A child of a fork, or an object that failed: only the end.
        Err(_) => {
            // SAFETY: the caller's promise.
            unsafe { end(channel) };
            return;
        }
        Ok(_) => {}
    }
    // SAFETY: the caller's promise.
    unsafe {
        hand_out(channel, |c| {
            c.state()?.close();
            c.doomed.set(true);
            if c.depth.get() == 1 { c.tell(usize::MAX) } else { Ok(0) }
        })
    };
}

/// For the statistics.
pub(crate) unsafe fn with_state(
    channel: *const nvmeh_channel,
    f: impl FnOnce(&State) -> Result<c_int>,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { enter(channel, |c| f(&*c.state()?)) }
}
