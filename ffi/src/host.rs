//! The host.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use nvme_mpath::core::nqn::{Nqn, Uuid};
use nvme_mpath::{DelayedRemoval, Host, HostOptions, LossCause, MonotonicClock, Window};
use nvme_pci::{PciTransport, Uio, Vfio, VfioUser};
use nvme_tcp::TcpTransport;

use crate::controller::nvmeh_controller;
use crate::error::{Error, Result};
use crate::head::nvmeh_head;
use crate::object::{
    Header, Object, duration, end, enter, give, give_to, plain, text, watch_forks,
};
use crate::options::{
    HostSettings, Settings, nvmeh_options, settings, window, window_ms, wrong_kind,
};

/// The controller was lost and given up.
pub const NVMEH_CAUSE_LINK_LOST: c_int = 1;
/// The program disconnected the controller.
pub const NVMEH_CAUSE_DISCONNECTED: c_int = 2;
/// The target deleted or detached the namespace.
pub const NVMEH_CAUSE_NAMESPACE_GONE: c_int = 3;
/// Where a cause is asked for: link lost and disconnected.
pub const NVMEH_CAUSE_DEFAULT: c_int = 0;

/// A host: what a program makes first and shuts down last. Thread: any, several at once.
///
/// What outlives what: heads, controllers, channels, events, pins may be freed before or after the
/// host, in any order.
pub struct nvmeh_host {
    header: Header,
    pub(crate) host: Host,
    pub(crate) clock: Arc<MonotonicClock>,
}

impl Object for nvmeh_host {
    const MAGIC: u32 = 0x6e76_686f;
    const WHAT: &'static str = "nvmeh_host";

    fn header(&self) -> &Header {
        &self.header
    }
}

pub(crate) const fn cause_number(cause: LossCause) -> c_int {
    match cause {
        LossCause::LinkLost => NVMEH_CAUSE_LINK_LOST,
        LossCause::Disconnected => NVMEH_CAUSE_DISCONNECTED,
        LossCause::NamespaceGone => NVMEH_CAUSE_NAMESPACE_GONE,
        _ => NVMEH_CAUSE_DEFAULT,
    }
}

/// The windows with that of `cause` changed.
pub(crate) fn with_window(
    mut windows: DelayedRemoval,
    cause: c_int,
    to: Window,
) -> Result<DelayedRemoval> {
    match cause {
        NVMEH_CAUSE_DEFAULT => (windows.link_lost, windows.disconnected) = (to, to),
        NVMEH_CAUSE_LINK_LOST => windows.link_lost = to,
        NVMEH_CAUSE_DISCONNECTED => windows.disconnected = to,
        NVMEH_CAUSE_NAMESPACE_GONE => windows.namespace_gone = to,
        _ => return Err(no_cause(cause)),
    }
    Ok(windows)
}

pub(crate) fn window_of(windows: &DelayedRemoval, cause: c_int) -> Result<u64> {
    Ok(window_ms(match cause {
        NVMEH_CAUSE_DEFAULT | NVMEH_CAUSE_LINK_LOST => windows.link_lost,
        NVMEH_CAUSE_DISCONNECTED => windows.disconnected,
        NVMEH_CAUSE_NAMESPACE_GONE => windows.namespace_gone,
        _ => return Err(no_cause(cause)),
    }))
}

fn no_cause(cause: c_int) -> Error {
    Error::invalid(format!("{cause} is no cause of a loss: NVMEH_CAUSE_*"))
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0u8; 16];
    // SAFETY: room for 16 bytes, which come at once and whole, once the system is up.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    (got == 16).then_some(bytes).ok_or_else(|| Error::new(libc::ENFILE, "no random numbers"))
}

fn make(settings: HostSettings) -> Result<nvmeh_host> {
    let id = match settings.hostid {
        Some(id) => id,
        None => Uuid::from_random(random()?),
    };
    let mut options = HostOptions::new(id)
        .transport(TcpTransport::new())
        .transport(PciTransport::new(Vfio::new()))
        .transport(PciTransport::new(Uio::new()))
        .transport(PciTransport::new(VfioUser::new()));
    if let Some(nqn) = settings.hostnqn {
        options.hostnqn = nqn;
    }
    if let Some(seed) = settings.seed {
        options.seed = seed;
    }
    options.policy = settings.policy;
    options.fence = settings.fence;
    options.quirks = settings.quirks.1;
    options.numa = settings.numa.map(|(_, topology)| topology);
    options.control_thread = settings.control_thread;
    options.delayed_removal = settings.windows;
    options.keep_alive = Some(Arc::new(crate::selfref::keep));
    let clock = Arc::new(MonotonicClock::new());
    options.clock = Arc::<MonotonicClock>::clone(&clock);
    watch_forks();
    let host = Host::new(options)?;
    Ok(nvmeh_host { header: Header::new::<nvmeh_host>(), host, clock })
}

/// Makes a host. `options`: of NVMEH_OPTIONS_HOST, or NULL for all defaults. Unless told otherwise
/// the library runs one thread for each host, which never calls back.
///
/// Returns 0, -EFAULT, -EINVAL (options of another kind), -EBADF, -ENFILE. Thread: any. Owner: the
/// caller; nvmeh_host_shutdown(), then nvmeh_host_destroy().
///
/// # Safety
/// `options` is NULL or a handle, `out` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_new(
    options: *const nvmeh_options,
    out: *mut *mut nvmeh_host,
) -> c_int {
    plain(|| {
        if out.is_null() {
            return Err(Error::null("out"));
        }
        // SAFETY: the caller's promise.
        let settings = match unsafe { settings(options) }? {
            None => HostSettings::default(),
            Some(Settings::Host(settings)) => settings,
            Some(_) => return Err(wrong_kind("host")),
        };
        let host = make(settings)?;
        // SAFETY: checked above.
        unsafe { give_to(out, host) };
        Ok(0)
    })
}

/// Begins to connect to the controller at `url`, such as
/// "tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub", "vfio://0000:01:00.0", "uio://0000:01:00.0",
/// "vfio-user:///run/nvme.sock". Returns at once; nvmeh_controller_wait_ready() waits, events tell.
/// `options`: of NVMEH_OPTIONS_CONTROLLER, or NULL. `out` may be NULL.
///
/// Returns 0; -EPROTONOSUPPORT: no such scheme (the error lists those that exist); -EINVAL: the URL
/// or the options cannot be used; -ESHUTDOWN, -EFAULT, -EBADF, -ECHILD. Thread: any. Owner of the
/// handle: the caller; nvmeh_controller_free(), which does not disconnect.
///
/// # Safety
/// The pointers are NULL, or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_connect(
    host: *mut nvmeh_host,
    url: *const c_char,
    options: *const nvmeh_options,
    out: *mut *mut nvmeh_controller,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let options = match settings(options)? {
                None => nvme_mpath::ControllerOptions::default(),
                Some(Settings::Controller(options)) => options,
                Some(_) => return Err(wrong_kind("controller")),
            };
            let controller = h.host.connect(text(url, "the URL")?, options)?;
            if !out.is_null() {
                give_to(out, nvmeh_controller::new(controller));
            }
            Ok(0)
        })
    }
}

/// Finds the head of a namespace. `subnqn` may be NULL: of whatever subsystem. Waits for it for at
/// most `timeout_ms`, 0: not at all.
///
/// Returns 0, -ENOENT (not there), -ETIMEDOUT, -EINVAL (no NQN), -EFAULT, -EBADF, -ECHILD. Thread:
/// any. Owner: the caller; nvmeh_head_free().
///
/// # Safety
/// The pointers are NULL, or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_head(
    host: *mut nvmeh_host,
    subnqn: *const c_char,
    nsid: u32,
    timeout_ms: u64,
    out: *mut *mut nvmeh_head,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if out.is_null() {
                return Err(Error::null("out"));
            }
            let head = if subnqn.is_null() {
                h.host.wait_any_head(nsid, duration(timeout_ms))
            } else {
                let nqn = Nqn::new(text(subnqn, "the subsystem's NQN")?);
                let nqn = nqn.map_err(|e| Error::invalid(e.to_string()))?;
                h.host.wait_head(&nqn, nsid, duration(timeout_ms))
            };
            let head = match head {
                Ok(head) => head,
                Err(_) if timeout_ms == 0 => {
                    return Err(Error::new(libc::ENOENT, format!("no namespace {nsid} is there")));
                }
                Err(error) => return Err(error.into()),
            };
            give_to(out, nvmeh_head::new(head));
            Ok(0)
        })
    }
}

/// Lists the heads that are not gone, oldest first: at most `count` handles.
///
/// Returns how many there are, or -EFAULT, -EBADF, -ECHILD. Thread: any. Owner of each handle: the
/// caller; nvmeh_head_free().
///
/// # Safety
/// `heads` has room for `count` handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_heads(
    host: *mut nvmeh_host,
    heads: *mut *mut nvmeh_head,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if heads.is_null() && count > 0 {
                return Err(Error::null("array"));
            }
            let list = h.host.heads();
            for (at, head) in list.iter().take(count).enumerate() {
                heads.add(at).write(give(nvmeh_head::new(Arc::clone(head))));
            }
            Ok(list.len() as c_int)
        })
    }
}

/// Lists the controllers that are not gone for good: at most `count` handles.
///
/// Returns how many there are, or -EFAULT, -EBADF, -ECHILD. Thread: any. Owner of each handle: the
/// caller; nvmeh_controller_free().
///
/// # Safety
/// `controllers` has room for `count` handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_controllers(
    host: *mut nvmeh_host,
    controllers: *mut *mut nvmeh_controller,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if controllers.is_null() && count > 0 {
                return Err(Error::null("array"));
            }
            let list = h.host.controllers();
            let total = list.len();
            for (at, controller) in list.into_iter().take(count).enumerate() {
                controllers.add(at).write(give(nvmeh_controller::new(controller)));
            }
            Ok(total as c_int)
        })
    }
}

/// Sets how long heads that are made from now on outlive their last path, in milliseconds: 0: not at
/// all; NVMEH_FOREVER: without end. `cause`: NVMEH_CAUSE_*, NVMEH_CAUSE_DEFAULT for the first two.
///
/// Returns 0, -EINVAL (no such cause), -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_set_delayed_removal(
    host: *mut nvmeh_host,
    cause: c_int,
    ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let windows = with_window(h.host.delayed_removal(), cause, window(ms))?;
            h.host.set_delayed_removal(windows);
            Ok(0)
        })
    }
}

/// Reads what nvmeh_host_set_delayed_removal() sets.
///
/// Returns 0, -EINVAL, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle, `ms` NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_delayed_removal(
    host: *const nvmeh_host,
    cause: c_int,
    ms: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let value = window_of(&h.host.delayed_removal(), cause)?;
            if ms.is_null() {
                return Err(Error::null("ms"));
            }
            ms.write(value);
            Ok(0)
        })
    }
}

/// Shuts the host down: disconnects all controllers, removes all heads, ends the library's thread.
/// Requests that are under way fail with -ESHUTDOWN when their channel is next polled. The handle
/// stays valid, and is to be destroyed.
///
/// Returns 0; -EBUSY: pins are out, nothing was done (nvmeh_pin_holders() says who holds them, and so
/// does nvmeh_last_error()); -EFAULT, -EBADF, -ECHILD. Blocks for as long as controllers take to say
/// goodbye, which is bounded. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_shutdown(host: *mut nvmeh_host) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            h.host.shutdown()?;
            Ok(0)
        })
    }
}

/// Shuts the host down although pins are out: removals that are pending are carried out, requests
/// that wait for a path fail, and it returns when no pin is out any more. Waits for devices to stop, and
/// for pins of the program's own, for at most `timeout_ms`.
///
/// Returns 0; -EBUSY: the program still holds pins, the rest was done; -ETIMEDOUT: devices have not stopped
/// by then, all else was done, and the memory that they reach stays theirs; -EFAULT, -EBADF, -ECHILD.
/// Thread: any.
///
/// # Safety
/// `host` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_shutdown_forced(
    host: *mut nvmeh_host,
    timeout_ms: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            h.host.shutdown_forced(duration(timeout_ms))?;
            Ok(0)
        })
    }
}

/// Gives the handle of a host up. NULL is fine. Without a shutdown before, the host goes on by itself
/// until no pin is out and no channel is open, and then ends; one that the program drives ends at
/// once. In the child of a fork, nothing but the handle ends.
///
/// Thread: any.
///
/// # Safety
/// `host` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_destroy(host: *mut nvmeh_host) {
    // SAFETY: the caller's promise.
    unsafe { end(host) };
}
