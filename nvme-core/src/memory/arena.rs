//! Buffers taken out of a region that devices reach.
#![expect(unsafe_code, reason = "pieces of one region are accessed apart from each other")]

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Memory, Ranges};

/// A region, registered with transports, out of which buffers are taken.
///
/// The registrations end when the arena and everything that was taken out of it are gone. Methods
/// may be called from any thread.
pub struct Arena {
    free: Mutex<Ranges>,
    // Dropped, in this order, before the memory.
    registrations: Vec<Box<dyn Any + Send + Sync>>,
    memory: Arc<Memory>,
}

impl Arena {
    /// Makes an arena of `memory`; `register` tells transports of it and gives what their
    /// registrations end with.
    ///
    /// # Errors
    /// Those of `register`.
    pub fn new<E>(
        memory: Memory,
        register: impl FnOnce(&Arc<Memory>) -> Result<Vec<Box<dyn Any + Send + Sync>>, E>,
    ) -> Result<Arc<Self>, E> {
        let memory = Arc::new(memory);
        let registrations = register(&memory)?;
        let mut free = Ranges::default();
        free.release(0, memory.len() as u64);
        Ok(Arc::new(Self { free: Mutex::new(free), registrations, memory }))
    }

    /// Takes `len` bytes, at least one, that begin at a multiple of `align` bytes, a power of two,
    /// from the region's beginning; what they hold is left from earlier use. `None` if there is no
    /// such room.
    #[must_use]
    pub fn take(self: &Arc<Self>, len: usize, align: usize) -> Option<DmaBuf> {
        let at = self.free().allocate(len as u64, align as u64)?;
        let at = usize::try_from(at).ok()?;
        // SAFETY: within the region.
        let ptr = unsafe { self.memory.as_ptr().add(at) };
        Some(DmaBuf(Box::new(Piece { ptr, len, at, arena: Arc::clone(self) })))
    }

    /// The region.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether all that was taken has come back.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.free().is_whole(self.memory.len() as u64)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Ranges> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({:?}, {} registrations)", self.memory, self.registrations.len())
    }
}

/// Memory that devices reach directly. It goes back to its arena when dropped.
///
/// [`Buffer::from`](crate::buffer::Buffer) makes it a request's buffer, without a copy, and
/// [`Buffer::into_dma_buf`](crate::buffer::Buffer::into_dma_buf) gives it back.
#[derive(Debug)]
pub struct DmaBuf(Box<Piece>);

#[repr(align(8))]
struct Piece {
    ptr: NonNull<u8>,
    len: usize,
    /// Where in the region.
    at: usize,
    arena: Arc<Arena>,
}

// SAFETY: the bytes are this piece's alone while it lives: the region is its arena's alone, which
// gives no byte out twice.
unsafe impl Send for Piece {}
// SAFETY: shared references only read.
unsafe impl Sync for Piece {}

impl DmaBuf {
    /// The bytes' address and number, and, at a multiple of 8, what [`from_raw`](Self::from_raw) makes
    /// the same of.
    pub(crate) fn into_raw(self) -> (NonNull<u8>, usize, *mut u8) {
        let (ptr, len) = (self.0.ptr, self.0.len);
        (ptr, len, Box::into_raw(self.0).cast())
    }

    /// Undoes [`into_raw`](Self::into_raw).
    ///
    /// # Safety
    /// `raw` must be from there, and be used for this once.
    pub(crate) unsafe fn from_raw(raw: *mut u8) -> Self {
        // SAFETY: a box's, which the caller has alone.
        Self(unsafe { Box::from_raw(raw.cast()) })
    }

    /// Bytes.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: valid while the arena lives, which is held, and this piece's alone; initialised,
        // since memory is zeroed or the caller's.
        unsafe { std::slice::from_raw_parts(self.0.ptr.as_ptr(), self.0.len) }
    }

    /// The bytes, writable.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.ptr.as_ptr(), self.0.len) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.arena.free().release(self.at as u64, self.len as u64);
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:p}", self.len, self.ptr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

    fn arena(pages: usize) -> Arc<Arena> {
        let none = |_: &Arc<Memory>| Ok::<_, std::convert::Infallible>(Vec::new());
        Arena::new(Memory::zeroed(pages * 4096).unwrap(), none).unwrap()
    }

    #[test]
    fn pieces_are_apart_and_come_back() {
        let arena = arena(3);
        let mut a = arena.take(4096, 4096).unwrap();
        let mut b = arena.take(100, 512).unwrap();
        let mut c = arena.take(4096, 4096).unwrap();
        assert!(arena.take(4096, 4096).is_none());
        for (piece, value) in [(&mut a, 1), (&mut b, 2), (&mut c, 3)] {
            assert!(piece.as_slice().iter().all(|byte| *byte == 0));
            piece.as_mut_slice().fill(value);
        }
        assert!(a.as_slice().iter().all(|byte| *byte == 1));
        assert!(b.as_slice().iter().all(|byte| *byte == 2));
        drop((a, b));
        assert!(!arena.is_unused());
        drop(Buffer::from(c));
        assert!(arena.is_unused());
        assert_eq!(arena.take(3 * 4096, 4096).unwrap().len(), 3 * 4096);
    }

    #[test]
    fn registrations_last_as_long_as_any_piece_and_end_before_the_memory() {
        let registration = Arc::new(());
        let watch = Arc::downgrade(&registration);
        let arena = Arena::new(Memory::zeroed(1).unwrap(), |_| {
            Ok::<_, std::convert::Infallible>(vec![Box::new(registration) as _])
        });
        let piece = arena.unwrap().take(512, 512).unwrap();
        assert!(watch.upgrade().is_some());
        let piece = Buffer::from(piece).into_dma_buf().unwrap();
        drop(piece);
        assert!(watch.upgrade().is_none());
    }
}
