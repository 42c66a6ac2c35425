//! Data buffers that travel with a request.
//!
//! A [`Buffer`] is moved into a queue with the command that uses it and moved back with the
//! completion, so the memory cannot be freed or reused while a socket or a device may touch it.

use std::fmt;
use std::ptr::NonNull;

use crate::memory::DmaBuf;

/// Contiguous memory owned by exactly one holder at a time: the caller, a request, or a queue.
///
/// Made from a `Vec<u8>` or a [`DmaBuf`] (no copy), or from foreign memory through
/// [`Buffer::from_raw_parts`]. Metadata that travels beside the data is part of it
/// ([`Buffer::with_metadata`]); everything else here is about the data.
pub struct Buffer {
    /// The data, whoever has the memory: so that what asks for it need not ask for that.
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// What the memory of a buffer is freed by: one word, so that a buffer is three.
#[derive(Clone, Copy)]
struct Owner(*mut u8);

/// Who that is. A word without the lowest bit is twice the capacity of a vector; with it, the three
/// lowest bits say what the pointer above them is to.
enum Kind {
    /// A vector, of this capacity.
    Vector(usize),
    /// Somebody else.
    Foreign,
    /// The memory that devices reach.
    Dma(*mut u8),
    /// Data and metadata together.
    Parts(*mut Parts),
}

const NO_VECTOR: usize = 0b001;
const DMA: usize = 0b011;
const PARTS: usize = 0b101;
const KINDS: usize = 0b111;

/// Data and metadata, neither of which has metadata of its own.
#[repr(align(8))]
struct Parts {
    data: Buffer,
    metadata: Buffer,
}

impl Owner {
    const EMPTY: Self = Self(std::ptr::null_mut());
    const FOREIGN: Self = Self(std::ptr::without_provenance_mut(NO_VECTOR));

    /// No vector has more bytes than `isize::MAX`.
    fn vector(capacity: usize) -> Self {
        Self(std::ptr::without_provenance_mut(capacity << 1))
    }

    /// Something at an address that is a multiple of 8.
    fn marked(pointer: *mut u8, kind: usize) -> Self {
        Self(pointer.map_addr(|at| at | kind))
    }

    #[inline]
    fn is_vector(self) -> bool {
        self.0.addr() & NO_VECTOR == 0
    }

    #[inline]
    fn has_metadata(self) -> bool {
        self.0.addr() & KINDS == PARTS
    }

    fn kind(self) -> Kind {
        let pointer = self.0.map_addr(|at| at & !KINDS);
        match self.0.addr() & KINDS {
            NO_VECTOR => Kind::Foreign,
            DMA => Kind::Dma(pointer),
            PARTS => Kind::Parts(pointer.cast()),
            _ => Kind::Vector(self.0.addr() >> 1),
        }
    }
}

// SAFETY: the memory is a vector's or a `DmaBuf`'s, which are `Send`, and of this value alone; for a
// foreign one the contract of `from_raw_parts` gives this value sole access, from whatever thread
// holds it.
#[expect(unsafe_code, reason = "foreign memory is handed over by contract")]
unsafe impl Send for Buffer {}
// SAFETY: shared references only read, and nobody else writes (see `from_raw_parts`).
#[expect(unsafe_code, reason = "foreign memory is handed over by contract")]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer without memory, for commands that carry no data.
    #[must_use]
    #[inline]
    pub const fn empty() -> Self {
        Self { ptr: NonNull::dangling(), len: 0, owner: Owner::EMPTY }
    }

    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        vec![0; len].into()
    }

    /// Wraps memory that the library does not own, such as a C caller's.
    ///
    /// Dropping the buffer does not free the memory.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `len` bytes, and nothing else may access the
    /// memory, until the returned value is dropped or comes back with its completion and is
    /// dropped there.
    #[must_use]
    #[expect(unsafe_code, reason = "the raw form that a C binding needs")]
    pub const unsafe fn from_raw_parts(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len, owner: Owner::FOREIGN }
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The length, unless there is metadata beside the data.
    #[must_use]
    #[inline]
    pub fn plain_len(&self) -> Option<usize> {
        if self.has_metadata() { None } else { Some(self.len) }
    }

    /// The bytes, unless there is metadata beside them.
    #[must_use]
    #[inline]
    pub fn plain(&self) -> Option<&[u8]> {
        if self.has_metadata() { None } else { Some(self.as_slice()) }
    }

    /// Whether the length is zero.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub const fn as_slice(&self) -> &[u8] {
        // SAFETY: the memory of what was taken apart to make this, which has not been freed; or by the
        // contract of `from_raw_parts`: valid, and ours alone.
        #[expect(unsafe_code, reason = "one view of memory of all kinds")]
        unsafe {
            std::slice::from_raw_parts(self.ptr.as_ptr(), self.len)
        }
    }

    /// The bytes, writable.
    #[must_use]
    #[inline]
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        #[expect(unsafe_code, reason = "one view of memory of all kinds")]
        unsafe {
            std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len)
        }
    }

    /// The same buffer with `metadata` beside it, for namespaces whose metadata is transferred
    /// separately; that takes the place of metadata that it had. One allocation, which lasts until
    /// [`into_parts`](Self::into_parts), however often the buffer is used. Metadata that is itself
    /// with metadata loses that.
    #[must_use]
    pub fn with_metadata(self, metadata: Self) -> Self {
        let (data, metadata) = (self.into_parts().0, metadata.into_parts().0);
        let (ptr, len) = (data.ptr, data.len);
        let parts = Box::into_raw(Box::new(Parts { data, metadata }));
        Self { ptr, len, owner: Owner::marked(parts.cast(), PARTS) }
    }

    /// Takes data and metadata apart.
    #[must_use]
    pub fn into_parts(self) -> (Self, Option<Self>) {
        let Kind::Parts(parts) = self.owner.kind() else { return (self, None) };
        std::mem::forget(self);
        // SAFETY: made by `with_metadata` of a box, whose owner is forgotten.
        #[expect(unsafe_code, reason = "the box is owned by a word")]
        let Parts { data, metadata } = *unsafe { Box::from_raw(parts) };
        (data, Some(metadata))
    }

    fn parts(&self) -> Option<&Parts> {
        let Kind::Parts(parts) = self.owner.kind() else { return None };
        // SAFETY: made of a box, which is freed with this. The bytes of the data are not in it.
        #[expect(unsafe_code, reason = "the box is owned by a word")]
        Some(unsafe { &*parts })
    }

    /// Whether there is metadata beside the data.
    #[must_use]
    #[inline]
    pub fn has_metadata(&self) -> bool {
        self.owner.has_metadata()
    }

    /// The metadata beside the data.
    #[must_use]
    pub fn metadata(&self) -> Option<&[u8]> {
        self.parts().map(|parts| parts.metadata.as_slice())
    }

    /// The metadata beside the data, writable.
    #[must_use]
    pub fn metadata_mut(&mut self) -> Option<&mut [u8]> {
        let Kind::Parts(parts) = self.owner.kind() else { return None };
        // SAFETY: as in `parts`, and borrowed mutably.
        #[expect(unsafe_code, reason = "the box is owned by a word")]
        Some(unsafe { &mut *parts }.metadata.as_mut_slice())
    }

    /// Whether the memory is a vector's, so that [`into_vec`](Self::into_vec) gives it.
    #[must_use]
    #[inline]
    pub fn is_vec(&self) -> bool {
        self.owner.is_vector()
    }

    /// Gives the vector back, or the buffer itself when its memory is no vector's.
    ///
    /// # Errors
    /// The buffer, unchanged, when it was not made from a vector.
    pub fn into_vec(self) -> Result<Vec<u8>, Self> {
        let Kind::Vector(capacity) = self.owner.kind() else { return Err(self) };
        let (ptr, len) = (self.ptr.as_ptr(), self.len);
        std::mem::forget(self);
        // SAFETY: what a vector was taken apart into, which nobody else has any more.
        #[expect(unsafe_code, reason = "the vector is put together again")]
        Ok(unsafe { Vec::from_raw_parts(ptr, len, capacity) })
    }

    /// Gives the memory back that devices reach.
    ///
    /// # Errors
    /// The buffer, unchanged, when it was not made from a [`DmaBuf`].
    pub fn into_dma_buf(self) -> Result<DmaBuf, Self> {
        let Kind::Dma(memory) = self.owner.kind() else { return Err(self) };
        std::mem::forget(self);
        // SAFETY: from `DmaBuf::into_raw`, and forgotten here.
        #[expect(unsafe_code, reason = "it is owned by a word")]
        Ok(unsafe { DmaBuf::from_raw(memory) })
    }

    #[inline(never)]
    fn free(&mut self) {
        let whole = std::mem::take(self);
        match whole.owner.kind() {
            Kind::Vector(_) => drop(whole.into_vec()),
            Kind::Dma(_) => drop(whole.into_dma_buf()),
            Kind::Parts(_) => drop(whole.into_parts()),
            Kind::Foreign => std::mem::forget(whole),
        }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if !self.owner.0.is_null() {
            self.free();
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(v: Vec<u8>) -> Self {
        let mut v = std::mem::ManuallyDrop::new(v);
        let owner = Owner::vector(v.capacity());
        let ptr = NonNull::new(v.as_mut_ptr()).unwrap_or(NonNull::dangling());
        Self { ptr, len: v.len(), owner }
    }
}

impl From<DmaBuf> for Buffer {
    fn from(memory: DmaBuf) -> Self {
        let (ptr, len, owner) = memory.into_raw();
        Self { ptr, len, owner: Owner::marked(owner, DMA) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.owner.kind() {
            Kind::Vector(_) => "owned",
            Kind::Foreign => "foreign",
            Kind::Dma(_) => "for devices",
            Kind::Parts(_) => "with metadata",
        };
        write!(f, "Buffer({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::memory::{Arena, Memory};

    #[test]
    fn a_vector_comes_back_without_a_copy() {
        let v = vec![7u8; 4096];
        let at = v.as_ptr();
        let mut b = Buffer::from(v);
        b.as_mut_slice()[0] = 9;
        let v = b.into_vec().unwrap();
        assert_eq!((v.as_ptr(), v[0], v.len()), (at, 9, 4096));
    }

    #[test]
    fn memory_of_every_kind_is_freed_once() {
        let memory = Memory::zeroed(4 * 4096).unwrap();
        let arena = Arena::new(memory, |_| Ok::<_, Infallible>(Vec::new())).unwrap();
        let piece = |len| Buffer::from(arena.take(len, 64).unwrap());
        let parts = piece(4096).with_metadata(piece(64));
        drop(parts.with_metadata(Buffer::from(Vec::with_capacity(9))));
        assert!(arena.is_unused());
        let buffer = piece(4096).into_vec().unwrap_err();
        assert_eq!((buffer.len(), buffer.is_vec(), arena.is_unused()), (4096, false, false));
        let memory = buffer.into_dma_buf().unwrap();
        assert_eq!((memory.len(), arena.is_unused()), (4096, false));
        drop(memory);
        assert!(arena.is_unused());
        let v = Buffer::from(Vec::with_capacity(12)).into_vec().unwrap();
        assert_eq!((v.len(), v.capacity()), (0, 12));
        assert_eq!(Buffer::empty().into_vec().unwrap().capacity(), 0);
        assert_eq!(size_of::<Buffer>(), 3 * size_of::<usize>());
    }

    #[test]
    fn metadata_travels_beside_the_data() {
        let mut b = Buffer::from(vec![1; 512]).with_metadata(Buffer::zeroed(8));
        assert!((b.len(), b.has_metadata(), b.is_vec()) == (512, true, false));
        b.metadata_mut().unwrap().fill(2);
        b.as_mut_slice()[0] = 3;
        let nested = Buffer::zeroed(16).with_metadata(Buffer::zeroed(1));
        let b = b.into_vec().unwrap_err();
        assert_eq!((b.as_slice()[0], b.metadata().unwrap()), (3, &[2; 8][..]));
        let (data, metadata) = b.with_metadata(nested).into_parts();
        assert_eq!((data.len(), data.has_metadata()), (512, false));
        let metadata = metadata.unwrap();
        assert_eq!((metadata.len(), metadata.has_metadata()), (16, false));
        assert!(metadata.into_parts().1.is_none());
    }

    #[test]
    #[expect(unsafe_code, reason = "the raw form is what is tested")]
    fn foreign_memory_is_seen_and_not_freed() {
        let mut mem = [0u8; 16];
        let ptr = NonNull::new(mem.as_mut_ptr()).unwrap();
        // SAFETY: `mem` outlives the buffer and is not touched meanwhile.
        let mut b = unsafe { Buffer::from_raw_parts(ptr, 16) };
        b.as_mut_slice()[3] = 5;
        assert_eq!(b.as_slice()[3], 5);
        assert!(b.into_vec().is_err());
        assert_eq!(mem[3], 5);
    }
}
