//! The host memory buffer (NVMe 2.1 §8.2.3): memory for the controller's own use.
//!
//! The controller reaches it until it has been stopped, and nobody else touches it. Between two
//! associations it is kept, so that a controller that was reset can be given it back with what it had
//! left there (MR); that holds only where it comes to stand at the same bus addresses as before.

use std::sync::Arc;

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::spec::feature::HostMemoryPiece;
use nvme_core::transport::{HostMemory, HostMemoryRequest, TransportError};
use parking_lot::Mutex;
use zerocopy::IntoBytes;

use crate::backend::{Backend, BackendError};
use crate::dma::{DmaMapping, DmaMemory, PAGE};
use crate::system::shared;

/// Most pieces: their list is one page.
const PIECES_MAX: usize = PAGE / size_of::<HostMemoryPiece>();

/// What the controller was told, piece by piece, and where the list of them was.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    pieces: Vec<HostMemoryPiece>,
    list: u64,
}

/// The memory of one endpoint's buffer while no association has it.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    kept: Mutex<Option<(Arc<Memory>, Option<Told>)>>,
}

/// A buffer that a controller may use.
#[derive(Debug)]
pub(crate) struct HostBuffer {
    told: Told,
    mapping: DmaMapping,
    _list: DmaMemory,
    shelf: Arc<Shelf>,
}

impl HostBuffer {
    /// A buffer as `request` asks for, the one on the `shelf` if that is large enough; and how the
    /// controller is told of it. `None` if there is memory, but not in such pieces.
    pub fn new(
        backend: &dyn Backend,
        kind: MemoryKind,
        request: HostMemoryRequest,
        shelf: &Arc<Shelf>,
    ) -> Result<Option<(Self, HostMemory)>, TransportError> {
        let failed = |reason: String| TransportError::Memory {
            address: backend.address().to_owned(),
            reason: format!("host memory buffer: {reason}"),
        };
        let kept = shelf.kept.lock().take();
        let kept = kept.filter(|(memory, _)| memory.len() as u64 >= request.least);
        let (mapping, before) = match kept {
            Some((memory, before)) => {
                (backend.map_dma(&memory).map_err(|e| failed(e.to_string()))?, before)
            }
            None => match allocate(backend, kind, request) {
                Ok(mapping) => (mapping, None),
                Err(BackendError::Unsupported { .. }) => return Ok(None),
                Err(error) => return Err(failed(error.to_string())),
            },
        };
        let list = backend.alloc_dma(PAGE, PAGE).map_err(|e| failed(e.to_string()))?;
        let pieces = pieces(mapping.pages(), request);
        let bytes = pieces.iter().map(|p| u64::from(p.pages.get()) * PAGE as u64).sum();
        let (true, true, Some(at)) =
            (bytes >= request.least, list.copy_in(0, pieces.as_bytes()), list.bus(0))
        else {
            return Ok(None);
        };
        let told = Told { pieces, list: at };
        let returned = before.as_ref() == Some(&told);
        let given = HostMemory { bytes, list: at, pieces: told.pieces.len() as u32, returned };
        let buffer = Self { told, mapping, _list: list, shelf: Arc::clone(shelf) };
        Ok(Some((buffer, given)))
    }

    /// The controller has been stopped. `resets`: it is the same controller, which was reset, and may
    /// be given the buffer back.
    pub fn put_back(self, resets: bool) {
        let Self { told, mapping, shelf, .. } = self;
        let memory = Arc::clone(mapping.memory());
        drop(mapping);
        *shelf.kept.lock() = Some((memory, resets.then_some(told)));
    }
}

/// As much as is preferred, or the half of it, and so on. Where a limit of the process is in the way
/// there is nothing: the queues, which come later, need what is left.
fn allocate(
    backend: &dyn Backend,
    kind: MemoryKind,
    request: HostMemoryRequest,
) -> Result<DmaMapping, BackendError> {
    let mut bytes = request.preferred;
    loop {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let memory = shared::allocate(len, kind).map_err(|source| BackendError::Io {
            address: backend.address().to_owned(),
            what: format!("allocating {bytes} bytes"),
            source,
        });
        let error = match memory.and_then(|memory| backend.map_dma(&Arc::new(memory))) {
            Ok(mapping) => return Ok(mapping),
            Err(error) => error,
        };
        bytes = bytes / 2 / PAGE as u64 * PAGE as u64;
        let again = matches!(error, BackendError::Io { .. } | BackendError::Unusable { .. });
        if !again || bytes < request.least {
            return Err(error);
        }
    }
}

/// Pages that follow each other on the bus, joined, as far as the controller takes them.
fn pieces(pages: &[u64], request: HostMemoryRequest) -> Vec<HostMemoryPiece> {
    let most = request.most_pieces.map_or(PIECES_MAX, |most| PIECES_MAX.min(most.into()));
    let wanted = usize::try_from(request.preferred / PAGE as u64).unwrap_or(usize::MAX);
    let pages = pages.get(..wanted).unwrap_or(pages);
    pages
        .chunk_by(|a, b| a.checked_add(PAGE as u64) == Some(*b))
        .filter(|run| (run.len() * PAGE) as u64 >= request.least_piece)
        .filter_map(|run| Some(HostMemoryPiece::new(*run.first()?, run.len() as u32)))
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(least_piece: u64, most_pieces: Option<u16>) -> HostMemoryRequest {
        HostMemoryRequest { preferred: 6 * 4096, least: 4096, least_piece, most_pieces }
    }

    #[test]
    fn pieces_are_joined_and_within_what_the_controller_takes() {
        let pages = [0x1000, 0x2000, 0x9000, 0x4000, 0x5000, 0x6000, 0x7000];
        let found = |least, most| -> Vec<(u64, u32)> {
            let pieces = pieces(&pages, request(least, most));
            pieces.iter().map(|p| (p.address.get(), p.pages.get())).collect()
        };
        assert_eq!(found(0, None), [(0x1000, 2), (0x9000, 1), (0x4000, 3)], "no more than asked");
        assert_eq!(found(8192, None), [(0x1000, 2), (0x4000, 3)]);
        assert_eq!(found(0, Some(1)), [(0x1000, 2)]);
    }
}
