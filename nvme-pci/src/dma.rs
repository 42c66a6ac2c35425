//! Memory that a device can reach.
//!
//! A device may write such memory at any time, so no Rust reference to its bytes is ever made: it is
//! accessed by atomic words and by raw copies. A device that writes where it should not can make the
//! *values* read wrong, never the program unsound.
#![expect(unsafe_code, reason = "memory that a device writes cannot be a slice")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nvme_core::memory::Memory;

/// Bytes of a page, as this library sets it up with every controller (`CC.MPS` 0).
pub const PAGE: usize = 4096;

/// Memory allocated for a device: where it is for the process, and where for the device.
pub struct DmaMemory {
    base: NonNull<u8>,
    len: usize,
    pages: Box<[u64]>,
    /// Unmaps and frees when dropped.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory lives as long as the owner, which is held. It is accessed by atomics, and by
// copies whose callers see to it that no other copy overlaps (a queue has one owner).
unsafe impl Send for DmaMemory {}
// SAFETY: as above.
unsafe impl Sync for DmaMemory {}

impl DmaMemory {
    /// Memory at `base`, of whole pages; `pages` has the bus address of each. `owner` unmaps and
    /// frees it when dropped.
    ///
    /// # Safety
    /// `base` must be aligned to [`PAGE`] and valid for reads and writes of `pages.len()` pages
    /// until `owner` has been dropped; nothing else in the process may hold a reference into it. The
    /// device must be able to reach each page at its bus address for as long.
    #[must_use]
    pub unsafe fn new(
        base: NonNull<u8>,
        pages: Box<[u64]>,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self { base, len: pages.len() * PAGE, pages, _owner: owner }
    }

    /// `len` bytes from `offset` on of `whole`, both multiples of [`PAGE`]; `None` outside. `owner`
    /// keeps `whole`, and sees to it that nobody else has this part.
    pub(crate) fn part(
        whole: &Self,
        offset: usize,
        len: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Option<Self> {
        let end = offset.checked_add(len)?.div_ceil(PAGE);
        let pages = whole.pages.get(offset / PAGE..end)?.into();
        // SAFETY: inside, as the pages are.
        let base = unsafe { whole.base.add(offset) };
        Some(Self { base, len, pages, _owner: owner })
    }

    /// Sets all bytes to zero, word by word; true.
    pub(crate) fn clear(&self) -> bool {
        let words = (0..self.len).step_by(8).filter_map(|at| self.word(at));
        words.for_each(|word| word.store(0, Ordering::Relaxed));
        true
    }

    /// Length in bytes, a multiple of [`PAGE`].
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no memory.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bus addresses of the pages, in order.
    #[must_use]
    pub const fn pages(&self) -> &[u64] {
        &self.pages
    }

    /// Whether the memory is one piece for the device.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.pages.windows(2).all(|w| w[0].checked_add(PAGE as u64) == Some(w[1]))
    }

    /// The bus address of the byte at `offset`; `None` outside.
    #[must_use]
    pub fn bus(&self, offset: usize) -> Option<u64> {
        self.pages.get(offset / PAGE)?.checked_add((offset % PAGE) as u64)
    }

    /// The first byte, for a [`Buffer`](nvme_core::buffer::Buffer) or for one's own raw accesses.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// The 8 bytes at `offset`, which must be a multiple of 8; `None` outside.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<&AtomicU64> {
        let inside = offset.checked_add(8).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: inside, aligned, and valid while `self` lives; an atomic may be changed by others.
        Some(unsafe { AtomicU64::from_ptr(self.base.add(offset).cast().as_ptr()) })
    }

    /// The 4 bytes at `offset`, which must be a multiple of 4; `None` outside.
    #[must_use]
    pub fn half(&self, offset: usize) -> Option<&AtomicU32> {
        let inside = offset.checked_add(4).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(4) {
            return None;
        }
        // SAFETY: inside, aligned, and valid while `self` lives; an atomic may be changed by others.
        Some(unsafe { AtomicU32::from_ptr(self.base.add(offset).cast().as_ptr()) })
    }

    /// Copies `from` to `offset`; false, and nothing is copied, if it does not fit.
    #[must_use]
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> bool {
        if offset.checked_add(from.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: inside; `from` is a live slice, which can not overlap memory that has no reference.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.as_ptr(),
                self.base.add(offset).as_ptr(),
                from.len(),
            );
        }
        true
    }

    /// Copies from `offset` into `to`; false, and nothing is copied, if there is not as much.
    #[must_use]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> bool {
        if offset.checked_add(to.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: inside; `to` is a live slice, which can not overlap memory that has no reference.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.add(offset).as_ptr(),
                to.as_mut_ptr(),
                to.len(),
            );
        }
        true
    }
}

impl fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.pages.first().copied().unwrap_or(0);
        write!(f, "DmaMemory({} bytes, first at bus address {first:#x})", self.len)
    }
}

/// A region of memory that a device can reach until this is dropped.
pub struct DmaMapping {
    pages: Box<[u64]>,
    /// Unmaps when dropped, before the memory.
    _owner: Box<dyn Any + Send + Sync>,
    memory: Arc<Memory>,
}

impl DmaMapping {
    /// A mapping of `memory` whose pages of [`PAGE`] bytes are at these bus addresses; `owner` unmaps
    /// them when dropped.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, pages: Box<[u64]>, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self { pages, _owner: owner, memory: Arc::clone(memory) }
    }

    /// Bus addresses of the pages, in order.
    #[must_use]
    pub const fn pages(&self) -> &[u64] {
        &self.pages
    }

    /// The region.
    #[must_use]
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl fmt::Debug for DmaMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMapping({} pages)", self.pages.len())
    }
}
