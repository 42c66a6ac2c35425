//! A worker: one thread, its poll and its connections. The first worker also has the listeners.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;

use super::connection::Entrance;
use super::engine::Engine;
use super::mailbox::{Mailbox, Message};
use crate::directory::Directory;

const WAKER: Token = Token(usize::MAX);
/// Tokens from here on are listeners.
const LISTENERS: usize = usize::MAX / 2;
const EVENTS: usize = 256;
/// A way to control congestion that does not pace what is sent, and that every kernel has.
const UNPACED: &[u8] = b"reno";
/// While a worker stays awake, it asks the system about all its connections once in so many looks at the one that
/// was busy last.
const LOOKS: u32 = 16;
/// Rounds after which it is found out anew which connections are busy.
const ROUNDS: u32 = 256;

/// One thread's share of the target.
pub(crate) struct Worker {
    poll: Poll,
    engine: Engine<TcpStream>,
    /// All workers' mailboxes, this one's too: new connections go to them in turn.
    team: Vec<Arc<Mailbox>>,
    next: usize,
    number: usize,
    listeners: BTreeMap<usize, TcpListener>,
    /// How long to stay awake after there was something to do.
    busy_poll: Duration,
    busy: Busy,
    stopping: bool,
}

/// Which connection is looked at while the worker stays awake: the one that is busy, if it is the only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Busy {
    #[default]
    None,
    One(usize),
    Several,
}

impl Busy {
    fn note(&mut self, index: usize) {
        *self = match *self {
            Self::None => Self::One(index),
            Self::One(one) if one == index => Self::One(index),
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

impl Worker {
    pub fn new(number: usize, directory: Arc<Directory>, busy_poll: Duration) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(Some(Waker::new(poll.registry(), WAKER)?)));
        Ok(Self {
            poll,
            engine: Engine::new(directory, mailbox),
            team: Vec::new(),
            next: 0,
            number,
            listeners: BTreeMap::new(),
            busy_poll,
            busy: Busy::None,
            stopping: false,
        })
    }

    pub fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.engine.mailbox)
    }

    pub fn join_team(&mut self, team: Vec<Arc<Mailbox>>) {
        self.team = team;
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut awake_until = Instant::now();
        let mut round = 0u32;
        while !self.stopping {
            let now = self.look(&mut awake_until);
            round = round.wrapping_add(1);
            if round.is_multiple_of(ROUNDS) {
                self.busy = Busy::None;
            }
            let timeout = if self.engine.is_busy() || now < awake_until {
                Some(Duration::ZERO)
            } else {
                self.busy = Busy::None;
                self.engine.deadline().map(|at| at.saturating_duration_since(now))
            };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // without its poll a worker can do nothing any more
                Err(_) => break,
            }
            let now = Instant::now();
            for event in &events {
                self.event(event, now);
                awake_until = now + self.busy_poll;
            }
            self.engine.step(now);
            // last: what the others did may have put something in
            for message in self.engine.mailbox.take() {
                self.message(message, now);
            }
        }
        self.engine.kill(None, Instant::now());
        self.engine.mailbox.shut();
    }

    /// While the worker stays awake: looks a few times at the connection that is busy, without asking the system
    /// where there is something; the time.
    fn look(&mut self, awake_until: &mut Instant) -> Instant {
        let mut now = Instant::now();
        let Busy::One(index) = self.busy else { return now };
        for _ in 0..LOOKS {
            if now >= *awake_until || self.engine.is_busy() {
                break;
            }
            if self.engine.look(index, now) {
                *awake_until = now + self.busy_poll;
            }
            now = Instant::now();
        }
        now
    }

    fn event(&mut self, event: &Event, now: Instant) {
        match event.token() {
            WAKER => {}
            Token(token) if token >= LISTENERS => self.accept(token - LISTENERS, now),
            Token(index) => {
                self.busy.note(index);
                self.engine.ready(index, event.is_writable(), now);
            }
        }
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        while let Some(socket) = self.listeners.get(&listener) {
            match socket.accept() {
                Ok((socket, _)) => self.distribute(socket, listener, now),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // also when there are too many open files: the next event tries again
                Err(_) => return,
            }
        }
    }

    fn distribute(&mut self, socket: TcpStream, listener: usize, now: Instant) {
        let worker = self.next % self.team.len().max(1);
        self.next = self.next.wrapping_add(1);
        match self.team.get(worker) {
            Some(mailbox) if worker != self.number => {
                // a worker that is gone takes no connection: it is closed here
                let _ = mailbox.post(Message::Adopt { socket, listener });
            }
            _ => self.adopt(socket, listener, now),
        }
    }

    fn adopt(&mut self, socket: TcpStream, listener: usize, now: Instant) {
        let reception = self.engine.receive(listener);
        let (socket, local_addr) = match self.prepare(socket) {
            Ok((socket, addr)) => (Some(socket), addr),
            Err(_) => (None, SocketAddr::from(([0; 4], 0))),
        };
        let entrance = Entrance { listener, local_addr, silent: reception.silent };
        self.engine.adopt(socket, reception, &entrance, now);
    }

    fn prepare(&self, mut socket: TcpStream) -> io::Result<(TcpStream, SocketAddr)> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(self.engine.next_place());
        self.poll.registry().register(&mut socket, token, interest)?;
        socket.set_nodelay(true)?;
        let addr = socket.local_addr()?;
        if addr.ip().is_loopback() {
            // Pacing (`bbr`, where the system has chosen that) only holds back what a host on this machine
            // waits for. If it cannot be had otherwise, it is slower and no error.
            let _ = SockRef::from(&socket).set_tcp_congestion(UNPACED);
        }
        Ok((socket, addr))
    }

    fn message(&mut self, message: Message, now: Instant) {
        match message {
            Message::Connection { at, message } => self.engine.message(at, message, now),
            Message::Adopt { socket, listener } => self.adopt(socket, listener, now),
            Message::Listen { listener, socket, ack } => {
                self.listen(listener, socket, now);
                drop(ack);
            }
            Message::Kill { listener, ack } => {
                self.engine.kill(Some(listener), now);
                drop(ack);
            }
            Message::Stop => self.stopping = true,
        }
    }

    fn listen(&mut self, listener: usize, socket: Option<TcpListener>, now: Instant) {
        // dropping the old one closes it, and takes it out of the poll
        self.listeners.remove(&listener);
        let Some(mut socket) = socket else { return };
        let token = Token(LISTENERS + listener);
        if self.poll.registry().register(&mut socket, token, Interest::READABLE).is_ok() {
            self.listeners.insert(listener, socket);
            self.accept(listener, now);
        }
    }
}
