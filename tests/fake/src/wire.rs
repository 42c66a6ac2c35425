//! One queue, seen from both ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use nvme_core::spec::registers::Cc;
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::{Clock, Instant};
use nvme_core::transport::{Data, Tag, TransportError};

use crate::TestClock;

/// A command that a queue holds.
pub struct InFlight {
    /// The command.
    pub sqe: Sqe,
    /// What it moves.
    pub data: Data,
}

/// The state of one queue, seen from both ends.
#[derive(Default)]
pub struct Wire {
    /// Why it is dead, if it is.
    pub dead: Option<TransportError>,
    /// Since when.
    pub dead_since: Instant,
    /// The library has been told that.
    pub told_dead: bool,
    /// Commands that were taken and not completed.
    pub in_flight: BTreeMap<Tag, InFlight>,
    /// Answers under way, with dwords 0 and 1.
    pub answers: VecDeque<(Tag, Status, u64)>,
    /// Commands that wait for the test.
    pub held: BTreeSet<Tag>,
    /// Outstanding requests for events.
    pub events: Vec<Tag>,
    /// Events for which no request was there.
    pub unsent: BTreeSet<u64>,
    /// The library has dropped its end.
    pub dropped: bool,
}

/// What the controller of one association has of its own.
pub struct Session {
    /// Controller identifier.
    pub cntlid: u16,
    pub(crate) cc: Mutex<Cc>,
    pub(crate) told_shut_down: AtomicBool,
}

/// One queue.
pub struct Link {
    /// What it belongs to.
    pub session: Arc<Session>,
    /// Queue identifier.
    pub qid: u16,
    pub(crate) wire: Mutex<Wire>,
    pub(crate) clock: Arc<TestClock>,
}

impl Link {
    /// Its state.
    pub fn lock(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap()
    }

    /// Kills it, unless it is dead.
    pub fn cut(&self, why: TransportError) {
        let mut wire = self.lock();
        if wire.dead.is_none() {
            wire.dead = Some(why);
            wire.dead_since = self.clock.now();
        }
    }
}
