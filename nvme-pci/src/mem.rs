//! A controller in the process: URLs `mem://NAME` for devices of the software target.
//!
//! Bus addresses are not those of the process: the device reaches only what has been mapped for it,
//! and an access elsewhere fails and is counted, as behind an IOMMU.
#![expect(unsafe_code, reason = "the device in the process reaches memory by address, as hardware")]

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use nvme_core::memory::Memory;
use nvme_core::quirk::DeviceIds;
use nvme_target::{HostMemory, Interrupts, PciDevice};
use parking_lot::{Mutex, RwLock};
use rustix::event::{EventfdFlags, eventfd};

use crate::backend::{Backend, BackendError, Mmio, Open};
use crate::dma::{DmaMapping, DmaMemory, PAGE};
use crate::heap::{self, Pages};
use crate::system::bar::check_window;
use crate::url::Location;

/// The devices that there are, by name. Cheap to clone; clones are the same.
///
/// Parameters of its URLs: `scatter=1` puts no two pages of memory next to each other on the bus;
/// `vectors=N` lets the driver have only so many interrupts.
#[derive(Clone, Debug, Default)]
pub struct MemSlots {
    slots: Arc<Mutex<BTreeMap<String, Slot>>>,
}

#[derive(Clone, Debug)]
struct Slot {
    device: PciDevice,
    /// Somebody has it open.
    taken: Arc<AtomicBool>,
}

impl MemSlots {
    /// No devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a device, or replaces the one of that name.
    pub fn insert(&self, name: &str, device: PciDevice) {
        let taken = Arc::default();
        self.slots.lock().insert(name.to_owned(), Slot { device, taken });
    }

    /// Removes a device.
    pub fn remove(&self, name: &str) -> Option<PciDevice> {
        self.slots.lock().remove(name).map(|slot| slot.device)
    }
}

impl Open for MemSlots {
    fn scheme(&self) -> &'static str {
        "mem"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        for (key, value) in &location.parameters {
            match key.as_str() {
                "scatter" if matches!(value.as_str(), "0" | "1") => {}
                "vectors" if value.parse::<u16>().is_ok() => {}
                "scatter" | "vectors" => {
                    return Err(format!("parameter {key}={value:?} cannot be"));
                }
                _ => return Err(format!("parameter {key:?} is not known")),
            }
        }
        Ok(location.device.clone())
    }

    fn is_prompt(&self) -> bool {
        true
    }

    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        let address = format!("mem://{}", location.device);
        let slot = self.slots.lock().get(&location.device).cloned();
        let Some(slot) = slot.filter(|s| s.device.is_plugged()) else {
            return Err(BackendError::Gone { address });
        };
        if slot.taken.swap(true, Ordering::AcqRel) {
            let reason = "somebody else has the device open".into();
            return Err(BackendError::Unusable { address, reason });
        }
        let limit = location.parameter("vectors").and_then(|v| v.parse().ok());
        let vectors = limit.unwrap_or(u16::MAX).min(slot.device.vectors());
        let scatter = location.parameter("scatter") == Some("1");
        let table = Arc::new(Table { scatter, ..Table::default() });
        let lines = Arc::new(Lines::default());
        slot.device.attach(
            Arc::clone(&table) as Arc<dyn HostMemory>,
            Arc::clone(&lines) as Arc<dyn Interrupts>,
        );
        let buffer = match slot.device.controller_memory_len() {
            0 => None,
            len => Pages::new(len / PAGE).map(Arc::new),
        };
        if let Some(pages) = &buffer {
            let table = Table::default();
            let extent = Extent { ptr: pages.base(), len: pages.len() };
            table.extents.write().insert(0, extent);
            let memory = BufferTable { table, _pages: Arc::clone(pages) };
            slot.device.attach_controller_memory(Arc::new(memory));
        }
        let closed = AtomicBool::new(false);
        Ok(Arc::new(MemBackend { address, slot, vectors, table, lines, buffer, closed }))
    }
}

/// A device that is open.
#[derive(Debug)]
struct MemBackend {
    address: String,
    slot: Slot,
    vectors: u16,
    table: Arc<Table>,
    lines: Arc<Lines>,
    /// The controller memory buffer.
    buffer: Option<Arc<Pages>>,
    closed: AtomicBool,
}

impl MemBackend {
    fn gone(&self) -> BackendError {
        BackendError::Gone { address: self.address.clone() }
    }

    fn device(&self) -> Option<&PciDevice> {
        (!self.closed.load(Ordering::Acquire)).then_some(&self.slot.device)
    }
}

impl Mmio for MemBackend {
    fn len(&self) -> usize {
        self.slot.device.bar_len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.device().map_or(u32::MAX, |d| d.read32(offset))
    }

    fn read64(&self, offset: usize) -> u64 {
        self.device().map_or(u64::MAX, |d| d.read64(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(device) = self.device() {
            device.write32(offset, value);
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        if let Some(device) = self.device() {
            device.write64(offset, value);
        }
    }
}

impl Backend for MemBackend {
    fn address(&self) -> &str {
        &self.address
    }

    fn device_ids(&self) -> Option<DeviceIds> {
        let [vendor, device, subsystem_vendor, subsystem] = self.slot.device.ids();
        Some(DeviceIds { vendor, device, subsystem_vendor, subsystem })
    }

    fn bar0(&self) -> &dyn Mmio {
        self
    }

    fn alloc_dma(&self, len: usize, align: usize) -> Result<DmaMemory, BackendError> {
        let unusable =
            |reason: String| BackendError::Unusable { address: self.address.clone(), reason };
        if align > PAGE {
            return Err(unusable(format!("memory aligned to {align} bytes: {PAGE} at most")));
        }
        let pages = Pages::new(len.div_ceil(PAGE))
            .ok_or_else(|| unusable(format!("{len} bytes cannot be allocated")))?;
        let (bus, extents) = self.table.map(pages.base(), pages.len());
        Ok(heap::memory(pages, &bus, extents))
    }

    fn map_dma(&self, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
        let (ptr, len) = (memory.as_ptr(), memory.len());
        if len == 0 || !(ptr.as_ptr() as usize).is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            let address = self.address.clone();
            let reason = format!("{len} bytes at {ptr:p} are not whole pages of {PAGE} bytes");
            return Err(BackendError::Unusable { address, reason });
        }
        let (bus, extents) = self.table.map(ptr, len);
        Ok(DmaMapping::new(memory, bus, Box::new(extents)))
    }

    fn controller_memory(
        &self,
        bar: u8,
        offset: u64,
        size: u64,
        len: usize,
        bus: u64,
    ) -> Result<DmaMemory, BackendError> {
        let has = if bar == 2 { self.slot.device.controller_memory_len() } else { 0 };
        check_window(&self.address, bar, has as u64, offset, size, len)?;
        let pages = self.buffer.as_ref().ok_or_else(|| self.gone())?;
        let numbers = (0..len / PAGE).map(|n| bus + (n * PAGE) as u64).collect();
        // SAFETY: inside, as was checked; kept by the owner; the device copies to and from it.
        Ok(unsafe {
            let base = pages.base().add(offset as usize);
            DmaMemory::new(base, numbers, Box::new(Arc::clone(pages)))
        })
    }

    fn interrupt(&self, vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        if vector >= self.vectors {
            return Ok(None);
        }
        self.lines.arm(vector).map(Some).map_err(|source| BackendError::Io {
            address: self.address.clone(),
            what: format!("making an event for interrupt {vector}"),
            source,
        })
    }

    fn reset(&self) -> Result<(), BackendError> {
        let done = self.device().is_some_and(PciDevice::reset);
        if done { Ok(()) } else { Err(self.gone()) }
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        let done = self.device().is_some_and(|d| d.set_bus_master(on));
        if done { Ok(()) } else { Err(self.gone()) }
    }

    fn removal_requested(&self) -> bool {
        false
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.slot.taken.store(false, Ordering::Release);
        }
    }
}

impl Drop for MemBackend {
    fn drop(&mut self) {
        self.close();
    }
}

/// The events that interrupts raise.
#[derive(Debug, Default)]
struct Lines {
    events: Mutex<BTreeMap<u16, OwnedFd>>,
}

impl Lines {
    fn arm(&self, vector: u16) -> std::io::Result<OwnedFd> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let handed = event.as_fd().try_clone_to_owned()?;
        self.events.lock().insert(vector, event);
        Ok(handed)
    }
}

impl Interrupts for Lines {
    fn raise(&self, vector: u16) {
        if let Some(event) = self.events.lock().get(&vector) {
            // It fails only when it has been raised 2^64 times without being read.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }
}

/// Which bus address is where in the process.
#[derive(Default)]
struct Table {
    extents: RwLock<BTreeMap<u64, Extent>>,
    /// Pages of the bus that have been given out.
    used: AtomicU64,
    scatter: bool,
}

/// Memory that is one piece on the bus.
#[derive(Clone, Copy)]
struct Extent {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer is only used while the extent is in the table, from where its owner takes it
// before the memory goes.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} extents)", self.extents.read().len())
    }
}

/// Where bus addresses begin.
const BUS_BASE: u64 = 1 << 32;

/// The controller memory buffer as the device reaches it.
#[derive(Debug)]
struct BufferTable {
    table: Table,
    _pages: Arc<Pages>,
}

impl HostMemory for BufferTable {
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        self.table.read(address, to)
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        self.table.write(address, from)
    }

    fn store(&self, address: u64, value: u64) -> bool {
        self.table.store(address, value)
    }
}

/// Extents of a table, taken out again when dropped.
struct Extents {
    table: Arc<Table>,
    starts: Vec<u64>,
}

impl Drop for Extents {
    fn drop(&mut self) {
        let mut extents = self.table.extents.write();
        for start in &self.starts {
            extents.remove(start);
        }
    }
}

impl Table {
    /// Puts memory on the bus; the addresses of its pages. A page is left free after each extent, so
    /// that what runs over its end is noticed.
    fn map(self: &Arc<Self>, ptr: NonNull<u8>, len: usize) -> (Box<[u64]>, Extents) {
        let count = (len / PAGE) as u64;
        let stride = if self.scatter { 2 } else { 1 };
        let first = self.used.fetch_add(count * stride + 1, Ordering::Relaxed);
        let at = |page: u64| {
            // Scattered pages run backwards, too.
            let number = if self.scatter { (count - 1 - page) * stride } else { page };
            BUS_BASE + (first + number) * PAGE as u64
        };
        let bus: Box<[u64]> = (0..count).map(at).collect();
        let mut extents = self.extents.write();
        let starts = if self.scatter {
            for (i, start) in bus.iter().enumerate() {
                // SAFETY: page `i` is within the `len` bytes.
                let ptr = unsafe { ptr.add(i * PAGE) };
                extents.insert(*start, Extent { ptr, len: PAGE });
            }
            bus.to_vec()
        } else {
            let start = at(0);
            extents.insert(start, Extent { ptr, len });
            vec![start]
        };
        drop(extents);
        (bus, Extents { table: Arc::clone(self), starts })
    }

    /// Passes the pieces of `len` bytes at bus address `at` to `each`: where in memory, where in the
    /// range, how long. False if not all of it is memory; then not all of it has been passed.
    ///
    /// The table is locked meanwhile, so that nothing goes.
    fn walk(&self, at: u64, len: usize, mut each: impl FnMut(NonNull<u8>, usize, usize)) -> bool {
        let extents = self.extents.read();
        let mut done = 0;
        while done < len {
            let Some(here) = at.checked_add(done as u64) else { return false };
            let Some((start, extent)) = extents.range(..=here).next_back() else { return false };
            let inside = (here - start) as usize;
            if inside >= extent.len {
                return false;
            }
            let piece = (extent.len - inside).min(len - done);
            // SAFETY: `inside` is less than the extent's length.
            each(unsafe { extent.ptr.add(inside) }, done, piece);
            done += piece;
        }
        true
    }
}

impl HostMemory for Table {
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        let len = to.len();
        let to = to.as_mut_ptr();
        // SAFETY: `walk` gives pieces within mapped memory and within `len`; the device's buffer is
        // none of it.
        self.walk(address, len, |from, done, piece| unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), to.add(done), piece);
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        let (from, len) = (from.as_ptr(), from.len());
        // SAFETY: as for `read`.
        self.walk(address, len, |to, done, piece| unsafe {
            std::ptr::copy_nonoverlapping(from.add(done), to.as_ptr(), piece);
        })
    }

    fn store(&self, address: u64, value: u64) -> bool {
        let mut stored = false;
        let walked = self.walk(address, 8, |to, _, piece| {
            if piece == 8 && (to.as_ptr() as usize).is_multiple_of(8) {
                // SAFETY: 8 mapped bytes, aligned, which are accessed as atomics only.
                unsafe { AtomicU64::from_ptr(to.cast().as_ptr()) }.store(value, Ordering::Release);
                stored = true;
            }
        });
        walked && stored
    }

    fn load32(&self, address: u64) -> Option<u32> {
        let mut loaded = None;
        let walked = self.walk(address, 4, |from, _, piece| {
            if piece == 4 && (from.as_ptr() as usize).is_multiple_of(4) {
                // SAFETY: 4 mapped bytes, aligned, which are accessed as atomics only.
                let word = unsafe { AtomicU32::from_ptr(from.cast().as_ptr()) };
                loaded = Some(word.load(Ordering::Acquire));
            }
        });
        loaded.filter(|_| walked)
    }

    fn store32(&self, address: u64, value: u32) -> bool {
        let mut stored = false;
        let walked = self.walk(address, 4, |to, _, piece| {
            if piece == 4 && (to.as_ptr() as usize).is_multiple_of(4) {
                // SAFETY: 4 mapped bytes, aligned, which are accessed as atomics only.
                unsafe { AtomicU32::from_ptr(to.cast().as_ptr()) }.store(value, Ordering::Release);
                stored = true;
            }
        });
        fence(Ordering::SeqCst);
        walked && stored
    }
}
