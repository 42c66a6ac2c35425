//! The transport, its endpoints and associations.

use std::any::Any;
use std::sync::Arc;
use std::thread::JoinHandle;

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::quirk::{Hardware, Quirks};
use nvme_core::spec::registers::offset;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Association, Endpoint, HostMemory, HostMemoryRequest, Queue, QueueParams, Registers, Transport,
    TransportError, TransportKind, UrlError,
};

use crate::backend::{BackendError, Open};
use crate::counters::{Counters, Ledger};
use crate::device::{Device, is_absent};
use crate::hmb::{HostBuffer, Shelf};
use crate::opening::{OpeningQueue, set_up};
use crate::options::Options;
use crate::queue::stopping_at;
use crate::region::Registry;
use crate::system::shared;
use crate::url::Location;

/// How often it is looked whether a function has been opened.
const POLL_OPENING: Duration = Duration::from_millis(1);
/// Entries of an admin queue at most (AQA, NVMe 2.1 §3.1.4.8).
const ADMIN_ENTRIES_MAX: u16 = 4096;

/// NVMe over PCIe, for URLs `SCHEME://DEVICE[?parameters]`, where the scheme is that of an [`Open`].
///
/// Parameters, apart from those of the backend: `poll=1` or `irq=1` ([`Notice`](crate::Notice)),
/// `max_transfer`, `bounce` and `sgl` in bytes, `shadow`, `cmb` and `quirks` ([`Options`]).
///
/// A controller that is lost is disabled, or reset, before its buffers are given back; this takes as
/// long as the controller does, two seconds at most and a reset after that. It happens in
/// [`Association::kill`], or in the [`Queue::poll`] that notices a fault. One that nothing stops keeps the
/// buffers; when nobody is left who waits for it their memory is leaked.
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
        let (shared, location) = (Arc::clone(&self.shared), self.location.clone());
        let (options, address) = (self.options.clone(), self.address.clone());
        let max_transfer = options.max_transfer;
        let way = if self.shared.open.is_prompt() {
            Way::Open(shared.open_device(&location, options, &address)?)
        } else {
            let open = move || shared.open_device(&location, options, &address);
            let thread = std::thread::Builder::new().name("nvme-pci-open".into());
            Way::Opening(thread.spawn(open).map_err(|e| TransportError::Connect {
                address: self.address.clone(),
                reason: format!("starting a thread to open the function: {e}"),
            })?)
        };
        let (shelf, kind) = (Arc::clone(&self.shelf), self.shared.open.memory_kind());
        let address = self.address.clone();
        let (killed, stopping_since) = (false, None);
        Ok(Box::new(PciAssociation {
            way,
            address,
            max_transfer,
            shelf,
            kind,
            killed,
            stopping_since,
        }))
    }
}

impl Shared {
    /// Opens a function, which may take a few seconds.
    fn open_device(
        &self,
        location: &Location,
        options: Options,
        address: &str,
    ) -> Result<Arc<Device>, TransportError> {
        let backend = self.open.open(location).map_err(|e| {
            let (address, reason) = (address.to_owned(), e.to_string());
            match e {
                BackendError::Gone { .. } | BackendError::Missing { .. } => {
                    TransportError::Gone { address, reason }
                }
                _ => TransportError::Connect { address, reason },
            }
        })?;
        let device = Arc::new(Device::new(backend, options, Arc::clone(&self.ledger))?);
        self.registry.add_device(&device);
        Ok(device)
    }
}

/// One use of a function, from its opening until it is stopped.
#[derive(Debug)]
struct PciAssociation {
    way: Way,
    address: String,
    max_transfer: usize,
    shelf: Arc<Shelf>,
    /// What memory must be for the function to reach it.
    kind: MemoryKind,
    /// It is stopped as soon as it is open.
    killed: bool,
    /// Since when somebody waits that it is.
    stopping_since: Option<Instant>,
}

/// Where the function is.
#[derive(Debug)]
enum Way {
    /// A thread opens it. If nobody waits for the thread any more, it drops what it has opened.
    Opening(JoinHandle<Result<Arc<Device>, TransportError>>),
    Open(Arc<Device>),
    /// It could not be opened.
    Nowhere,
}

impl PciAssociation {
    /// The function, if it is open.
    fn device(&self) -> Option<&Arc<Device>> {
        match &self.way {
            Way::Open(device) => Some(device),
            Way::Opening(_) | Way::Nowhere => None,
        }
    }

    /// The function, if it can be used.
    fn usable(&self) -> Result<&Arc<Device>, TransportError> {
        let closed = || TransportError::Closed { address: self.address.clone() };
        let device = self.device().ok_or_else(closed)?;
        if device.is_dead() { Err(device.reason()) } else { Ok(device) }
    }

    /// Takes over what the thread has opened, if it has. Whether it is still at it.
    fn settle(&mut self) -> Result<bool, TransportError> {
        let thread = match std::mem::replace(&mut self.way, Way::Nowhere) {
            Way::Opening(thread) => thread,
            way => {
                self.way = way;
                return Ok(false);
            }
        };
        if !thread.is_finished() {
            self.way = Way::Opening(thread);
            return Ok(true);
        }
        let device = thread.join().unwrap_or_else(|_| {
            let reason = "the thread that opened the function has failed".into();
            Err(TransportError::Connect { address: self.address.clone(), reason })
        })?;
        if self.killed {
            device.begin_stop();
        }
        self.way = Way::Open(device);
        Ok(false)
    }
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
        let device = self.usable()?;
        let entries = match params.qid {
            0 => params.entries.min(ADMIN_ENTRIES_MAX),
            _ => params.entries,
        };
        if device.backend().is_prompt() {
            return Ok(Box::new(set_up(device, params.qid, entries, now)?));
        }
        Ok(Box::new(OpeningQueue::begin(Arc::clone(device), params, entries, now)?))
    }

    fn opening(&mut self, now: Instant) -> Result<Option<Instant>, TransportError> {
        Ok(self.settle()?.then_some(now + POLL_OPENING))
    }

    fn kill(&mut self) {
        self.killed = true;
        if let Some(device) = self.device() {
            device.begin_stop();
        }
        // It may just have been opened; if it could not, there is nothing to stop.
        let _ = self.settle();
    }

    /// A function that is still being opened is not there for the next association, either.
    fn stopping(&mut self, now: Instant) -> Option<Instant> {
        let opening = self.settle().unwrap_or(false);
        let stopped = self.device().is_none_or(|device| device.is_stopped());
        let since = *self.stopping_since.get_or_insert(now);
        (opening || !stopped).then(|| stopping_at(since, now))
    }

    fn is_apart(&self) -> bool {
        self.device().is_some_and(|device| device.backend().is_apart())
    }

    fn max_transfer(&self) -> Option<usize> {
        Some(self.max_transfer)
    }

    fn hardware(&self) -> Hardware {
        let Some(device) = self.device() else { return Hardware::default() };
        Hardware { ids: device.backend().device_ids(), quirks: device.options().quirks }
    }

    fn set_quirks(&mut self, quirks: Quirks) {
        if let Some(device) = self.device() {
            device.set_quirks(quirks);
        }
    }

    fn host_memory(
        &mut self,
        request: HostMemoryRequest,
    ) -> Result<Option<HostMemory>, TransportError> {
        let device = self.usable()?;
        let buffer = HostBuffer::new(device.backend(), self.kind, request, &self.shelf)?;
        Ok(buffer.map(|(buffer, given)| {
            device.keep_buffer(buffer);
            given
        }))
    }
}

/// Of a function that is not open all registers read as all ones.
impl Registers for PciAssociation {
    fn read32(&mut self, offset: u32) -> u32 {
        self.device().map_or(u32::MAX, |device| device.backend().bar0().read32(offset as usize))
    }

    /// A controller that is gone reads as zero on some machines, which the layer above would take
    /// for a bad value; here it reads as all ones everywhere.
    fn read64(&mut self, offset: u32) -> u64 {
        let Some(device) = self.device() else { return u64::MAX };
        let bar = device.backend().bar0();
        let value = bar.read64(offset as usize);
        let is_cap = offset as usize == offset::CAP;
        if is_cap && is_absent(value, bar.read32(offset::VS)) { u64::MAX } else { value }
    }

    fn write32(&mut self, offset: u32, value: u32) {
        if let Some(device) = self.device() {
            device.backend().bar0().write32(offset as usize, value);
        }
    }

    fn write64(&mut self, offset: u32, value: u64) {
        if let Some(device) = self.device() {
            device.backend().bar0().write64(offset as usize, value);
        }
    }
}

impl Drop for PciAssociation {
    fn drop(&mut self) {
        self.kill();
    }
}
