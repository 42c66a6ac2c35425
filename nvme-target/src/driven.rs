//! A target that its caller drives: no threads, no sockets, no clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::config::SubsystemConfig;
use crate::directory::Directory;
use crate::error::TargetError;
use crate::fault::{FaultId, FaultRule};
use crate::stats::Stats;
use crate::subsystem::Subsystem;
use crate::tcp::connection::Entrance;
use crate::tcp::engine::Engine;
use crate::tcp::mailbox::{Address, Mailbox, Message};
use crate::tcp::wire::Wire;
use crate::transport::Transport;

/// Names a connection of a [`DrivenTarget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(Address);

/// The target's TCP front over streams and a clock of the caller's: what a simulation talks to.
///
/// Made by [`TargetBuilder::drive`](crate::TargetBuilder::drive). Nothing happens by itself: the caller brings
/// connections ([`accept`](Self::accept)), says which of them has something to read or room to write
/// ([`ready`](Self::ready)), and calls [`step`](Self::step) after each change and at each
/// [`deadline`](Self::deadline). Given the same calls it does the same.
#[derive(Debug)]
pub struct DrivenTarget<S> {
    directory: Arc<Directory>,
    subsystems: Vec<Arc<Subsystem>>,
    addrs: Vec<SocketAddr>,
    engine: Engine<S>,
}

impl<S: Wire> DrivenTarget<S> {
    pub(crate) fn new(
        subsystems: Vec<SubsystemConfig>,
        listen: &[String],
        transport: Transport,
    ) -> Result<Self, TargetError> {
        let directory = Arc::new(Directory::new(transport)?);
        let make = |config| {
            let subsystem = Arc::new(Subsystem::new(config, false)?);
            directory.add_subsystem(Arc::clone(&subsystem))?;
            Ok(subsystem)
        };
        let subsystems = subsystems.into_iter().map(make).collect::<Result<_, TargetError>>()?;
        let parse = |addr: &String| addr.parse().map_err(|_| TargetError::Address(addr.clone()));
        let addrs: Vec<SocketAddr> = listen.iter().map(parse).collect::<Result<_, _>>()?;
        addrs.iter().for_each(|addr| directory.add_listener(*addr));
        let engine = Engine::new(Arc::clone(&directory), Arc::new(Mailbox::new(None)));
        Ok(Self { directory, subsystems, addrs, engine })
    }

    /// The subsystems, in the order in which they were given.
    #[must_use]
    pub fn subsystems(&self) -> &[Arc<Subsystem>] {
        &self.subsystems
    }

    /// A host has connected to a listener. `None` if a fault closed the connection at once.
    ///
    /// # Errors
    /// [`TargetError::NoListener`].
    pub fn accept(
        &mut self,
        listener: usize,
        stream: S,
        now: Instant,
    ) -> Result<Option<ConnectionId>, TargetError> {
        let local_addr = *self.addrs.get(listener).ok_or(TargetError::NoListener(listener))?;
        let reception = self.engine.receive(listener);
        let entrance = Entrance { listener, local_addr, silent: reception.silent };
        Ok(self.engine.adopt(Some(stream), reception, &entrance, now).map(ConnectionId))
    }

    /// The connection may have something to read, an end or an error too, or room to write.
    pub fn ready(&mut self, connection: ConnectionId, now: Instant) {
        if self.engine.has(connection.0) {
            self.engine.ready(connection.0.index, true, now);
        }
    }

    /// Whether the connection is still there.
    pub fn is_open(&mut self, connection: ConnectionId) -> bool {
        self.engine.has(connection.0)
    }

    /// Does all that can be done at `now`, which must not go backwards.
    pub fn step(&mut self, now: Instant) {
        loop {
            self.engine.step(now);
            for message in self.engine.mailbox.take() {
                if let Message::Connection { at, message } = message {
                    self.engine.message(at, message, now);
                }
            }
            if !self.engine.is_busy() && self.engine.mailbox.is_empty() {
                return;
            }
        }
    }

    /// When [`step`](Self::step) is to be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    /// Closes all connections that came in through a listener, or all (`None`).
    pub fn kill_connections(&mut self, listener: Option<usize>, now: Instant) {
        self.engine.kill(listener, now);
        self.step(now);
    }

    /// Adds a fault. It holds for what arrives from now on.
    pub fn add_fault(&self, rule: FaultRule) -> FaultId {
        self.directory.faults.add(rule)
    }

    /// Removes a fault; how often it acted, or `None` if it was not there.
    pub fn remove_fault(&self, id: FaultId) -> Option<u64> {
        self.directory.faults.remove(id)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.directory.counters.snapshot()
    }
}
