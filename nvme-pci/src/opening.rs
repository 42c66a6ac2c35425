//! A queue that a thread sets up. To map memory and to set an interrupt up may take a function's server,
//! or the kernel, seconds; whoever asks for the queue has others to look after meanwhile.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nvme_core::spec::Sqe;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Data, Queue, QueueParams, QueueSetup, QueueStatus, RejectReason, Sink, Tag, TransportError,
};

use crate::device::Device;
use crate::queue::{PciQueue, announce_admin_queue};

/// How often it is looked whether the thread is done.
const POLL_OPENING: Duration = Duration::from_millis(1);

/// Sets a queue up, of which the controller does not know yet. For the admin queue, which is the first,
/// the controller must be disabled; it is told where that is.
pub(crate) fn set_up(
    device: &Arc<Device>,
    qid: u16,
    entries: u16,
    now: Instant,
) -> Result<PciQueue, TransportError> {
    if qid != 0 {
        return PciQueue::new(device, qid, entries, now);
    }
    device.open_cmb()?;
    let queue = PciQueue::new(device, qid, entries, now)?;
    device.unless_stopping(|| {
        let pair = queue.pair();
        pair.and_then(|pair| announce_admin_queue(device, pair)).ok_or_else(|| {
            TransportError::Connect {
                address: device.address(),
                reason: "the admin queue's rings have no bus address".into(),
            }
        })?;
        // Not before: a controller that somebody left enabled, and that has just been disabled, must
        // not reach memory by the addresses that it had then.
        let on = device.backend().set_bus_master(true);
        on.map_err(|e| device.connect_error(&e))
    })?;
    Ok(queue)
}

/// See the module's text. Gives way to the queue itself ([`Queue::successor`]) as soon as there is one.
#[derive(Debug)]
pub(crate) struct OpeningQueue {
    address: String,
    state: State,
    polled_at: Instant,
    /// When it is given up.
    until: Instant,
    limit: Duration,
}

#[derive(Debug)]
enum State {
    /// If nobody waits for the thread any more, it drops what it has set up.
    Opening(JoinHandle<Result<PciQueue, TransportError>>),
    Open(Box<PciQueue>),
    /// It has given way.
    Over,
    Failed(TransportError),
}

impl OpeningQueue {
    /// Begins to set a queue up.
    pub fn begin(
        device: Arc<Device>,
        params: QueueParams,
        entries: u16,
        now: Instant,
    ) -> Result<Self, TransportError> {
        let (address, qid, limit) = (device.address(), params.qid, params.open_timeout);
        let thread = std::thread::Builder::new().name("nvme-pci-queue".into());
        let thread = thread.spawn(move || set_up(&device, qid, entries, now));
        let thread = thread.map_err(|e| TransportError::Connect {
            address: address.clone(),
            reason: format!("starting a thread to set queue {qid} up: {e}"),
        })?;
        let state = State::Opening(thread);
        Ok(Self { address, state, polled_at: now, until: now + limit, limit })
    }

    /// Takes over what the thread has set up, if it has.
    fn settle(&mut self, now: Instant) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Opening(thread) if thread.is_finished() => match thread.join() {
                Ok(Ok(queue)) => State::Open(Box::new(queue)),
                Ok(Err(error)) => State::Failed(error),
                Err(_) => State::Failed(TransportError::Connect {
                    address: self.address.clone(),
                    reason: "the thread that set a queue up has failed".into(),
                }),
            },
            State::Opening(_) if now >= self.until => State::Failed(TransportError::Timeout {
                address: self.address.clone(),
                what: "setting a queue up",
                limit: self.limit,
            }),
            state => state,
        };
    }
}

impl Queue for OpeningQueue {
    fn submit_from(&mut self, _: Sqe, _: &mut Data, _: Tag) -> Result<(), RejectReason> {
        Err(RejectReason::NotReady)
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, _sink: &mut dyn Sink) -> QueueStatus {
        self.polled_at = now;
        self.settle(now);
        match &self.state {
            State::Opening(_) => QueueStatus::Opening,
            State::Open(_) => QueueStatus::Ready,
            State::Over => {
                QueueStatus::Failed(TransportError::Closed { address: self.address.clone() })
            }
            State::Failed(error) => QueueStatus::Failed(error.clone()),
        }
    }

    fn has_pending_work(&self) -> bool {
        matches!(&self.state, State::Opening(thread) if thread.is_finished())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn deadline(&self) -> Option<Instant> {
        matches!(self.state, State::Opening(_)).then(|| self.polled_at + POLL_OPENING)
    }

    fn setup(&self) -> QueueSetup {
        match &self.state {
            State::Open(queue) => queue.setup(),
            _ => QueueSetup::None,
        }
    }

    fn capacity(&self) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn set_in_capsule_data(&mut self, _bytes: usize) {}

    fn successor(&mut self) -> Option<Box<dyn Queue>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Open(queue) => Some(queue),
            state => {
                self.state = state;
                None
            }
        }
    }
}
