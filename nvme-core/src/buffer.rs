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
    repr: Repr,
}

enum Repr {
    Owned(Vec<u8>),
    Foreign { ptr: NonNull<u8>, len: usize },
    Dma(DmaBuf),
    WithMetadata(Box<Parts>),
}

/// Data and metadata, neither of which has metadata of its own.
struct Parts {
    data: Buffer,
    metadata: Buffer,
}

// SAFETY: an owned buffer is a `Vec<u8>`; for a foreign one the contract of `from_raw_parts` gives
// this value sole access to the memory, from whatever thread holds it.
#[expect(unsafe_code, reason = "foreign memory is handed over by contract")]
unsafe impl Send for Buffer {}
// SAFETY: shared references only read, and nobody else writes (see `from_raw_parts`).
#[expect(unsafe_code, reason = "foreign memory is handed over by contract")]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer without memory, for commands that carry no data.
    #[must_use]
    pub const fn empty() -> Self {
        Self { repr: Repr::Owned(Vec::new()) }
    }

    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self { repr: Repr::Owned(vec![0; len]) }
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
        Self { repr: Repr::Foreign { ptr, len } }
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        // One after the other: cheaper than a table of jumps.
        if let Repr::Owned(v) = &self.repr {
            return v.len();
        }
        if let Repr::Dma(memory) = &self.repr {
            return memory.len();
        }
        match &self.repr {
            Repr::Foreign { len, .. } => *len,
            Repr::WithMetadata(parts) => parts.data().len(),
            Repr::Owned(_) | Repr::Dma(_) => 0,
        }
    }

    /// The length, unless there is metadata beside the data.
    #[must_use]
    #[inline]
    pub fn plain_len(&self) -> Option<usize> {
        self.plain().map(<[u8]>::len)
    }

    /// The bytes, unless there is metadata beside them.
    #[must_use]
    #[inline]
    pub fn plain(&self) -> Option<&[u8]> {
        // One after the other: cheaper than a table of jumps.
        if let Repr::Dma(memory) = &self.repr {
            return Some(memory.as_slice());
        }
        if let Repr::Owned(v) = &self.repr {
            return Some(v);
        }
        self.uncommon()
    }

    #[inline(never)]
    fn uncommon(&self) -> Option<&[u8]> {
        if self.has_metadata() { None } else { Some(self.as_slice()) }
    }

    /// Whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // One after the other: cheaper than a table of jumps.
        if let Repr::Owned(v) = &self.repr {
            return v;
        }
        if let Repr::Dma(memory) = &self.repr {
            return memory.as_slice();
        }
        match &self.repr {
            Repr::Owned(v) => v,
            // SAFETY: the contract of `from_raw_parts`: valid, and ours alone.
            #[expect(unsafe_code, reason = "view of foreign memory")]
            Repr::Foreign { ptr, len } => unsafe { std::slice::from_raw_parts(ptr.as_ptr(), *len) },
            Repr::Dma(memory) => memory.as_slice(),
            Repr::WithMetadata(parts) => parts.data(),
        }
    }

    /// The bytes, writable.
    #[must_use]
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.repr {
            Repr::Owned(v) => v,
            // SAFETY: the contract of `from_raw_parts`: valid, and ours alone.
            #[expect(unsafe_code, reason = "view of foreign memory")]
            Repr::Foreign { ptr, len } => unsafe {
                std::slice::from_raw_parts_mut(ptr.as_ptr(), *len)
            },
            Repr::Dma(memory) => memory.as_mut_slice(),
            Repr::WithMetadata(parts) => parts.data_mut(),
        }
    }

    /// The same buffer with `metadata` beside it, for namespaces whose metadata is transferred
    /// separately; that takes the place of metadata that it had. One allocation, which lasts until
    /// [`into_parts`](Self::into_parts), however often the buffer is used. Metadata that is itself
    /// with metadata loses that.
    #[must_use]
    pub fn with_metadata(self, metadata: Self) -> Self {
        let (data, metadata) = (self.into_parts().0, metadata.into_parts().0);
        Self { repr: Repr::WithMetadata(Box::new(Parts { data, metadata })) }
    }

    /// Takes data and metadata apart.
    #[must_use]
    pub fn into_parts(self) -> (Self, Option<Self>) {
        match self.repr {
            Repr::WithMetadata(parts) => (parts.data, Some(parts.metadata)),
            repr => (Self { repr }, None),
        }
    }

    /// Whether there is metadata beside the data.
    #[must_use]
    #[inline]
    pub const fn has_metadata(&self) -> bool {
        matches!(self.repr, Repr::WithMetadata(_))
    }

    /// The metadata beside the data.
    #[must_use]
    pub fn metadata(&self) -> Option<&[u8]> {
        match &self.repr {
            Repr::WithMetadata(parts) => Some(parts.metadata.as_slice()),
            _ => None,
        }
    }

    /// The metadata beside the data, writable.
    #[must_use]
    pub fn metadata_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.repr {
            Repr::WithMetadata(parts) => Some(parts.metadata.as_mut_slice()),
            _ => None,
        }
    }

    /// Whether the memory is a vector's, so that [`into_vec`](Self::into_vec) gives it.
    #[must_use]
    pub const fn is_vec(&self) -> bool {
        matches!(self.repr, Repr::Owned(_))
    }

    /// Gives the vector back, or the buffer itself when its memory is no vector's.
    ///
    /// # Errors
    /// The buffer, unchanged, when it was not made from a vector.
    pub fn into_vec(self) -> Result<Vec<u8>, Self> {
        match self.repr {
            Repr::Owned(v) => Ok(v),
            repr => Err(Self { repr }),
        }
    }

    /// Gives the memory back that devices reach.
    ///
    /// # Errors
    /// The buffer, unchanged, when it was not made from a [`DmaBuf`].
    pub fn into_dma_buf(self) -> Result<DmaBuf, Self> {
        match self.repr {
            Repr::Dma(memory) => Ok(memory),
            repr => Err(Self { repr }),
        }
    }
}

// Apart, so that what asks a buffer without metadata stays small.
impl Parts {
    #[cold]
    fn data(&self) -> &[u8] {
        self.data.as_slice()
    }

    #[cold]
    fn data_mut(&mut self) -> &mut [u8] {
        self.data.as_mut_slice()
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(v: Vec<u8>) -> Self {
        Self { repr: Repr::Owned(v) }
    }
}

impl From<DmaBuf> for Buffer {
    fn from(memory: DmaBuf) -> Self {
        Self { repr: Repr::Dma(memory) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.repr {
            Repr::Owned(_) => "owned",
            Repr::Foreign { .. } => "foreign",
            Repr::Dma(_) => "for devices",
            Repr::WithMetadata(_) => "with metadata",
        };
        write!(f, "Buffer({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
