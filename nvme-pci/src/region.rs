//! Memory of the caller that devices reach directly.
#![expect(unsafe_code, reason = "memory is handed to devices by contract")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::device::Device;
use crate::dma::{DmaMapping, PAGE};

/// Memory that was registered.
pub(crate) struct Region {
    id: u64,
    ptr: NonNull<u8>,
    len: usize,
    /// What the memory belongs to; dropped when no device has it mapped any more.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the pointer is only passed on to backends, and compared.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes at {:p})", self.len, self.ptr)
    }
}

/// A region as one device reaches it.
#[derive(Debug)]
pub(crate) struct Mapped {
    // Declared, and so dropped, before the region.
    mapping: DmaMapping,
    region: Arc<Region>,
}

impl Mapped {
    fn start(&self) -> usize {
        self.region.ptr.as_ptr() as usize
    }

    /// Bus addresses of the pages from the one that has byte `at` on, if `len` bytes from there on
    /// are inside.
    fn pages(&self, at: usize, len: usize) -> Option<&[u64]> {
        let from = at.checked_sub(self.start())?;
        let to = from.checked_add(len)?;
        self.mapping.pages().get(from / PAGE..to.div_ceil(PAGE))
    }
}

/// The regions that one device has mapped, by address.
#[derive(Debug, Default)]
pub(crate) struct RegionMap {
    mapped: Vec<Arc<Mapped>>,
}

impl RegionMap {
    /// Bus addresses of the pages that hold `bytes`, if the device reaches them.
    #[inline]
    pub fn find(&self, bytes: &[u8]) -> Option<&[u64]> {
        if self.mapped.is_empty() {
            return None;
        }
        let at = bytes.as_ptr() as usize;
        let after = self.mapped.partition_point(|m| m.start() <= at);
        self.mapped.get(after.checked_sub(1)?)?.pages(at, bytes.len())
    }

    fn with(&self, mapped: Arc<Mapped>) -> Self {
        let mut all = self.mapped.clone();
        let at = all.partition_point(|m| m.start() < mapped.start());
        all.insert(at, mapped);
        Self { mapped: all }
    }

    fn without(&self, id: u64) -> Self {
        Self { mapped: self.mapped.iter().filter(|m| m.region.id != id).cloned().collect() }
    }
}

/// What is registered with a transport, for all its devices.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    regions: Vec<Arc<Region>>,
    devices: Vec<Weak<Device>>,
}

impl Registry {
    /// Maps everything for a new device, and what comes later.
    pub fn add_device(&self, device: &Arc<Device>) {
        let mut state = self.state.lock();
        state.devices.retain(|d| d.strong_count() > 0);
        state.devices.push(Arc::downgrade(device));
        for region in &state.regions {
            map(device, region);
        }
    }

    /// Registers memory.
    ///
    /// # Safety
    /// See [`PciTransport::register_memory`](crate::PciTransport::register_memory).
    pub unsafe fn add(
        self: &Arc<Self>,
        ptr: NonNull<u8>,
        len: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Registration {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let region = Arc::new(Region { id, ptr, len, _owner: owner });
        for device in state.devices.iter().filter_map(Weak::upgrade) {
            map(&device, &region);
        }
        state.regions.push(region);
        Registration { registry: Arc::clone(self), id }
    }

    fn remove(&self, id: u64) {
        let mut state = self.state.lock();
        state.regions.retain(|r| r.id != id);
        for device in state.devices.iter().filter_map(Weak::upgrade) {
            device.change_regions(|map| Some(map.without(id)));
        }
    }
}

/// Maps a region for a device. One that cannot be mapped is left out: its data is copied, which the
/// counters show.
fn map(device: &Device, region: &Arc<Region>) {
    device.change_regions(|map| {
        // SAFETY: the memory is valid while the region lives, which the mapping's holder keeps.
        let mapping = unsafe { device.backend().map_dma(region.ptr, region.len) }.ok()?;
        Some(map.with(Arc::new(Mapped { mapping, region: Arc::clone(region) })))
    });
}

/// Memory that is registered until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the registration"]
pub struct Registration {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.remove(self.id);
    }
}
