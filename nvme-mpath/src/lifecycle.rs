//! The life of a head: live, waiting for its removal, being removed, gone.
//!
//! One state value and the list of paths, under one lock. The pin is a field of the state that
//! needs it, so it moves with the state: into [`Phase::Pending`] when the last path leaves, out to
//! the caller when a path returns, on into [`Phase::Removing`] when the time is up.
//!
//! - The removal is scheduled in the critical section that empties the path list: two paths that
//!   leave at once cannot both be the last one.
//! - Each schedule has a generation. A timer that fires with an old one does nothing, so cancelling
//!   cannot race with firing.
//! - Nothing is called out to with the lock held: every operation returns what happened, and the
//!   caller tells.

use nvme_core::time::Instant;

use crate::pin::{PinGuard, PinLedger, PinReason};
use crate::sync::{Arc, Mutex};
use crate::window::{DelayedRemoval, LossCause};

/// The state of a head.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Has paths.
    Live,
    /// Has none; will be removed at the deadline.
    Pending(Pending),
    /// Is being taken apart. `pin` is dropped last; `None` if there was no window.
    Removing { cause: LossCause, pin: Option<PinGuard> },
    /// Only handles are left.
    Gone { cause: LossCause },
}

/// A removal that is scheduled.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) pin: PinGuard,
    pub(crate) lost_at: Instant,
    /// [`Instant::NEVER`] for a window without end.
    pub(crate) deadline: Instant,
    pub(crate) cause: LossCause,
    pub(crate) generation: u64,
}

/// The timer that belongs to a scheduled removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timer {
    pub(crate) deadline: Instant,
    pub(crate) generation: u64,
}

/// What became of a path that wanted in.
#[derive(Debug)]
pub(crate) enum Attached {
    /// The head was live.
    Added,
    /// The head was waiting for its removal, which is cancelled. The pin is the caller's to drop.
    Cancelled { pin: PinGuard, lost_at: Instant },
    /// Too late: the head is being removed, or is gone.
    Refused,
}

/// What the leaving of a path led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Detached {
    /// It was not in the list.
    Unknown,
    /// Others are left.
    Remaining,
    /// It was the last; the removal is scheduled.
    Scheduled(Timer),
    /// It was the last, and there is no window (or no pin to be had): remove the head now.
    Remove,
}

/// What a timer did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fired {
    /// Nothing: it belongs to a schedule that was cancelled or replaced.
    Stale,
    /// Nothing yet: come back at the deadline.
    Early(Timer),
    /// Remove the head now.
    Remove,
}

/// What a change of the window did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WindowSet {
    /// Kept for the next loss.
    Stored,
    /// The pending removal has a new deadline, counted from the loss.
    Rearmed(Timer),
    /// The new window is over already: remove the head now.
    Remove,
}

#[derive(Debug)]
pub(crate) struct Inner<P> {
    pub(crate) phase: Phase,
    pub(crate) paths: Vec<P>,
    pub(crate) windows: DelayedRemoval,
    generation: u64,
}

/// See the module's text. `P` is a path.
#[derive(Debug)]
pub(crate) struct Lifecycle<P> {
    inner: Mutex<Inner<P>>,
    ledger: Arc<PinLedger>,
    name: String,
}

impl<P> Lifecycle<P> {
    /// A head with its first path.
    pub(crate) fn new(
        name: String,
        ledger: Arc<PinLedger>,
        windows: DelayedRemoval,
        first: P,
    ) -> Self {
        let inner = Inner { phase: Phase::Live, paths: vec![first], windows, generation: 0 };
        Self { inner: Mutex::new(inner), ledger, name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Looks at, or changes, the paths and the phase under the lock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Inner<P>) -> R) -> R {
        f(&mut self.inner.lock())
    }

    pub(crate) fn windows(&self) -> DelayedRemoval {
        self.inner.lock().windows
    }

    /// Adds a path that is ready for I/O. A path that only tries to come back is no reason to
    /// cancel anything, so it is not offered here before its controller is live and the namespace
    /// has been identified on it.
    pub(crate) fn attach(&self, path: P) -> Attached {
        let mut inner = self.inner.lock();
        if matches!(inner.phase, Phase::Removing { .. } | Phase::Gone { .. }) {
            return Attached::Refused;
        }
        inner.paths.push(path);
        match std::mem::replace(&mut inner.phase, Phase::Live) {
            Phase::Pending(p) => Attached::Cancelled { pin: p.pin, lost_at: p.lost_at },
            _ => Attached::Added,
        }
    }

    /// Takes the path out that `is_it` knows, because of `cause`.
    pub(crate) fn detach(
        &self,
        is_it: impl Fn(&P) -> bool,
        cause: LossCause,
        now: Instant,
    ) -> Detached {
        let mut inner = self.inner.lock();
        let Some(at) = inner.paths.iter().position(is_it) else { return Detached::Unknown };
        inner.paths.remove(at);
        if !inner.paths.is_empty() {
            return Detached::Remaining;
        }
        let reason = PinReason::PendingRemoval { head: self.name.clone() };
        // A refused pin means that the library is on its way out: then nothing may be left behind
        // for later (Linux: commit 0f5197ea9a73 removes at once, too).
        let scheduled = inner.windows.window(cause).deadline(now).and_then(|deadline| {
            let pin = PinLedger::pin(&self.ledger, reason, now).ok()?;
            Some((deadline, pin))
        });
        let Some((deadline, pin)) = scheduled else {
            inner.phase = Phase::Removing { cause, pin: None };
            return Detached::Remove;
        };
        inner.generation += 1;
        let generation = inner.generation;
        inner.phase = Phase::Pending(Pending { pin, lost_at: now, deadline, cause, generation });
        Detached::Scheduled(Timer { deadline, generation })
    }

    /// Whether a removal of this generation is scheduled.
    pub(crate) fn is_pending(&self, generation: u64) -> bool {
        let inner = self.inner.lock();
        matches!(&inner.phase, Phase::Pending(p) if p.generation == generation)
    }

    /// A timer has run out.
    pub(crate) fn fire(&self, generation: u64, now: Instant) -> Fired {
        let mut inner = self.inner.lock();
        match &inner.phase {
            Phase::Pending(p) if p.generation == generation => {
                if now < p.deadline {
                    return Fired::Early(Timer { deadline: p.deadline, generation });
                }
            }
            _ => return Fired::Stale,
        }
        inner.begin_removal();
        Fired::Remove
    }

    /// Sets the windows; one that is open is counted anew from the moment of the loss.
    pub(crate) fn set_windows(&self, windows: DelayedRemoval, now: Instant) -> WindowSet {
        let mut inner = self.inner.lock();
        inner.windows = windows;
        let generation = inner.generation + 1;
        let Phase::Pending(p) = &mut inner.phase else { return WindowSet::Stored };
        match windows.window(p.cause).deadline(p.lost_at).filter(|d| *d > now) {
            Some(deadline) => {
                p.deadline = deadline;
                p.generation = generation;
                inner.generation = generation;
                WindowSet::Rearmed(Timer { deadline, generation })
            }
            None => {
                inner.begin_removal();
                WindowSet::Remove
            }
        }
    }

    /// Sets the windows for the next loss; one that is open stays as it is.
    pub(crate) fn set_next_windows(&self, windows: DelayedRemoval) {
        self.inner.lock().windows = windows;
    }

    /// Puts a pending removal off without end: the head waits for a path, whatever the windows say.
    /// They are not changed, and count again for the next loss. The pin stays out.
    pub(crate) fn keep(&self) -> Option<Timer> {
        let mut inner = self.inner.lock();
        let generation = inner.generation + 1;
        let Phase::Pending(p) = &mut inner.phase else { return None };
        p.deadline = Instant::NEVER;
        p.generation = generation;
        inner.generation = generation;
        Some(Timer { deadline: Instant::NEVER, generation })
    }

    /// Ends a pending removal's wait. Returns whether there was one: then remove the head now.
    pub(crate) fn remove_now(&self) -> bool {
        let mut inner = self.inner.lock();
        let pending = matches!(inner.phase, Phase::Pending(_));
        if pending {
            inner.begin_removal();
        }
        pending
    }

    /// The head has been taken apart. The pin, if there was one, is the caller's to drop, last.
    pub(crate) fn finish(&self) -> Option<PinGuard> {
        let mut inner = self.inner.lock();
        let Phase::Removing { cause, pin } = &mut inner.phase else { return None };
        let (cause, pin) = (*cause, pin.take());
        inner.phase = Phase::Gone { cause };
        pin
    }
}

impl<P> Inner<P> {
    /// From `Pending` to `Removing`; the pin goes along.
    fn begin_removal(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Live) {
            Phase::Pending(p) => Phase::Removing { cause: p.cause, pin: Some(p.pin) },
            other => other,
        };
    }
}
