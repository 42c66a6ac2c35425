//! The host memory buffer (NVMe 2.1 §8.2.3): the device keeps a number in each of its pages, and writes
//! it anew over and over, so that a host which takes the memory back too early is found out.

use nvme_core::spec::feature::{HostMemoryPiece, host_memory};
use nvme_core::spec::{Sqe, Status};
use zerocopy::FromBytes;

use super::engine::Engine;
use super::memory::HostMemory;

/// Pages written to by one I/O command.
const AT_ONCE: usize = 4;

/// A buffer, and what the device knows of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostBuffer {
    list: u64,
    pieces: Vec<(u64, u32)>,
    /// The bus address of each page.
    pages: Vec<u64>,
    /// The page that is written next.
    next: usize,
}

impl HostBuffer {
    fn is_same(&self, other: &Self) -> bool {
        self.list == other.list && self.pieces == other.pieces
    }
}

/// What the device keeps in a page.
fn mark(page: usize) -> [u8; 8] {
    (page as u64 ^ 0x5aa5_0ff0_3cc3_9669).to_le_bytes()
}

impl Engine {
    /// Set Features (NVMe 2.1 §5.1.25.2.4).
    pub(super) fn set_host_memory(
        &mut self,
        memory: &dyn HostMemory,
        sqe: &Sqe,
    ) -> Result<(), Status> {
        let flags = sqe.cdw11.get();
        if flags & host_memory::ENABLE == 0 {
            self.stats.host_memory_taken += u64::from(self.buffer_given.is_some());
            self.end_host_memory();
            return Ok(());
        }
        if self.buffer_given.is_some() {
            // It has to be disabled before it can be another one.
            return Err(Status::SEQUENCE_ERROR.with_dnr());
        }
        let invalid = Status::INVALID_FIELD.with_dnr();
        let list = u64::from(sqe.cdw13.get()) | u64::from(sqe.cdw14.get()) << 32;
        let (told, count) = (sqe.cdw12.get(), sqe.cdw15.get());
        let wish = self.config.host_memory;
        let most = if wish.most_pieces == 0 { u16::MAX } else { wish.most_pieces };
        if list % 16 != 0 || count == 0 || count > most.into() || told < wish.least {
            return Err(invalid);
        }
        let mut buffer = HostBuffer { list, ..HostBuffer::default() };
        for n in 0..u64::from(count) {
            let mut bytes = [0; size_of::<HostMemoryPiece>()];
            if !memory.read(list.wrapping_add(n * 16), &mut bytes) {
                self.stats.dma_errors += 1;
                return Err(Status::DATA_TRANSFER_ERROR.with_dnr());
            }
            let piece = HostMemoryPiece::read_from_bytes(&bytes).map_err(|_| invalid)?;
            let (address, pages) = (piece.address.get(), piece.pages.get());
            let all = buffer.pages.len() as u64 + u64::from(pages);
            if address % 4096 != 0 || pages < wish.least_piece.max(1) || all > told.into() {
                return Err(invalid);
            }
            buffer.pieces.push((address, pages));
            buffer.pages.extend((0..u64::from(pages)).map(|n| address.wrapping_add(n * 4096)));
        }
        if buffer.pages.len() != told as usize {
            return Err(invalid);
        }
        if flags & host_memory::RETURN != 0 {
            let same = self.buffer_before.as_ref().is_some_and(|b| b.is_same(&buffer));
            let kept = |(page, at): (usize, &u64)| {
                let mut bytes = [0; 8];
                memory.read(*at, &mut bytes) && bytes == mark(page)
            };
            if !same || !buffer.pages.iter().enumerate().all(kept) {
                return Err(invalid);
            }
            self.stats.host_memory_returned += 1;
        }
        self.stats.host_memory_given += 1;
        let pages = buffer.pages.len();
        self.buffer_given = Some(buffer);
        self.use_host_memory(memory, pages);
        Ok(())
    }

    /// Writes to the next pages of the buffer.
    pub(super) fn use_host_memory(&mut self, memory: &dyn HostMemory, pages: usize) {
        let Some(buffer) = &mut self.buffer_given else { return };
        for _ in 0..pages.max(AT_ONCE) {
            let page = buffer.next % buffer.pages.len().max(1);
            buffer.next = page + 1;
            let Some(at) = buffer.pages.get(page) else { return };
            if memory.write(*at, &mark(page)) {
                self.stats.host_memory_writes += 1;
            } else {
                self.stats.dma_errors += 1;
            }
        }
    }

    /// The controller has no buffer any more; it remembers which one it had.
    pub(super) fn end_host_memory(&mut self) {
        if let Some(buffer) = self.buffer_given.take() {
            self.buffer_before = Some(buffer);
        }
    }

    /// Bytes of the buffer.
    pub fn host_memory_len(&self) -> u64 {
        self.buffer_given.as_ref().map_or(0, |b| b.pages.len() as u64 * 4096)
    }
}
