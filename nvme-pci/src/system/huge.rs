//! Memory in huge pages, by physical address: for functions without an IOMMU.
//!
//! Such a function reads and writes physical memory, so the memory must not move: huge pages of
//! hugetlbfs are neither swapped nor moved by an ordinary kernel's own doing. Physical addresses
//! come from `/proc/self/pagemap`, which tells them to root (`CAP_SYS_ADMIN`) only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::backend::BackendError;
use crate::system::io_error;
use crate::system::mapping::Mapping;
use crate::system::pool::{Chunk, GRAIN};

/// Bytes in a huge page.
const HUGE: usize = 2 << 20;
const _: () = assert!(HUGE == GRAIN);

/// Huge pages of `size` bytes, a multiple of 2 MiB.
pub(crate) fn chunk(address: &str, size: usize) -> Result<Chunk, BackendError> {
    let count = size / HUGE;
    let memory = Mapping::huge(size).map_err(io_error(
        address,
        format!("mapping {count} huge pages of 2 MiB (see /proc/sys/vm/nr_hugepages)"),
    ))?;
    let pagemap = File::open("/proc/self/pagemap")
        .map_err(io_error::<io::Error>(address, "opening /proc/self/pagemap"))?;
    let physical = (0..count)
        .map(|n| physical(&pagemap, memory.as_ptr().addr().get() + n * HUGE))
        .collect::<io::Result<Box<[u64]>>>()
        .map_err(io_error::<io::Error>(address, "asking for physical addresses"))?;
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
