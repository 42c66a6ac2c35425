//! The connections of one thread, their timers and their messages. Reads no clock and waits for nothing: it is told
//! the time, and which connection has something to say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Alarm, Connection, Entrance, Survivor, Turn};
use super::mailbox::{Address, ConnectionMessage, Mailbox, MailboxPeer};
use super::wire::Wire;
use crate::directory::Directory;
use crate::fault::{FaultAction, Site};
use crate::stats::count;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Engine<S> {
    pub mailbox: Arc<Mailbox>,
    directory: Arc<Directory>,
    connections: Vec<Option<Connection<S>>>,
    free: Vec<usize>,
    serial: u64,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_serial: u64,
    /// Connections with more to do.
    again: VecDeque<usize>,
}

#[derive(Debug)]
enum Timer {
    Connection(Address, Alarm),
    Survivor(Survivor),
}

/// What a new connection is to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reception {
    refuse: bool,
    pub silent: bool,
}

impl<S: Wire> Engine<S> {
    pub fn new(directory: Arc<Directory>, mailbox: Arc<Mailbox>) -> Self {
        Self {
            mailbox,
            directory,
            connections: Vec::new(),
            free: Vec::new(),
            serial: 0,
            timers: BTreeMap::new(),
            timer_serial: 0,
            again: VecDeque::new(),
        }
    }

    /// Counts a new connection, and finds out what becomes of it.
    pub fn receive(&self, listener: usize) -> Reception {
        count(&self.directory.counters.accepted, 1);
        let fault = self.directory.faults.strike(listener, Site::Accept);
        Reception {
            refuse: matches!(fault.as_deref(), Some(FaultAction::CloseOnAccept)),
            silent: matches!(fault.as_deref(), Some(FaultAction::SilentListener)),
        }
    }

    /// The place that the next connection will have.
    pub fn next_place(&self) -> usize {
        self.free.last().copied().unwrap_or(self.connections.len())
    }

    /// Takes a connection in, at [`next_place`](Self::next_place), or closes it (`None`, or refused).
    pub fn adopt(
        &mut self,
        socket: Option<S>,
        reception: Reception,
        entrance: &Entrance,
        now: Instant,
    ) -> Option<Address> {
        let Some(socket) = socket.filter(|_| !reception.refuse) else {
            count(&self.directory.counters.closed, 1);
            return None;
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.serial += 1;
        let at = Address { index, serial: self.serial };
        let peer = MailboxPeer { mailbox: Arc::clone(&self.mailbox), at };
        let directory = Arc::clone(&self.directory);
        self.connections[index] = Some(Connection::new(socket, directory, peer, entrance, now));
        self.turn(index, now);
        Some(at)
    }

    /// The connection at `index` may have something to read, or room to write.
    pub fn ready(&mut self, index: usize, writable: bool, now: Instant) {
        if let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut)
            && writable
        {
            connection.writable();
        }
        self.turn(index, now);
    }

    /// Looks whether the connection at `index` has something to read, and acts on that; whether it had.
    pub fn look(&mut self, index: usize, now: Instant) -> bool {
        let received = |engine: &Self| {
            engine.connections.get(index).and_then(Option::as_ref).map(|c| c.received)
        };
        let before = received(self);
        self.turn(index, now);
        received(self) != before
    }

    fn turn(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        connection.core.now = now;
        let turn = connection.turn();
        self.set_alarms(index);
        match turn {
            Turn::Idle => {}
            Turn::Again => self.again.push_back(index),
            Turn::Over => self.close(index, now),
        }
    }

    fn set_alarms(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if connection.core.alarms.is_empty() {
            return;
        }
        let at = Address { index, serial: connection.serial };
        for (when, alarm) in std::mem::take(&mut connection.core.alarms) {
            self.set_timer(when, Timer::Connection(at, alarm));
        }
    }

    fn set_timer(&mut self, when: Instant, timer: Timer) {
        self.timer_serial += 1;
        self.timers.insert((when, self.timer_serial), timer);
    }

    /// Whether there is something to do without waiting.
    pub fn is_busy(&self) -> bool {
        !self.again.is_empty()
    }

    /// When [`step`](Self::step) is to be called even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    /// Goes on with the connections that have more to do, and runs the timers that are due.
    pub fn step(&mut self, now: Instant) {
        for _ in 0..self.again.len() {
            if let Some(index) = self.again.pop_front() {
                self.turn(index, now);
            }
        }
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                return;
            }
            match first.remove() {
                Timer::Survivor(survivor) => survivor.execute(),
                Timer::Connection(at, alarm) => {
                    if let Some(connection) = self.connection(at) {
                        connection.core.now = now;
                        connection.core.alarm(alarm);
                        self.turn(at.index, now);
                    }
                }
            }
        }
    }

    fn connection(&mut self, at: Address) -> Option<&mut Connection<S>> {
        let connection = self.connections.get_mut(at.index)?.as_mut()?;
        (connection.serial == at.serial).then_some(connection)
    }

    /// Whether a connection is still there.
    pub fn has(&mut self, at: Address) -> bool {
        self.connection(at).is_some()
    }

    /// A message for a connection, if it is still there.
    pub fn message(&mut self, at: Address, message: ConnectionMessage, now: Instant) {
        if let Some(connection) = self.connection(at) {
            connection.core.now = now;
            connection.core.message(message);
            self.turn(at.index, now);
        }
    }

    fn close(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        let Connection { socket, core, .. } = connection;
        drop(socket);
        for (after, survivor) in core.closed() {
            self.set_timer(now + after, Timer::Survivor(survivor));
        }
    }

    /// Closes all connections, or those that came in through one listener.
    pub fn kill(&mut self, listener: Option<usize>, now: Instant) {
        for index in 0..self.connections.len() {
            let doomed = self.connections[index]
                .as_ref()
                .is_some_and(|c| listener.is_none_or(|l| c.core.listener == l));
            if doomed {
                self.close(index, now);
            }
        }
    }
}
