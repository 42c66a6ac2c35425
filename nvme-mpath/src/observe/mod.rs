//! Events told at once, to one observer that the program hands in.
//!
//! The control plane publishes while it works; the observer is told right after, when the control
//! plane has let go of everything.

pub(crate) mod snapshot;
#[cfg(feature = "tracing")]
mod tracing;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

#[cfg(feature = "tracing")]
pub use self::tracing::TracingObserver;
use crate::event::TimedEvent;

/// Is told of every event of a host, in their order, one at a time, none left out:
/// [`HostOptions::observer`](crate::HostOptions::observer).
///
/// Called by the control thread, or where there is none by the thread that is in
/// [`Host::drive`](crate::Host::drive), in a method that waits, or in the drop of the host. No lock of
/// the library is held meanwhile, so every method of the host may be called, but none that waits:
/// reconnecting, and all else that the control plane does, waits until the observer returns. I/O does
/// not. Where that is too much to ask, [`Events`](crate::Events) keeps events until they are read.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &TimedEvent);
}

#[derive(Default)]
struct Pending {
    events: VecDeque<TimedEvent>,
    /// Some thread is telling the observer.
    telling: bool,
}

/// An observer, and what it has not been told yet: never more than one turn of the control plane
/// publishes.
pub(crate) struct Observed {
    observer: Arc<dyn Observer>,
    pending: Mutex<Pending>,
}

impl Observed {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, pending: Mutex::default() }
    }

    pub(crate) fn push(&self, event: TimedEvent) {
        self.pending.lock().events.push_back(event);
    }

    /// Tells what is pending. If another thread is at it already, or the observer itself drives the
    /// host, that one goes on with what has come meanwhile.
    pub(crate) fn deliver(&self) {
        if std::mem::replace(&mut self.pending.lock().telling, true) {
            return;
        }
        let telling = Telling(&self.pending);
        loop {
            let event = {
                let mut pending = self.pending.lock();
                let next = pending.events.pop_front();
                // In one step with the look, so that nothing is left for nobody.
                pending.telling = next.is_some();
                next
            };
            let Some(event) = event else { break };
            self.observer.event(&event);
        }
        std::mem::forget(telling);
    }
}

/// An observer that panics is told the next event all the same.
struct Telling<'a>(&'a Mutex<Pending>);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.lock().telling = false;
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observed({} pending)", self.pending.lock().events.len())
    }
}
