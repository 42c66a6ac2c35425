//! Memory that devices of every backend can be given: pages of a file that has no name.
#![expect(unsafe_code, reason = "handing out memory that was mapped")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nvme_core::memory::{Memory, MemoryKind};
use rustix::fs::MemfdFlags;

use crate::dma::PAGE;
use crate::system::huge::HUGE;
use crate::system::mapping::Mapping;

/// Zeroed memory of `len` bytes, rounded up to pages: huge ones if that is wanted and the system has
/// some to spare, else ordinary ones.
pub(crate) fn allocate(len: usize, kind: MemoryKind) -> io::Result<Memory> {
    let too_long = || io::Error::from(io::ErrorKind::InvalidInput);
    if kind >= MemoryKind::Huge {
        let len = len.max(1).checked_next_multiple_of(HUGE).ok_or_else(too_long)?;
        let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        if let Ok(memory) = map(len, flags) {
            // SAFETY: hugetlbfs gives all pages when it is mapped so, and does not move them.
            return Ok(unsafe { memory.with_huge_pages(HUGE) });
        }
    }
    map(len.max(1).checked_next_multiple_of(PAGE).ok_or_else(too_long)?, MemfdFlags::empty())
}

fn map(len: usize, flags: MemfdFlags) -> io::Result<Memory> {
    let file: OwnedFd = rustix::fs::memfd_create("nvme-memory", MemfdFlags::CLOEXEC | flags)?;
    rustix::fs::ftruncate(&file, len as u64)?;
    let mapping = Mapping::populated_file(file.as_fd(), len)?;
    let base = mapping.as_ptr();
    // SAFETY: a fresh mapping, which lives as long as its owner.
    Ok(unsafe { Memory::from_raw_parts(base, len, Box::new(mapping)) }.backed_by(file, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_file_and_whole_pages() {
        let memory = allocate(5000, MemoryKind::Shared).unwrap();
        assert_eq!((memory.len(), memory.page()), (2 * PAGE, PAGE));
        // SAFETY: inside, and nobody else has it.
        unsafe { memory.as_ptr().add(4999).write(7) };
        let (file, offset) = memory.file().unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::pread(file, &mut byte, offset + 4999).unwrap(), 1);
        assert_eq!(byte, [7]);
    }

    #[test]
    fn where_there_are_no_huge_pages_ordinary_ones_do() {
        // Whether there are some depends on the machine.
        let memory = allocate(1, MemoryKind::Huge).unwrap();
        assert!(matches!((memory.len(), memory.page()), (PAGE, PAGE) | (HUGE, HUGE)));
    }
}
