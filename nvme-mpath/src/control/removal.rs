//! Delayed removal, carried out: timers, the end of a head, and what follows from it.

use std::cmp::Reverse;
use std::sync::Arc;

use nvme_core::time::{Duration, Instant};

use super::Control;
use super::heads::IdKey;
use crate::event::Event;
use crate::head::Head;
use crate::lifecycle::{Fired, Phase, Timer};

impl Control {
    pub(super) fn run_removal_timers(&mut self, now: Instant) {
        while let Some(&Reverse((at, index, generation))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(entry) = self.heads.get(&index) else { continue };
            let head = Arc::clone(&entry.head);
            match head.life.fire(generation, now) {
                Fired::Stale => {}
                Fired::Early(timer) => self.arm(index, timer),
                Fired::Remove => self.finish_removal(&head, now),
            }
        }
    }

    /// The last path left and a removal is scheduled.
    pub(super) fn removal_scheduled(&mut self, head: &Arc<Head>, timer: Timer, now: Instant) {
        self.arm(head.index, timer);
        let cause = head.life.with(|inner| match &inner.phase {
            Phase::Pending(p) => Some(p.cause),
            _ => None,
        });
        if let Some(cause) = cause {
            let (head, after) = (Arc::clone(head), remaining(timer.deadline, now));
            self.emit(now, &Event::RemovalScheduled { head, cause, after });
        }
    }

    pub(super) fn removal_rearmed(&mut self, head: &Arc<Head>, timer: Timer, now: Instant) {
        self.arm(head.index, timer);
        let (head, after) = (Arc::clone(head), remaining(timer.deadline, now));
        self.emit(now, &Event::RemovalRearmed { head, after });
    }

    /// Takes a head apart that is in its `Removing` phase. Its pin goes last.
    pub(super) fn finish_removal(&mut self, head: &Arc<Head>, now: Instant) {
        let cause = head.life.with(|inner| match &inner.phase {
            Phase::Removing { cause, .. } => Some(*cause),
            _ => None,
        });
        let Some(cause) = cause else { return };
        // First what channels see, so that nothing is parked any more; then the names.
        self.settle(head, now);
        self.heads.remove(&head.index);
        self.shared.heads.lock().remove(&head.index);
        self.by_nsid.remove(&(head.subnqn.clone(), head.nsid));
        for key in IdKey::of(&head.ids) {
            if self.by_identity.get(&key) == Some(&head.index) {
                self.by_identity.remove(&key);
            }
        }
        let pin = head.life.finish();
        let delayed = pin.is_some();
        self.emit(now, &Event::HeadRemoved { head: Arc::clone(head), cause, delayed });
        drop(pin);
        // Not here: whoever is in the middle of admitting a namespace must not meet another one.
        self.offer = true;
    }

    /// Ends every removal that is pending.
    pub(super) fn finish_all(&mut self) {
        let now = self.shared.clock.now();
        let heads: Vec<_> = self.heads.values().map(|e| Arc::clone(&e.head)).collect();
        for head in heads {
            head.life.remove_now();
            self.finish_removal(&head, now);
        }
    }
}

fn remaining(deadline: Instant, now: Instant) -> Option<Duration> {
    (deadline != Instant::NEVER).then(|| deadline.saturating_since(now))
}
