//! Events in words.

use nvme_mpath::Event;

use crate::terminal::latency;

/// Whom an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// The controller at this address, or the path through it.
    Path(&'a str),
    /// The head.
    Head,
    /// The events themselves.
    Events,
}

/// What an event says; `None` if it is not worth a line.
#[must_use]
pub fn describe(event: &Event) -> Option<(About<'_>, String)> {
    let window = |after: &Option<_>| after.map_or("never".into(), |a| format!("in {}", latency(a)));
    Some(match event {
        Event::ControllerFailed { address, error, .. }
        | Event::ControllerTrouble { address, error, .. } => {
            // The address is told already.
            let (text, prefix) = (error.to_string(), format!("{address}: "));
            (About::Path(address), text.strip_prefix(&prefix).unwrap_or(&text).to_owned())
        }
        Event::DeviceUnstopped { address, .. } => {
            (About::Path(address), "does not stop: what it has is kept until it does".into())
        }
        Event::DeviceStopped { address, after, .. } => {
            (About::Path(address), format!("has stopped after {}", latency(*after)))
        }
        Event::PathUp { address, .. } => (About::Path(address), "up".into()),
        Event::PathDown { address, .. } => (About::Path(address), "down".into()),
        Event::AnaChanged { address, from, to, .. } => {
            (About::Path(address), format!("ANA state {from:?}, now {to:?}"))
        }
        Event::NamespaceRefused { address, nsid, reason, .. } => {
            (About::Path(address), format!("namespace {nsid} refused: {reason}"))
        }
        Event::HeadResized { from, to, .. } => {
            (About::Head, format!("resized from {from} to {to} blocks"))
        }
        Event::HeadNoPath(_) => (About::Head, "has no usable path".into()),
        Event::RemovalScheduled { cause, after, .. } => {
            (About::Head, format!("lost its last path ({cause}): removal {}", window(after)))
        }
        Event::RemovalRearmed { after, .. } => {
            (About::Head, format!("removal now {}", window(after)))
        }
        Event::RemovalCancelled { pending_for, .. } => {
            let after = latency(*pending_for);
            (About::Head, format!("has a path again: removal cancelled after {after}"))
        }
        Event::HeadRemoved { cause, .. } => (About::Head, format!("removed ({cause})")),
        Event::Lagged(count) => (About::Events, format!("{count} were missed")),
        _ => return None,
    })
}
