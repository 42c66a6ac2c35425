//! What the model of the subsystem says to a device, from whatever thread.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use nvme_core::spec::{Cqe, Status};
use parking_lot::{Condvar, Mutex};

use crate::controller::Peer;

/// Something for the device to do.
#[derive(Debug)]
pub(crate) enum Message {
    /// Complete an admin command.
    Complete(Cqe),
    /// Abort a command of queue `qid`, and answer the Abort command `abort_cid`.
    Abort { qid: u16, cid: u16, abort_cid: u16 },
    /// The controller has been taken away.
    Close,
}

/// The device's letter box; what waits for the device to have something to do waits here.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    /// Something happened since the last wait.
    woken: bool,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} messages)", self.state.lock().messages.len())
    }
}

impl Inbox {
    pub fn send(&self, message: Message) {
        let mut state = self.state.lock();
        state.messages.push_back(message);
        state.woken = true;
        self.changed.notify_all();
    }

    pub fn take(&self) -> Option<Message> {
        self.state.lock().messages.pop_front()
    }

    pub fn wake(&self) {
        self.state.lock().woken = true;
        self.changed.notify_all();
    }

    /// Waits until something happens, or until `limit` has passed.
    pub fn wait(&self, limit: std::time::Duration) {
        let mut state = self.state.lock();
        if !state.woken {
            self.changed.wait_for(&mut state, limit);
        }
        state.woken = false;
    }
}

/// One queue of the device, as the model sees it.
#[derive(Debug)]
pub(crate) struct QueuePeer {
    pub qid: u16,
    pub inbox: Arc<Inbox>,
}

impl Peer for QueuePeer {
    fn complete(&self, cqe: Cqe) {
        self.inbox.send(Message::Complete(cqe));
    }

    fn abort(&self, cid: u16, reply: Arc<dyn Peer>, abort_cid: u16) {
        if self.qid == 0 {
            // Of admin commands only event requests wait, and those are cancelled by the model.
            reply.complete(Cqe::new(abort_cid, Status::SUCCESS, 1));
        } else {
            self.inbox.send(Message::Abort { qid: self.qid, cid, abort_cid });
        }
    }

    fn close(&self) {
        self.inbox.send(Message::Close);
    }
}
