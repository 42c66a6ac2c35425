//! Options, by name.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvme_mpath::core::nqn::{Nqn, Uuid};
use nvme_mpath::{
    ChannelOptions, ControllerOptions, DelayedRemoval, Fence, OverdueAction, PathPolicy,
    UnknownPolicy, Window,
};

use crate::error::{Error, Result};
use crate::object::{Header, Object, end, enter, give_to, plain, put_text, text};

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
}

impl Default for HostSettings {
    fn default() -> Self {
        let windows = DelayedRemoval::OFF;
        let policy = PathPolicy::RoundRobin;
        let (hostnqn, hostid, seed, fence) = (None, None, None, Fence::Auto);
        Self { hostnqn, hostid, control_thread: true, windows, seed, policy, fence }
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

/// A value as C gives or gets it.
enum Value {
    Text(String),
    Number(u64),
}

type Setter = fn(&mut Settings, &Value) -> std::result::Result<(), String>;
type Getter = fn(&Settings) -> String;

/// One option.
struct Spec {
    name: &'static str,
    kind: c_int,
    set: Setter,
    get: Getter,
}

fn number(value: &Value) -> std::result::Result<u64, String> {
    match value {
        Value::Number(n) => Ok(*n),
        Value::Text(t) => t.parse().map_err(|_| format!("\"{t}\" is no number")),
    }
}

fn within(value: &Value, least: u64, most: u64) -> std::result::Result<u64, String> {
    let n = number(value)?;
    let inside = (least..=most).contains(&n);
    inside.then_some(n).ok_or_else(|| format!("{n} is not within {least} to {most}"))
}

fn switch(value: &Value) -> std::result::Result<bool, String> {
    match value {
        Value::Number(n @ 0..=1) => Ok(*n == 1),
        Value::Number(n) => Err(format!("{n} is neither 0 nor 1")),
        Value::Text(t) => match t.as_str() {
            "1" | "on" | "yes" | "true" => Ok(true),
            "0" | "off" | "no" | "false" => Ok(false),
            _ => Err(format!("\"{t}\" is none of on, off, yes, no, true, false, 1, 0")),
        },
    }
}

/// Milliseconds; `None`: for ever.
fn time(value: &Value) -> std::result::Result<Option<Duration>, String> {
    match value {
        Value::Number(NVMEH_FOREVER) => Ok(None),
        Value::Text(t) if t == "forever" => Ok(None),
        Value::Text(t) if t.parse::<u64>().is_err() => {
            Err(format!("\"{t}\" is neither a number of milliseconds nor \"forever\""))
        }
        _ => number(value).map(|ms| Some(Duration::from_millis(ms))),
    }
}

fn limit(value: &Value) -> std::result::Result<Duration, String> {
    time(value)?.ok_or_else(|| "this time must have an end".to_owned())
}

fn words(value: &Value) -> std::result::Result<&str, String> {
    match value {
        Value::Text(t) => Ok(t),
        Value::Number(_) => Err("this option takes a text".to_owned()),
    }
}

/// One of a few words.
fn choice<T: Copy>(value: &Value, of: &[(&str, T)]) -> std::result::Result<T, String> {
    let word = words(value)?;
    of.iter().find(|(name, _)| *name == word).map(|(_, it)| *it).ok_or_else(|| {
        let names: Vec<_> = of.iter().map(|(name, _)| *name).collect();
        format!("\"{word}\" is none of {}", names.join(", "))
    })
}

fn show_choice<T: PartialEq>(value: &T, of: &[(&str, T)]) -> String {
    of.iter().find(|(_, it)| it == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

const FENCES: &[(&str, Fence)] =
    &[("auto", Fence::Auto), ("strict", Fence::Strict), ("off", Fence::Off)];

/// What a controller or a head may say: nothing, too.
const OWN_FENCES: &[(&str, Option<Fence>)] = &[
    ("default", None),
    ("auto", Some(Fence::Auto)),
    ("strict", Some(Fence::Strict)),
    ("off", Some(Fence::Off)),
];

const ACTIONS: &[(&str, OverdueAction)] =
    &[("abort", OverdueAction::AbortThenReset), ("reset", OverdueAction::Reset)];

/// The word for what the library finds out by itself.
fn is_auto(value: &Value) -> bool {
    matches!(value, Value::Text(t) if t == "auto")
}

fn node(value: &Value) -> std::result::Result<Option<u32>, String> {
    if is_auto(value) { Ok(None) } else { Ok(Some(within(value, 0, 65_535)? as u32)) }
}

fn show_node(node: Option<u32>) -> String {
    node.map_or_else(|| "auto".to_owned(), |n| n.to_string())
}

fn show(time: Option<Duration>) -> String {
    time.map_or_else(|| "forever".to_owned(), |d| d.as_millis().to_string())
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

fn window_of(value: &Value) -> std::result::Result<Window, String> {
    Ok(time(value)?.map_or(Window::Forever, Window::from))
}

fn show_window(w: Window) -> String {
    match window_ms(w) {
        NVMEH_FOREVER => "forever".to_owned(),
        ms => ms.to_string(),
    }
}

/// One line of the table: of which kind, its name, how it is set and shown.
macro_rules! option {
    ($variant:ident, $kind:ident, $name:literal, |$o:ident, $v:ident| $set:expr, $get:expr) => {
        Spec {
            name: $name,
            kind: $kind,
            set: |settings, $v| match settings {
                Settings::$variant($o) => {
                    $set;
                    Ok(())
                }
                _ => Err("of another kind".to_owned()),
            },
            get: |settings| match settings {
                Settings::$variant($o) => $get,
                _ => String::new(),
            },
        }
    };
}

macro_rules! host {
    ($($rest:tt)*) => { option!(Host, NVMEH_OPTIONS_HOST, $($rest)*) };
}
macro_rules! controller {
    ($($rest:tt)*) => { option!(Controller, NVMEH_OPTIONS_CONTROLLER, $($rest)*) };
}
macro_rules! channel {
    ($($rest:tt)*) => { option!(Channel, NVMEH_OPTIONS_CHANNEL, $($rest)*) };
}

const SPECS: &[Spec] = &[
    host!(
        "hostnqn",
        |o, v| o.hostnqn = Some(Nqn::new(words(v)?).map_err(|e| e.to_string())?),
        o.hostnqn.as_ref().map(ToString::to_string).unwrap_or_default()
    ),
    host!(
        "hostid",
        |o, v| o.hostid =
            Some(words(v)?.parse().map_err(|e: nvme_mpath::core::nqn::UuidError| e.to_string())?),
        o.hostid.as_ref().map(ToString::to_string).unwrap_or_default()
    ),
    host!(
        "control_thread",
        |o, v| o.control_thread = switch(v)?,
        u8::from(o.control_thread).to_string()
    ),
    host!(
        "seed",
        |o, v| o.seed = Some(number(v)?),
        o.seed.map(|s| s.to_string()).unwrap_or_default()
    ),
    host!(
        "policy",
        |o, v| o.policy = words(v)?.parse().map_err(|e: UnknownPolicy| e.to_string())?,
        o.policy.to_string()
    ),
    host!(
        "delayed_removal_ms",
        |o, v| o.windows = DelayedRemoval::after(window_of(v)?),
        show_window(o.windows.link_lost)
    ),
    host!(
        "delayed_removal_link_lost_ms",
        |o, v| o.windows.link_lost = window_of(v)?,
        show_window(o.windows.link_lost)
    ),
    host!(
        "delayed_removal_disconnected_ms",
        |o, v| o.windows.disconnected = window_of(v)?,
        show_window(o.windows.disconnected)
    ),
    host!(
        "delayed_removal_namespace_gone_ms",
        |o, v| o.windows.namespace_gone = window_of(v)?,
        show_window(o.windows.namespace_gone)
    ),
    host!("fence", |o, v| o.fence = choice(v, FENCES)?, show_choice(&o.fence, FENCES)),
    controller!(
        "fence",
        |o, v| o.fence = choice(v, OWN_FENCES)?,
        show_choice(&o.fence, OWN_FENCES)
    ),
    controller!(
        "fence_time_ms",
        |o, v| o.fence_time = if is_auto(v) { None } else { Some(limit(v)?) },
        o.fence_time.map_or_else(|| "auto".to_owned(), |d| show(Some(d)))
    ),
    controller!(
        "on_timeout_reads",
        |o, v| o.on_timeout.reads = choice(v, ACTIONS)?,
        show_choice(&o.on_timeout.reads, ACTIONS)
    ),
    controller!(
        "on_timeout_writes",
        |o, v| o.on_timeout.writes = choice(v, ACTIONS)?,
        show_choice(&o.on_timeout.writes, ACTIONS)
    ),
    controller!(
        "on_timeout_admin",
        |o, v| o.on_timeout.admin = choice(v, ACTIONS)?,
        show_choice(&o.on_timeout.admin, ACTIONS)
    ),
    controller!(
        "abort_wait_ms",
        |o, v| o.on_timeout.abort_wait = limit(v)?,
        show(Some(o.on_timeout.abort_wait))
    ),
    controller!("numa_node", |o, v| o.numa_node = node(v)?, show_node(o.numa_node)),
    controller!("marginal", |o, v| o.marginal = switch(v)?, u8::from(o.marginal).to_string()),
    controller!("keep_alive_ms", |o, v| o.keep_alive = limit(v)?, show(Some(o.keep_alive))),
    controller!(
        "reconnect_delay_ms",
        |o, v| o.reconnect_delay = limit(v)?,
        show(Some(o.reconnect_delay))
    ),
    controller!("ctrl_loss_tmo_ms", |o, v| o.ctrl_loss_tmo = time(v)?, show(o.ctrl_loss_tmo)),
    controller!(
        "fast_io_fail_tmo_ms",
        |o, v| o.fast_io_fail_tmo = time(v)?,
        show(o.fast_io_fail_tmo)
    ),
    controller!("reattach_delay_ms", |o, v| o.reattach_delay = time(v)?, show(o.reattach_delay)),
    controller!(
        "io_entries",
        |o, v| o.io_entries = within(v, 16, 1024)? as u16,
        o.io_entries.to_string()
    ),
    controller!(
        "max_io_queues",
        |o, v| o.max_io_queues = within(v, 1, 65_534)? as u16,
        o.max_io_queues.to_string()
    ),
    controller!(
        "admin_timeout_ms",
        |o, v| o.admin_timeout = limit(v)?,
        show(Some(o.admin_timeout))
    ),
    controller!(
        "connect_timeout_ms",
        |o, v| o.connect_timeout = limit(v)?,
        show(Some(o.connect_timeout))
    ),
    controller!("apst_latency_ms", |o, v| o.apst_latency = limit(v)?, show(Some(o.apst_latency))),
    controller!("host_memory_bytes", |o, v| o.host_memory = number(v)?, o.host_memory.to_string()),
    channel!("depth", |o, v| o.depth = within(v, 1, 65_536)? as usize, o.depth.to_string()),
    channel!("io_timeout_ms", |o, v| o.io_timeout = limit(v)?, show(Some(o.io_timeout))),
    channel!(
        "max_retries",
        |o, v| o.max_retries = within(v, 0, u64::from(u32::MAX))? as u32,
        o.max_retries.to_string()
    ),
    channel!(
        "max_parked_requests",
        |o, v| o.max_parked_requests = usize::try_from(number(v)?).unwrap_or(usize::MAX),
        o.max_parked_requests.to_string()
    ),
    channel!(
        "max_parked_bytes",
        |o, v| o.max_parked_bytes = usize::try_from(number(v)?).unwrap_or(usize::MAX),
        o.max_parked_bytes.to_string()
    ),
    channel!("max_parked_age_ms", |o, v| o.max_parked_age = time(v)?, show(o.max_parked_age)),
    channel!(
        "hedge_buffers",
        |o, v| o.hedge_buffers = within(v, 0, 65_535)? as u16,
        o.hedge_buffers.to_string()
    ),
    channel!(
        "latency_histograms",
        |o, v| o.latency_histograms = switch(v)?,
        u8::from(o.latency_histograms).to_string()
    ),
    channel!("numa_node", |o, v| o.numa_node = node(v)?, show_node(o.numa_node)),
];

const fn kind_of(settings: &Settings) -> c_int {
    match settings {
        Settings::Host(_) => NVMEH_OPTIONS_HOST,
        Settings::Controller(_) => NVMEH_OPTIONS_CONTROLLER,
        Settings::Channel(_) => NVMEH_OPTIONS_CHANNEL,
    }
}

/// Names of all options of a kind.
fn names(kind: c_int) -> String {
    let names = SPECS.iter().filter(|s| s.kind == kind).map(|s| s.name);
    names.collect::<Vec<_>>().join(", ")
}

fn find(settings: &Settings, name: &str) -> Result<&'static Spec> {
    let kind = kind_of(settings);
    SPECS.iter().find(|s| s.kind == kind && s.name == name).ok_or_else(|| {
        let text = format!("no option is called \"{name}\"; there are: {}", names(kind));
        Error::new(libc::ENOENT, text)
    })
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
/// flight on a lost controller).
/// Controller: keep_alive_ms, reconnect_delay_ms, ctrl_loss_tmo_ms, fast_io_fail_tmo_ms,
/// reattach_delay_ms, io_entries, max_io_queues, admin_timeout_ms, connect_timeout_ms,
/// marginal (on or off), numa_node (a number, or auto), fence (default: what the host says; auto,
/// strict, off), fence_time_ms (a time, or auto), on_timeout_reads, on_timeout_writes,
/// on_timeout_admin (abort: abort the command, and reset the controller if that does not end it;
/// reset: at once), abort_wait_ms, apst_latency_ms (the controller may go to sleep by itself, into states
/// that it leaves within so much time; 0: never), host_memory_bytes (most memory that the controller may
/// have of the host's; 0: none).
/// Channel: depth, io_timeout_ms, max_retries, max_parked_requests, max_parked_bytes,
/// max_parked_age_ms, hedge_buffers, latency_histograms (on or off), numa_node.
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
