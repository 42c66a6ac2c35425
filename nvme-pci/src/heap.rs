//! Memory of the process in place of memory that a device reaches: for a device in the process, and
//! for tests.
#![expect(unsafe_code, reason = "page-aligned memory that is accessed without references")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::dma::{DmaMemory, PAGE};

/// Zeroed pages, freed when dropped.
#[derive(Debug)]
pub(crate) struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is the value's own; it is only handed out as a raw pointer.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// `count` pages, at least one. `None` if there cannot be as many.
    pub fn new(count: usize) -> Option<Self> {
        let bytes = count.max(1).checked_mul(PAGE)?;
        let layout = Layout::from_size_align(bytes, PAGE).ok()?;
        // SAFETY: the layout is not of size zero.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Some(Self { base, layout })
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody else frees it.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// `pages` as memory for a device, with these bus addresses; `owner` is dropped with it.
pub(crate) fn memory<T: Send + Sync + 'static>(pages: Pages, bus: &[u64], owner: T) -> DmaMemory {
    let base = pages.base();
    let bus: Box<[u64]> = bus.iter().copied().take(pages.len() / PAGE).collect();
    // SAFETY: `pages` is as long as `bus` at least, is kept by the owner, and has no references.
    unsafe { DmaMemory::new(base, bus, Box::new((owner, pages))) }
}

/// Memory for a test, contiguous from bus address `at`.
#[cfg(test)]
pub(crate) fn alloc(len: usize, at: u64) -> DmaMemory {
    let count = len.div_ceil(PAGE);
    let bus: Vec<u64> = (0..count).map(|i| at + (i * PAGE) as u64).collect();
    memory(Pages::new(count).unwrap(), &bus, ())
}
