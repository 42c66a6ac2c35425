//! A worker: one thread, its poll, its connections and their timers. The first worker also has the listeners.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::connection::{Alarm, Connection, Survivor, Turn};
use super::mailbox::{Address, Mailbox, MailboxPeer, Message};
use crate::directory::Directory;
use crate::fault::{FaultAction, Site};
use crate::stats::count;

const WAKER: Token = Token(usize::MAX);
/// Tokens from here on are listeners.
const LISTENERS: usize = usize::MAX / 2;
const EVENTS: usize = 256;

/// One thread's share of the target.
pub(crate) struct Worker {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    /// All workers' mailboxes, this one's too: new connections go to them in turn.
    team: Vec<Arc<Mailbox>>,
    next: usize,
    number: usize,
    directory: Arc<Directory>,
    listeners: BTreeMap<usize, TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    serial: u64,
    timers: BTreeMap<(Instant, u64), Timer>,
    timer_serial: u64,
    /// Connections with more to do.
    again: VecDeque<usize>,
    stopping: bool,
}

#[derive(Debug)]
enum Timer {
    Connection(Address, Alarm),
    Survivor(Survivor),
}

impl Worker {
    pub fn new(number: usize, directory: Arc<Directory>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            poll,
            mailbox,
            team: Vec::new(),
            next: 0,
            number,
            directory,
            listeners: BTreeMap::new(),
            connections: Vec::new(),
            free: Vec::new(),
            serial: 0,
            timers: BTreeMap::new(),
            timer_serial: 0,
            again: VecDeque::new(),
            stopping: false,
        })
    }

    pub fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.mailbox)
    }

    pub fn join_team(&mut self, team: Vec<Arc<Mailbox>>) {
        self.team = team;
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopping {
            let timeout = if self.again.is_empty() {
                let now = Instant::now();
                self.timers.keys().next().map(|(at, _)| at.saturating_duration_since(now))
            } else {
                Some(std::time::Duration::ZERO)
            };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // without its poll a worker can do nothing any more
                Err(_) => break,
            }
            for event in &events {
                self.event(event);
            }
            for _ in 0..self.again.len() {
                if let Some(index) = self.again.pop_front() {
                    self.turn(index);
                }
            }
            self.expire();
            // last: what the others did may have put something in
            for message in self.mailbox.take() {
                self.message(message);
            }
        }
        for index in 0..self.connections.len() {
            self.close(index);
        }
        self.mailbox.shut();
    }

    fn event(&mut self, event: &Event) {
        match event.token() {
            WAKER => {}
            Token(token) if token >= LISTENERS => self.accept(token - LISTENERS),
            Token(index) => {
                if let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut)
                    && event.is_writable()
                {
                    connection.writable();
                }
                self.turn(index);
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        while let Some(socket) = self.listeners.get(&listener) {
            match socket.accept() {
                Ok((socket, _)) => self.distribute(socket, listener),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // also when there are too many open files: the next event tries again
                Err(_) => return,
            }
        }
    }

    fn distribute(&mut self, socket: TcpStream, listener: usize) {
        let worker = self.next % self.team.len().max(1);
        self.next = self.next.wrapping_add(1);
        match self.team.get(worker) {
            Some(mailbox) if worker != self.number => {
                // a worker that is gone takes no connection: it is closed here
                let _ = mailbox.post(Message::Adopt { socket, listener });
            }
            _ => self.adopt(socket, listener),
        }
    }

    fn adopt(&mut self, mut socket: TcpStream, listener: usize) {
        count(&self.directory.counters.accepted, 1);
        let fault = self.directory.faults.strike(listener, Site::Accept);
        let silent = matches!(fault.as_deref(), Some(FaultAction::SilentListener));
        let refuse = matches!(fault.as_deref(), Some(FaultAction::CloseOnAccept));
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.serial += 1;
        let at = Address { index, serial: self.serial };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(&mut socket, Token(index), interest);
        let peer = MailboxPeer { mailbox: Arc::clone(&self.mailbox), at };
        let directory = Arc::clone(&self.directory);
        let made =
            registered.and_then(|()| Connection::new(socket, directory, listener, peer, silent));
        match made {
            Ok(connection) if !refuse => {
                self.connections[index] = Some(connection);
                self.turn(index);
            }
            _ => {
                count(&self.directory.counters.closed, 1);
                self.free.push(index);
            }
        }
    }

    fn turn(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let turn = connection.turn();
        self.set_alarms(index);
        match turn {
            Turn::Idle => {}
            Turn::Again => self.again.push_back(index),
            Turn::Over => self.close(index),
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

    fn expire(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                return;
            }
            match first.remove() {
                Timer::Survivor(survivor) => survivor.execute(),
                Timer::Connection(at, alarm) => {
                    if let Some(connection) = self.connection(at) {
                        connection.core.alarm(alarm, now);
                        self.turn(at.index);
                    }
                }
            }
        }
    }

    fn connection(&mut self, at: Address) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(at.index)?.as_mut()?;
        (connection.serial == at.serial).then_some(connection)
    }

    fn close(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        let Connection { socket, core, .. } = connection;
        drop(socket);
        let now = Instant::now();
        for (after, survivor) in core.closed() {
            self.set_timer(now + after, Timer::Survivor(survivor));
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connection { at, message } => {
                if let Some(connection) = self.connection(at) {
                    connection.core.message(message);
                    self.turn(at.index);
                }
            }
            Message::Adopt { socket, listener } => self.adopt(socket, listener),
            Message::Listen { listener, socket, ack } => {
                self.listen(listener, socket);
                drop(ack);
            }
            Message::Kill { listener, ack } => {
                let of_listener = |c: &Option<Connection>| {
                    c.as_ref().is_some_and(|c| c.core.listener == listener)
                };
                let doomed: Vec<usize> = (0..self.connections.len())
                    .filter(|i| of_listener(&self.connections[*i]))
                    .collect();
                doomed.into_iter().for_each(|index| self.close(index));
                drop(ack);
            }
            Message::Stop => self.stopping = true,
        }
    }

    fn listen(&mut self, listener: usize, socket: Option<TcpListener>) {
        // dropping the old one closes it, and takes it out of the poll
        self.listeners.remove(&listener);
        let Some(mut socket) = socket else { return };
        let token = Token(LISTENERS + listener);
        if self.poll.registry().register(&mut socket, token, Interest::READABLE).is_ok() {
            self.listeners.insert(listener, socket);
            self.accept(listener);
        }
    }
}
