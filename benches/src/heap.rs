//! What a thread holds on the heap, and how often it asked for it.
//!
//! A program that wants to know makes [`Counting`] its global allocator. Counted is by thread: what
//! one thread allocates and another frees is off by that much in both, so what is measured must stay
//! on its thread, as it does on a host without a control thread.
#![expect(unsafe_code, reason = "an allocator, which hands everything on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread.
#[derive(Debug)]
pub struct Counting;

/// The counters are gone while a thread ends; what happens then is not counted.
fn count(bytes: i64, allocations: u64) {
    let _ = LIVE.try_with(|n| n.set(n.get() + bytes));
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + allocations));
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64, 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64, 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64, 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as i64), 0);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Bytes that this thread has allocated and not freed.
#[must_use]
pub fn live() -> i64 {
    LIVE.get()
}

/// Allocations of this thread so far, those that moved or grew included.
#[must_use]
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}
