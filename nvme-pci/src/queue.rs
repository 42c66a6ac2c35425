//! A queue pair as the controller layer drives it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nvme_core::spec::command::BlockOp;
use nvme_core::spec::registers::offset;
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Completion, Data, Queue, QueueSetup, QueueStatus, RejectReason, Sink, Tag, TransportError,
};

use crate::counters::QueueCounters;
use crate::device::{Device, Interrupt};
use crate::pair::Pair;
use crate::region::RegionMap;
use crate::shadow::Shadow;
use crate::slots::Watch;

/// How often a queue without interrupts is looked at while an answer is awaited by somebody who
/// sleeps.
const POLL_BUSY: Duration = Duration::from_micros(50);
/// The same for an admin queue with nothing but event requests.
const POLL_IDLE: Duration = Duration::from_millis(10);
/// How often it is looked whether a controller has been stopped at last: at first, and when that has
/// not helped for long.
const POLL_STOPPING: Duration = Duration::from_millis(1);
const POLL_STUCK: Duration = Duration::from_millis(50);
/// How often the admin queue looks whether the controller is still there, and sound.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// No number of changes that there is: the next submission looks at the device.
const NEVER: u64 = u64::MAX;

/// When to look again whether a controller has been stopped that is being stopped `since` then.
pub(crate) fn stopping_at(since: Instant, now: Instant) -> Instant {
    now + (now.saturating_since(since) / 32).clamp(POLL_STOPPING, POLL_STUCK)
}

/// See the module's text. Of the queues of a controller the admin queue alone watches over its
/// health.
#[derive(Debug)]
pub(crate) struct PciQueue {
    qid: u16,
    device: Arc<Device>,
    /// Always there until the queue is dropped.
    pair: Option<Pair>,
    counters: Arc<QueueCounters>,
    interrupt: Option<Interrupt>,
    /// Offsets of the doorbells.
    sq_doorbell: usize,
    cq_doorbell: usize,
    /// The same in memory.
    shadow: Option<Arc<Shadow>>,
    regions: Arc<RegionMap>,
    /// The number of changes of the device that the queue knows of.
    seen: u64,
    setup: QueueSetup,
    polled_at: Instant,
    health_at: Instant,
    pending: bool,
    /// Since when it waits that the controller stops.
    ending_since: Option<Instant>,
    failure: Option<TransportError>,
}

impl PciQueue {
    /// A queue pair in memory, of which the controller does not know yet.
    pub fn new(
        device: &Arc<Device>,
        qid: u16,
        entries: u16,
        now: Instant,
    ) -> Result<Self, TransportError> {
        let cap = device.cap();
        let (sq_doorbell, cq_doorbell) = (cap.sq_doorbell(qid), cap.cq_doorbell(qid));
        let bytes = device.backend().bar0().len();
        if cq_doorbell + 4 > bytes {
            return Err(TransportError::Protocol {
                address: device.address(),
                reason: format!(
                    "the doorbells of queue {qid} are at {sq_doorbell:#x} and {cq_doorbell:#x} \
                     (DSTRD {}), past the end of BAR 0 ({bytes:#x} bytes)",
                    cap.dstrd()
                ),
            });
        }
        let shadow = device.shadow(qid);
        if let Some(shadow) = &shadow {
            shadow.clear(sq_doorbell);
            shadow.clear(cq_doorbell);
        }
        let interrupt = device.interrupt(qid)?;
        let pair = Pair::new(device, qid, entries)?;
        let setup = if qid == 0 {
            QueueSetup::None
        } else {
            let vector = interrupt.as_ref().map(|i| i.vector);
            create(&pair, qid, vector).ok_or_else(|| TransportError::Connect {
                address: device.address(),
                reason: format!("queue {qid}: its rings have no bus address"),
            })?
        };
        Ok(Self {
            qid,
            device: Arc::clone(device),
            pair: Some(pair),
            counters: device.ledger().open(),
            interrupt,
            sq_doorbell,
            cq_doorbell,
            shadow,
            regions: Arc::default(),
            seen: NEVER,
            setup,
            polled_at: now,
            health_at: now + HEALTH_INTERVAL,
            pending: true,
            ending_since: None,
            failure: None,
        })
    }

    /// The rings, for the registers that describe the admin queue.
    pub fn pair(&self) -> Option<&Pair> {
        self.pair.as_ref()
    }

    /// Takes notice of what has changed about the device. One that has failed is dead as well.
    #[cold]
    fn catch_up(&mut self) -> Result<(), RejectReason> {
        // First, so that what comes later is seen the next time.
        self.seen = self.device.changes();
        if self.device.is_dead() {
            self.seen = NEVER;
            return Err(RejectReason::NotReady);
        }
        self.regions = self.device.regions();
        if let Some(pair) = &mut self.pair {
            pair.forget_regions();
        }
        Ok(())
    }

    /// [`Queue::submit_block`] by way of [`Queue::submit_from`]. Takes what that takes, so that the call
    /// is a jump.
    #[inline(never)]
    fn submit_block_slowly(
        &mut self,
        op: BlockOp,
        slba: u64,
        data: &mut Data,
        tag: Tag,
    ) -> Result<(), RejectReason> {
        self.submit_from(op.at(slba), data, tag)
    }

    /// Tells the controller of what was submitted, and of what was taken.
    #[inline]
    fn ring(&mut self) {
        let Some(pair) = &mut self.pair else { return };
        if !(pair.cq.is_untold() || pair.sq.is_untold()) || self.device.is_dead() {
            return;
        }
        // Completions first: their room is then there for what is submitted.
        let (taken, sent) = (pair.cq.untold(), pair.sq.untold());
        if let Some(moved) = taken {
            self.ring_one(self.cq_doorbell, moved, QueueCounters::cq_doorbell);
        }
        if let Some(moved) = sent {
            self.ring_one(self.sq_doorbell, moved, QueueCounters::sq_doorbell);
        }
    }

    /// Moves one doorbell.
    #[inline]
    fn ring_one(&self, at: usize, (old, new): (u16, u16), count: fn(&QueueCounters)) {
        if self.shadow.as_deref().is_none_or(|shadow| shadow.ring(at, old, new)) {
            self.device.backend().ring(at, new.into());
            count(&self.counters);
        } else {
            self.counters.doorbell_saved();
        }
    }

    /// Takes completions off the ring: as many as it holds at most, so that a controller that goes
    /// on completing cannot hold the caller up.
    fn reap(&mut self, sink: &mut dyn Sink) -> Result<(), Box<str>> {
        let Some(pair) = &mut self.pair else { return Ok(()) };
        self.pending = false;
        let mut left = pair.cq.entries();
        while left > 0 {
            left -= 1;
            let Some(cqe) = pair.cq.peek() else { return Ok(()) };
            if pair.end_plain(&cqe, sink) {
                continue;
            }
            let slot = pair.completed(&cqe)?;
            pair.cq.advance();
            let watch = pair.settle(slot, cqe.status().is_success());
            if watch != Watch::No {
                observe(&self.device, watch, pair.data(slot), &cqe);
            }
            if let Some((tag, data)) = pair.end(slot)
                && watch != Watch::Doorbells
            {
                sink.complete(Completion { tag, cqe, data });
            }
        }
        self.pending = true;
        Ok(())
    }

    /// What the admin queue does beside its commands.
    fn look_after(&mut self, now: Instant) {
        if let Some(config) = self.device.untold_shadow().and_then(Shadow::command)
            && let Some(pair) = &mut self.pair
        {
            // Without room now, registers do as well.
            let _ = pair.submit_own(config);
        }
        if now >= self.health_at {
            self.health_at = now + HEALTH_INTERVAL;
            if let Some(trouble) = self.device.trouble() {
                self.device.fail(trouble);
            }
        }
    }

    /// The end, once the controller has been stopped: what was answered is handed out, the rest ends
    /// with Host Aborted Command. Until then nothing is given back, since it may still be written to.
    #[cold]
    fn end(&mut self, sink: &mut dyn Sink) -> QueueStatus {
        if let Some(error) = &self.failure {
            return QueueStatus::Failed(error.clone());
        }
        self.device.begin_stop();
        if !self.device.is_stopped() {
            self.pending = false;
            self.ending_since.get_or_insert(self.polled_at);
            return QueueStatus::Ending(self.device.reason());
        }
        let reason = self.device.reason();
        if !matches!(reason, TransportError::Protocol { .. }) {
            // The first entry that makes no sense ends this; there is nothing to be failed any more.
            let _ = self.reap(sink);
        }
        if let Some(pair) = &mut self.pair {
            pair.abandon(|tag, data| {
                let cqe = Cqe::new(0, Status::ABORTED_BY_HOST, 0);
                sink.complete(Completion { tag, cqe, data });
            });
        }
        self.pending = false;
        self.failure = Some(reason.clone());
        QueueStatus::Failed(reason)
    }
}

/// The commands that create an I/O queue (NVMe 2.1 §5.2.1, §5.2.2).
fn create(pair: &Pair, qid: u16, vector: Option<u16>) -> Option<QueueSetup> {
    let cq = Sqe::create_io_cq(qid, pair.cq.entries().into(), pair.cq.base()?, vector).ok()?;
    let sq = Sqe::create_io_sq(qid, pair.sq.entries().into(), pair.sq.base()?, qid).ok()?;
    Some(QueueSetup::Create { cq, sq })
}

/// What the end of an admin command tells the driver itself.
#[cold]
fn observe(device: &Device, watch: Watch, data: Option<&Data>, cqe: &Cqe) {
    if !cqe.status().is_success() {
        return;
    }
    match (watch, data) {
        (Watch::Identify, Some(Data::Read(page))) => {
            device.identified(page.as_slice());
        }
        (Watch::Doorbells, _) => {
            if let Some(shadow) = device.shadow(1) {
                shadow.activate();
            }
        }
        (Watch::DeleteCq(qid), _) => device.deleted(qid),
        _ => {}
    }
}

impl Queue for PciQueue {
    fn submit_from(&mut self, sqe: Sqe, data: &mut Data, tag: Tag) -> Result<(), RejectReason> {
        if self.device.changes() != self.seen {
            self.catch_up()?;
        }
        match &mut self.pair {
            Some(pair) => pair.submit(&self.device, sqe, data, tag, &self.regions, &self.counters),
            None => Err(RejectReason::NotReady),
        }
    }

    fn submit_block(
        &mut self,
        op: BlockOp,
        slba: u64,
        data: &mut Data,
        tag: Tag,
    ) -> Result<(), RejectReason> {
        if self.device.changes() == self.seen
            && let Some(pair) = &mut self.pair
            && pair.submit_near(op, slba, data, tag)
        {
            self.counters.usual();
            return Ok(());
        }
        self.submit_block_slowly(op, slba, data, tag)
    }

    fn flush(&mut self) {
        self.ring();
    }

    fn poll(&mut self, now: Instant, sink: &mut dyn Sink) -> QueueStatus {
        self.polled_at = now;
        if self.device.is_dead() {
            return self.end(sink);
        }
        if let Some(interrupt) = &self.interrupt {
            self.device.backend().acknowledge(interrupt.vector);
        }
        // Before the look for answers: a device that is quick may have some by then.
        self.ring();
        if let Err(reason) = self.reap(sink) {
            let address = self.device.address();
            self.device.fail(TransportError::Protocol { address, reason: reason.into() });
            return self.end(sink);
        }
        if self.qid == 0 {
            self.look_after(now);
            if self.device.is_dead() {
                return self.end(sink);
            }
        }
        self.ring();
        QueueStatus::Ready
    }

    fn has_pending_work(&self) -> bool {
        self.pending
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.interrupt.as_ref().map(|i| i.fd.as_fd())
    }

    fn deadline(&self) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let pair = self.pair.as_ref()?;
        if self.device.is_dead() {
            let since = self.ending_since.unwrap_or(self.polled_at);
            return Some(stopping_at(since, self.polled_at));
        }
        let polling = match &self.interrupt {
            Some(_) => None,
            None if pair.busy() > 0 => Some(self.polled_at + POLL_BUSY),
            None if pair.in_flight() > 0 => Some(self.polled_at + POLL_IDLE),
            None => None,
        };
        let health = (self.qid == 0).then_some(self.health_at);
        nvme_core::time::earlier(polling, health)
    }

    fn setup(&self) -> QueueSetup {
        self.setup
    }

    fn capacity(&self) -> usize {
        self.pair.as_ref().map_or(0, Pair::capacity)
    }

    fn in_flight(&self) -> usize {
        self.pair.as_ref().map_or(0, Pair::in_flight)
    }

    fn command_id(&self, tag: Tag) -> Option<u16> {
        self.pair.as_ref()?.command_id(tag)
    }

    fn set_in_capsule_data(&mut self, _bytes: usize) {}
}

impl Drop for PciQueue {
    fn drop(&mut self) {
        if let Some(pair) = self.pair.take() {
            self.device.bury(self.qid, pair);
        }
    }
}

/// Tells the controller where its admin queue is (NVMe 2.1 §3.5.1); it must be disabled.
pub(crate) fn announce_admin_queue(device: &Device, pair: &Pair) -> Option<()> {
    use nvme_core::spec::registers::Aqa;
    let aqa = Aqa(0)
        .with_asqs(u32::from(pair.sq.entries()) - 1)
        .with_acqs(u32::from(pair.cq.entries()) - 1);
    let (asq, acq) = (pair.sq.base()?, pair.cq.base()?);
    let bar = device.backend().bar0();
    bar.write32(offset::AQA, aqa.0);
    bar.write64(offset::ASQ, asq);
    bar.write64(offset::ACQ, acq);
    Some(())
}
