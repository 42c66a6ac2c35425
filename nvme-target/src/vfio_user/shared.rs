//! Memory that another process maps as well.
#![expect(unsafe_code, reason = "memory of another process cannot be a slice")]

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped part of a file. Whoever else maps it may change it at any time, so that it is accessed
/// by atomics and raw copies only.
pub(super) struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value; accesses are atomics and raw copies of what other
// processes change anyway.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `len` bytes of a file from `offset`, a multiple of the page size. The file must be long
    /// enough, and stay so: an access beyond its end ends the process.
    pub fn new(file: BorrowedFd<'_>, offset: u64, len: usize, write: bool) -> io::Result<Self> {
        let prot = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the system chooses where; nothing is there yet.
        let base =
            unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, offset)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len })
    }

    /// Where `size` bytes at `offset` are, if they are inside.
    fn at(&self, offset: usize, size: usize) -> Option<NonNull<u8>> {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        // SAFETY: within the mapping.
        inside.then(|| unsafe { self.base.add(offset) })
    }

    /// Copies from `offset`; false if there is not as much.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> bool {
        let Some(from) = self.at(offset, to.len()) else { return false };
        // SAFETY: inside of the mapping, to which no slice exists.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies to `offset`; false if it does not fit. The mapping must be writable.
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        let Some(to) = self.at(offset, from.len()) else { return false };
        // SAFETY: inside of the mapping, to which no slice exists.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        true
    }

    /// The 8 bytes at `offset`, a multiple of 8.
    pub fn word(&self, offset: usize) -> Option<&AtomicU64> {
        let at = self.at(offset, 8).filter(|_| offset.is_multiple_of(8))?;
        // SAFETY: inside, aligned, and mapped for as long as `self` lives.
        Some(unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) })
    }

    /// The 4 bytes at `offset`, a multiple of 4.
    pub fn half(&self, offset: usize) -> Option<&AtomicU32> {
        let at = self.at(offset, 4).filter(|_| offset.is_multiple_of(4))?;
        // SAFETY: as above.
        Some(unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) })
    }

    /// Sets the 8 bytes at `offset` after everything that was written before.
    pub fn store(&self, offset: usize, value: u64) -> bool {
        self.word(offset).map(|w| w.store(value, Ordering::Release)).is_some()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by this value, which is the only one to unmap it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({} bytes)", self.len)
    }
}
