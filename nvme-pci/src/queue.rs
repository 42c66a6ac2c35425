//! A queue pair as the controller layer drives it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nvme_core::spec::registers::offset;
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Completion, Data, Queue, QueueSetup, QueueStatus, RejectReason, Rejected, Sink, Tag,
    TransportError,
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
/// How often a queue looks whether its controller has been stopped at last.
pub(crate) const POLL_STOPPING: Duration = Duration::from_millis(1);
/// How often the admin queue looks whether the controller is still there, and sound.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

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
    regions_seen: u64,
    setup: QueueSetup,
    polled_at: Instant,
    health_at: Instant,
    pending: bool,
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
            // Not a generation that there is, so that the first submission fetches the map.
            regions_seen: u64::MAX,
            setup,
            polled_at: now,
            health_at: now + HEALTH_INTERVAL,
            pending: true,
            failure: None,
        })
    }

    /// The rings, for the registers that describe the admin queue.
    pub fn pair(&self) -> Option<&Pair> {
        self.pair.as_ref()
    }

    /// Tells the controller of what was submitted, and of what was taken.
    fn ring(&mut self) {
        let Some(pair) = &mut self.pair else { return };
        if self.device.is_dead() {
            return;
        }
        let bar = self.device.backend().bar0();
        let shadow = self.shadow.as_deref();
        let needed =
            |at, (old, new): (u16, u16)| shadow.is_none_or(|shadow| shadow.ring(at, old, new));
        // Completions first: their room is then there for what is submitted.
        if let Some(moved) = pair.cq.untold() {
            if needed(self.cq_doorbell, moved) {
                bar.write32(self.cq_doorbell, moved.1.into());
                self.counters.cq_doorbell();
            } else {
                self.counters.doorbell_saved();
            }
        }
        if let Some(moved) = pair.sq.untold() {
            if needed(self.sq_doorbell, moved) {
                bar.write32(self.sq_doorbell, moved.1.into());
                self.counters.sq_doorbell();
            } else {
                self.counters.doorbell_saved();
            }
        }
    }

    /// Takes completions off the ring: as many as it holds at most, so that a controller that goes
    /// on completing cannot hold the caller up.
    fn reap(&mut self, sink: &mut dyn Sink) -> Result<(), Box<str>> {
        let Some(pair) = &mut self.pair else { return Ok(()) };
        self.pending = false;
        for _ in 0..pair.cq.entries() {
            let Some(cqe) = pair.cq.peek() else { return Ok(()) };
            let (slot, plain) = pair.completed(&cqe)?;
            pair.cq.advance();
            if !plain {
                let watch = pair.settle(slot, cqe.status().is_success());
                if watch != Watch::No {
                    observe(&self.device, watch, pair.data(slot), &cqe);
                }
                if watch == Watch::Doorbells {
                    pair.end(slot);
                    continue;
                }
            }
            if let Some((tag, data)) = pair.end(slot) {
                sink.complete(Completion { tag, cqe, data });
            }
        }
        self.pending = true;
        Ok(())
    }

    /// What the admin queue does beside its commands.
    fn look_after(&mut self, now: Instant) {
        if self.qid != 0 {
            return;
        }
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
        self.device.begin_stop();
        if !self.device.is_stopped() {
            self.pending = false;
            return QueueStatus::Ready;
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
    fn submit(&mut self, sqe: Sqe, mut data: Data, tag: Tag) -> Result<(), Rejected> {
        // One that has failed is dead as well.
        if self.device.is_dead() {
            return Err(Rejected { reason: RejectReason::NotReady, data });
        }
        if let Some(regions) = self.device.new_regions(&mut self.regions_seen) {
            self.regions = regions;
        }
        let (device, regions, counters) = (&self.device, &self.regions, &self.counters);
        let taken = match &mut self.pair {
            Some(pair) => pair.submit(device, sqe, &mut data, tag, regions, counters),
            None => Err(RejectReason::NotReady),
        };
        match taken {
            Ok(()) => Ok(()),
            Err(reason) => Err(Rejected { reason, data }),
        }
    }

    fn flush(&mut self) {
        self.ring();
    }

    fn poll(&mut self, now: Instant, sink: &mut dyn Sink) -> QueueStatus {
        if let Some(error) = &self.failure {
            return QueueStatus::Failed(error.clone());
        }
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
        self.look_after(now);
        if self.device.is_dead() {
            return self.end(sink);
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
            return Some(self.polled_at + POLL_STOPPING);
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
