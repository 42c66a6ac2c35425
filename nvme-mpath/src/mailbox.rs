//! Letters between the threads of a program and the control plane, and between the control plane
//! and channels. Both ways they only carry changes, never I/O.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nvme_core::spec::Sqe;
use nvme_core::time::Duration;
use nvme_core::transport::{Data, Endpoint, Queue, TransportError};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::controller::{AdminReply, ControllerStatus};
use crate::fence::Fencing;
use crate::head::Head;
use crate::ids::{AssociationId, ChannelId, ControllerId};
use crate::latency::PathCounts;
use crate::letterbox::{Bell, LetterBox};
use crate::lifecycle::Timer;
use crate::load::Board;
use crate::options::{ControllerOptions, TimeoutPolicy};

/// Makes a sleeping thread's descriptor readable.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        // The only error is a counter that is full, and then the descriptor is readable already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the wake-ups that were given so far.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the control plane is asked to do.
pub(crate) enum Command {
    Connect {
        status: Arc<ControllerStatus>,
        endpoint: Arc<dyn Endpoint>,
        options: Box<ControllerOptions>,
    },
    Disconnect(ControllerId),
    Reset(ControllerId, String),
    SubsystemReset(ControllerId, String),
    Rescan(ControllerId),
    /// The program marked the controller's paths as marginal, or took the mark off.
    MarginalChanged(ControllerId),
    Admin {
        controller: ControllerId,
        sqe: Sqe,
        data: Data,
        reply: Arc<AdminReply>,
    },
    ChannelOpened(Arc<ChannelShared>),
    ChannelClosed(ChannelId),
    /// A channel saw a queue die.
    QueueFailed {
        association: AssociationId,
        channel: ChannelId,
        error: TransportError,
    },
    /// A channel has taken its queue of this association apart.
    QueueReleased {
        association: AssociationId,
        channel: ChannelId,
    },
    /// A channel that is being closed has no use for this queue any more.
    QueueReturned {
        association: AssociationId,
        channel: ChannelId,
        queue: Box<dyn Queue>,
    },
    /// A channel got an ANA error for this namespace.
    AnaError {
        association: AssociationId,
        nsid: u32,
    },
    /// A command is to be aborted, in so much time: its request was not answered within the I/O time
    /// limit, or nobody wants it any more.
    Abort {
        association: AssociationId,
        channel: ChannelId,
        cid: u16,
        limit: Duration,
        overdue: bool,
    },
    /// A request was not answered within the I/O time limit, nor after an Abort where `aborted`: the
    /// controller is to be reset. `command`: where it is, if its queue can tell.
    IoTimeout {
        association: AssociationId,
        command: Option<(ChannelId, u16)>,
        aborted: bool,
    },
    /// A channel holds writes that were in flight on this association.
    Fence {
        association: AssociationId,
        channel: ChannelId,
    },
    /// None of those writes is left.
    FenceNeedless {
        association: AssociationId,
        channel: ChannelId,
    },
    RemovalRearmed(Arc<Head>, Timer),
    FinishRemoval(Arc<Head>),
    /// A view was published by somebody else than the control plane: tell the channels.
    HeadChanged,
    /// Disconnect everything, remove every head, end. Devices have `limit` to stop.
    Shutdown {
        limit: Duration,
    },
    /// The program has no host handle any more: end when nothing holds the library.
    Orphaned,
}

/// The control plane's letter box.
pub(crate) struct Commands {
    queue: Mutex<VecDeque<Command>>,
    wake: Wake,
}

impl Commands {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { queue: Mutex::default(), wake: Wake::new()? })
    }

    pub(crate) fn send(&self, command: Command) {
        self.queue.lock().push_back(command);
        self.wake.wake();
    }

    pub(crate) fn take(&self) -> VecDeque<Command> {
        self.wake.clear();
        std::mem::take(&mut self.queue.lock())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    pub(crate) const fn wake(&self) -> &Wake {
        &self.wake
    }
}

/// A queue on its way to a channel, and what goes with it.
pub(crate) struct Handover {
    pub(crate) association: AssociationId,
    pub(crate) qid: u16,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) board: Arc<Board>,
    /// Where latencies are to be counted, if they are.
    pub(crate) counts: Option<Arc<PathCounts>>,
    pub(crate) fencing: Fencing,
    pub(crate) on_timeout: TimeoutPolicy,
}

/// What a channel is told.
pub(crate) enum Letter {
    /// A queue is ready for the channel.
    QueueUp(Handover),
    /// The controller is to be deleted: give its queue back when nothing is in flight on it.
    QueueDrain(AssociationId),
    /// The association is dead: take its queue apart and say so.
    QueueDown(AssociationId),
    /// The controller grants no queue to this channel.
    QueueRefused { association: AssociationId, granted: u16 },
    /// The controller of the association executes nothing any more.
    Fenced(AssociationId),
    /// The host ends: fail everything.
    Shutdown,
}

impl Bell for Wake {
    fn ring(&self) {
        self.wake();
    }

    fn clear(&self) {
        self.clear();
    }
}

/// The part of a channel that other threads may touch.
pub(crate) struct ChannelShared {
    pub(crate) id: ChannelId,
    /// Latencies are to be counted.
    pub(crate) histograms: bool,
    letters: LetterBox<Letter, Wake>,
}

impl ChannelShared {
    pub(crate) fn new(id: ChannelId, histograms: bool) -> std::io::Result<Self> {
        Ok(Self { id, histograms, letters: LetterBox::new(Wake::new()?) })
    }

    pub(crate) fn send(&self, letter: Letter) {
        self.letters.send(letter);
    }

    /// Takes back what was sent about an association and not read: its queue is dropped here.
    /// Returns whether there was one.
    pub(crate) fn retract(&self, association: AssociationId) -> bool {
        let is =
            |l: &Letter| matches!(l, Letter::QueueUp(queue) if queue.association == association);
        let stale = |l: &Letter| matches!(l, Letter::QueueRefused { association: a, .. } if a.slot == association.slot);
        // Dropped when the box is free again.
        let queue = self.letters.sort(|letters| {
            let queue = letters.iter().position(is).map(|at| letters.remove(at));
            letters.retain(|letter| !stale(letter));
            queue
        });
        queue.is_some()
    }

    /// Says that something changed. One wake-up until the channel has looked.
    pub(crate) fn notify(&self) {
        self.letters.notify();
    }

    /// Whether there is something to look at.
    pub(crate) fn pending(&self) -> bool {
        self.letters.pending()
    }

    /// Takes the letters; what is sent after counts as pending again.
    pub(crate) fn take(&self) -> Vec<Letter> {
        self.letters.take()
    }

    pub(crate) const fn wake(&self) -> &Wake {
        self.letters.bell()
    }
}
