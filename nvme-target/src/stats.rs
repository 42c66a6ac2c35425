//! What a target counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a target since it started; see [`Target::stats`](crate::Target::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that ended in a termination request sent to the host.
    pub terminated: u64,
    /// Admin and fabrics commands received, by opcode.
    pub admin_commands: BTreeMap<u8, u64>,
    /// I/O commands received, by opcode.
    pub io_commands: BTreeMap<u8, u64>,
    /// Bytes of all PDUs received.
    pub bytes_received: u64,
    /// Bytes of all PDUs sent.
    pub bytes_sent: u64,
}

/// The live counters. Relaxed: each is read for itself, none orders anything.
#[derive(Debug)]
pub(crate) struct Counters {
    pub accepted: AtomicU64,
    pub closed: AtomicU64,
    pub terminated: AtomicU64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    admin: [AtomicU64; 256],
    io: [AtomicU64; 256],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            terminated: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            admin: [const { AtomicU64::new(0) }; 256],
            io: [const { AtomicU64::new(0) }; 256],
        }
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn command(&self, admin: bool, opcode: u8) {
        let table = if admin { &self.admin } else { &self.io };
        count(&table[usize::from(opcode)], 1);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let table = |t: &[AtomicU64; 256]| {
            (0u8..=255).zip(t).map(|(op, c)| (op, get(c))).filter(|(_, n)| *n != 0).collect()
        };
        let closed = get(&self.closed);
        let accepted = get(&self.accepted);
        Stats {
            accepted,
            open: accepted.saturating_sub(closed),
            terminated: get(&self.terminated),
            admin_commands: table(&self.admin),
            io_commands: table(&self.io),
            bytes_received: get(&self.received),
            bytes_sent: get(&self.sent),
        }
    }
}
