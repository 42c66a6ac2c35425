//! Regions of memory that devices reach directly.

use std::sync::{Arc, Weak};

use nvme_core::memory::Memory;
use nvme_core::transport::TransportError;
use parking_lot::Mutex;

use crate::backend::BackendError;
use crate::device::Device;
use crate::dma::{DmaMapping, PAGE};

fn start(mapping: &DmaMapping) -> usize {
    mapping.memory().as_ptr().addr().get()
}

/// Bus addresses of the pages from the one that has byte `at` on, if `len` bytes from there on are
/// inside.
fn pages(mapping: &DmaMapping, at: usize, len: usize) -> Option<&[u64]> {
    let from = at.checked_sub(start(mapping))?;
    let to = from.checked_add(len)?;
    mapping.pages().get(from / PAGE..to.div_ceil(PAGE))
}

/// The regions that one device has mapped, by address.
#[derive(Debug, Default)]
pub(crate) struct RegionMap {
    mapped: Vec<Arc<DmaMapping>>,
}

impl RegionMap {
    /// Bus addresses of the pages that hold `bytes`, if the device reaches them.
    #[inline]
    pub fn find(&self, bytes: &[u8]) -> Option<&[u64]> {
        if self.mapped.is_empty() {
            return None;
        }
        let at = bytes.as_ptr() as usize;
        let after = self.mapped.partition_point(|m| start(m) <= at);
        pages(self.mapped.get(after.checked_sub(1)?)?, at, bytes.len())
    }

    fn with(&self, mapped: Arc<DmaMapping>) -> Self {
        let mut all = self.mapped.clone();
        let at = all.partition_point(|m| start(m) < start(&mapped));
        all.insert(at, mapped);
        Self { mapped: all }
    }

    fn without(&self, memory: &Arc<Memory>) -> Self {
        Self {
            mapped: self
                .mapped
                .iter()
                .filter(|m| !Arc::ptr_eq(m.memory(), memory))
                .cloned()
                .collect(),
        }
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
        for device in state.devices.iter().filter_map(Weak::upgrade) {
            device.change_regions(|map| Some(map.without(memory)));
        }
    }
}

/// Maps a region for a device, unless it has it already.
fn map(device: &Device, memory: &Arc<Memory>) -> Result<(), BackendError> {
    let mut result = Ok(());
    device.change_regions(|map| {
        if map.mapped.iter().any(|m| Arc::ptr_eq(m.memory(), memory)) {
            return None;
        }
        match device.backend().map_dma(memory) {
            Ok(mapping) => Some(map.with(Arc::new(mapping))),
            Err(error) => {
                result = Err(error);
                None
            }
        }
    });
    result
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
