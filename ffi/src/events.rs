//! Events.

#![expect(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_int};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nvme_mpath::{Event, Events, FencedBy, Head, TimedEvent, TimeoutStep};

use crate::controller::state_number;
use crate::error::Error;
use crate::head::ana_number;
use crate::host::{cause_number, nvmeh_host};
use crate::object::{Header, Object, Sizable, duration, end, enter, fixed, give_to, millis, put};
use crate::options::NVMEH_FOREVER;

/// A subscription to the events of a host. Thread: any, several at once.
pub struct nvmeh_events {
    header: Header,
    events: Events,
}

impl Object for nvmeh_events {
    const MAGIC: u32 = 0x6e76_6576;
    const WHAT: &'static str = "nvmeh_events";

    fn header(&self) -> &Header {
        &self.header
    }
}

/// A controller changed its state: `from`, `to` (NVMEH_CONTROLLER_*).
pub const NVMEH_EVENT_CONTROLLER_STATE: c_int = 1;
/// A controller was lost, or failed to come up: `text`.
pub const NVMEH_EVENT_CONTROLLER_FAILED: c_int = 2;
/// Something failed on a controller that goes on all the same: `text`.
pub const NVMEH_EVENT_CONTROLLER_TROUBLE: c_int = 3;
/// A controller is gone for good: `text`.
pub const NVMEH_EVENT_CONTROLLER_REMOVED: c_int = 4;
/// A namespace was found for which there was no head.
pub const NVMEH_EVENT_HEAD_ADDED: c_int = 5;
/// The size of a namespace changed: `value`, in blocks.
pub const NVMEH_EVENT_HEAD_RESIZED: c_int = 6;
/// A path can be used.
pub const NVMEH_EVENT_PATH_UP: c_int = 7;
/// A path cannot be used any more.
pub const NVMEH_EVENT_PATH_DOWN: c_int = 8;
/// The ANA state of a path changed: `from`, `to` (NVMEH_ANA_*).
pub const NVMEH_EVENT_ANA_CHANGED: c_int = 9;
/// No path of the head can be used.
pub const NVMEH_EVENT_HEAD_NO_PATH: c_int = 10;
/// The last path left; the head is removed after `value` milliseconds. `cause`.
pub const NVMEH_EVENT_REMOVAL_SCHEDULED: c_int = 11;
/// The window of a pending removal changed: `value` milliseconds are left.
pub const NVMEH_EVENT_REMOVAL_REARMED: c_int = 12;
/// A path returned after `value` milliseconds; the head stays.
pub const NVMEH_EVENT_REMOVAL_CANCELLED: c_int = 13;
/// The head is gone: `cause`; `value` is 1 if a window had been open.
pub const NVMEH_EVENT_HEAD_REMOVED: c_int = 14;
/// A namespace was found that cannot be used: `nsid`, `text`.
pub const NVMEH_EVENT_NAMESPACE_REFUSED: c_int = 15;
/// The discovery log of a discovery controller changed.
pub const NVMEH_EVENT_DISCOVERY_CHANGED: c_int = 16;
/// An asynchronous event that the library does not act on: `value`, dword 0 of the completion.
pub const NVMEH_EVENT_ASYNC: c_int = 17;
/// `value` events before the next one were dropped, because nobody took them.
pub const NVMEH_EVENT_LAGGED: c_int = 18;
/// A command was not answered in time: `to` says what is done about it (NVMEH_OVERDUE_*), `value` which
/// command: the queue (0: admin) << 16 | its identifier. `text` is the controller's answer to Abort.
pub const NVMEH_EVENT_COMMAND_OVERDUE: c_int = 19;
/// Writes were in flight on a controller that was lost, and are held until it is certain that it does
/// not execute them any more, `value` milliseconds at most.
pub const NVMEH_EVENT_FENCING: c_int = 20;
/// A lost controller executes nothing any more, writes that were held are sent again. `from`: how that
/// is known (NVMEH_FENCED_BY_*); `value`: milliseconds since its end.
pub const NVMEH_EVENT_FENCED: c_int = 21;
/// A controller was given up, and its device does not stop: it does not answer, or does not obey. What it
/// has is kept, and is sent nowhere else, until it has stopped.
pub const NVMEH_EVENT_DEVICE_UNSTOPPED: c_int = 22;
/// A device of which that was told has stopped: `value`, milliseconds since it was given up.
pub const NVMEH_EVENT_DEVICE_STOPPED: c_int = 23;
/// One that this version has no number for: `text`.
pub const NVMEH_EVENT_OTHER: c_int = 255;

/// The controller is asked to abort the command.
pub const NVMEH_OVERDUE_ABORTING: c_int = 1;
/// The controller answered that.
pub const NVMEH_OVERDUE_ANSWERED: c_int = 2;
/// The controller is reset.
pub const NVMEH_OVERDUE_RESETTING: c_int = 3;

/// Another controller of its subsystem has reset it.
pub const NVMEH_FENCED_BY_RESET: c_int = 1;
/// Its time has passed.
pub const NVMEH_FENCED_BY_TIME: c_int = 2;

/// Something that happened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_event {
    /// sizeof(struct nvmeh_event), set by the caller; what was filled in, on return.
    pub size: usize,
    /// NVMEH_EVENT_*. Numbers that a program does not know are to be left alone.
    pub kind: c_int,
    /// NVMEH_CAUSE_*, or 0.
    pub cause: c_int,
    /// When, in milliseconds of the host's clock.
    pub at_ms: u64,
    /// The controller's number, or -1.
    pub controller: i64,
    /// nvmeh_head_instance() of the head, or -1.
    pub head: i64,
    /// Namespace ID, or 0.
    pub nsid: u32,
    /// The state before.
    pub from: c_int,
    /// The state after.
    pub to: c_int,
    /// Always 0.
    pub reserved: c_int,
    /// See the kind. NVMEH_FOREVER for a time without end.
    pub value: u64,
    /// The controller's address, cut if need be.
    pub address: [c_char; 128],
    /// The head's name, cut if need be.
    pub name: [c_char; 256],
    /// Why, in words, cut if need be.
    pub text: [c_char; 256],
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_event {}

fn translate(timed: &TimedEvent) -> nvmeh_event {
    let mut e = nvmeh_event {
        size: size_of::<nvmeh_event>(),
        kind: NVMEH_EVENT_OTHER,
        cause: 0,
        at_ms: timed.at.as_nanos() / 1_000_000,
        controller: -1,
        head: -1,
        nsid: 0,
        from: 0,
        to: 0,
        reserved: 0,
        value: 0,
        address: [0; 128],
        name: [0; 256],
        text: [0; 256],
    };
    let left = |d: &Option<std::time::Duration>| d.map_or(NVMEH_FOREVER, millis);
    match &timed.event {
        Event::ControllerState { controller, address, from, to } => {
            (e.kind, e.from) = (NVMEH_EVENT_CONTROLLER_STATE, state_number(*from));
            e.to = state_number(*to);
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::ControllerFailed { controller, address, error } => {
            (e.kind, e.text) = (NVMEH_EVENT_CONTROLLER_FAILED, fixed(&error.to_string()));
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::ControllerTrouble { controller, address, error } => {
            (e.kind, e.text) = (NVMEH_EVENT_CONTROLLER_TROUBLE, fixed(&error.to_string()));
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::ControllerRemoved { controller, address, cause } => {
            (e.kind, e.text) = (NVMEH_EVENT_CONTROLLER_REMOVED, fixed(&cause.to_string()));
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::CommandOverdue { controller, address, queue, command, step } => {
            e.kind = NVMEH_EVENT_COMMAND_OVERDUE;
            e.value = u64::from(*queue) << 16 | u64::from(*command);
            e.to = match step {
                TimeoutStep::Aborting => NVMEH_OVERDUE_ABORTING,
                TimeoutStep::Answered(outcome) => {
                    e.text = fixed(&format!("{outcome:?}"));
                    NVMEH_OVERDUE_ANSWERED
                }
                TimeoutStep::Resetting => NVMEH_OVERDUE_RESETTING,
                _ => 0,
            };
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::DeviceUnstopped { controller, address } => {
            e.kind = NVMEH_EVENT_DEVICE_UNSTOPPED;
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::DeviceStopped { controller, address, after } => {
            (e.kind, e.value) = (NVMEH_EVENT_DEVICE_STOPPED, millis(*after));
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::Fencing { controller, address, at_most } => {
            (e.kind, e.value) = (NVMEH_EVENT_FENCING, millis(*at_most));
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::Fenced { controller, address, by, after } => {
            (e.kind, e.value) = (NVMEH_EVENT_FENCED, millis(*after));
            e.from = match by {
                FencedBy::Reset => NVMEH_FENCED_BY_RESET,
                FencedBy::Time => NVMEH_FENCED_BY_TIME,
                _ => 0,
            };
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::HeadAdded(head) => of_head(&mut e, NVMEH_EVENT_HEAD_ADDED, head),
        Event::HeadResized { head, to, .. } => {
            of_head(&mut e, NVMEH_EVENT_HEAD_RESIZED, head);
            e.value = *to;
        }
        Event::PathUp { head, controller, address } => {
            of_head(&mut e, NVMEH_EVENT_PATH_UP, head);
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::PathDown { head, controller, address } => {
            of_head(&mut e, NVMEH_EVENT_PATH_DOWN, head);
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::AnaChanged { head, controller, address, from, to } => {
            of_head(&mut e, NVMEH_EVENT_ANA_CHANGED, head);
            of_controller(&mut e, controller.as_u32(), address);
            (e.from, e.to) = (ana_number(*from), ana_number(*to));
        }
        Event::HeadNoPath(head) => of_head(&mut e, NVMEH_EVENT_HEAD_NO_PATH, head),
        Event::RemovalScheduled { head, cause, after } => {
            of_head(&mut e, NVMEH_EVENT_REMOVAL_SCHEDULED, head);
            (e.cause, e.value) = (cause_number(*cause), left(after));
        }
        Event::RemovalRearmed { head, after } => {
            of_head(&mut e, NVMEH_EVENT_REMOVAL_REARMED, head);
            e.value = left(after);
        }
        Event::RemovalCancelled { head, pending_for } => {
            of_head(&mut e, NVMEH_EVENT_REMOVAL_CANCELLED, head);
            e.value = millis(*pending_for);
        }
        Event::HeadRemoved { head, cause, delayed } => {
            of_head(&mut e, NVMEH_EVENT_HEAD_REMOVED, head);
            (e.cause, e.value) = (cause_number(*cause), u64::from(*delayed));
        }
        Event::NamespaceRefused { controller, address, nsid, reason } => {
            (e.kind, e.nsid) = (NVMEH_EVENT_NAMESPACE_REFUSED, *nsid);
            e.text = fixed(reason);
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::DiscoveryChanged { controller, address } => {
            e.kind = NVMEH_EVENT_DISCOVERY_CHANGED;
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::AsyncEvent { controller, address, result } => {
            (e.kind, e.value) = (NVMEH_EVENT_ASYNC, u64::from(*result));
            of_controller(&mut e, controller.as_u32(), address);
        }
        Event::Lagged(count) => (e.kind, e.value) = (NVMEH_EVENT_LAGGED, *count),
        other => e.text = fixed(&format!("{other:?}")),
    }
    e
}

fn of_controller(e: &mut nvmeh_event, controller: u32, address: &str) {
    (e.controller, e.address) = (i64::from(controller), fixed(address));
}

fn of_head(e: &mut nvmeh_event, kind: c_int, head: &Arc<Head>) {
    (e.kind, e.head, e.nsid) = (kind, i64::from(head.instance()), head.nsid());
    e.name = fixed(head.name());
}

/// Subscribes to the events of a host from now on. At most `capacity` wait; when there are more the
/// oldest are dropped, and NVMEH_EVENT_LAGGED says how many.
///
/// Returns 0, -EFAULT, -EBADF, -ECHILD. Thread: any. Owner: the caller; nvmeh_events_free(), before or
/// after the host.
///
/// # Safety
/// The pointers are NULL, or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_events_new(
    host: *mut nvmeh_host,
    capacity: usize,
    out: *mut *mut nvmeh_events,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if out.is_null() {
                return Err(Error::null("out"));
            }
            let events = h.host.events(capacity);
            give_to(out, nvmeh_events { header: Header::new::<nvmeh_events>(), events });
            Ok(0)
        })
    }
}

/// A descriptor that is readable while events wait, for any event loop. Not to be read or closed.
///
/// Returns it, or -ENFILE, -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `events` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_events_fd(events: *mut nvmeh_events) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(events, |e| {
            let fd = e.events.fd();
            let fd = fd.map_err(|e| Error::new(libc::ENFILE, e.to_string()))?;
            Ok(fd.as_raw_fd())
        })
    }
}

/// Takes the next event, waited for at most `timeout_ms`; 0: does not wait.
///
/// Returns 1: there was one; 0: there was none; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread:
/// any.
///
/// # Safety
/// `events` is NULL or a handle, `out` NULL or valid for as many bytes as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_events_next(
    events: *mut nvmeh_events,
    timeout_ms: u64,
    out: *mut nvmeh_event,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(events, |e| {
            if out.is_null() {
                return Err(Error::null("structure"));
            }
            let next = match timeout_ms {
                0 => e.events.try_next(),
                _ => e.events.next_timeout(duration(timeout_ms)),
            };
            let Some(event) = next else { return Ok(0) };
            put(out, &translate(&event))?;
            Ok(1)
        })
    }
}

/// Ends a subscription. NULL is fine. Thread: any; nobody may be waiting in it.
///
/// # Safety
/// `events` is NULL or a handle that is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_events_free(events: *mut nvmeh_events) {
    // SAFETY: the caller's promise.
    unsafe { end(events) };
}
