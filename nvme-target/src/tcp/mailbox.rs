//! How other threads reach a worker: messages, and a waker for its poll.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use mio::Waker;
use mio::net::{TcpListener, TcpStream};
use nvme_core::spec::Cqe;
use parking_lot::Mutex;

use crate::controller::Peer;

/// Something for a worker to do. Where there is an `ack`, it is dropped when that is done.
#[derive(Debug)]
pub(crate) enum Message {
    /// For a connection, if it is still there.
    Connection { at: Address, message: ConnectionMessage },
    /// A connection that another worker has accepted.
    Adopt { socket: TcpStream, listener: usize },
    /// Begin to accept (`Some`) or stop to.
    Listen { listener: usize, socket: Option<TcpListener>, ack: SyncSender<()> },
    /// Close all connections that came in through a listener.
    Kill { listener: usize, ack: SyncSender<()> },
    /// End the thread.
    Stop,
}

#[derive(Debug)]
pub(crate) enum ConnectionMessage {
    Complete(Cqe),
    Abort { cid: u16, reply: Arc<dyn Peer>, abort_cid: u16 },
    Close,
}

/// A connection of a worker. The serial number tells it from a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub index: usize,
    pub serial: u64,
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    /// `None` once the worker has ended.
    messages: Mutex<Option<Vec<Message>>>,
    /// `None` where nothing sleeps: whoever drives the connections looks by himself.
    waker: Option<Waker>,
}

impl Mailbox {
    pub fn new(waker: Option<Waker>) -> Self {
        Self { messages: Mutex::new(Some(Vec::new())), waker }
    }

    /// Leaves a message and wakes the worker. A message for a worker that has ended is dropped, and with it its `ack`.
    pub fn post(&self, message: Message) -> io::Result<()> {
        match &mut *self.messages.lock() {
            Some(messages) => messages.push(message),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        self.waker.as_ref().map_or(Ok(()), Waker::wake)
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.messages.lock().as_ref().is_none_or(Vec::is_empty)
    }

    pub fn take(&self) -> Vec<Message> {
        self.messages.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The worker has ended.
    pub fn shut(&self) {
        *self.messages.lock() = None;
    }
}

/// A connection as the model sees it.
#[derive(Debug)]
pub(crate) struct MailboxPeer {
    pub mailbox: Arc<Mailbox>,
    pub at: Address,
}

impl MailboxPeer {
    fn post(&self, message: ConnectionMessage) {
        // a worker that cannot be woken finds the message when it next wakes by itself
        let _ = self.mailbox.post(Message::Connection { at: self.at, message });
    }
}

impl Peer for MailboxPeer {
    fn complete(&self, cqe: Cqe) {
        self.post(ConnectionMessage::Complete(cqe));
    }

    fn abort(&self, cid: u16, reply: Arc<dyn Peer>, abort_cid: u16) {
        self.post(ConnectionMessage::Abort { cid, reply, abort_cid });
    }

    fn close(&self) {
        self.post(ConnectionMessage::Close);
    }
}
