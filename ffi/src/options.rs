//! Sets of options. What each is called and takes is in `option_table`.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvme_mpath::core::nqn::{Nqn, Uuid};
use nvme_mpath::core::quirk::QuirkRule;
use nvme_mpath::{
    ChannelOptions, ControllerOptions, DelayedRemoval, Fence, NumaTopology, PathPolicy, Window,
};

use crate::error::{Error, Result};
use crate::object::{Header, Object, end, enter, give_to, plain, put_text, text};
use crate::option_table::{Value, find};

/// Options of a host.
pub const NVMEH_OPTIONS_HOST: c_int = 1;
/// Options of a connection to a controller.
pub const NVMEH_OPTIONS_CONTROLLER: c_int = 2;
/// Options of a channel.
pub const NVMEH_OPTIONS_CHANNEL: c_int = 3;

/// A time without end, wherever a time in milliseconds is asked for.
pub const NVMEH_FOREVER: u64 = u64::MAX;

/// What is needed to make a host.
#[derive(Clone, Debug)]
pub(crate) struct HostSettings {
    pub(crate) hostnqn: Option<Nqn>,
    pub(crate) hostid: Option<Uuid>,
    pub(crate) control_thread: bool,
    pub(crate) windows: DelayedRemoval,
    pub(crate) seed: Option<u64>,
    pub(crate) policy: PathPolicy,
    pub(crate) fence: Fence,
    /// As they were given, and what they mean.
    pub(crate) quirks: (String, Vec<QuirkRule>),
    pub(crate) numa: Option<(String, NumaTopology)>,
}

impl Default for HostSettings {
    fn default() -> Self {
        let windows = DelayedRemoval::OFF;
        let policy = PathPolicy::RoundRobin;
        let (hostnqn, hostid, seed, fence) = (None, None, None, Fence::Auto);
        let (control_thread, quirks, numa) = (true, Default::default(), None);
        Self { hostnqn, hostid, control_thread, windows, seed, policy, fence, quirks, numa }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Settings {
    Host(HostSettings),
    Controller(ControllerOptions),
    Channel(ChannelOptions),
}

/// A set of options, of one of the kinds NVMEH_OPTIONS_*. May be used any number of times; a change
/// does not touch what was made with it before. Thread: any, one at a time or several.
pub struct nvmeh_options {
    header: Header,
    settings: Mutex<Settings>,
}

impl Object for nvmeh_options {
    const MAGIC: u32 = 0x6e76_6f70;
    const WHAT: &'static str = "nvmeh_options";

    fn header(&self) -> &Header {
        &self.header
    }
}

impl nvmeh_options {
    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings of a handle that may be NULL; `None` then.
///
/// # Safety
/// `ptr` is NULL or a handle.
pub(crate) unsafe fn settings(ptr: *const nvmeh_options) -> Result<Option<Settings>> {
    if ptr.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    Ok(Some(unsafe { crate::object::look(ptr) }?.lock().clone()))
}

pub(crate) fn wrong_kind(wanted: &str) -> Error {
    Error::invalid(format!("these are no options of a {wanted}"))
}

/// The window that a time in milliseconds means.
pub(crate) fn window(ms: u64) -> Window {
    match ms {
        NVMEH_FOREVER => Window::Forever,
        0 => Window::None,
        _ => Window::For(Duration::from_millis(ms)),
    }
}

/// The time in milliseconds that a window is.
pub(crate) fn window_ms(window: Window) -> u64 {
    match window {
        Window::None => 0,
        Window::For(d) => crate::object::millis(d).max(1),
        Window::Forever => NVMEH_FOREVER,
    }
}

/// # Safety
/// `name` is NULL or a text.
unsafe fn set(o: *mut nvmeh_options, name: *const c_char, value: Result<Value>) -> c_int {
    // SAFETY: the entry's promise.
    unsafe {
        enter(o, |o| {
            let name = text(name, "the option's name")?;
            let mut settings = o.lock();
            let spec = find(&settings, name)?;
            let value = value?;
            (spec.set)(&mut settings, &value)
                .map_err(|why| Error::invalid(format!("option {name}: {why}")))?;
            Ok(0)
        })
    }
}

/// Makes a set of options with all defaults. `kind`: NVMEH_OPTIONS_*.
///
/// Returns 0, -EINVAL (no such kind), -EFAULT. Thread: any. Owner: the caller;
/// nvmeh_options_free().
///
/// # Safety
/// `out` is NULL or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_options_new(kind: c_int, out: *mut *mut nvmeh_options) -> c_int {
    plain(|| {
        if out.is_null() {
            return Err(Error::null("out"));
        }
        let settings = match kind {
            NVMEH_OPTIONS_HOST => Settings::Host(HostSettings::default()),
            NVMEH_OPTIONS_CONTROLLER => Settings::Controller(ControllerOptions::default()),
            NVMEH_OPTIONS_CHANNEL => Settings::Channel(ChannelOptions::default()),
            _ => return Err(Error::invalid(format!("{kind} is no kind of options: 1 to 3"))),
        };
        let header = Header::new::<nvmeh_options>();
        // SAFETY: checked above.
        unsafe { give_to(out, nvmeh_options { header, settings: Mutex::new(settings) }) };
        Ok(0)
    })
}

/// Sets an option by name, from a text: a number; "on" or "off"; a time in milliseconds or
/// "forever"; an NQN; a UUID.
///
/// Host: hostnqn, hostid (default: made up for each host), control_thread (on: the library runs a
/// thread; off: call nvmeh_host_drive()), seed, policy (round-robin,
/// numa, queue-depth, active-passive, service-time), delayed_removal_ms (both of the next two),
/// delayed_removal_link_lost_ms, delayed_removal_disconnected_ms,
/// delayed_removal_namespace_gone_ms, fence (auto, strict, off: what becomes of writes that were in
/// flight on a lost controller), quirks (what is to be known of certain devices, rules with ; between
/// them: VENDOR:DEVICE=QUIRKS or model:MODEL@FIRMWARE=QUIRKS, such as
/// "1b36:0010=no-sgl;model:Example Drive*=no-apst,-bogus-ids"), numa_topology (system, or for each node,
/// with ; between them, its processors and its distances to all nodes, such as "0-3=10,21;4-7=21,10").
/// Controller: keep_alive_ms, reconnect_delay_ms, ctrl_loss_tmo_ms, fast_io_fail_tmo_ms,
/// reattach_delay_ms, io_entries, max_io_queues, admin_timeout_ms, connect_timeout_ms,
/// marginal (on or off), numa_node (a number, or auto), fence (default: what the host says; auto,
/// strict, off), fence_time_ms (a time, or auto), on_timeout_reads, on_timeout_writes,
/// on_timeout_admin (abort: abort the command, and reset the controller if that does not end it;
/// reset: at once), abort_wait_ms, apst_latency_ms (the controller may go to sleep by itself, into states
/// that it leaves within so much time; 0: never), host_memory_bytes (most memory that the controller may
/// have of the host's; 0: none).
/// Channel: depth, io_timeout_ms, max_retries, max_parked_requests, max_parked_bytes,
/// max_parked_age_ms, hedge_buffers, latency_histograms (on or off), numa_node, busy_poll_us (how long
/// nvmeh_channel_wait() looks for answers before it sleeps, in microseconds, at most 10,000).
///
/// Returns 0; -ENOENT: no such option (nvmeh_last_error() lists those that exist); -EINVAL: the
/// value cannot be right, and nothing was changed; -EFAULT, -EBADF. Thread: any.
///
/// # Safety
/// `options` is NULL or a handle, `name` and `value` are NULL or texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_options_set(
    options: *mut nvmeh_options,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let value = text(value, "the option's value").map(|t| Value::Text(t.to_owned()));
        set(options, name, value)
    }
}

/// Sets an option that is a number, or a time in milliseconds (NVMEH_FOREVER: without end).
///
/// Errors and thread: as nvmeh_options_set().
///
/// # Safety
/// `options` is NULL or a handle, `name` is NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_options_set_u64(
    options: *mut nvmeh_options,
    name: *const c_char,
    value: u64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { set(options, name, Ok(Value::Number(value))) }
}

/// Sets an option that is a switch: 0 is off, everything else is on.
///
/// Errors and thread: as nvmeh_options_set().
///
/// # Safety
/// `options` is NULL or a handle, `name` is NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_options_set_bool(
    options: *mut nvmeh_options,
    name: *const c_char,
    value: c_int,
) -> c_int {
    let value = Value::Text(if value == 0 { "off" } else { "on" }.to_owned());
    // SAFETY: the caller's promise.
    unsafe { set(options, name, Ok(value)) }
}

/// Reads an option as a text, which is cut to `size` bytes, its end included.
///
/// Returns the length of the whole text, or -ENOENT, -EFAULT, -EBADF. Thread: any.
///
/// # Safety
/// `options` is NULL or a handle, `name` is NULL or a text, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_options_get(
    options: *const nvmeh_options,
    name: *const c_char,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(options, |o| {
            let settings = o.lock();
            let spec = find(&settings, text(name, "the option's name")?)?;
            put_text(&(spec.get)(&settings), buf, size)
        })
    }
}

/// Frees a set of options. NULL is fine. Thread: any.
///
/// # Safety
/// `options` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_options_free(options: *mut nvmeh_options) {
    // SAFETY: the caller's promise.
    unsafe { end(options) };
}
