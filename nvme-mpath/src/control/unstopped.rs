//! Associations that were killed and whose device does not stop.
//!
//! A device that takes its time to stop is waited for. One that goes on for longer than that leaves its
//! controller and comes here, so that the controller can be given up, or be brought up again where the
//! device has begun a new life. What the device has stays in the queues that channels have; they give it
//! back when the device has stopped, whatever has become of the controller.

use std::sync::Arc;

use nvme_core::controller::State;
use nvme_core::time::{Duration, Instant, earlier};
use nvme_core::transport::{Association, TransportError};

use super::Control;
use crate::event::Event;
use crate::unstopped::Unstopped;

/// How long a device may take to stop before it is said not to: longer than one that obeys takes, a reset
/// of its function included.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// See the module's text.
pub(super) struct Stuck {
    what: Unstopped,
    association: Box<dyn Association>,
    /// When to look again.
    look_at: Instant,
    /// It was told of.
    told: bool,
}

impl Control {
    /// The association that was killed is not waited for any more.
    pub(super) fn leave_unstopped(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let Some(association) = slot.dying.take() else { return };
        // The channels cannot take their queues apart before it stops.
        slot.map.releasing.clear();
        let since = slot.killed_at;
        let (controller, address) = (slot.status.id, Arc::clone(&slot.status.address));
        let what = Unstopped { controller, address, since };
        self.shared.unstopped.lock().push(what.clone());
        self.unstopped.push(Stuck { what, association, look_at: now, told: false });
    }

    /// Why no association can be made with a controller now, if its device is in use by one before that
    /// does not stop.
    pub(super) fn occupied(&self, address: &Arc<str>) -> Option<TransportError> {
        let holds = |s: &&Stuck| s.what.address == *address && !s.association.is_apart();
        self.unstopped.iter().find(holds).map(|_| TransportError::Connect {
            address: address.to_string(),
            reason: "it has not been stopped since its last use".into(),
        })
    }

    /// Looks whether devices have stopped meanwhile.
    pub(super) fn run_unstopped(&mut self, now: Instant) {
        if self.unstopped.is_empty() {
            return;
        }
        let goes_on = |s: &mut Stuck| {
            if s.look_at <= now {
                match s.association.stopping(now) {
                    Some(again) => s.look_at = again,
                    None => return false,
                }
            }
            true
        };
        let stopped: Vec<Stuck> = self.unstopped.extract_if(.., |s| !goes_on(s)).collect();
        stopped.iter().for_each(|s| self.has_stopped(s, now));
        self.tell_unstopped(now, |s| now.saturating_since(s.what.since) >= PATIENCE);
    }

    /// Tells of those that have not been told of and that are `due`.
    fn tell_unstopped(&mut self, now: Instant, due: impl Fn(&Stuck) -> bool) {
        let mut list = std::mem::take(&mut self.unstopped);
        for stuck in list.iter_mut().filter(|s| !s.told && due(s)) {
            stuck.told = true;
            let Unstopped { controller, address, .. } = stuck.what.clone();
            self.emit(now, &Event::DeviceUnstopped { controller, address });
        }
        self.unstopped = list;
    }

    fn has_stopped(&mut self, stuck: &Stuck, now: Instant) {
        let Unstopped { controller, address, since } = stuck.what.clone();
        let mut listed = self.shared.unstopped.lock();
        if let Some(place) = listed.iter().position(|u| *u == stuck.what) {
            listed.remove(place);
        }
        drop(listed);
        if stuck.told {
            let after = now.saturating_since(since);
            self.emit(now, &Event::DeviceStopped { controller, address, after });
        }
        // Nothing is in the way of its return any more.
        if let Some(&at) = self.by_id.get(&controller)
            && let Some(slot) = self.slots[at].as_mut()
            && slot.machine.state() == State::Connecting
        {
            slot.machine.reset(now, "its device has stopped".into());
            self.drain(at, now);
        }
    }

    /// The host ends: what has not stopped by now is left as it is, with all memory that it reaches.
    pub(super) fn abandon_unstopped(&mut self, now: Instant) {
        self.tell_unstopped(now, |_| true);
        self.unstopped.clear();
    }

    pub(super) fn unstopped_deadline(&self) -> Option<Instant> {
        let until = self.unstopped.first().and(self.stop_until);
        self.unstopped.iter().fold(until, |next, s| earlier(next, Some(s.look_at)))
    }
}
