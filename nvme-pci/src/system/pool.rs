//! Memory for a device out of large chunks, for backends where a chunk is dear.
#![expect(unsafe_code, reason = "handing out memory for a device")]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use nvme_core::memory::Ranges;

use crate::backend::BackendError;
use crate::dma::{DmaMemory, PAGE};
use crate::system::mapping::Mapping;
use crate::system::unusable;

/// Chunks are multiples of this many bytes, each of which is one piece on the bus.
pub(crate) const GRAIN: usize = 2 << 20;

/// Chunks of one function, and what is free in them. They are kept until the pool and everything
/// from it are gone.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    chunks: Mutex<Vec<Arc<Chunk>>>,
}

/// Memory that the function can reach.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Takes the memory from the function; dropped before it.
    _owner: Box<dyn Any + Send + Sync>,
    memory: Mapping,
    /// The bus address of each [`GRAIN`].
    bus: Box<[u64]>,
    free: Mutex<Ranges>,
}

/// A piece of a pool; goes back to it when dropped.
#[derive(Debug)]
struct Piece {
    chunk: Arc<Chunk>,
    offset: usize,
    len: usize,
}

impl Pool {
    /// Zeroed memory of `len` bytes, rounded up to pages; in one piece on the bus up to [`GRAIN`].
    /// It begins at a multiple of its length, as far as that is a power of two. If there is no room,
    /// `make` makes a chunk of as many bytes as it is told.
    pub(crate) fn allocate(
        &self,
        address: &str,
        len: usize,
        make: impl FnOnce(usize) -> Result<Chunk, BackendError>,
    ) -> Result<DmaMemory, BackendError> {
        let rounded = len.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
        let piece = self.piece(address, rounded, make)?;
        let (base, pages) = (piece.as_ptr(), piece.pages());
        // SAFETY: the piece is this call's alone, inside of a mapping that it keeps alive, and of
        // `pages.len()` pages, which the function can reach for as long.
        Ok(unsafe {
            base.write_bytes(0, piece.len);
            DmaMemory::new(base, pages, Box::new(piece))
        })
    }

    /// Takes `len` bytes, a multiple of [`PAGE`]. What the bytes hold is left from earlier use.
    fn piece(
        &self,
        address: &str,
        len: usize,
        make: impl FnOnce(usize) -> Result<Chunk, BackendError>,
    ) -> Result<Piece, BackendError> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = chunks.iter().find_map(|chunk| Chunk::take(chunk, len)) {
            return Ok(piece);
        }
        let size = len
            .checked_next_multiple_of(GRAIN)
            .ok_or_else(|| unusable(address, format!("{len} bytes are more than memory can be")))?;
        let chunk = Arc::new(make(size)?);
        chunks.push(Arc::clone(&chunk));
        Chunk::take(&chunk, len)
            .ok_or_else(|| unusable(address, format!("no {len} bytes in a fresh chunk")))
    }
}

impl Chunk {
    /// A chunk that the function reaches at `bus`, one address for each [`GRAIN`] of `memory`, until
    /// `owner` is dropped.
    pub(crate) fn new(memory: Mapping, bus: Box<[u64]>, owner: Box<dyn Any + Send + Sync>) -> Self {
        let mut free = Ranges::default();
        free.release(0, memory.len().min(bus.len() * GRAIN) as u64);
        Self { _owner: owner, memory, bus, free: Mutex::new(free) }
    }

    fn take(this: &Arc<Self>, len: usize) -> Option<Piece> {
        let mut free = this.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Within one grain if possible: aligned to the next power of two, that is sure.
        let align = len.checked_next_power_of_two()?.min(GRAIN);
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

    /// The bus address of each page of [`PAGE`] bytes.
    fn pages(&self) -> Box<[u64]> {
        (self.offset..self.offset + self.len)
            .step_by(PAGE)
            .filter_map(|at| Some(self.chunk.bus.get(at / GRAIN)? + (at % GRAIN) as u64))
            .collect()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut free = self.chunk.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.release(self.offset as u64, self.len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(size: usize) -> Result<Chunk, BackendError> {
        let memory = Mapping::anonymous(size).map_err(|e| unusable("test", e.to_string()))?;
        // Grains far apart on the bus.
        let bus = (0..size / GRAIN).map(|n| 0x1_0000_0000 * (n as u64 + 1)).collect();
        Ok(Chunk::new(memory, bus, Box::new(())))
    }

    #[test]
    fn memory_is_zeroed_contiguous_and_used_again() {
        let pool = Pool::default();
        let first = pool.allocate("test", 100, chunk).unwrap();
        assert_eq!((first.len(), first.pages().len()), (PAGE, 1));
        let large = pool.allocate("test", GRAIN - PAGE, chunk).unwrap();
        assert!(large.is_contiguous());
        // They do not fit one chunk together.
        assert_eq!(pool.chunks.lock().unwrap().len(), 2);
        assert!(first.copy_in(0, &[7; 100]));
        let at = first.as_ptr();
        drop(first);
        let again = pool.allocate("test", PAGE, chunk).unwrap();
        assert_eq!(again.as_ptr(), at);
        let mut bytes = [1; 100];
        assert!(again.copy_out(0, &mut bytes) && bytes == [0; 100]);
    }

    #[test]
    fn more_than_a_grain_is_several_pieces_on_the_bus() {
        let memory = Pool::default().allocate("test", GRAIN + 1, chunk).unwrap();
        assert!(!memory.is_contiguous());
        assert_eq!(memory.bus(GRAIN), Some(0x2_0000_0000));
        assert_eq!(memory.bus(GRAIN - 1), Some(0x1_0000_0000 + GRAIN as u64 - 1));
    }
}
