//! What lies under the driver: one PCI function, reached in one of several ways.
//!
//! A [`Backend`] gives the driver four things: the function's registers, memory that the function
//! can reach, interrupts, and a reset. An [`Open`] makes backends from addresses; it is what a
//! PCI transport is built with.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::quirk::DeviceIds;

use crate::dma::{DmaMapping, DmaMemory};
use crate::url::Location;

/// The registers of a function (its BAR 0), or a window of them.
///
/// Accesses are volatile, in the order in which they are made, and neither split nor joined. A
/// write is ordered after every earlier write to memory, so that a doorbell never overtakes the
/// entry that it tells of.
pub trait Mmio: Send + Sync + fmt::Debug {
    /// Bytes that can be reached.
    fn len(&self) -> usize;

    /// Whether nothing can be reached.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads 4 bytes at `offset`, a multiple of 4. All ones outside of the window, as from a
    /// function that is gone.
    fn read32(&self, offset: usize) -> u32;

    /// Reads 8 bytes at `offset`, a multiple of 4; as two halves, the lower first, where the way to
    /// the function is no wider.
    fn read64(&self, offset: usize) -> u64 {
        let low = self.read32(offset);
        u64::from(low) | u64::from(self.read32(offset.saturating_add(4))) << 32
    }

    /// Writes 4 bytes at `offset`, a multiple of 4. Does nothing outside of the window.
    fn write32(&self, offset: usize, value: u32);

    /// Writes 8 bytes at `offset`, a multiple of 4; as two halves, the lower first, where the way
    /// to the function is no wider.
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset.saturating_add(4), (value >> 32) as u32);
    }
}

/// One PCI function, opened for this process alone.
///
/// Methods may be called from any thread. Dropping the last reference closes the function; until
/// then, and for as long as any [`DmaMemory`] or [`DmaMapping`] of it lives, what was mapped stays
/// mapped.
pub trait Backend: Send + Sync + fmt::Debug {
    /// The address in normal form, such as `vfio://0000:01:00.0`, for messages.
    fn address(&self) -> &str;

    /// What the function says that it is in its configuration space; `None` where that cannot be read.
    fn device_ids(&self) -> Option<DeviceIds> {
        None
    }

    /// The registers.
    fn bar0(&self) -> &dyn Mmio;

    /// Writes a doorbell: the 4 bytes of the registers at `offset`. What it does, [`Mmio::write32`]
    /// does; apart from that because it is done for each batch of commands.
    fn ring(&self, offset: usize, value: u32) {
        self.bar0().write32(offset, value);
    }

    /// Allocates `len` bytes (rounded up to whole pages of 4 KiB), zeroed, that the function can
    /// read and write. `align` is a power of two; the address in the process and each page's bus
    /// address are multiples of it, as far as it is at most 4 KiB. One piece on the bus
    /// ([`DmaMemory::is_contiguous`]) wherever the backend can do that: rings need it.
    ///
    /// # Errors
    /// [`BackendError`]; `LockedMemory` where a limit of the process is in the way.
    fn alloc_dma(&self, len: usize, align: usize) -> Result<DmaMemory, BackendError>;

    /// Makes a region of memory reachable for the function until the mapping, which keeps the
    /// region, is dropped.
    ///
    /// # Errors
    /// `Unsupported` if the function cannot reach memory of this kind; `Unusable` if the region does
    /// not begin and end on a page of 4 KiB; `LockedMemory` where a limit of the process is in the
    /// way.
    fn map_dma(&self, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError>;

    /// Maps memory that the function itself has: the first `len` of the `size` bytes at `offset` of
    /// BAR `bar`, 0 to 5, all multiples of 4 KiB. The function knows its pages by the bus addresses
    /// from `bus` on.
    ///
    /// # Errors
    /// `Unsupported` where this cannot be done; `Unusable` if the BAR does not have these bytes.
    fn controller_memory(
        &self,
        bar: u8,
        offset: u64,
        size: u64,
        len: usize,
        bus: u64,
    ) -> Result<DmaMemory, BackendError> {
        let _ = (bar, offset, size, len, bus);
        let address = self.address().to_owned();
        Err(BackendError::Unsupported { address, what: "mapping memory of the controller's" })
    }

    /// Makes interrupt `vector` usable: a descriptor that becomes readable each time the function
    /// raises it (an `eventfd`, say). `None` where there are no interrupts, or not that many.
    ///
    /// # Errors
    /// [`BackendError`] if the interrupt exists but cannot be had.
    fn interrupt(&self, vector: u16) -> Result<Option<OwnedFd>, BackendError>;

    /// An interrupt has been taken notice of; raises it again from now on. Called before completions
    /// are looked for, so that none is missed. Nothing to be done for message signalled interrupts.
    fn acknowledge(&self, vector: u16) {
        let _ = vector;
    }

    /// Resets the function. When this returns successfully the function is idle: it neither reads
    /// nor writes memory until it is set up again. May take some hundreds of milliseconds.
    ///
    /// # Errors
    /// `Unsupported` where there is no way to reset; `Gone` where there is no function any more.
    fn reset(&self) -> Result<(), BackendError>;

    /// Whether everything here, [`Backend::reset`] included, returns at once, as with a model in the
    /// process: the driver then needs no thread to stop the function.
    fn is_prompt(&self) -> bool {
        false
    }

    /// Whether an access to the registers would have to wait for somebody else's business with the
    /// function, as where both go by messages and one is awaited. Those who cannot wait look again
    /// later.
    fn is_busy(&self) -> bool {
        false
    }

    /// Lets the function reach memory and raise interrupts, or forbids it. When a call with `false`
    /// has returned successfully, the function reaches memory no more.
    ///
    /// # Errors
    /// [`BackendError`] if the setting cannot be made. For a call with `false`, `Gone` says that there
    /// is no function that could reach memory; one that merely does not answer is not gone.
    fn set_bus_master(&self, on: bool) -> Result<(), BackendError>;

    /// Whether the function is asked for, or has been taken away: the driver then stops using it as
    /// fast as it can. Cheap; called ten times a second. Stays true once it is.
    fn removal_requested(&self) -> bool;

    /// Why the function is lost, if more is known of that than its registers tell.
    fn why_lost(&self) -> Option<String> {
        None
    }

    /// Waits until it is worth the while to try once more to stop a function that could not be
    /// stopped, at most `limit`.
    fn await_change(&self, limit: Duration) {
        std::thread::sleep(limit);
    }

    /// Whether the function may be opened anew, and be used, although a use before could not be
    /// stopped: that one has no part in what this one does.
    fn is_apart(&self) -> bool {
        false
    }

    /// Whether a function that is gone may answer again by itself under the same address, as that of
    /// a server which is started again does. One on a bus does not: whoever puts it back says so.
    fn may_return(&self) -> bool {
        false
    }

    /// Gives the function up, once the driver has stopped it: the backend closes what keeps it from
    /// being removed. From here on registers read as all ones and writes do nothing. Memory that has
    /// been handed out stays readable and writable for the process.
    fn close(&self);
}

/// A way to open functions, known by its URL scheme.
pub trait Open: Send + Sync + fmt::Debug {
    /// The scheme, such as `vfio`.
    fn scheme(&self) -> &'static str;

    /// Checks what stands between `://` and `?`, and the parameters that only this backend knows.
    /// No I/O. Gives the device in normal form.
    ///
    /// # Errors
    /// The text says which part of the URL is wrong.
    fn check(&self, location: &Location) -> Result<String, String>;

    /// What memory must be for functions opened so to reach it directly.
    fn memory_kind(&self) -> MemoryKind {
        MemoryKind::Pages
    }

    /// Whether opening a function returns at once, as for a model in the process: the driver then needs
    /// no thread for it.
    fn is_prompt(&self) -> bool {
        false
    }

    /// Opens the function. It must be bound to the right driver already. Bounded in time (a few
    /// seconds); called on a thread of its own unless it [is prompt](Open::is_prompt). `location` has
    /// passed [`Open::check`].
    ///
    /// # Errors
    /// [`BackendError`]; it names what is in the way.
    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError>;
}

/// Why a backend could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The operating system refused.
    #[error("{address}: {what}: {source}")]
    Io {
        /// The function.
        address: String,
        /// What was being done.
        what: String,
        /// The answer.
        source: io::Error,
    },
    /// The function, or something about it, is not as it must be.
    #[error("{address}: {reason}")]
    Unusable {
        /// The function.
        address: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// This backend cannot do that.
    #[error("{address}: {what} is not possible here")]
    Unsupported {
        /// The function.
        address: String,
        /// What was asked for.
        what: &'static str,
    },
    /// The process may not lock as much memory as has to be mapped.
    #[error(
        "{address}: mapping memory: RLIMIT_MEMLOCK is {limit} bytes, at least {needed} are needed"
    )]
    LockedMemory {
        /// The function.
        address: String,
        /// Bytes that have to be locked in all.
        needed: u64,
        /// The limit as it is.
        limit: u64,
    },
    /// There is no function at the address.
    #[error("{address}: there is no PCI function {function}")]
    Missing {
        /// The address as a URL.
        address: String,
        /// The function that is not there.
        function: String,
    },
    /// The function has been removed, or has been closed.
    #[error("{address}: the device is gone")]
    Gone {
        /// The function.
        address: String,
    },
}
