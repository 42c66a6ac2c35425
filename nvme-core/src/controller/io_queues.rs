//! I/O queues: opened for the channels that want them, connected or created, then handed over.

use std::collections::BTreeMap;

use super::action::{Action, ControllerError, ControllerEvent};
use super::admin::Purpose;
use super::bringup::Step;
use super::machine::{Controller, Phase};
use crate::buffer::Buffer;
use crate::quirk::Quirks;
use crate::spec::fabrics::{ConnectAttributes, ConnectData};
use crate::spec::{Sqe, Status};
use crate::time::{Duration, Instant, earlier};
use crate::transport::{Data, QueueParams, QueueSetup, TransportError, TransportKind};
use zerocopy::IntoBytes;

/// How often a queue is tried again whose identifier the controller says is still in use, and the
/// pause before. A target may take a moment to see that the connection which had it is gone.
const REUSE_TRIES: u32 = 20;
const REUSE_PAUSE: Duration = Duration::from_millis(100);

/// Associations that are ended because a certain queue cannot be opened, before the controller is used
/// without that queue. What is wrong with a connection is over with the next one; what is wrong with a
/// queue comes again each time.
const OPEN_TRIES: u32 = 5;

/// `QPRIO` in dword 11 of Create I/O Submission Queue (`NVMe 2.1 §5.2.2`).
const MEDIUM_PRIORITY: u32 = 0b10 << 1;

/// An I/O queue of the present association.
#[derive(Debug)]
enum IoQueue {
    /// The transport opens it, until then.
    Opening(Instant),
    /// Its Connect or its two Create commands are under way; the submission queue's is kept here.
    Starting(Option<Sqe>),
    /// Its identifier is still in use; opened again then.
    Paused(Instant),
    /// Handed over to its owner.
    Live,
    /// Not wanted any more; the controller may still have it.
    Left,
    /// Being deleted on the controller, to be opened again (memory only).
    Deleting,
}

/// The I/O queues of one association.
#[derive(Debug, Default)]
pub(super) struct IoQueues {
    queues: BTreeMap<u16, IoQueue>,
    /// Times that a queue was found still in use.
    in_use: BTreeMap<u16, u32>,
    /// The identifiers up to here can be had, once one above could not (memory only).
    limit: Option<u16>,
}

impl IoQueues {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queues.values().fold(None, |at, queue| match queue {
            IoQueue::Opening(limit) | IoQueue::Paused(limit) => earlier(at, Some(*limit)),
            _ => at,
        })
    }

    fn all_settled(&self) -> bool {
        self.queues.values().all(|q| matches!(q, IoQueue::Live | IoQueue::Left))
    }
}

impl Controller {
    /// A channel needs I/O queue `qid`, 1 or more. Queues wanted before the controller is live are
    /// opened before it; others at once. Each ends in [`Action::QueueLive`], on this association
    /// and on each later one, until [`unwant_queue`](Self::unwant_queue). A `qid` beyond what the
    /// controller grants ends in [`ControllerEvent::QueueUnavailable`] instead.
    pub fn want_queue(&mut self, now: Instant, qid: u16) {
        if qid == 0 || !self.wanted.insert(qid) {
            return;
        }
        if self.is_live() || matches!(self.phase, Phase::BringUp(Step::IoQueues)) {
            self.open_io_queue(now, qid);
        }
    }

    /// The channel that needed I/O queue `qid` has dropped it, or does not need it any more. What
    /// happens to the queue is then of no interest. Over fabrics the driver drops a queue that is
    /// still being opened, and nothing more is heard of it.
    pub fn unwant_queue(&mut self, now: Instant, qid: u16) {
        if !self.wanted.remove(&qid) {
            return;
        }
        self.queue_failures.remove(&qid);
        match self.link.io.queues.get_mut(&qid) {
            Some(queue @ IoQueue::Live) => *queue = IoQueue::Left,
            Some(IoQueue::Opening(_) | IoQueue::Starting(_) | IoQueue::Paused(_))
                if self.link.kind == TransportKind::Fabrics =>
            {
                self.link.io.queues.remove(&qid);
                self.admin.forget_queue(qid);
                let opens =
                    |a: &Action| matches!(a, Action::OpenQueue(params) if params.qid == qid);
                self.actions.retain(|action| !opens(action));
                self.io_queue_settled(now);
            }
            _ => {}
        }
    }

    /// Opens the queues that are wanted; the controller goes live when all of them have.
    pub(super) fn open_io_queues(&mut self, now: Instant) {
        for qid in self.wanted.clone() {
            self.open_io_queue(now, qid);
        }
        self.io_queue_settled(now);
    }

    fn open_io_queue(&mut self, now: Instant, qid: u16) {
        let (granted, entries) =
            self.info.as_ref().map_or((0, 0), |info| (info.io_queues, info.io_entries));
        let granted = self.link.io.limit.map_or(granted, |limit| granted.min(limit));
        if qid > granted {
            self.emit(ControllerEvent::QueueUnavailable { qid, granted });
            return;
        }
        let memory = self.link.kind == TransportKind::Memory;
        match self.link.io.queues.get(&qid) {
            // Under way since before it was unwanted; it will be handed over after all.
            Some(IoQueue::Opening(_) | IoQueue::Starting(_) | IoQueue::Deleting) => return,
            Some(IoQueue::Left) if memory => return self.delete_io_queue(now, qid),
            Some(IoQueue::Left | IoQueue::Live | IoQueue::Paused(_)) | None => {}
        }
        let open_timeout = self.config.connect_timeout;
        self.link.io.queues.insert(qid, IoQueue::Opening(now + open_timeout));
        self.actions.push_back(Action::OpenQueue(QueueParams { qid, entries, open_timeout }));
    }

    /// The controller still has the queue under this identifier (`NVMe 2.1 §5.2.3, §5.2.4`).
    fn delete_io_queue(&mut self, now: Instant, qid: u16) {
        self.link.io.queues.insert(qid, IoQueue::Deleting);
        self.send(now, Sqe::delete_io_sq(qid), Data::None, Purpose::DeleteSq(qid));
    }

    pub(super) fn delete_cq(&mut self, now: Instant, qid: u16) {
        self.send(now, Sqe::delete_io_cq(qid), Data::None, Purpose::DeleteCq(qid));
    }

    /// Whether deleting worked is seen when the queue is created again.
    pub(super) fn io_queue_deleted(&mut self, now: Instant, qid: u16) {
        self.link.io.queues.remove(&qid);
        if self.wanted.contains(&qid) {
            self.open_io_queue(now, qid);
        }
        self.io_queue_settled(now);
    }

    pub(super) fn io_queue_ready(&mut self, now: Instant, qid: u16, setup: QueueSetup) {
        let Some(queue @ IoQueue::Opening(_)) = self.link.io.queues.get_mut(&qid) else { return };
        match setup {
            QueueSetup::Connect => {
                *queue = IoQueue::Starting(None);
                self.connect_io_queue(now, qid);
            }
            QueueSetup::Create { cq, mut sq } => {
                if self.link.quirks.contains(Quirks::MEDIUM_PRIORITY) {
                    sq.cdw11.set(sq.cdw11.get() | MEDIUM_PRIORITY);
                }
                *queue = IoQueue::Starting(Some(sq));
                self.send(now, cq, Data::None, Purpose::CreateCq(qid));
            }
            QueueSetup::None => self.io_queue_live(now, qid),
        }
    }

    fn connect_io_queue(&mut self, now: Instant, qid: u16) {
        let Some(subnqn) = &self.config.subnqn else {
            let error = self.invalid("settings", "a fabrics controller needs a subsystem NQN");
            return self.fail(now, error);
        };
        let (cntlid, config) = (self.link.cntlid, &self.config);
        let data = ConnectData::new(config.hostid, cntlid, subnqn, &config.hostnqn);
        let entries = self.info.as_ref().map_or(2, |info| info.io_entries);
        let sqe = Sqe::connect(qid, entries.saturating_sub(1), ConnectAttributes::empty(), 0);
        let data = Data::Write(Buffer::from(data.as_bytes().to_vec()));
        self.send_on_io_queue(now, qid, sqe, data, Purpose::IoConnect(qid));
    }

    /// A refusal ends the attempt, but not the controller, even with DNR: the admin queue's Connect
    /// was accepted, so what is refused here may be an association that the controller has lost.
    pub(super) fn io_queue_connected(&mut self, now: Instant, qid: u16, status: Status) {
        if status.is_success() {
            self.io_queue_live(now, qid);
        } else if !self.pause_if_in_use(now, qid, status) {
            self.io_queue_refused(now, qid, Purpose::IoConnect(qid).name(), status);
        }
    }

    /// Whether the identifier is only not free yet, so that the queue is worth another try.
    fn pause_if_in_use(&mut self, now: Instant, qid: u16, status: Status) -> bool {
        let in_use = self.is_live() && status.is(Status::SEQUENCE_ERROR);
        let io = &mut self.link.io;
        let tries = io.in_use.entry(qid).or_default();
        let again = in_use && *tries < REUSE_TRIES;
        if again {
            *tries += 1;
            io.queues.insert(qid, IoQueue::Paused(now + REUSE_PAUSE));
        }
        again
    }

    pub(super) fn cq_created(&mut self, now: Instant, qid: u16, status: Status) {
        if !status.is_success() {
            return self.io_queue_refused(now, qid, Purpose::CreateCq(qid).name(), status);
        }
        let Some(IoQueue::Starting(sq)) = self.link.io.queues.get_mut(&qid) else { return };
        if let Some(sq) = sq.take() {
            self.send(now, sq, Data::None, Purpose::CreateSq(qid));
        }
    }

    pub(super) fn sq_created(&mut self, now: Instant, qid: u16, status: Status) {
        if status.is_success() {
            self.io_queue_live(now, qid);
        } else {
            self.io_queue_refused(now, qid, Purpose::CreateSq(qid).name(), status);
        }
    }

    fn io_queue_refused(&mut self, now: Instant, qid: u16, command: &'static str, status: Status) {
        let error = self.command_error(command, status);
        let half_made = command == Purpose::CreateSq(qid).name();
        if self.do_with_fewer(now, qid, error, half_made) {
            return;
        }
        if self.wanted.contains(&qid) {
            let error = self.command_error(command, status);
            self.queue_unopened(now, qid, error);
        } else {
            self.link.io.queues.remove(&qid);
            self.io_queue_settled(now);
        }
    }

    /// Goes on without queue `qid`, which could not be created in memory, if there may be others: the
    /// number that Set Features has granted is more than there is. On the next association it is tried
    /// anew. `half_made`: the controller has its completion queue.
    fn do_with_fewer(
        &mut self,
        now: Instant,
        qid: u16,
        error: ControllerError,
        half_made: bool,
    ) -> bool {
        if self.link.kind != TransportKind::Memory || qid <= 1 || !self.wanted.contains(&qid) {
            return false;
        }
        let limit = self.link.io.limit.map_or(qid - 1, |limit| limit.min(qid - 1));
        self.link.io.limit = Some(limit);
        self.emit(ControllerEvent::QueueRefused { qid, error });
        self.emit(ControllerEvent::QueueUnavailable { qid, granted: limit });
        if half_made {
            self.link.io.queues.insert(qid, IoQueue::Deleting);
            self.delete_cq(now, qid);
        } else {
            self.link.io.queues.remove(&qid);
        }
        self.io_queue_settled(now);
        true
    }

    /// A wanted queue could not be opened: another association may help. After some of these the
    /// controller is used without the queue, on each later one at once.
    fn queue_unopened(&mut self, now: Instant, qid: u16, error: ControllerError) {
        let tries = self.queue_failures.entry(qid).or_default();
        *tries = tries.saturating_add(1);
        if *tries < OPEN_TRIES {
            return self.fail(now, error);
        }
        let live = |q: &&IoQueue| matches!(q, IoQueue::Live);
        let granted = self.link.io.queues.values().filter(live).count();
        let granted = u16::try_from(granted).unwrap_or(u16::MAX);
        // Whatever still becomes of it is of no interest.
        self.link.io.queues.remove(&qid);
        self.emit(ControllerEvent::QueueRefused { qid, error });
        self.emit(ControllerEvent::QueueUnavailable { qid, granted });
        self.io_queue_settled(now);
    }

    fn io_queue_live(&mut self, now: Instant, qid: u16) {
        self.queue_failures.remove(&qid);
        let wanted = self.wanted.contains(&qid);
        let queue = if wanted { IoQueue::Live } else { IoQueue::Left };
        self.link.io.in_use.remove(&qid);
        self.link.io.queues.insert(qid, queue);
        if wanted {
            let in_capsule = self.link.in_capsule;
            self.actions.push_back(Action::QueueLive { qid, in_capsule });
        }
        self.io_queue_settled(now);
    }

    /// Goes live once nothing is being opened any more.
    fn io_queue_settled(&mut self, now: Instant) {
        if matches!(self.phase, Phase::BringUp(Step::IoQueues)) && self.link.io.all_settled() {
            self.go_live(now);
        }
    }

    pub(super) fn io_queue_failed(&mut self, now: Instant, qid: u16, error: TransportError) {
        // The process has no memory for it, say; the controller itself is well.
        let opening = matches!(self.link.io.queues.get(&qid), Some(IoQueue::Opening(_)));
        let local = matches!(error, TransportError::Connect { .. } | TransportError::Memory { .. });
        if opening
            && local
            && self.do_with_fewer(now, qid, ControllerError::Transport(error.clone()), false)
        {
            return;
        }
        if self.wanted.contains(&qid) && self.link.io.queues.contains_key(&qid) {
            // The next attempt leaves to the queues what the controller would have got.
            self.spare_memory |= local && opening && self.link.host_memory;
            let error = ControllerError::Transport(error);
            if opening {
                self.queue_unopened(now, qid, error);
            } else {
                self.fail(now, error);
            }
        } else {
            self.link.io.queues.remove(&qid);
            self.io_queue_settled(now);
        }
    }

    pub(super) fn io_queue_timeout(&mut self, now: Instant) {
        let paused = |(qid, q): (&u16, &IoQueue)| match q {
            IoQueue::Paused(at) if *at <= now => Some(*qid),
            _ => None,
        };
        let due: Vec<u16> = self.link.io.queues.iter().filter_map(paused).collect();
        for qid in due {
            self.open_io_queue(now, qid);
        }
        let late = |(qid, q): (&u16, &IoQueue)| match q {
            IoQueue::Opening(at) if *at <= now => Some(*qid),
            _ => None,
        };
        let late: Vec<u16> = self.link.io.queues.iter().filter_map(late).collect();
        for qid in late {
            if self.has_association() {
                let error = self.timeout_error("opening an I/O queue", self.config.connect_timeout);
                self.queue_unopened(now, qid, error);
            }
        }
    }
}
