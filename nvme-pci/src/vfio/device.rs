//! One function that VFIO has opened.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nvme_core::memory::Memory as Region;
use nvme_core::quirk::DeviceIds;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

use crate::backend::{Backend, BackendError, Mmio};
use crate::dma::{DmaMapping, DmaMemory};
use crate::system::bar::{Bar, Calls, check_window};
use crate::system::pool::Pool;
use crate::system::{huge, io_error, unusable};
use crate::vfio::abi;
use crate::vfio::space::{self, Space};

/// The smallest BAR: registers, and doorbells of the admin queue and one I/O queue.
pub(crate) const BAR_MIN: u64 = 0x1010;
/// The largest BAR that is believed.
pub(crate) const BAR_MAX: u64 = 1 << 30;
/// Interrupts that are set up at most: vectors of the machine's processors are a common good.
pub(crate) const VECTORS_MAX: u32 = 64;
/// Offset of the command register in configuration space, and its bits for memory space and bus
/// mastering (PCI Local Bus 3.0 §6.2.2).
pub(crate) const COMMAND: u64 = 4;
pub(crate) const COMMAND_MEMORY: u16 = 1 << 1;
pub(crate) const COMMAND_MASTER: u16 = 1 << 2;
/// How often and how far apart a reset is tried that the kernel says it is too busy for.
const RESET_TRIES: u32 = 20;
const RESET_PAUSE: Duration = Duration::from_millis(10);

/// The descriptor of a function, until it is closed.
#[derive(Debug)]
struct Handle(RwLock<Option<OwnedFd>>);

impl Handle {
    /// Does something with the descriptor; `None` if it has been closed.
    fn with<T>(&self, f: impl FnOnce(&OwnedFd) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(f)
    }

    fn close(&self) {
        drop(self.0.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A region of the function, by reading and writing its descriptor.
#[derive(Clone, Debug)]
struct Window {
    handle: Arc<Handle>,
    offset: u64,
}

impl Calls for Window {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let len = to.len();
        let read = self.handle.with(|fd| rustix::io::pread(fd, to, self.offset + offset));
        whole(read, len)
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        let written = self.handle.with(|fd| rustix::io::pwrite(fd, from, self.offset + offset));
        whole(written, from.len())
    }
}

fn whole(done: Option<Result<usize, Errno>>, len: usize) -> io::Result<()> {
    match done {
        Some(Ok(n)) if n == len => Ok(()),
        Some(Ok(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(Err(errno)) => Err(errno.into()),
        None => Err(Errno::NODEV.into()),
    }
}

/// How the function reaches memory.
#[derive(Debug)]
pub(super) enum Memory {
    /// By addresses that an IOMMU translates.
    Space(Arc<dyn Space>),
    /// By physical addresses.
    Physical {
        /// Where memory comes from.
        pool: Pool,
        /// Held open for as long as the function.
        _group: Arc<dyn Space>,
    },
}

/// A function, by VFIO.
#[derive(Debug)]
pub(super) struct Device {
    address: String,
    bar: Bar,
    handle: Arc<Handle>,
    config: Window,
    can_reset: bool,
    /// Which interrupts, and how many of them, have been set up.
    interrupts: Mutex<Option<(u32, u32)>>,
    /// Readable when the function is asked for.
    request: Option<OwnedFd>,
    removal: AtomicBool,
    memory: Memory,
}

impl Device {
    /// Sets a function up that has been opened as `fd`.
    pub(super) fn new(address: &str, fd: OwnedFd, memory: Memory) -> Result<Self, BackendError> {
        let mut info = abi::DeviceInfo::new_zeroed();
        info.argsz = abi::size::<abi::DeviceInfo>();
        abi::call(&fd, &mut info).map_err(io_error(address, "asking what the device is"))?;
        if info.flags & abi::DEVICE_IS_PCI == 0 || info.num_regions <= abi::REGION_CONFIG {
            return Err(unusable(address, "VFIO says that this is no PCI function"));
        }
        let bar_info = region_info(address, &fd, abi::REGION_BAR0)?;
        let config_info = region_info(address, &fd, abi::REGION_CONFIG)?;
        check_bar(address, bar_info.size, bar_info.flags)?;
        let windows = windows(address, &bar_info)?;

        let request = watch_requests(&fd, info.num_irqs);
        let handle = Arc::new(Handle(RwLock::new(Some(fd))));
        let region = |offset| Window { handle: Arc::clone(&handle), offset };
        let mut bar = Bar::new(bar_info.size as usize, Some(Box::new(region(bar_info.offset))));
        for area in windows {
            let range = area.offset as usize..(area.offset + area.size) as usize;
            let offset = bar_info.offset + area.offset;
            handle
                .with(|fd| bar.map(range, fd.as_fd(), offset))
                .transpose()
                .map_err(io_error(address, "mapping BAR 0"))?;
        }
        let config = region(config_info.offset);
        Ok(Self {
            address: address.into(),
            bar,
            handle,
            config,
            can_reset: info.flags & abi::DEVICE_CAN_RESET != 0,
            interrupts: Mutex::new(None),
            request,
            removal: AtomicBool::new(false),
            memory,
        })
    }

    fn gone(&self) -> BackendError {
        BackendError::Gone { address: self.address.clone() }
    }

    /// Does something with the descriptor, unless it has been closed.
    fn with<T>(
        &self,
        what: &str,
        f: impl FnOnce(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, BackendError> {
        match self.handle.with(f) {
            Some(Ok(value)) => Ok(value),
            Some(Err(Errno::NODEV)) | None => Err(self.gone()),
            Some(Err(errno)) => Err(io_error(&self.address, what)(errno)),
        }
    }

    /// Sets up MSI-X, or MSI: gives the index and the number of vectors; none, if there are none.
    fn set_up_interrupts(&self) -> Result<(u32, u32), BackendError> {
        for index in [abi::IRQ_MSIX, abi::IRQ_MSI] {
            let mut info = abi::IrqInfo::new_zeroed();
            info.argsz = abi::size::<abi::IrqInfo>();
            info.index = index;
            self.with("asking for interrupts", |fd| abi::call(fd, &mut info))?;
            if info.count == 0 || info.flags & abi::IRQ_EVENTFD == 0 {
                continue;
            }
            let mut count = info.count.min(VECTORS_MAX);
            // All at once, with a descriptor for the first one only as yet: kernels before 6.4 can
            // not add vectors. The answer to too many is how many there could be.
            let first = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(io_error(&self.address, "making an eventfd"))?;
            loop {
                let set = |fd: &OwnedFd| enable(fd, index, count, &first);
                match self.with("setting up interrupts", set)? {
                    0 => return Ok((index, count)),
                    fewer if (fewer as u32) < count => count = fewer as u32,
                    _ => break,
                }
            }
        }
        Ok((abi::IRQ_MSIX, 0))
    }
}

/// Enables `count` vectors; gives 0, or how many there could be.
fn enable(fd: &OwnedFd, index: u32, count: u32, first: &OwnedFd) -> Result<i32, Errno> {
    let mut set = abi::IrqSetMany::new_zeroed();
    set.argsz = 20 + 4 * count;
    set.flags = abi::IRQ_SET_EVENTFD;
    set.index = index;
    set.count = count;
    set.eventfds = [-1; VECTORS_MAX as usize];
    set.eventfds[0] = first.as_raw_fd();
    abi::call(fd, &mut set)
}

/// Asks for a region.
fn region_info(address: &str, fd: &OwnedFd, index: u32) -> Result<abi::RegionInfo, BackendError> {
    let mut info = abi::RegionInfo::new_zeroed();
    info.argsz = abi::size::<abi::RegionInfo>();
    info.index = index;
    abi::call(fd, &mut info).map_err(io_error(address, format!("asking for region {index}")))?;
    Ok(info)
}

/// Checks that BAR 0 can hold an NVMe controller's registers.
pub(crate) fn check_bar(address: &str, size: u64, flags: u32) -> Result<(), BackendError> {
    if size < BAR_MIN {
        let reason =
            format!("BAR 0 has {size} bytes, too few for registers and doorbells ({BAR_MIN})");
        return Err(unusable(address, reason));
    }
    if size > BAR_MAX {
        return Err(unusable(address, format!("BAR 0 has {size} bytes, over {BAR_MAX}")));
    }
    if flags & abi::REGION_READ_WRITE != abi::REGION_READ_WRITE {
        return Err(unusable(address, "BAR 0 cannot be read and written"));
    }
    Ok(())
}

/// The parts of a region that can be mapped, checked against its size and cut to whole pages.
pub(crate) fn windows(
    address: &str,
    info: &abi::RegionInfo,
) -> Result<Vec<abi::Area>, BackendError> {
    if info.flags & abi::REGION_MMAP == 0 {
        return Ok(Vec::new());
    }
    let sparse = if info.flags & abi::REGION_CAPABILITIES != 0 {
        let end = (info.argsz as usize).min(size_of::<abi::RegionInfo>());
        let bytes = info.as_bytes().get(..end).unwrap_or_default();
        abi::capability(bytes, info.cap_offset, abi::CAPABILITY_SPARSE_MMAP)
    } else {
        None
    };
    let areas = match sparse {
        Some(bytes) => abi::areas(bytes).map_err(io_error(address, "reading BAR 0's areas"))?,
        None => vec![abi::Area { offset: 0, size: info.size }],
    };
    let page = rustix::param::page_size() as u64;
    let mut windows = Vec::new();
    for area in areas {
        let end = area.offset.checked_add(area.size).filter(|&end| end <= info.size);
        let end = end.ok_or_else(|| {
            let abi::Area { offset, size } = area;
            unusable(address, format!("an area of {size} bytes at {offset:#x} is outside BAR 0"))
        })?;
        let start = area.offset.next_multiple_of(page);
        // The mapping of a BAR that is no whole number of pages ends with the page before.
        let end = end / page * page;
        if start < end {
            windows.push(abi::Area { offset: start, size: end - start });
        }
    }
    Ok(windows)
}

/// Arms the interrupt by which the kernel asks for the function, where it has that.
fn watch_requests(fd: &OwnedFd, irqs: u32) -> Option<OwnedFd> {
    if irqs <= abi::IRQ_REQUEST {
        return None;
    }
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let mut set = abi::IrqSet {
        argsz: abi::size::<abi::IrqSet>(),
        flags: abi::IRQ_SET_EVENTFD,
        index: abi::IRQ_REQUEST,
        start: 0,
        count: 1,
        eventfd: event.as_raw_fd(),
    };
    abi::call(fd, &mut set).ok()?;
    Some(event)
}

impl Backend for Device {
    fn address(&self) -> &str {
        &self.address
    }

    fn device_ids(&self) -> Option<DeviceIds> {
        device_ids(&self.config)
    }

    fn bar0(&self) -> &dyn Mmio {
        &self.bar
    }

    fn alloc_dma(&self, len: usize, _align: usize) -> Result<DmaMemory, BackendError> {
        self.handle.with(|_| ()).ok_or_else(|| self.gone())?;
        // Pages are aligned to more than may be asked for.
        match &self.memory {
            Memory::Space(space) => space::allocate(space, &self.address, len),
            Memory::Physical { pool, .. } => {
                pool.allocate(&self.address, len, |size| huge::chunk(&self.address, size))
            }
        }
    }

    fn map_dma(&self, memory: &Arc<Region>) -> Result<DmaMapping, BackendError> {
        self.handle.with(|_| ()).ok_or_else(|| self.gone())?;
        match &self.memory {
            Memory::Space(space) => space::map_region(space, &self.address, memory),
            Memory::Physical { .. } => huge::map_region(&self.address, memory),
        }
    }

    fn controller_memory(
        &self,
        bar: u8,
        offset: u64,
        size: u64,
        len: usize,
        bus: u64,
    ) -> Result<DmaMemory, BackendError> {
        let mapped = self.handle.with(|fd| {
            let info = region_info(&self.address, fd, abi::REGION_BAR0 + u32::from(bar))?;
            check_window(&self.address, bar, info.size, offset, size, len)?;
            let whole = windows(&self.address, &info)?;
            let inside =
                |w: &abi::Area| w.offset <= offset && offset + len as u64 <= w.offset + w.size;
            if !whole.iter().any(inside) {
                let address = self.address.clone();
                let what = "mapping memory of the controller's";
                return Err(BackendError::Unsupported { address, what });
            }
            self.bar
                .map_memory(fd.as_fd(), info.offset + offset, len, bus)
                .map_err(io_error(&self.address, format!("mapping BAR {bar}")))
        });
        mapped.ok_or_else(|| self.gone())?
    }

    fn interrupt(&self, vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        let mut interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, count) = match *interrupts {
            Some(known) => known,
            None => *interrupts.insert(self.set_up_interrupts()?),
        };
        if u32::from(vector) >= count {
            return Ok(None);
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(io_error(&self.address, "making an eventfd"))?;
        let mut set = abi::IrqSet {
            argsz: abi::size::<abi::IrqSet>(),
            flags: abi::IRQ_SET_EVENTFD,
            index,
            start: vector.into(),
            count: 1,
            eventfd: event.as_raw_fd(),
        };
        let what = format!("setting up interrupt {vector}");
        self.with(&what, |fd| abi::call(fd, &mut set))?;
        Ok(Some(event))
    }

    fn reset(&self) -> Result<(), BackendError> {
        if !self.can_reset {
            let address = self.address.clone();
            return Err(BackendError::Unsupported { address, what: "a reset of the function" });
        }
        for _ in 1..RESET_TRIES {
            match self.handle.with(|fd| abi::simple(fd, abi::Simple::DeviceReset)) {
                // Configuration space is locked for a moment by somebody else.
                Some(Err(Errno::AGAIN)) => std::thread::sleep(RESET_PAUSE),
                _ => break,
            }
        }
        self.with("resetting the function", |fd| abi::simple(fd, abi::Simple::DeviceReset))
            .map(drop)
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        set_bus_master(&self.config, on).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NODEV) => self.gone(),
                _ => io_error(&self.address, "setting the command register")(error),
            }
        })
    }

    fn removal_requested(&self) -> bool {
        if let Some(request) = &self.request
            && rustix::io::read(request, &mut [0; 8]).is_ok()
        {
            self.removal.store(true, Ordering::Relaxed);
        }
        self.removal.load(Ordering::Relaxed)
    }

    fn close(&self) {
        // The mapping holds the function open as well as the descriptor does.
        self.bar.disconnect();
        self.handle.close();
    }
}

/// What a function is, as its configuration space tells (PCI Local Bus 3.0 §6.2.1, §6.2.4).
pub(crate) fn device_ids(config: &impl Calls) -> Option<DeviceIds> {
    let read = |offset| {
        let mut bytes = [0; 4];
        config.read(offset, &mut bytes).ok()?;
        let [a, b, c, d] = bytes;
        Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
    };
    let (vendor, device) = read(0).filter(|(vendor, _)| *vendor != u16::MAX)?;
    let (subsystem_vendor, subsystem) = read(0x2c)?;
    Some(DeviceIds { vendor, device, subsystem_vendor, subsystem })
}

/// Sets or clears bus mastering in the command register of a configuration space.
pub(crate) fn set_bus_master(config: &impl Calls, on: bool) -> io::Result<()> {
    let mut bytes = [0; 2];
    config.read(COMMAND, &mut bytes)?;
    let command = u16::from_le_bytes(bytes);
    let wanted =
        if on { command | COMMAND_MEMORY | COMMAND_MASTER } else { command & !COMMAND_MASTER };
    if command != wanted {
        config.write(COMMAND, &wanted.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_cannot_be_is_refused_by_what_is_wrong() {
        let check = |size, flags| check_bar("vfio://0000:01:00.0", size, flags);
        let error = check(4096, abi::REGION_READ_WRITE).unwrap_err().to_string();
        assert!(error.contains("BAR 0 has 4096 bytes, too few for registers"), "{error}");
        let error = check(0, abi::REGION_READ_WRITE).unwrap_err().to_string();
        assert!(error.contains("BAR 0 has 0 bytes"), "{error}");
        let error = check(BAR_MAX + 1, abi::REGION_READ_WRITE).unwrap_err().to_string();
        assert!(error.contains("over 1073741824"), "{error}");
        let error = check(BAR_MIN, 0).unwrap_err().to_string();
        assert!(error.contains("cannot be read and written"), "{error}");
        assert!(check(BAR_MIN, abi::REGION_READ_WRITE).is_ok());
    }

    #[derive(Debug)]
    struct Space(Vec<u8>);

    impl Calls for Space {
        fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
            let at = offset as usize;
            let from = self.0.get(at..at + to.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            to.copy_from_slice(from);
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn a_function_says_what_it_is() {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
        bytes[0x2c..0x30].copy_from_slice(&[0xf4, 0x1a, 0x00, 0x11]);
        let ids = device_ids(&Space(bytes)).map(|ids| ids.to_string());
        assert_eq!(ids.as_deref(), Some("1b36:0010:1af4:1100"));
        assert_eq!(device_ids(&Space(vec![0xff; 64])), None, "it is gone");
        assert_eq!(device_ids(&Space(vec![0; 16])), None);
    }
}
