//! What connects the device to a client: its memory, its interrupts, its doorbells.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, RwLock};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::shared::SharedMemory;
use super::wire::DmaMap;
use crate::pci::{Doorbells, HostMemory, Interrupts};

/// Pieces of memory that a client may map.
const REGIONS_MAX: usize = 1024;
/// The page that everything is a multiple of.
const PAGE: u64 = 4096;
/// VFIO_USER_F_DMA_REGION_READ and _WRITE.
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;

/// Memory that a client has mapped for the device, by bus address.
#[derive(Debug, Default)]
pub(super) struct ClientMemory(RwLock<Vec<Region>>);

#[derive(Debug)]
struct Region {
    address: u64,
    size: u64,
    writable: bool,
    memory: SharedMemory,
}

impl Region {
    /// Where an access of `len` bytes at `address` begins, if all of it is in the region.
    fn offset(&self, address: u64, len: usize) -> Option<usize> {
        let offset = address.checked_sub(self.address)?;
        let end = offset.checked_add(len as u64)?;
        (end <= self.size).then_some(offset as usize)
    }
}

impl ClientMemory {
    /// Maps a file for the device.
    pub fn map(&self, map: &DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        let file = file.ok_or(Errno::OPNOTSUPP)?;
        let aligned = [map.offset, map.address, map.size].iter().all(|n| n.is_multiple_of(PAGE));
        let end = map.address.checked_add(map.size).ok_or(Errno::INVAL)?;
        if !aligned || map.size == 0 || map.flags & !(READ | WRITE) != 0 || map.flags & READ == 0 {
            return Err(Errno::INVAL);
        }
        let file = File::from(file);
        let available = file.metadata().map_err(|_| Errno::INVAL)?.len();
        if map.offset.checked_add(map.size).is_none_or(|end| end > available) {
            return Err(Errno::INVAL);
        }
        let writable = map.flags & WRITE != 0;
        let size = usize::try_from(map.size).map_err(|_| Errno::INVAL)?;
        let memory = SharedMemory::new(file.as_fd(), map.offset, size, writable)
            .map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
        let mut regions = self.0.write();
        if regions.len() >= REGIONS_MAX {
            return Err(Errno::NOSPC);
        }
        if regions.iter().any(|r| map.address < r.address + r.size && r.address < end) {
            return Err(Errno::EXIST);
        }
        regions.push(Region { address: map.address, size: map.size, writable, memory });
        Ok(())
    }

    /// Undoes one [`ClientMemory::map`]. When it returns the device accesses the memory no more.
    pub fn unmap(&self, address: u64, size: u64) -> Result<(), Errno> {
        let mut regions = self.0.write();
        let at = regions.iter().position(|r| r.address == address && r.size == size);
        regions.swap_remove(at.ok_or(Errno::NOENT)?);
        Ok(())
    }

    /// Undoes every [`ClientMemory::map`].
    pub fn clear(&self) {
        self.0.write().clear();
    }

    /// Does `f` with the region that holds an access, and the offset in it.
    fn with(&self, address: u64, len: usize, f: impl FnOnce(&Region, usize) -> bool) -> bool {
        let regions = self.0.read();
        let found = regions.iter().find_map(|r| Some((r, r.offset(address, len)?)));
        found.is_some_and(|(region, offset)| f(region, offset))
    }
}

impl HostMemory for ClientMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        self.with(address, to.len(), |r, at| r.memory.read(at, to))
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        self.with(address, from.len(), |r, at| r.writable && r.memory.write(at, from))
    }

    fn store(&self, address: u64, value: u64) -> bool {
        self.with(address, 8, |r, at| r.writable && r.memory.store(at, value))
    }
}

/// The client's eventfds, by vector.
#[derive(Debug)]
pub(super) struct Eventfds(Box<[Mutex<Option<OwnedFd>>]>);

impl Eventfds {
    pub fn new(vectors: u16) -> Self {
        Self((0..vectors).map(|_| Mutex::new(None)).collect())
    }

    /// Sets the vectors from `start` on.
    pub fn set(&self, start: u32, fds: Vec<Option<OwnedFd>>) -> Result<(), Errno> {
        let start = start as usize;
        let end = start.checked_add(fds.len()).ok_or(Errno::INVAL)?;
        let slots = self.0.get(start..end).ok_or(Errno::INVAL)?;
        for (slot, fd) in slots.iter().zip(fds) {
            *slot.lock() = fd;
        }
        Ok(())
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        self.0.iter().for_each(|slot| *slot.lock() = None);
    }
}

impl Interrupts for Eventfds {
    fn raise(&self, vector: u16) {
        let Some(slot) = self.0.get(usize::from(vector)) else { return };
        if let Some(fd) = &*slot.lock() {
            // A counter that is full is an interrupt that has not been taken notice of: enough.
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
    }
}

/// Doorbells that the client maps: everything of BAR 0 from the first one on.
#[derive(Debug)]
pub(super) struct DoorbellFile {
    file: OwnedFd,
    memory: SharedMemory,
}

impl DoorbellFile {
    /// A file of the BAR's length, of which `start` on is used.
    pub fn new(bar_len: usize, start: usize) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("nvme-doorbells", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, bar_len as u64)?;
        let memory = SharedMemory::new(file.as_fd(), start as u64, bar_len - start, true)?;
        Ok(Self { file, memory })
    }

    pub const fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Doorbells for DoorbellFile {
    fn load(&self, offset: usize) -> u32 {
        self.memory.half(offset).map_or(0, |d| u32::from_le(d.load(Ordering::Acquire)))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(doorbell) = self.memory.half(offset) {
            doorbell.store(value.to_le(), Ordering::Release);
        }
    }
}

/// The controller memory buffer, which the client maps.
#[derive(Debug)]
pub(super) struct BufferFile {
    file: OwnedFd,
    memory: SharedMemory,
}

impl BufferFile {
    /// Zeroed, of `len` bytes.
    pub fn new(len: usize) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("nvme-buffer", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, len as u64)?;
        let memory = SharedMemory::new(file.as_fd(), 0, len, true)?;
        Ok(Self { file, memory })
    }

    pub const fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl HostMemory for BufferFile {
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        usize::try_from(address).is_ok_and(|at| self.memory.read(at, to))
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        usize::try_from(address).is_ok_and(|at| self.memory.write(at, from))
    }

    fn store(&self, address: u64, value: u64) -> bool {
        usize::try_from(address).is_ok_and(|at| self.memory.store(at, value))
    }
}
