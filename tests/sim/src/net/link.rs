//! One connection: two directions, each with bytes that were sent and bytes that have arrived.

use std::collections::VecDeque;

/// A direction on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the host to the target.
    Up,
    /// From the target to the host.
    Down,
}

/// How a connection, or one direction of it, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// What was sent before still arrives.
    Finished,
    /// At once.
    Reset,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Sent and not read.
    pub(super) bytes: VecDeque<u8>,
    /// Of those, how many have arrived.
    pub(super) arrived: usize,
    pub(super) ending: Option<Ending>,
    /// The ending has been scheduled; nothing is sent any more.
    pub(super) closing: bool,
    /// When the last of what is on the way arrives.
    pub(super) last: u64,
    /// The sender found no room.
    pub(super) crowded: bool,
}

/// Where a connection is in its life, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being made.
    Connecting,
    /// Made.
    Open,
    /// Nobody listens.
    Refused,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) port: usize,
    pub(super) stage: Stage,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// The host has cut it.
    pub(super) cut: bool,
    pub(super) host_gone: bool,
    pub(super) target_gone: bool,
    /// Bytes that the host has read.
    pub(super) heard: usize,
}

impl Link {
    pub(super) const fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}
