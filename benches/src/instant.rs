//! Queues that answer at once, to count what everything above a queue costs.
//!
//! Controllers are reached over TCP as ever, but from its Connect on an I/O queue does nothing with
//! a command but remember it until it is polled.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Completion, Data, Endpoint, Queue, QueueParams, QueueSetup, QueueStatus,
    Registers, RejectReason, Sink, Tag, Transport, TransportError, TransportKind, UrlError,
};
use nvme_tcp::TcpTransport;

/// `tcp://` with I/O queues that answer at once.
#[derive(Debug, Default)]
pub struct InstantTransport(TcpTransport);

impl Transport for InstantTransport {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError> {
        Ok(Arc::new(InstantEndpoint(self.0.endpoint(url)?)))
    }
}

#[derive(Debug)]
struct InstantEndpoint(Arc<dyn Endpoint>);

impl Endpoint for InstantEndpoint {
    fn address(&self) -> &str {
        self.0.address()
    }

    fn subsystem_nqn(&self) -> Option<&str> {
        self.0.subsystem_nqn()
    }

    fn associate(&self, now: Instant) -> Result<Box<dyn Association>, TransportError> {
        Ok(Box::new(InstantAssociation(self.0.associate(now)?)))
    }
}

struct InstantAssociation(Box<dyn Association>);

impl Association for InstantAssociation {
    fn kind(&self) -> TransportKind {
        self.0.kind()
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        self.0.registers()
    }

    fn open_queue(
        &mut self,
        params: QueueParams,
        now: Instant,
    ) -> Result<Box<dyn Queue>, TransportError> {
        let queue = self.0.open_queue(params, now)?;
        if params.qid == 0 {
            return Ok(queue);
        }
        Ok(Box::new(InstantQueue::over(Some(queue), usize::from(params.entries) - 1)))
    }

    fn kill(&mut self) {
        self.0.kill();
    }

    fn max_transfer(&self) -> Option<usize> {
        self.0.max_transfer()
    }
}

/// A queue whose commands succeed as soon as it is polled.
pub struct InstantQueue {
    /// What brings it to life.
    connection: Option<Box<dyn Queue>>,
    connected: bool,
    answers: Vec<(Tag, Data)>,
    capacity: usize,
}

impl InstantQueue {
    /// A queue that is alive from the beginning, for `capacity` commands.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::over(None, capacity)
    }

    fn over(connection: Option<Box<dyn Queue>>, capacity: usize) -> Self {
        let connected = connection.is_none();
        Self { connection, connected, answers: Vec::with_capacity(capacity), capacity }
    }
}

impl Queue for InstantQueue {
    fn submit_from(&mut self, sqe: Sqe, data: &mut Data, tag: Tag) -> Result<(), RejectReason> {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.connected) {
            return connection.submit_from(sqe, data, tag);
        }
        if self.answers.len() == self.capacity {
            return Err(RejectReason::Full);
        }
        self.answers.push((tag, std::mem::take(data)));
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.connected) {
            connection.flush();
        }
    }

    fn poll(&mut self, now: Instant, sink: &mut dyn Sink) -> QueueStatus {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.connected) {
            let mut ended = 0;
            let mut counting = |c: Completion| {
                ended += 1;
                sink.complete(c);
            };
            let status = connection.poll(now, &mut counting);
            self.connected = ended > 0;
            return status;
        }
        for (tag, data) in &mut self.answers {
            sink.complete_from(*tag, &Cqe::new(0, Status::SUCCESS, 0), data);
        }
        self.answers.clear();
        QueueStatus::Ready
    }

    fn has_pending_work(&self) -> bool {
        let opening = self.connection.as_ref().filter(|_| !self.connected);
        !self.answers.is_empty() || opening.is_some_and(|c| c.has_pending_work())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().and_then(|c| c.fd())
    }

    fn deadline(&self) -> Option<Instant> {
        self.connection.as_ref().filter(|_| !self.connected).and_then(|c| c.deadline())
    }

    fn setup(&self) -> QueueSetup {
        self.connection.as_ref().map_or(QueueSetup::None, |c| c.setup())
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        let opening = self.connection.as_ref().filter(|_| !self.connected);
        self.answers.len() + opening.map_or(0, |c| c.in_flight())
    }

    fn set_in_capsule_data(&mut self, bytes: usize) {
        if let Some(connection) = &mut self.connection {
            connection.set_in_capsule_data(bytes);
        }
    }
}
