//! Events for the `tracing` crate.

use tracing::{debug, error, info, warn};

use super::Observer;
use crate::event::{Event, TimedEvent};
use crate::head::Head;

/// Tells the host's events to the `tracing` crate, with the target `nvme_mpath`: as errors what loses
/// something for good, as warnings what is wrong for now, the rest as information.
///
/// Fields: `controller` (its number), `address`, `head` (its name), and what the event has.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TracingObserver;

impl TracingObserver {
    /// The observer.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

const TARGET: &str = "nvme_mpath";

impl Observer for TracingObserver {
    fn event(&self, event: &TimedEvent) {
        use Event as E;
        let seconds = |d: &Option<std::time::Duration>| d.map(|d| d.as_secs_f64());
        let name = |head: &Head| head.name().to_owned();
        match &event.event {
            E::ControllerState { controller, address, from, to } => {
                info!(target: TARGET, controller = controller.as_u32(), %address, %from, %to, "controller state");
            }
            E::ControllerFailed { controller, address, error } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, %error, "controller lost");
            }
            E::ControllerTrouble { controller, address, error } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, %error, "controller in trouble");
            }
            E::CommandOverdue { controller, address, queue, command, step } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, queue, command, ?step, "command overdue");
            }
            E::ControllerRemoved { controller, address, cause } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, ?cause, "controller removed");
            }
            E::DeviceUnstopped { controller, address } => {
                error!(target: TARGET, controller = controller.as_u32(), %address, "device does not stop; what it has is kept");
            }
            E::DeviceStopped { controller, address, after } => {
                info!(target: TARGET, controller = controller.as_u32(), %address, after = after.as_secs_f64(), "device has stopped");
            }
            E::Fencing { controller, address, at_most } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, at_most = at_most.as_secs_f64(), "fencing a lost controller");
            }
            E::Fenced { controller, address, by, after } => {
                info!(target: TARGET, controller = controller.as_u32(), %address, ?by, after = after.as_secs_f64(), "lost controller fenced");
            }
            E::HeadAdded(head) => info!(target: TARGET, head = name(head), "head added"),
            E::HeadResized { head, from, to } => {
                info!(target: TARGET, head = name(head), from, to, "head resized");
            }
            E::PathUp { head, controller, address } => {
                info!(target: TARGET, head = name(head), controller = controller.as_u32(), %address, "path up");
            }
            E::PathDown { head, controller, address } => {
                warn!(target: TARGET, head = name(head), controller = controller.as_u32(), %address, "path down");
            }
            E::AnaChanged { head, controller, address, from, to } => {
                info!(target: TARGET, head = name(head), controller = controller.as_u32(), %address, %from, %to, "ANA state");
            }
            E::HeadNoPath(head) => warn!(target: TARGET, head = name(head), "no usable path"),
            E::RemovalScheduled { head, cause, after } => {
                warn!(target: TARGET, head = name(head), %cause, after = seconds(after), "removal scheduled");
            }
            E::RemovalRearmed { head, after } => {
                warn!(target: TARGET, head = name(head), after = seconds(after), "removal rescheduled");
            }
            E::RemovalCancelled { head, pending_for } => {
                info!(target: TARGET, head = name(head), pending_for = pending_for.as_secs_f64(), "removal cancelled");
            }
            E::HeadRemoved { head, cause, delayed } => {
                error!(target: TARGET, head = name(head), %cause, delayed, "head removed");
            }
            E::NamespaceRefused { controller, address, nsid, reason } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, nsid, reason, "namespace refused");
            }
            E::DiscoveryChanged { controller, address } => {
                info!(target: TARGET, controller = controller.as_u32(), %address, "discovery log changed");
            }
            E::AsyncEvent { controller, address, result } => {
                warn!(target: TARGET, controller = controller.as_u32(), %address, result, "asynchronous event");
            }
            E::Lagged(count) => debug!(target: TARGET, count, "events dropped"),
        }
    }
}
