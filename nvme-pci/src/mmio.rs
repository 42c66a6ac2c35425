//! Registers that are mapped into the process.
#![expect(unsafe_code, reason = "device registers are reached through a mapping")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use crate::backend::Mmio;

/// A mapped BAR: volatile accesses, checked against its length.
pub struct MappedBar {
    base: NonNull<u8>,
    len: usize,
    /// Unmaps when dropped.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the mapping lives as long as the owner, which is held; registers may be reached from any
// thread, and every access is volatile.
unsafe impl Send for MappedBar {}
// SAFETY: as above.
unsafe impl Sync for MappedBar {}

impl MappedBar {
    /// A BAR that is mapped at `base`; `owner` unmaps it when dropped.
    ///
    /// # Safety
    /// `base` must be aligned to 8 and valid for volatile reads and writes of `len` bytes until
    /// `owner` has been dropped, and no Rust reference may exist to any of it.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, len: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self { base, len, _owner: owner }
    }

    /// Where `size` bytes at `offset` are, if they are inside and aligned to `size`.
    fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let size = size_of::<T>();
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(size) {
            return None;
        }
        // SAFETY: `offset` is less than `len`, so the sum stays within the mapping.
        Some(unsafe { self.base.add(offset) }.cast())
    }
}

impl Mmio for MappedBar {
    fn len(&self) -> usize {
        self.len
    }

    fn read32(&self, offset: usize) -> u32 {
        match self.at::<u32>(offset) {
            // SAFETY: inside of the mapping and aligned.
            Some(p) => u32::from_le(unsafe { p.as_ptr().read_volatile() }),
            None => u32::MAX,
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        match self.at::<u64>(offset) {
            // SAFETY: inside of the mapping and aligned.
            Some(p) => u64::from_le(unsafe { p.as_ptr().read_volatile() }),
            None => u64::MAX,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(p) = self.at::<u32>(offset) {
            // What was written to memory before must be seen by a device that sees this write.
            fence(Ordering::SeqCst);
            // SAFETY: inside of the mapping and aligned.
            unsafe { p.as_ptr().write_volatile(value.to_le()) };
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        if let Some(p) = self.at::<u64>(offset) {
            fence(Ordering::SeqCst);
            // SAFETY: inside of the mapping and aligned.
            unsafe { p.as_ptr().write_volatile(value.to_le()) };
        }
    }
}

impl fmt::Debug for MappedBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedBar({} bytes)", self.len)
    }
}
