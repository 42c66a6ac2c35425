//! The options by name: what each takes, and how it is shown.

use std::ffi::c_int;
use std::time::Duration;

use nvme_mpath::core::nqn::Nqn;
use nvme_mpath::core::quirk::{QuirkRule, RuleError};
use nvme_mpath::{DelayedRemoval, Fence, NumaTopology, OverdueAction, UnknownPolicy, Window};

use crate::error::{Error, Result};
use crate::options::{
    NVMEH_FOREVER, NVMEH_OPTIONS_CHANNEL, NVMEH_OPTIONS_CONTROLLER, NVMEH_OPTIONS_HOST, Settings,
    window_ms,
};

/// A value as C gives or gets it.
pub(crate) enum Value {
    Text(String),
    Number(u64),
}

type Setter = fn(&mut Settings, &Value) -> std::result::Result<(), String>;
type Getter = fn(&Settings) -> String;

/// One option.
pub(crate) struct Spec {
    name: &'static str,
    kind: c_int,
    pub(crate) set: Setter,
    pub(crate) get: Getter,
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

/// Rules with `;` between them; none of nothing.
fn quirks(text: &str) -> std::result::Result<(String, Vec<QuirkRule>), String> {
    let rules = text.split(';').filter(|rule| !rule.is_empty());
    let rules = rules.map(|rule| rule.parse().map_err(|e: RuleError| e.to_string()));
    Ok((text.to_owned(), rules.collect::<std::result::Result<_, _>>()?))
}

fn numa(text: &str) -> std::result::Result<Option<(String, NumaTopology)>, String> {
    match text {
        "system" => Ok(None),
        _ => Ok(Some((text.to_owned(), NumaTopology::parse(text)?))),
    }
}

fn show_node(node: Option<u32>) -> String {
    node.map_or_else(|| "auto".to_owned(), |n| n.to_string())
}

fn show(time: Option<Duration>) -> String {
    time.map_or_else(|| "forever".to_owned(), |d| d.as_millis().to_string())
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
    host!("quirks", |o, v| o.quirks = quirks(words(v)?)?, o.quirks.0.clone()),
    host!(
        "numa_topology",
        |o, v| o.numa = numa(words(v)?)?,
        o.numa.as_ref().map_or_else(|| "system".to_owned(), |(text, _)| text.clone())
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
    channel!(
        "busy_poll_us",
        |o, v| o.busy_poll = Duration::from_micros(within(v, 0, 10_000)?),
        o.busy_poll.as_micros().to_string()
    ),
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

pub(crate) fn find(settings: &Settings, name: &str) -> Result<&'static Spec> {
    let kind = kind_of(settings);
    SPECS.iter().find(|s| s.kind == kind && s.name == name).ok_or_else(|| {
        let text = format!("no option is called \"{name}\"; there are: {}", names(kind));
        Error::new(libc::ENOENT, text)
    })
}
