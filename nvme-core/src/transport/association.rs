//! One attempt to reach a controller: its registers, its queues, and the end of them.

use super::{Queue, QueueParams, TransportError};
use crate::quirk::{Hardware, Quirks};
use crate::time::Instant;

/// How registers are reached and queues begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Property Get and Set, Connect (`NVMe 2.1 §6`).
    Fabrics,
    /// Registers in memory, queues created by admin commands.
    Memory,
}

/// Registers of a memory-based controller (`NVMe 2.1 §3.1.4`).
pub trait Registers {
    /// Reads 4 bytes at `offset`. All ones, or zero where that cannot be, mean a device that is gone.
    fn read32(&mut self, offset: u32) -> u32;
    /// Reads 8 bytes at `offset`.
    fn read64(&mut self, offset: u32) -> u64;
    /// Writes 4 bytes at `offset`.
    fn write32(&mut self, offset: u32, value: u32);
    /// Writes 8 bytes at `offset`.
    fn write64(&mut self, offset: u32, value: u64);
}

/// The host memory buffer that a controller asks for (`NVMe 2.1 §8.2.3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemoryRequest {
    /// Bytes that are to be given, a multiple of 4 KiB.
    pub preferred: u64,
    /// Bytes below which the buffer is of no use, a multiple of 4 KiB, at most `preferred`.
    pub least: u64,
    /// Least bytes of each piece that is one on the bus; 0: any.
    pub least_piece: u64,
    /// Most pieces; `None`: any number.
    pub most_pieces: Option<u16>,
}

/// A host memory buffer, as the controller is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Bytes of all pieces.
    pub bytes: u64,
    /// Where the list of pieces is for the device, a multiple of 16.
    pub list: u64,
    /// Pieces.
    pub pieces: u32,
    /// It is the buffer that the controller had before: the same pieces at the same addresses, with
    /// what the controller left in them.
    pub returned: bool,
}

/// One attempt to reach one controller, and what became of it. Owned by the control plane.
///
/// Dropping it does what [`Association::kill`] does.
pub trait Association: Send {
    /// The kind of transport.
    fn kind(&self) -> TransportKind;

    /// The registers, where they are memory.
    fn registers(&mut self) -> Option<&mut dyn Registers>;

    /// Whether the way to the controller is still being opened, and if so when to ask again; nothing
    /// else may be asked for until `None` has come, but [`kill`](Self::kill). A transport for which
    /// that takes no time needs nothing here.
    ///
    /// # Errors
    /// Why it cannot be opened. The association is of no use then.
    fn opening(&mut self, now: Instant) -> Result<Option<Instant>, TransportError> {
        let _ = now;
        Ok(None)
    }

    /// Begins to open a queue.
    ///
    /// # Errors
    /// A failure that is known at once (no descriptor left, no such address).
    fn open_queue(
        &mut self,
        params: QueueParams,
        now: Instant,
    ) -> Result<Box<dyn Queue>, TransportError>;

    /// Begins to make every queue of this association harmless, wherever they are, and returns at
    /// once. No queue takes commands any more. As soon as no device writes to their buffers and no
    /// socket sends from them ([`Association::stopping`]), each queue's next [`Queue::poll`] says
    /// [`Failed`](super::QueueStatus::Failed); until then a queue goes on holding the buffers of its
    /// commands ([`Ending`](super::QueueStatus::Ending)), without a limit: a device that nothing stops
    /// keeps what it has. May be called from any thread, repeatedly.
    fn kill(&mut self);

    /// Whether what [`Association::kill`] began is still under way, and if so when to ask again;
    /// `None` once every queue is harmless. A transport for which that takes no time needs nothing
    /// here. What takes time ends by itself also after the association has been dropped.
    fn stopping(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }

    /// Whether another association with the same controller is apart from this one, and may be made
    /// although this one is still being [stopped](Self::stopping), as with a server that has begun a
    /// new life at its address. Where both would be uses of one device, it must not.
    fn is_apart(&self) -> bool {
        false
    }

    /// The largest data that one command can move, in bytes, if the transport has a limit.
    fn max_transfer(&self) -> Option<usize>;

    /// What is known of the device behind the association, for
    /// [`quirk::find`](crate::quirk::find).
    fn hardware(&self) -> Hardware {
        Hardware::default()
    }

    /// What the device must be spared: told before the admin queue is opened, as far as it follows
    /// from [`hardware`](Self::hardware), and completely when Identify Controller has been read,
    /// before any I/O queue is opened.
    fn set_quirks(&mut self, quirks: Quirks) {
        let _ = quirks;
    }

    /// Memory for the controller's own use, which the device reaches until it has been stopped
    /// ([`Association::stopping`]) and which nobody else touches meanwhile. At most once per
    /// association. `None` where the transport has no such memory, or none that is as asked for.
    ///
    /// # Errors
    /// [`TransportError::Memory`] if there is not enough of it.
    fn host_memory(
        &mut self,
        request: HostMemoryRequest,
    ) -> Result<Option<HostMemory>, TransportError> {
        let _ = request;
        Ok(None)
    }
}
