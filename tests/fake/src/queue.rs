//! The transport's side of it: what the library sees.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nvme_core::spec::{Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Association, Completion, Data, Endpoint, Queue, QueueParams, QueueSetup, QueueStatus,
    Registers, RejectReason, Sink, Tag, Transport, TransportError, TransportKind, UrlError,
};

use rustix::event::{EventfdFlags, eventfd};

use crate::io::cqe;
use crate::wire::{InFlight, Link, Session};
use crate::world::World;

#[derive(Debug)]
pub struct FakeTransport(pub Arc<World>);

impl Transport for FakeTransport {
    fn scheme(&self) -> &'static str {
        "fake"
    }

    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError> {
        let bad = || UrlError { url: url.into(), reason: "fake://PORT/NQN".into() };
        let rest = url.strip_prefix("fake://").ok_or_else(bad)?;
        let (port, nqn) = rest.split_once('/').ok_or_else(bad)?;
        Ok(Arc::new(FakeEndpoint {
            world: self.0.clone(),
            port: port.into(),
            address: format!("fake://{port}"),
            nqn: nqn.into(),
        }))
    }
}

#[derive(Debug)]
struct FakeEndpoint {
    world: Arc<World>,
    port: String,
    address: String,
    nqn: String,
}

impl Endpoint for FakeEndpoint {
    fn address(&self) -> &str {
        &self.address
    }

    fn subsystem_nqn(&self) -> Option<&str> {
        Some(&self.nqn)
    }

    fn associate(&self, _: Instant) -> Result<Box<dyn Association>, TransportError> {
        let (world, port) = (self.world.clone(), self.port.clone());
        Ok(Box::new(FakeAssociation { session: world.session(), world, port, links: Vec::new() }))
    }
}

struct FakeAssociation {
    session: Arc<Session>,
    world: Arc<World>,
    port: String,
    links: Vec<Arc<Link>>,
}

impl Association for FakeAssociation {
    fn kind(&self) -> TransportKind {
        TransportKind::Fabrics
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        None
    }

    fn open_queue(
        &mut self,
        params: QueueParams,
        _: Instant,
    ) -> Result<Box<dyn Queue>, TransportError> {
        let link = self.world.open(&self.port, &self.session, params.qid);
        let link = link.ok_or_else(|| World::lost(&self.port))?;
        self.links.push(link.clone());
        let capacity = usize::from(params.entries - 1);
        let (world, port) = (self.world.clone(), self.port.clone());
        let silent = world.port(&port, |port| port.descriptors).then(|| {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("a descriptor")
        });
        Ok(Box::new(FakeQueue { world, port, link, capacity, polled: false, silent }))
    }

    fn kill(&mut self) {
        for link in &self.links {
            link.cut(TransportError::Closed { address: self.port.clone() });
        }
    }

    fn stopping(&mut self, now: Instant) -> Option<Instant> {
        let stubborn = self.world.port(&self.port, |port| port.stubborn);
        stubborn.then(|| now + Duration::from_millis(1))
    }

    fn is_apart(&self) -> bool {
        self.world.port(&self.port, |port| port.apart)
    }

    fn max_transfer(&self) -> Option<usize> {
        None
    }
}

impl Drop for FakeAssociation {
    fn drop(&mut self) {
        self.kill();
    }
}

struct FakeQueue {
    world: Arc<World>,
    port: String,
    link: Arc<Link>,
    capacity: usize,
    polled: bool,
    /// Nothing is ever to be read from it.
    silent: Option<OwnedFd>,
}

impl Queue for FakeQueue {
    fn submit_from(&mut self, sqe: Sqe, data: &mut Data, tag: Tag) -> Result<(), RejectReason> {
        let (dead, used) = {
            let wire = self.link.lock();
            (wire.dead.is_some(), wire.in_flight.len())
        };
        if dead {
            return Err(RejectReason::NotReady);
        }
        if self.link.qid != 0 && data.len() > self.world.port(&self.port, |port| port.most) {
            return Err(RejectReason::TooLarge);
        }
        if used >= self.capacity {
            return Err(RejectReason::Full);
        }
        self.world.submit(&self.port, &self.link, sqe, std::mem::take(data), tag);
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll(&mut self, _: Instant, sink: &mut dyn Sink) -> QueueStatus {
        self.polled = true;
        if self.world.port(&self.port, |port| port.stubborn) {
            let mut wire = self.link.lock();
            if let Some(error) = wire.dead.clone() {
                wire.told_dead = true;
                return QueueStatus::Ending(error);
            }
        }
        self.world.bury(&self.port, &self.link);
        let mut wire = self.link.lock();
        if let Some(error) = wire.dead.clone() {
            wire.told_dead = true;
            wire.answers.clear();
            wire.held.clear();
            for (tag, InFlight { data, .. }) in std::mem::take(&mut wire.in_flight) {
                sink.complete(Completion { tag, cqe: cqe(Status::ABORTED_BY_HOST, 0), data });
            }
            return QueueStatus::Failed(error);
        }
        while let Some((tag, status, result)) = wire.answers.pop_front() {
            if let Some(InFlight { data, .. }) = wire.in_flight.remove(&tag) {
                sink.complete(Completion { tag, cqe: cqe(status, result), data });
            }
        }
        QueueStatus::Ready
    }

    fn has_pending_work(&self) -> bool {
        let wire = self.link.lock();
        !self.polled || !wire.answers.is_empty() || (wire.dead.is_some() && !wire.told_dead)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.silent.as_ref().map(OwnedFd::as_fd)
    }

    fn deadline(&self) -> Option<Instant> {
        self.world.asked.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn setup(&self) -> QueueSetup {
        QueueSetup::Connect
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.link.lock().in_flight.len()
    }

    fn command_id(&self, tag: Tag) -> Option<u16> {
        self.link.lock().in_flight.contains_key(&tag).then_some(tag as u16)
    }

    fn set_in_capsule_data(&mut self, _: usize) {}
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        self.link.lock().dropped = true;
    }
}
