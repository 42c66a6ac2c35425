//! One connection: its socket, and how it ends. Reads no clock: its engine tells it the time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::spec::{Cqe, Status};

use super::mailbox::{ConnectionMessage, MailboxPeer};
use super::pdu::{Agreement, DigestOfZeroes, Fatal};
use super::receive::{Filled, Progress, Receive};
use super::slots::{Slot, Slots};
use super::transmit::Transmit;
use super::wire::Wire;
use crate::controller::{KeepAlive, Peer, Shared};
use crate::directory::Directory;
use crate::fabrics::Binding;
use crate::namespace::IoView;
use crate::stats::count;

/// Bytes that a connection may receive before others get their turn.
const TURN: usize = 1 << 20;
/// How long the host has to close a connection after a termination request.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At once; what has not been sent is lost.
    Now,
    /// When all is sent, and the host has closed its side or taken too long.
    Orderly,
}

/// What a turn of a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing to do until the socket says so.
    Idle,
    /// There is more to do, others first.
    Again,
    /// The connection is over.
    Over,
}

/// A timer that a connection has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// A held command is due.
    Held { tag: u16, serial: u64 },
    /// Look at the controller's keep alive timer.
    KeepAlive,
    /// The host had its time to close.
    Linger,
}

/// A connection and its socket.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    pub socket: S,
    pub serial: u64,
    /// Bytes received since it began.
    pub received: u64,
    receive: Receive,
    pub core: Core,
}

/// What a connection is apart from socket and receive buffer: the queue, its commands, its answers.
#[derive(Debug)]
pub(crate) struct Core {
    pub directory: Arc<Directory>,
    pub listener: usize,
    pub local_addr: SocketAddr,
    /// The time, as of the present turn.
    pub now: Instant,
    pub peer: Arc<MailboxPeer>,
    /// What ICReq and ICResp agreed on.
    pub agreed: Option<Agreement>,
    /// The queue that Connect made.
    pub binding: Option<Binding>,
    pub transmit: Transmit,
    /// For reads of a namespace that holds nothing.
    pub zeroes_digest: DigestOfZeroes,
    pub slots: Slots,
    /// Position in the submission queue, for completions.
    pub sqhd: u16,
    pub end: Option<End>,
    /// Timers to set when the turn is over.
    pub alarms: Vec<(Instant, Alarm)>,
    /// Nothing is ever said.
    pub silent: bool,
}

/// Where a connection came in, and how it is to behave.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub listener: usize,
    pub local_addr: SocketAddr,
    /// Nothing is ever said.
    pub silent: bool,
}

impl<S: Wire> Connection<S> {
    pub fn new(
        socket: S,
        directory: Arc<Directory>,
        peer: MailboxPeer,
        entrance: &Entrance,
        now: Instant,
    ) -> Self {
        let core = Core {
            directory,
            listener: entrance.listener,
            local_addr: entrance.local_addr,
            now,
            peer: Arc::new(peer),
            agreed: None,
            binding: None,
            transmit: Transmit::default(),
            zeroes_digest: DigestOfZeroes::default(),
            slots: Slots::default(),
            sqhd: 0,
            end: None,
            alarms: Vec::new(),
            silent: entrance.silent,
        };
        let serial = core.peer.at.serial;
        Self { socket, serial, received: 0, receive: Receive::default(), core }
    }

    /// Receives, carries out and answers as much as there is, within limits.
    pub fn turn(&mut self) -> Turn {
        let mut budget = TURN;
        let mut short = false;
        let turn = loop {
            if self.core.end.is_some() {
                break self.ending();
            }
            if self.core.silent {
                break self.discard(Turn::Idle);
            }
            match self.receive.progress(&mut self.core) {
                Ok(Progress::NeedsBytes) => {}
                Ok(Progress::SendFirst) => {
                    if !self.flush() {
                        break Turn::Over;
                    }
                    if self.core.transmit.is_blocked() {
                        break Turn::Idle;
                    }
                    continue;
                }
                Err((fatal, header)) => {
                    self.core.terminate(fatal, &header);
                    continue;
                }
            }
            if self.core.end.is_some() {
                continue;
            }
            if budget == 0 {
                break Turn::Again;
            }
            // Nothing more was there when last asked: the host gets its answers before it is asked again.
            if short && !self.flush() {
                break Turn::Over;
            }
            match self.receive.fill(&mut self.socket, &mut self.core) {
                Ok(Filled { bytes: 0, .. }) => break Turn::Over,
                Ok(filled) => {
                    count(&self.core.directory.counters.received, filled.bytes as u64);
                    self.received += filled.bytes as u64;
                    budget = budget.saturating_sub(filled.bytes);
                    short = filled.short;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Turn::Idle,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break Turn::Over,
            }
        };
        if turn != Turn::Over && !self.flush() {
            return Turn::Over;
        }
        turn
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self) {
        self.core.transmit.unblock();
    }

    /// Sends what is pending; false if the socket is broken.
    fn flush(&mut self) -> bool {
        match self.core.transmit.flush(&mut self.socket) {
            Ok(n) => {
                count(&self.core.directory.counters.sent, n as u64);
                true
            }
            Err(_) => false,
        }
    }

    fn ending(&mut self) -> Turn {
        if self.core.end == Some(End::Now) || !self.flush() {
            return Turn::Over;
        }
        if self.core.transmit.pending() > 0 {
            return Turn::Idle;
        }
        // may have been done before: then it fails, and nothing is lost by that
        let _ = self.socket.finish();
        self.discard(Turn::Idle)
    }

    /// Reads and forgets; `idle` if the host is still there.
    fn discard(&mut self, idle: Turn) -> Turn {
        let mut waste = [0; 4096];
        loop {
            match self.socket.read(&mut waste) {
                Ok(0) => return Turn::Over,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return idle,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
        }
    }
}

impl Core {
    /// Ends the connection with a termination request, and the association with it (TCP 1.1 §3.6.2.5).
    pub fn terminate(&mut self, fatal: Fatal, header: &[u8]) {
        count(&self.directory.counters.terminated, 1);
        self.transmit.push(&fatal.term_req(header));
        self.finish();
        if let Some(binding) = &self.binding {
            binding.subsystem.close_controller(binding.cntlid);
        }
    }

    /// Ends the connection when everything is sent.
    pub fn finish(&mut self) {
        if self.end.is_none() {
            self.end = Some(End::Orderly);
            self.alarms.push((self.now + LINGER, Alarm::Linger));
        }
    }

    pub fn message(&mut self, message: ConnectionMessage) {
        if self.end.is_some() {
            return;
        }
        match message {
            ConnectionMessage::Close => self.end = Some(End::Now),
            ConnectionMessage::Complete(cqe) => {
                self.respond(cqe.cid.get(), cqe.status(), cqe.result(), &mut None);
            }
            ConnectionMessage::Abort { cid, reply, abort_cid } => {
                let slot = self.slots.take_held(cid);
                let result = u64::from(slot.is_none());
                if let Some(slot) = slot {
                    self.respond(cid, Status::ABORT_REQUESTED, 0, &mut None);
                    self.slots.recycle(slot.data);
                }
                reply.complete(Cqe::new(abort_cid, Status::SUCCESS, result));
            }
        }
    }

    pub fn alarm(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Linger => self.end = Some(End::Now),
            _ if self.end.is_some() => {}
            Alarm::Held { tag, serial } => {
                if let Some(slot) = self.slots.take_timed(tag, serial) {
                    self.execute(&slot.sqe, &slot.data, slot.fault);
                    self.slots.recycle(slot.data);
                }
            }
            Alarm::KeepAlive => self.keep_alive(),
        }
    }

    /// Looks at the keep alive timer, and comes back to it. Only the admin queue's connection does.
    pub fn keep_alive(&mut self) {
        let Some(binding) = &self.binding else { return };
        match binding.subsystem.keep_alive(binding.cntlid, &binding.shared, self.now) {
            KeepAlive::Next(at) => self.alarms.push((at, Alarm::KeepAlive)),
            KeepAlive::Expired | KeepAlive::Off => self.end = Some(End::Now),
        }
    }

    /// The connection is gone. Commands that outlive it come back, with the time they still have.
    pub fn closed(mut self) -> Vec<(Duration, Survivor)> {
        count(&self.directory.counters.closed, 1);
        let survivors = self.slots.take_survivors();
        let Some(binding) = self.binding else { return Vec::new() };
        // Made before the controller is told, so that a reset of it finds them, with the namespaces as
        // they are now: another one may have taken the identifier by the time.
        let quiesce = binding.subsystem.quiesce_time();
        let in_time = |after: &Duration| quiesce.is_none_or(|limit| *after <= limit);
        let view = binding.subsystem.view(self.listener);
        let outlive = |(after, slot)| {
            let (view, shared) = (Arc::clone(&view), Arc::clone(&binding.shared));
            (after, Survivor { view, shared, slot })
        };
        let survivors = survivors.into_iter().filter(|(after, _)| in_time(after));
        let survivors = survivors.map(outlive).collect();
        binding.subsystem.queue_closed(binding.cntlid, binding.qid, &binding.shared);
        survivors
    }

    pub fn model_peer(&self) -> Arc<dyn Peer> {
        let peer: Arc<MailboxPeer> = Arc::clone(&self.peer);
        peer
    }
}

/// A command whose connection has died and that is executed all the same.
#[derive(Debug)]
pub(crate) struct Survivor {
    /// The namespaces when the connection died.
    view: Arc<IoView>,
    shared: Arc<Shared>,
    slot: Slot,
}

impl Survivor {
    pub fn execute(self) {
        let Slot { sqe, data, .. } = self.slot;
        self.shared.outlive(|| {
            if let Ok((ns, plan)) = crate::io::plan(&self.view, &sqe, data.len() as u32, u64::MAX) {
                // nobody is left to be told
                let _ = crate::io::execute(ns, plan, &data);
            }
        });
    }
}
