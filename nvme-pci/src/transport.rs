//! The transport, its endpoints and associations.

use std::any::Any;
use std::sync::Arc;

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::quirk::{Hardware, Quirks};
use nvme_core::spec::registers::offset;
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Endpoint, HostMemory, HostMemoryRequest, Queue, QueueParams, Registers, Transport,
    TransportError, TransportKind, UrlError,
};

use crate::backend::{BackendError, Open};
use crate::counters::{Counters, Ledger};
use crate::device::{Device, is_absent};
use crate::hmb::{HostBuffer, Shelf};
use crate::options::Options;
use crate::queue::{POLL_STOPPING, PciQueue, announce_admin_queue};
use crate::region::Registry;
use crate::system::shared;
use crate::url::Location;

/// Entries of an admin queue at most (AQA, NVMe 2.1 §3.1.4.8).
const ADMIN_ENTRIES_MAX: u16 = 4096;

/// NVMe over PCIe, for URLs `SCHEME://DEVICE[?parameters]`, where the scheme is that of an [`Open`].
///
/// Parameters, apart from those of the backend: `poll=1` or `irq=1` ([`Notice`](crate::Notice)),
/// `max_transfer`, `bounce` and `sgl` in bytes, `shadow`, `cmb` and `quirks` ([`Options`]).
///
/// A controller that is lost is disabled, or reset, before its buffers are given back; this takes as
/// long as the controller does, two seconds at most and a reset after that. It happens in
/// [`Association::kill`], or in the [`Queue::poll`] that notices a fault.
///
/// A function that has been taken away, or is not there, ends its controller at once, whatever
/// `ctrl_loss_tmo` says ([`TransportError::Gone`]): its paths leave, and the window of delayed removal
/// begins. A function that is put back is connected to anew, by the program or by `reattach_delay`.
///
/// Cheap to clone; clones share registered memory and counters.
#[derive(Clone, Debug)]
pub struct PciTransport {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: Box<dyn Open>,
    options: Options,
    ledger: Arc<Ledger>,
    registry: Arc<Registry>,
}

impl PciTransport {
    /// A transport that reaches functions through `open`.
    #[must_use]
    pub fn new(open: impl Open + 'static) -> Self {
        Self::with_defaults(open, Options::default())
    }

    /// The same with other defaults for what a URL leaves open.
    #[must_use]
    pub fn with_defaults(open: impl Open + 'static, options: Options) -> Self {
        let shared = Shared {
            open: Box::new(open),
            options,
            ledger: Arc::default(),
            registry: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What all queues did since the transport was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.ledger.read()
    }
}

impl Transport for PciTransport {
    fn scheme(&self) -> &'static str {
        self.shared.open.scheme()
    }

    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError> {
        let scheme = self.scheme();
        let parse = || {
            let mut location = Location::parse(scheme, url)?;
            let options = self.shared.options.clone().with_parameters(&mut location)?;
            location.device = self.shared.open.check(&location)?;
            Ok((location, options))
        };
        let (location, options) =
            parse().map_err(|reason| UrlError { url: url.chars().take(256).collect(), reason })?;
        let address = format!("{scheme}://{}", location.device);
        let shared = Arc::clone(&self.shared);
        let shelf = Arc::default();
        Ok(Arc::new(PciEndpoint { shared, location, options, address, shelf }))
    }

    fn memory_kind(&self) -> MemoryKind {
        self.shared.open.memory_kind()
    }

    fn allocate_memory(
        &self,
        len: usize,
        kind: MemoryKind,
    ) -> Option<Result<Memory, TransportError>> {
        let failed = |e: std::io::Error| TransportError::Memory {
            address: format!("{}://", self.scheme()),
            reason: format!("allocating {len} bytes: {e}"),
        };
        Some(shared::allocate(len, kind).map_err(failed))
    }

    fn register_memory(
        &self,
        memory: &Arc<Memory>,
    ) -> Result<Option<Box<dyn Any + Send + Sync>>, TransportError> {
        Ok(Some(Box::new(self.shared.registry.add(memory)?)))
    }
}

/// The address of one function.
#[derive(Debug)]
struct PciEndpoint {
    shared: Arc<Shared>,
    location: Location,
    options: Options,
    address: String,
    /// The host memory buffer between two associations.
    shelf: Arc<Shelf>,
}

impl Endpoint for PciEndpoint {
    fn address(&self) -> &str {
        &self.address
    }

    fn subsystem_nqn(&self) -> Option<&str> {
        None
    }

    fn associate(&self, _now: Instant) -> Result<Box<dyn Association>, TransportError> {
        let backend = self.shared.open.open(&self.location).map_err(|e| {
            let (address, reason) = (self.address.clone(), e.to_string());
            match e {
                BackendError::Gone { .. } | BackendError::Missing { .. } => {
                    TransportError::Gone { address, reason }
                }
                _ => TransportError::Connect { address, reason },
            }
        })?;
        let ledger = Arc::clone(&self.shared.ledger);
        let device = Arc::new(Device::new(backend, self.options.clone(), ledger)?);
        self.shared.registry.add_device(&device);
        let (shelf, kind) = (Arc::clone(&self.shelf), self.shared.open.memory_kind());
        Ok(Box::new(PciAssociation { device, shelf, kind }))
    }
}

/// One use of a function, from its opening until it is stopped.
#[derive(Debug)]
struct PciAssociation {
    device: Arc<Device>,
    shelf: Arc<Shelf>,
    /// What memory must be for the function to reach it.
    kind: MemoryKind,
}

impl Association for PciAssociation {
    fn kind(&self) -> TransportKind {
        TransportKind::Memory
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn open_queue(
        &mut self,
        params: QueueParams,
        now: Instant,
    ) -> Result<Box<dyn Queue>, TransportError> {
        if self.device.is_dead() {
            return Err(self.device.reason());
        }
        let entries = match params.qid {
            0 => params.entries.min(ADMIN_ENTRIES_MAX),
            _ => params.entries,
        };
        if params.qid == 0 {
            self.device.open_cmb()?;
        }
        let queue = PciQueue::new(&self.device, params.qid, entries, now)?;
        if let (0, Some(pair)) = (params.qid, queue.pair()) {
            announce_admin_queue(&self.device, pair).ok_or_else(|| TransportError::Connect {
                address: self.device.address(),
                reason: "the admin queue's rings have no bus address".into(),
            })?;
            // Not before: a controller that somebody left enabled, and that has just been disabled,
            // must not reach memory by the addresses that it had then.
            let on = self.device.backend().set_bus_master(true);
            on.map_err(|e| self.device.connect_error(&e))?;
        }
        Ok(Box::new(queue))
    }

    fn kill(&mut self) {
        self.device.begin_stop();
    }

    fn stopping(&mut self, now: Instant) -> Option<Instant> {
        (!self.device.is_stopped()).then_some(now + POLL_STOPPING)
    }

    fn max_transfer(&self) -> Option<usize> {
        Some(self.device.options().max_transfer)
    }

    fn hardware(&self) -> Hardware {
        let (ids, quirks) = (self.device.backend().device_ids(), self.device.options().quirks);
        Hardware { ids, quirks }
    }

    fn set_quirks(&mut self, quirks: Quirks) {
        self.device.set_quirks(quirks);
    }

    fn host_memory(
        &mut self,
        request: HostMemoryRequest,
    ) -> Result<Option<HostMemory>, TransportError> {
        if self.device.is_dead() {
            return Err(self.device.reason());
        }
        let buffer = HostBuffer::new(self.device.backend(), self.kind, request, &self.shelf)?;
        Ok(buffer.map(|(buffer, given)| {
            self.device.keep_buffer(buffer);
            given
        }))
    }
}

impl Registers for PciAssociation {
    fn read32(&mut self, offset: u32) -> u32 {
        self.device.backend().bar0().read32(offset as usize)
    }

    /// A controller that is gone reads as zero on some machines, which the layer above would take
    /// for a bad value; here it reads as all ones everywhere.
    fn read64(&mut self, offset: u32) -> u64 {
        let bar = self.device.backend().bar0();
        let value = bar.read64(offset as usize);
        let is_cap = offset as usize == offset::CAP;
        if is_cap && is_absent(value, bar.read32(offset::VS)) { u64::MAX } else { value }
    }

    fn write32(&mut self, offset: u32, value: u32) {
        self.device.backend().bar0().write32(offset as usize, value);
    }

    fn write64(&mut self, offset: u32, value: u64) {
        self.device.backend().bar0().write64(offset as usize, value);
    }
}

impl Drop for PciAssociation {
    fn drop(&mut self) {
        self.kill();
    }
}
