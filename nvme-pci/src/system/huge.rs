//! Memory in huge pages, by physical address: for functions without an IOMMU.
//!
//! Such a function reads and writes physical memory, so the memory must not move: huge pages of
//! hugetlbfs are neither swapped nor moved by an ordinary kernel's own doing. Physical addresses
//! come from `/proc/self/pagemap`, which tells them to root (`CAP_SYS_ADMIN`) only.
#![expect(unsafe_code, reason = "handing out memory for a device")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::BackendError;
use crate::dma::{DmaMemory, PAGE};
use crate::system::mapping::Mapping;
use crate::system::ranges::Ranges;
use crate::system::{io_error, unusable};

/// Bytes in a huge page.
const HUGE: usize = 2 << 20;

/// Huge pages of one function, and what is free in them.
#[derive(Debug, Default)]
pub(crate) struct HugePool {
    chunks: Mutex<Vec<Arc<Chunk>>>,
}

/// Some huge pages that were mapped together.
#[derive(Debug)]
struct Chunk {
    memory: Mapping,
    /// The physical address of each huge page.
    physical: Box<[u64]>,
    free: Mutex<Ranges>,
}

/// A piece of a pool; goes back to it when dropped.
#[derive(Debug)]
struct Piece {
    chunk: Arc<Chunk>,
    offset: usize,
    len: usize,
}

impl HugePool {
    /// Zeroed memory of `len` bytes, rounded up to pages; in one piece on the bus up to the size of
    /// a huge page. It begins at a multiple of its length, as far as that is a power of two.
    pub(crate) fn allocate(&self, address: &str, len: usize) -> Result<DmaMemory, BackendError> {
        let rounded = len.max(1).checked_next_multiple_of(PAGE);
        let piece = self.piece(address, rounded.unwrap_or(usize::MAX))?;
        let (base, pages) = (piece.as_ptr(), piece.pages());
        // SAFETY: the piece is this call's alone, inside of a mapping that it keeps alive, and of
        // `pages.len()` pages; huge pages keep their physical addresses.
        Ok(unsafe {
            base.write_bytes(0, piece.len);
            DmaMemory::new(base, pages, Box::new(piece))
        })
    }

    /// Takes `len` bytes, a multiple of [`PAGE`]. What the bytes hold is left from earlier use.
    fn piece(&self, address: &str, len: usize) -> Result<Piece, BackendError> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = chunks.iter().find_map(|chunk| Chunk::take(chunk, len)) {
            return Ok(piece);
        }
        let size = len
            .checked_next_multiple_of(HUGE)
            .ok_or_else(|| unusable(address, format!("{len} bytes are more than memory can be")))?;
        let chunk = Arc::new(Chunk::new(address, size)?);
        chunks.push(Arc::clone(&chunk));
        Chunk::take(&chunk, len)
            .ok_or_else(|| unusable(address, format!("no {len} bytes in fresh huge pages")))
    }
}

impl Chunk {
    fn new(address: &str, size: usize) -> Result<Self, BackendError> {
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
        let mut free = Ranges::default();
        free.release(0, size as u64);
        Ok(Self { memory, physical, free: Mutex::new(free) })
    }

    fn take(this: &Arc<Self>, len: usize) -> Option<Piece> {
        let mut free = this.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Within one huge page if possible: aligned to the next power of two, that is sure.
        let align = len.checked_next_power_of_two()?.min(HUGE);
        let offset = free.allocate(len as u64, align as u64)? as usize;
        drop(free);
        Some(Piece { chunk: Arc::clone(this), offset, len })
    }
}

impl Piece {
    /// Where it is in the process.
    fn as_ptr(&self) -> NonNull<u8> {
        // Within the mapping, whose addresses do not wrap.
        let base = self.chunk.memory.as_ptr();
        base.map_addr(|a| a.saturating_add(self.offset))
    }

    /// The physical address of each page of [`PAGE`] bytes.
    fn pages(&self) -> Box<[u64]> {
        (self.offset..self.offset + self.len)
            .step_by(PAGE)
            .filter_map(|at| Some(self.chunk.physical.get(at / HUGE)? + (at % HUGE) as u64))
            .collect()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut free = self.chunk.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.release(self.offset as u64, self.len as u64);
    }
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
