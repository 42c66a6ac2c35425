//! Memory in huge pages, by physical address: for functions without an IOMMU.
//!
//! Such a function reads and writes physical memory, so the memory must not move: huge pages of
//! hugetlbfs are neither swapped nor moved by an ordinary kernel's own doing. Physical addresses
//! come from `/proc/self/pagemap`, which tells them to root (`CAP_SYS_ADMIN`) only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nvme_core::memory::Memory;

use crate::backend::BackendError;
use crate::dma::{DmaMapping, PAGE};
use crate::system::io_error;
use crate::system::mapping::Mapping;
use crate::system::pool::{Chunk, GRAIN};

/// Bytes in a huge page.
pub(crate) const HUGE: usize = 2 << 20;
const _: () = assert!(HUGE == GRAIN);

/// The physical addresses of a region that consists of huge pages.
pub(crate) fn map_region(address: &str, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
    let start = memory.as_ptr().addr().get();
    let whole = start.is_multiple_of(HUGE) && memory.len().is_multiple_of(HUGE);
    if memory.page() < HUGE || !whole || memory.is_empty() {
        return Err(BackendError::Unsupported {
            address: address.into(),
            what: "reaching memory other than huge pages of 2 MiB, without an IOMMU,",
        });
    }
    let huge = addresses(address, start, memory.len() / HUGE)?;
    let pages = huge.iter().flat_map(|at| (0..HUGE / PAGE).map(move |n| at + (n * PAGE) as u64));
    Ok(DmaMapping::new(memory, pages.collect(), Box::new(())))
}

/// The physical addresses of `count` huge pages that are there, from `start` on.
fn addresses(address: &str, start: usize, count: usize) -> Result<Box<[u64]>, BackendError> {
    let pagemap = File::open("/proc/self/pagemap")
        .map_err(io_error::<io::Error>(address, "opening /proc/self/pagemap"))?;
    (0..count)
        .map(|n| physical(&pagemap, start + n * HUGE))
        .collect::<io::Result<Box<[u64]>>>()
        .map_err(io_error::<io::Error>(address, "asking for physical addresses"))
}

/// Huge pages of `size` bytes, a multiple of 2 MiB.
pub(crate) fn chunk(address: &str, size: usize) -> Result<Chunk, BackendError> {
    let count = size / HUGE;
    let memory = Mapping::huge(size).map_err(io_error(
        address,
        format!("mapping {count} huge pages of 2 MiB (see /proc/sys/vm/nr_hugepages)"),
    ))?;
    let physical = addresses(address, memory.as_ptr().addr().get(), count)?;
    Ok(Chunk::new(memory, physical, Box::new(())))
}

/// The physical address of what is at `virtual_address`, the beginning of a page that is there.
fn physical(pagemap: &File, virtual_address: usize) -> io::Result<u64> {
    let page = rustix::param::page_size();
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, (virtual_address / page * 8) as u64)?;
    let entry = u64::from_ne_bytes(entry);
    // Documentation/admin-guide/mm/pagemap.rst: bits 0 to 54 are the frame, bit 63 says present.
    let frame = entry & ((1 << 55) - 1);
    if entry >> 63 == 0 {
        return Err(io::Error::other("the page is not there"));
    }
    if frame == 0 {
        return Err(io::Error::other("the kernel hides them: CAP_SYS_ADMIN is needed"));
    }
    Ok(frame * page as u64)
}
