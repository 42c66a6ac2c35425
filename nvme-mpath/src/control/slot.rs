//! One controller as the control plane holds it: its state machine, its association, and the queues
//! that are not (yet) a channel's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::RawFd;
use std::sync::Arc;

use nvme_core::ana::AnaSnapshot;
use nvme_core::controller::{Controller as Machine, ControllerInfo, NamespaceInfo};
use nvme_core::time::{Instant, earlier};
use nvme_core::transport::{Association, Endpoint, Queue};

use crate::controller::{AdminReply, ControllerStatus};
use crate::ids::{AssociationId, ChannelId};
use crate::load::Board;
use crate::options::ControllerOptions;

/// A queue that the control plane polls: the admin queue, or an I/O queue on its way to a channel.
pub(super) struct OwnQueue {
    pub(super) qid: u16,
    pub(super) queue: Box<dyn Queue>,
    /// The descriptor that is registered with the event queue.
    pub(super) registered: Option<RawFd>,
    /// The state machine knows that the transport is ready.
    pub(super) told_ready: bool,
}

/// A namespace as this controller reports it.
pub(super) struct Namespace {
    pub(super) info: Arc<NamespaceInfo>,
    /// The head that it is a path of; `None` if it was refused.
    pub(super) head: Option<u32>,
}

/// Which channel has which queue.
#[derive(Default)]
pub(super) struct QueueMap {
    /// The queue meant for each channel on this association.
    pub(super) assigned: HashMap<ChannelId, u16>,
    /// Queues that a channel has now.
    pub(super) handed: BTreeMap<u16, ChannelId>,
    /// Queues that a channel gave back when it was closed; the next channel gets one. Polled by the
    /// control plane meanwhile.
    pub(super) spare: BTreeSet<u16>,
    /// Channels that got none, because the controller grants too few.
    pub(super) refused: BTreeSet<ChannelId>,
    /// Channels that still have a queue of the association that is being torn down or deleted.
    pub(super) releasing: BTreeSet<ChannelId>,
    /// Identifiers below this one have been used on this association. A target may still hold on
    /// to a queue that was just closed, so a fresh identifier is better than a used one.
    pub(super) next_qid: u16,
}

/// See the module's text.
pub(super) struct Slot {
    pub(super) status: Arc<ControllerStatus>,
    pub(super) endpoint: Arc<dyn Endpoint>,
    pub(super) options: ControllerOptions,
    pub(super) machine: Machine,
    pub(super) id: AssociationId,
    pub(super) association: Option<Box<dyn Association>>,
    /// The association is being opened: when to ask again whether it is.
    pub(super) opening: Option<Instant>,
    /// The association before, while it is being stopped.
    pub(super) dying: Option<Box<dyn Association>>,
    /// When to look again whether it has been.
    pub(super) stop_poll: Option<Instant>,
    /// When it was killed.
    pub(super) killed_at: Instant,
    pub(super) max_transfer: Option<usize>,
    /// Counts of the I/O queues of this association.
    pub(super) board: Arc<Board>,
    pub(super) queues: Vec<OwnQueue>,
    pub(super) map: QueueMap,
    /// In-capsule data of an I/O queue on this association, in bytes.
    pub(super) in_capsule: usize,
    /// When the channels' queues are given up, if they have not been released by then.
    pub(super) teardown_by: Option<Instant>,
    /// The controller is to be deleted once the channels have given their queues back, or at this
    /// time.
    pub(super) delete_by: Option<Instant>,
    /// When the controller begins anew after it was given up.
    pub(super) restart_at: Option<Instant>,
    /// A channel got a queue of this association.
    pub(super) handed_out: bool,
    /// Channels that hold writes of this association, which has not ended yet.
    pub(super) fence_waiting: BTreeSet<ChannelId>,
    pub(super) info: Option<Arc<ControllerInfo>>,
    pub(super) namespaces: BTreeMap<u32, Namespace>,
    pub(super) ana: Option<Arc<AnaSnapshot>>,
    /// `fast_io_fail_tmo` has passed.
    pub(super) fail_fast: bool,
    pub(super) admin: HashMap<u64, Arc<AdminReply>>,
    pub(super) next_admin: u64,
    /// Sum of the channels' completions when a keep-alive was last considered.
    pub(super) traffic_seen: u64,
}

impl Slot {
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let mut next = earlier(self.machine.deadline(), self.teardown_by);
        next = earlier(next, earlier(self.restart_at, self.delete_by));
        next = earlier(next, earlier(self.stop_poll, self.opening));
        for q in &self.queues {
            if q.queue.has_pending_work() {
                return Some(now);
            }
            next = earlier(next, q.queue.deadline());
        }
        next
    }

    /// Whether it has a queue that must be polled without being asked to, for nothing tells of it.
    pub(super) fn is_watched(&self) -> bool {
        self.queues.iter().any(|q| q.registered.is_none())
    }

    pub(super) fn queue(&mut self, qid: u16) -> Option<&mut OwnQueue> {
        self.queues.iter_mut().find(|q| q.qid == qid)
    }

    pub(super) fn is_marginal(&self) -> bool {
        self.status.marginal.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Completions that channels took on this association.
    pub(super) fn traffic(&self) -> u64 {
        self.board.completions()
    }
}
