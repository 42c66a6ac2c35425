//! Regions of memory that devices reach directly.

use std::sync::{Arc, Weak};

use nvme_core::memory::Memory;
use nvme_core::transport::TransportError;
use parking_lot::Mutex;

use crate::backend::BackendError;
use crate::device::Device;
use crate::dma::{DmaMapping, PAGE};

/// Where a region is that a device has mapped.
#[derive(Clone, Debug)]
struct Region {
    start: usize,
    len: usize,
    pages: Arc<[u64]>,
    /// Its bus address, where it is one piece on the bus.
    bus: Option<u64>,
}

/// A region that is one piece on the bus, to be remembered by a queue for its next command: of no use
/// once there is another [`RegionMap`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Near {
    start: usize,
    len: usize,
    bus: u64,
}

impl Near {
    /// The bus address of `len` bytes from `at` on, if they are inside.
    #[inline]
    pub fn bus(&self, at: usize, len: usize) -> Option<u64> {
        // What begins before the region is past all ends, or beyond all numbers.
        let from = at.wrapping_sub(self.start);
        if from.checked_add(len)? > self.len {
            return None;
        }
        // No sum of the two is past the region's end, which was checked.
        Some(self.bus.wrapping_add(from as u64))
    }
}

impl Region {
    fn new(start: usize, len: usize, pages: Arc<[u64]>) -> Self {
        let next = |w: &[u64]| w[0].checked_add(PAGE as u64) == Some(w[1]);
        let whole = start.is_multiple_of(PAGE) && pages.len() == len.div_ceil(PAGE);
        let first = pages.first().filter(|_| whole && pages.windows(2).all(next));
        let fits =
            |at: &u64| at.is_multiple_of(PAGE as u64) && at.checked_add(len as u64).is_some();
        let bus = first.copied().filter(fits);
        Self { start, len, pages, bus }
    }

    /// How far into the region `len` bytes from `at` on begin, if they are inside.
    #[inline]
    fn offset(&self, at: usize, len: usize) -> Option<usize> {
        let from = at.wrapping_sub(self.start);
        (from < self.len && len <= self.len - from).then_some(from)
    }
}

/// Where the regions are that one device has mapped, by address. Each queue has a copy, which it looks at
/// anew with each submission; it keeps nothing mapped, so that a queue that stands still holds no memory.
#[derive(Debug, Default)]
pub(crate) struct RegionMap {
    mapped: Vec<Region>,
}

/// The regions that one device has mapped, for as long as they are here.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    /// With the pages that the map has.
    mappings: Vec<(DmaMapping, Arc<[u64]>)>,
    map: Arc<RegionMap>,
}

impl Regions {
    pub fn map(&self) -> &Arc<RegionMap> {
        &self.map
    }

    fn add(&mut self, mapping: DmaMapping) {
        let memory = mapping.memory();
        let (start, len) = (memory.as_ptr().addr().get(), memory.len());
        let pages: Arc<[u64]> = mapping.pages().into();
        let mut mapped = self.map.mapped.clone();
        let at = mapped.partition_point(|region| region.start < start);
        mapped.insert(at, Region::new(start, len, Arc::clone(&pages)));
        self.map = Arc::new(RegionMap { mapped });
        self.mappings.push((mapping, pages));
    }

    fn find(&self, memory: &Arc<Memory>) -> Option<usize> {
        self.mappings.iter().position(|(mapping, _)| Arc::ptr_eq(mapping.memory(), memory))
    }

    /// Takes a region out; it is unmapped when what is returned is dropped.
    fn remove(&mut self, memory: &Arc<Memory>) -> Option<DmaMapping> {
        let (mapping, pages) = self.mappings.swap_remove(self.find(memory)?);
        let other = |region: &&Region| !Arc::ptr_eq(&region.pages, &pages);
        let mapped = self.map.mapped.iter().filter(other).cloned().collect();
        self.map = Arc::new(RegionMap { mapped });
        Some(mapping)
    }
}

impl RegionMap {
    /// Bus addresses of the pages that hold `bytes` and of what is mapped after them, if the device
    /// reaches them. `last` is where the bytes before were found.
    #[inline]
    pub fn find_from(&self, bytes: &[u8], last: &mut usize) -> Option<&[u64]> {
        let (at, len) = (bytes.as_ptr() as usize, bytes.len());
        let mut region = self.mapped.get(*last)?;
        let from = match region.offset(at, len) {
            Some(from) => from,
            None => {
                *last = self.search(at);
                region = self.mapped.get(*last)?;
                region.offset(at, len)?
            }
        };
        region.pages.get(from / PAGE..)
    }

    /// The region at a place of the map, if it is one piece on the bus.
    pub fn near(&self, place: usize) -> Option<Near> {
        let region = self.mapped.get(place)?;
        Some(Near { start: region.start, len: region.len, bus: region.bus? })
    }

    /// The last region that begins at an address or before.
    #[cold]
    fn search(&self, at: usize) -> usize {
        self.mapped.partition_point(|region| region.start <= at).saturating_sub(1)
    }

    /// Bus addresses of the pages that hold `bytes`, if the device reaches them.
    pub fn find(&self, bytes: &[u8]) -> Option<&[u64]> {
        let pages = self.find_from(bytes, &mut self.search(bytes.as_ptr() as usize))?;
        pages.get(..(bytes.as_ptr() as usize % PAGE + bytes.len()).div_ceil(PAGE))
    }
}

/// What is registered with a transport, for all its devices.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    regions: Vec<Arc<Memory>>,
    devices: Vec<Weak<Device>>,
}

impl Registry {
    /// Maps everything for a new device, and what comes later. What cannot be mapped is left out: its
    /// data is copied, which the counters show.
    pub fn add_device(&self, device: &Arc<Device>) {
        let mut state = self.state.lock();
        state.devices.retain(|d| d.strong_count() > 0);
        state.devices.push(Arc::downgrade(device));
        for memory in &state.regions {
            if map(device, memory).is_err() {
                device.ledger().unreachable();
            }
        }
    }

    /// Registers memory for all devices. One that cannot reach it for what the memory is gets copies.
    ///
    /// # Errors
    /// `Memory`, and nothing is registered, if something else is in the way.
    pub fn add(self: &Arc<Self>, memory: &Arc<Memory>) -> Result<Registration, TransportError> {
        let mut state = self.state.lock();
        state.regions.push(Arc::clone(memory));
        // Ends what was done, if it goes wrong; dropped when the lock is free.
        let registration = Registration { registry: Arc::clone(self), memory: Arc::clone(memory) };
        let devices: Vec<Arc<Device>> = state.devices.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for device in devices {
            match map(&device, memory) {
                Ok(()) | Err(BackendError::Gone { .. }) => {}
                Err(BackendError::Unsupported { .. } | BackendError::Unusable { .. }) => {
                    device.ledger().unreachable();
                }
                Err(error) => {
                    let address = device.address();
                    return Err(TransportError::Memory { address, reason: error.to_string() });
                }
            }
        }
        Ok(registration)
    }

    fn remove(&self, memory: &Arc<Memory>) {
        let mut state = self.state.lock();
        state.regions.retain(|m| !Arc::ptr_eq(m, memory));
        let devices: Vec<Arc<Device>> = state.devices.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for device in devices {
            // Unmapped when that lock is not held: queues wait for it.
            if let Some(mapping) = device.change_regions(|regions| regions.remove(memory)) {
                device.unmap(mapping);
            }
        }
    }
}

/// Maps a region for a device, unless it has it already.
fn map(device: &Device, memory: &Arc<Memory>) -> Result<(), BackendError> {
    let add = |regions: &mut Regions| {
        if regions.find(memory).is_none() {
            regions.add(device.backend().map_dma(memory)?);
        }
        Ok(())
    };
    device.change_regions(add)
}

/// Memory that is registered until this is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    memory: Arc<Memory>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.remove(&self.memory);
    }
}
