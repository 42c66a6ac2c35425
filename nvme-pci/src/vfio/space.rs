//! Address spaces of devices behind an IOMMU, and memory in them.
#![expect(unsafe_code, reason = "handing memory to a device")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use nvme_core::memory::Memory;

use crate::backend::BackendError;
use crate::dma::{DmaMapping, DmaMemory, PAGE};
use crate::system::mapping::Mapping;
use crate::system::{io_error, limits, unusable};

/// An address space that the IOMMU gives devices, in which pages of the process can be mapped.
pub(crate) trait Space: Send + Sync + fmt::Debug {
    /// Maps `len` bytes at `ptr`, both multiples of [`PAGE`], and gives the bus address.
    fn map(&self, address: &str, ptr: NonNull<u8>, len: usize) -> Result<u64, BackendError>;

    /// Undoes [`Space::map`].
    fn unmap(&self, bus: u64, len: usize);
}

/// Something mapped; unmapped when dropped.
struct Mapped {
    space: Arc<dyn Space>,
    bus: u64,
    len: usize,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.space.unmap(self.bus, self.len);
        limits::subtract(self.len as u64);
    }
}

/// Maps memory and gives the bus address of each page.
fn map(
    space: &Arc<dyn Space>,
    address: &str,
    ptr: NonNull<u8>,
    len: usize,
) -> Result<(Box<[u64]>, Mapped), BackendError> {
    let bus = space.map(address, ptr, len)?;
    limits::add(len as u64);
    let mapped = Mapped { space: Arc::clone(space), bus, len };
    let pages = (0..len / PAGE).map(|n| bus + (n * PAGE) as u64).collect();
    Ok((pages, mapped))
}

/// Zeroed memory of `len` bytes, rounded up to pages, in one piece for devices of `space`.
pub(crate) fn allocate(
    space: &Arc<dyn Space>,
    address: &str,
    len: usize,
) -> Result<DmaMemory, BackendError> {
    let len = len
        .max(1)
        .checked_next_multiple_of(PAGE)
        .ok_or_else(|| unusable(address, format!("{len} bytes are more than memory can be")))?;
    let memory =
        Mapping::anonymous(len).map_err(io_error(address, format!("allocating {len} bytes")))?;
    let base = memory.as_ptr();
    let (pages, mapped) = map(space, address, base, len)?;
    // Fields are dropped in order: unmapped for the device first.
    let owner = (mapped, memory);
    // SAFETY: a mapping is aligned to pages and lives as long as the owner; devices reach it at
    // these addresses until the owner is dropped.
    Ok(unsafe { DmaMemory::new(base, pages, Box::new(owner)) })
}

/// Maps a region.
pub(crate) fn map_region(
    space: &Arc<dyn Space>,
    address: &str,
    memory: &Arc<Memory>,
) -> Result<DmaMapping, BackendError> {
    check_pages(address, memory)?;
    let (pages, mapped) = map(space, address, memory.as_ptr(), memory.len())?;
    Ok(DmaMapping::new(memory, pages, Box::new(mapped)))
}

/// Checks that a region consists of whole pages.
pub(crate) fn check_pages(address: &str, memory: &Memory) -> Result<(), BackendError> {
    let (ptr, len) = (memory.as_ptr(), memory.len());
    let page = rustix::param::page_size().max(PAGE);
    if len == 0 || !len.is_multiple_of(page) || !ptr.addr().get().is_multiple_of(page) {
        let reason = format!(
            "a region of {len} bytes at {ptr:p} does not begin and end on a page of {page} bytes"
        );
        return Err(unusable(address, reason));
    }
    Ok(())
}
