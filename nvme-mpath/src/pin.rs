//! Pins: what keeps the library alive while something of it still has to run.
//!
//! A [`PinGuard`] is a value with one owner. It cannot be copied, cannot be given back twice, and
//! cannot be forgotten by a branch that does not mention it: whoever holds the state that needs it
//! holds the guard. The kernel counted the same thing by hand, with `try_module_get` and
//! `module_put`, and leaked one reference for each removal that was cancelled.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use nvme_core::time::Instant;

use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};

/// Why a pin is held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinReason {
    /// A head without paths waits for its removal.
    PendingRemoval {
        /// The head, as [`Head::name`](crate::Head::name) has it.
        head: String,
    },
    /// The program asked for it with [`Host::pin`](crate::Host::pin).
    User(String),
}

impl fmt::Display for PinReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PendingRemoval { head } => write!(f, "removal pending of {head}"),
            Self::User(why) => f.write_str(why),
        }
    }
}

/// One pin that is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinHolder {
    /// Why.
    pub reason: PinReason,
    /// Since when, on the host's clock.
    pub since: Instant,
}

/// No pin is given any more: the host is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host is shutting down: no pin is given any more")]
pub struct PinsClosed;

#[derive(Debug)]
struct Ledger {
    closed: bool,
    next: u64,
    holders: BTreeMap<u64, PinHolder>,
    peak: usize,
}

/// Something that is held as long as it is needed, and then dropped.
pub type Keep = Box<dyn Any + Send + Sync>;

/// Who asks for a [`Keep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeepFor {
    /// A pin. Dropped with it, by whatever thread.
    Pin,
    /// The control thread. Dropped by it as the last thing that it does.
    ControlThread,
}

/// Makes what each pin, and the control thread, keep with them: see
/// [`HostOptions::keep_alive`](crate::HostOptions::keep_alive).
pub(crate) type Keeper = std::sync::Arc<dyn Fn(KeepFor) -> Keep + Send + Sync>;

/// The account of all pins of one host.
pub(crate) struct PinLedger {
    keeper: Option<Keeper>,
    inner: Mutex<Ledger>,
    /// `inner.holders.len()`, readable without the lock.
    count: AtomicUsize,
}

impl fmt::Debug for PinLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PinLedger {
    pub(crate) fn new(keeper: Option<Keeper>) -> Arc<Self> {
        Arc::new(Self {
            keeper,
            inner: Mutex::new(Ledger { closed: false, next: 0, holders: BTreeMap::new(), peak: 0 }),
            count: AtomicUsize::new(0),
        })
    }

    /// Takes a pin, unless the ledger is closed.
    pub(crate) fn pin(
        ledger: &Arc<Self>,
        reason: PinReason,
        now: Instant,
    ) -> Result<PinGuard, PinsClosed> {
        // Made before the pin can be seen, outside of the lock: it is somebody else's code.
        let keep = ledger.keeper.as_ref().map(|keeper| keeper(KeepFor::Pin));
        let mut inner = ledger.inner.lock();
        if inner.closed {
            return Err(PinsClosed);
        }
        let id = inner.next;
        inner.next += 1;
        inner.holders.insert(id, PinHolder { reason, since: now });
        inner.peak = inner.peak.max(inner.holders.len());
        ledger.count.store(inner.holders.len(), Ordering::Release);
        Ok(PinGuard { ledger: Arc::clone(ledger), id, _keep: keep })
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The most pins that were ever out at once.
    pub(crate) fn peak(&self) -> usize {
        self.inner.lock().peak
    }

    pub(crate) fn holders(&self) -> Vec<PinHolder> {
        self.inner.lock().holders.values().cloned().collect()
    }

    /// Gives no pins from now on. Those that are out stay out.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
    }

    /// Closes the ledger if no pin is out; else says who holds them. One step, so that no pin can
    /// be taken between the look and the closing.
    pub(crate) fn close_if_unpinned(&self) -> Result<(), Vec<PinHolder>> {
        let mut inner = self.inner.lock();
        if inner.holders.is_empty() {
            inner.closed = true;
            return Ok(());
        }
        Err(inner.holders.values().cloned().collect())
    }
}

/// Keeps the library alive until it is dropped.
///
/// May be sent to and dropped on any thread; dropping takes a short lock.
#[must_use = "dropping the guard gives the pin back"]
pub struct PinGuard {
    ledger: Arc<PinLedger>,
    id: u64,
    /// Dropped last, when the pin is no longer counted.
    _keep: Option<Keep>,
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        let mut inner = self.ledger.inner.lock();
        inner.holders.remove(&self.id);
        self.ledger.count.store(inner.holders.len(), Ordering::Release);
    }
}

impl fmt::Debug for PinGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinGuard({})", self.id)
    }
}
