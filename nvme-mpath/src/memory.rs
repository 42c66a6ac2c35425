//! Memory that the devices of all transports reach without a copy.

use std::any::Any;
use std::sync::{Arc, Weak};

use nvme_core::memory::{Arena, DmaBuf, Memory, MemoryKind};
use nvme_core::transport::{Transport, TransportError};
use parking_lot::Mutex;

/// Arenas are of this many bytes at least: mapping memory for a device takes a system call or more.
const ARENA: usize = 2 << 20;
/// Buffers of a page and more begin on a page, smaller ones on a multiple of this many bytes.
const ALIGN: (usize, usize) = (64, 4096);

/// Where a host's [`DmaBuf`]s come from.
#[derive(Debug, Default)]
pub(crate) struct MemoryPool {
    arenas: Mutex<Arenas>,
}

#[derive(Debug, Default)]
struct Arenas {
    /// Those that something may have been taken out of.
    all: Vec<Weak<Arena>>,
    /// The latest is kept, so that it is not mapped again and again.
    latest: Option<Arc<Arena>>,
}

impl MemoryPool {
    /// Takes `len` bytes.
    pub(crate) fn take(
        &self,
        len: usize,
        transports: &[Arc<dyn Transport>],
    ) -> Result<DmaBuf, TransportError> {
        let align = len.checked_next_power_of_two().unwrap_or(ALIGN.1).clamp(ALIGN.0, ALIGN.1);
        let len = len.max(1).checked_next_multiple_of(ALIGN.0).unwrap_or(usize::MAX);
        let mut arenas = self.arenas.lock();
        arenas.all.retain(|arena| arena.strong_count() > 0);
        let known = arenas.all.iter().filter_map(Weak::upgrade);
        if let Some(taken) = known.into_iter().find_map(|arena| arena.take(len, align)) {
            return Ok(taken);
        }
        let arena = register(allocate(len.max(ARENA), transports)?, transports)?;
        arenas.all.push(Arc::downgrade(&arena));
        arenas.latest = Some(Arc::clone(&arena));
        arena.take(len, align).ok_or_else(|| TransportError::Memory {
            address: "all devices".into(),
            reason: format!("no {len} bytes in a fresh region"),
        })
    }
}

/// Memory of the kind that the most demanding transport wants.
fn allocate(len: usize, transports: &[Arc<dyn Transport>]) -> Result<Memory, TransportError> {
    let most = transports.iter().max_by_key(|t| t.memory_kind());
    let kind = most.map_or(MemoryKind::Any, |t| t.memory_kind());
    let allocated = most.and_then(|transport| transport.allocate_memory(len, kind));
    let none = || TransportError::Memory {
        address: "all devices".into(),
        reason: format!("allocating {len} bytes: there is not as much"),
    };
    allocated.unwrap_or_else(|| Memory::zeroed(len).ok_or_else(none))
}

/// Tells all transports of a region.
pub(crate) fn register(
    memory: Memory,
    transports: &[Arc<dyn Transport>],
) -> Result<Arc<Arena>, TransportError> {
    Arena::new(memory, |memory| {
        let each = |transport: &Arc<dyn Transport>| transport.register_memory(memory).transpose();
        transports.iter().filter_map(each).collect::<Result<Vec<Box<dyn Any + Send + Sync>>, _>>()
    })
}
