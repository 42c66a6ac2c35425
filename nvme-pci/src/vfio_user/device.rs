//! One function that a server offers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use nvme_core::memory::Memory;
use nvme_core::quirk::DeviceIds;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, recv, socket_with,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::config::{self, Messages};
use super::connection::{Connection, Failure, Reply, limit};
use super::wire::{self, Access, Command, DeviceInfo, DmaMap, DmaUnmap, SetIrqs};
use crate::backend::{Backend, BackendError, Mmio};
use crate::dma::{DmaMapping, DmaMemory, PAGE};
use crate::system::bar::{Bar, Calls, check_window};
use crate::system::mapping::Mapping;
use crate::system::pool::{Chunk, GRAIN, Pool};
use crate::system::{io_error, unusable};
use crate::vfio::abi::{self, IrqInfo, RegionInfo};
use crate::vfio::device::{COMMAND, VECTORS_MAX, check_bar, device_ids, set_bus_master, windows};
use crate::vfio::space::check_pages;

/// Where the class code is in configuration space (PCI Local Bus 3.0 §6.2.1), and that of an NVMe
/// I/O controller.
const CLASS: u64 = 9;
const CLASS_NVME: [u8; 3] = [0x02, 0x08, 0x01];
/// The first bus address that is given out.
const FIRST_BUS: u64 = 1 << 32;
/// And the end of them.
const LAST_BUS: u64 = 1 << 56;
/// Reads of what a server says that is not listened to any more, at one look.
const UNREAD_MAX: usize = 64;
/// How long a look at the server's end is put off where the system cannot wait for it.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of `vfio_region_info` without capabilities.
const REGION_INFO: usize = 32;

/// The connection, until it is lost or closed.
#[derive(Debug)]
struct Link {
    connection: Mutex<Option<Connection>>,
    lost: AtomicBool,
    /// Why.
    why: OnceLock<String>,
}

impl Link {
    fn request(
        &self,
        command: Command,
        payload: &[&[u8]],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, Failure> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connection) = slot.as_mut() else {
            return Err(Failure::Lost(Errno::NODEV.into()));
        };
        let reply = connection.request(command, payload, fd);
        if let Err(Failure::Lost(error)) = &reply {
            self.lose(match error.kind() {
                io::ErrorKind::TimedOut => format!(
                    "the server does not answer ({command:?}, {:?}); what it has is kept until it has \
                     closed its end",
                    limit(command)
                ),
                _ => format!("the connection to the server is lost: {error}"),
            });
            *slot = None;
        }
        reply
    }

    /// The connection is of no use any more. The first reason stays.
    fn lose(&self, why: String) {
        let _ = self.why.set(why);
        self.lost.store(true, Ordering::SeqCst);
    }

    /// A request whose answer has the same structure.
    fn ask<T: FromBytes + IntoBytes>(&self, command: Command, bytes: &[u8]) -> io::Result<T> {
        let reply = self.request(command, &[bytes], None)?;
        let parsed = T::read_from_prefix(&reply.payload);
        Ok(parsed.map_err(|_| cut(command))?.0)
    }

    fn close(&self) {
        self.lost.store(true, Ordering::SeqCst);
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// An answer that is too short.
fn cut(command: Command) -> io::Error {
    let text = format!("the answer to {command:?} is cut short");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A region, by messages.
#[derive(Debug)]
struct Region {
    link: Arc<Link>,
    index: u32,
}

impl Region {
    fn access(&self, offset: u64, count: usize) -> Access {
        Access { offset, region: self.index, count: count as u32 }
    }
}

impl Calls for Region {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let access = self.access(offset, to.len());
        let reply = self.link.request(Command::RegionRead, &[access.as_bytes()], None)?;
        let data = reply.payload.get(size_of::<Access>()..).filter(|d| d.len() == to.len());
        to.copy_from_slice(data.ok_or_else(|| cut(Command::RegionRead))?);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        let access = self.access(offset, from.len());
        self.link.request(Command::RegionWrite, &[access.as_bytes(), from], None)?;
        Ok(())
    }
}

/// A function, by vfio-user.
#[derive(Debug)]
pub(super) struct Device {
    address: String,
    link: Arc<Link>,
    bar: Bar,
    config: Region,
    can_reset: bool,
    /// Message signalled interrupts, and which kind of them.
    vectors: u32,
    irq_index: u32,
    /// Interrupts are enabled.
    interrupting: AtomicBool,
    /// A second name of the socket, to look at it without waiting for an answer's turn.
    socket: OwnedFd,
    pool: Pool,
    next_bus: Mutex<u64>,
}

impl Device {
    pub(super) fn open(address: &str, path: &Path) -> Result<Self, BackendError> {
        let failed = |what: &'static str| io_error::<io::Error>(address, what);
        let stream = connect(path).map_err(failed("connecting to the server"))?;
        let connection = Connection::new(stream)
            .map_err(|f| failed("agreeing upon a version with the server")(f.into()))?;
        let socket = connection.socket().map_err(failed("sharing the socket"))?;
        let connection = Mutex::new(Some(connection));
        let link =
            Arc::new(Link { connection, lost: AtomicBool::new(false), why: OnceLock::new() });

        let ask = DeviceInfo { argsz: 16, flags: 0, regions: 0, irqs: 0 };
        let info: DeviceInfo = link
            .ask(Command::DeviceInfo, ask.as_bytes())
            .map_err(failed("asking what the device is"))?;
        if info.flags & abi::DEVICE_IS_PCI == 0 || info.regions <= abi::REGION_CONFIG {
            return Err(unusable(address, "the server offers no PCI function"));
        }
        let config = Region { link: Arc::clone(&link), index: abi::REGION_CONFIG };
        let mut class = [0; 3];
        config.read(CLASS, &mut class).map_err(failed("reading the class code"))?;
        if class != CLASS_NVME {
            let [interface, sub, base] = class;
            let reason = format!(
                "not an NVMe controller: its class code is {base:02x}{sub:02x}{interface:02x}h"
            );
            return Err(unusable(address, reason));
        }
        config::silence(&config).map_err(failed("forbidding interrupts"))?;
        let (vectors, irq_index) = interrupts(&link).map_err(failed("asking for interrupts"))?;
        let bar = open_bar(address, &link)?;
        Ok(Self {
            address: address.into(),
            link,
            bar,
            config,
            can_reset: info.flags & abi::DEVICE_CAN_RESET != 0,
            vectors,
            irq_index,
            interrupting: AtomicBool::new(false),
            socket,
            pool: Pool::default(),
            next_bus: Mutex::new(FIRST_BUS),
        })
    }

    /// What a failure means: `Gone` if the connection is lost.
    fn error(&self, what: impl Into<String>, failure: Failure) -> BackendError {
        match failure {
            Failure::Refused(errno) => io_error(&self.address, what)(errno),
            Failure::Lost(_) => BackendError::Gone { address: self.address.clone() },
        }
    }

    /// The same for an access to configuration space.
    fn config_error(&self, what: &str, error: io::Error) -> BackendError {
        if self.link.lost.load(Ordering::SeqCst) {
            return BackendError::Gone { address: self.address.clone() };
        }
        io_error(&self.address, what)(error)
    }

    /// Whether the server has closed its end, as it does when it has noticed the loss and let go of the
    /// memory that it mapped, or is no more.
    fn has_let_go(&self) -> bool {
        // What it still says is of no interest.
        let mut rest = [0_u8; 4096];
        for _ in 0..UNREAD_MAX {
            match recv(&self.socket, &mut rest, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return true,
                Ok(_) | Err(Errno::INTR) => {}
                // Reset: closed, with something of ours unread. Any other error says nothing of the server.
                Err(errno) => return errno == Errno::CONNRESET,
            }
        }
        false
    }

    /// Lets the function raise the interrupts that have been set up.
    fn enable_interrupts(&self) -> Result<(), BackendError> {
        let kind = if self.irq_index == abi::IRQ_MSIX { Messages::MsiX } else { Messages::Msi };
        config::switch(&self.config, kind, true)
            .map_err(|error| self.config_error("enabling interrupts", error))?;
        self.interrupting.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Has the server map `size` bytes of a file.
    fn map_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: usize,
    ) -> Result<Mapped, BackendError> {
        let taken = size.checked_next_multiple_of(GRAIN).map(|size| size as u64);
        let bus = {
            let mut next = self.next_bus.lock().unwrap_or_else(PoisonError::into_inner);
            let bus = *next;
            let after = taken.and_then(|taken| bus.checked_add(taken));
            *next = after.filter(|&after| after <= LAST_BUS).ok_or_else(|| {
                unusable(&self.address, format!("no {size} bytes of bus addresses are left"))
            })?;
            bus
        };
        let map = DmaMap {
            argsz: wire_size::<DmaMap>(),
            flags: wire::DMA_READ_WRITE,
            offset,
            address: bus,
            size: size as u64,
        };
        self.link
            .request(Command::DmaMap, &[map.as_bytes()], Some(file))
            .map_err(|f| self.error("mapping memory for the device", f))?;
        Ok(Mapped { link: Arc::clone(&self.link), bus, size: size as u64 })
    }

    /// Memory in a file that the server maps, too.
    fn chunk(&self, size: usize) -> Result<Chunk, BackendError> {
        let failed = || io_error::<io::Error>(&self.address, format!("allocating {size} bytes"));
        let file = rustix::fs::memfd_create("nvme-dma", MemfdFlags::CLOEXEC)
            .and_then(|file| rustix::fs::ftruncate(&file, size as u64).map(|()| file))
            .map_err(|errno| failed()(errno.into()))?;
        let memory = Mapping::file(file.as_fd(), 0, size).map_err(failed())?;
        let mapped = self.map_file(file.as_fd(), 0, size)?;
        let bus = mapped.bus;
        let grains = (0..size / GRAIN).map(|n| bus + (n * GRAIN) as u64).collect();
        Ok(Chunk::new(memory, grains, Box::new(mapped)))
    }
}

const fn wire_size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Memory that the server has been told of, and is told to forget when this is dropped.
#[derive(Debug)]
struct Mapped {
    link: Arc<Link>,
    bus: u64,
    size: u64,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let unmap = DmaUnmap {
            argsz: wire_size::<DmaUnmap>(),
            flags: 0,
            address: self.bus,
            size: self.size,
        };
        // A server that is gone has forgotten it; the file lives on for as long as either maps it,
        // so that a server that refuses reaches no memory of anything else.
        let _ = self.link.request(Command::DmaUnmap, &[unmap.as_bytes()], None);
    }
}

/// Connects at once or not at all: a server that does not accept must not hold up the caller.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// How many message signalled interrupts there are, and their index.
fn interrupts(link: &Link) -> io::Result<(u32, u32)> {
    for index in [abi::IRQ_MSIX, abi::IRQ_MSI] {
        let mut ask = IrqInfo::new_zeroed();
        (ask.argsz, ask.index) = (abi::size::<IrqInfo>(), index);
        let info: IrqInfo = link.ask(Command::IrqInfo, ask.as_bytes())?;
        if info.count > 0 && info.flags & abi::IRQ_EVENTFD != 0 {
            return Ok((info.count.min(VECTORS_MAX), index));
        }
    }
    Ok((0, abi::IRQ_MSIX))
}

/// Asks for a region, and for the file that it can be mapped from, if there is one.
fn region(
    address: &str,
    link: &Link,
    index: u32,
) -> Result<(RegionInfo, Option<File>), BackendError> {
    let failed = || io_error::<io::Error>(address, format!("asking for region {index}"));
    let mut ask = RegionInfo::new_zeroed();
    (ask.argsz, ask.index) = (abi::size::<RegionInfo>(), index);
    let head = ask.as_bytes().get(..REGION_INFO).unwrap_or_default();
    let reply = link.request(Command::RegionInfo, &[head], None).map_err(|f| failed()(f.into()))?;
    let mut info = RegionInfo::new_zeroed();
    let bytes = info.as_mut_bytes();
    let len = reply.payload.len().min(bytes.len());
    if len < REGION_INFO {
        return Err(failed()(cut(Command::RegionInfo)));
    }
    bytes[..len].copy_from_slice(&reply.payload[..len]);
    Ok((info, reply.fds.into_iter().next().map(File::from)))
}

/// Asks for BAR 0, and maps what can be mapped of it.
fn open_bar(address: &str, link: &Arc<Link>) -> Result<Bar, BackendError> {
    let failed = |what: &'static str| io_error::<io::Error>(address, what);
    let (info, file) = region(address, link, abi::REGION_BAR0)?;
    check_bar(address, info.size, info.flags)?;
    let region = Region { link: Arc::clone(link), index: abi::REGION_BAR0 };
    let mut bar = Bar::new(info.size as usize, Some(Box::new(region)));
    // Without a file everything goes by messages.
    let Some(file) = file else { return Ok(bar) };
    let available = file.metadata().map_err(failed("looking at BAR 0's file"))?.len();
    for area in windows(address, &info)? {
        let start = info.offset.checked_add(area.offset);
        let end = start.and_then(|start| start.checked_add(area.size));
        let (Some(start), Some(_)) = (start, end.filter(|&end| end <= available)) else {
            let abi::Area { offset, size } = area;
            let reason = format!(
                "the area of {size} bytes at {offset:#x} of BAR 0 is outside its file of \
                 {available} bytes"
            );
            return Err(unusable(address, reason));
        };
        let range = area.offset as usize..(area.offset + area.size) as usize;
        bar.map(range, file.as_fd(), start).map_err(failed("mapping BAR 0"))?;
    }
    Ok(bar)
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
        if self.link.lost.load(Ordering::SeqCst) {
            return Err(BackendError::Gone { address: self.address.clone() });
        }
        // Pages are aligned to more than may be asked for.
        self.pool.allocate(&self.address, len, |size| self.chunk(size))
    }

    fn map_dma(&self, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
        if self.link.lost.load(Ordering::SeqCst) {
            return Err(BackendError::Gone { address: self.address.clone() });
        }
        let (file, offset) = memory.file().ok_or_else(|| BackendError::Unsupported {
            address: self.address.clone(),
            what: "reaching memory that has no file to be shared by",
        })?;
        check_pages(&self.address, memory)?;
        let mapped = self.map_file(file, offset, memory.len())?;
        let pages = (0..memory.len() / PAGE).map(|n| mapped.bus + (n * PAGE) as u64).collect();
        Ok(DmaMapping::new(memory, pages, Box::new(mapped)))
    }

    fn controller_memory(
        &self,
        bar: u8,
        offset: u64,
        size: u64,
        len: usize,
        bus: u64,
    ) -> Result<DmaMemory, BackendError> {
        let (info, file) = region(&self.address, &self.link, abi::REGION_BAR0 + u32::from(bar))?;
        check_window(&self.address, bar, info.size, offset, size, len)?;
        let whole = windows(&self.address, &info)?;
        let inside = |w: &abi::Area| w.offset <= offset && offset + len as u64 <= w.offset + w.size;
        let Some(file) = file.filter(|_| whole.iter().any(inside)) else {
            let address = self.address.clone();
            let what = "mapping memory of the controller's";
            return Err(BackendError::Unsupported { address, what });
        };
        let failed = || io_error::<io::Error>(&self.address, format!("mapping BAR {bar}"));
        let available = file.metadata().map_err(failed())?.len();
        let start = info.offset.checked_add(offset);
        let start = start.filter(|s| s.checked_add(len as u64).is_some_and(|e| e <= available));
        let start = start.ok_or_else(|| {
            unusable(&self.address, format!("BAR {bar}'s file has {available} bytes, too few"))
        })?;
        self.bar.map_memory(file.as_fd(), start, len, bus).map_err(failed())
    }

    fn interrupt(&self, vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        if u32::from(vector) >= self.vectors {
            return Ok(None);
        }
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(io_error(&self.address, "making an eventfd"))?;
        let set = SetIrqs {
            argsz: wire_size::<SetIrqs>(),
            flags: abi::IRQ_SET_EVENTFD,
            index: self.irq_index,
            start: vector.into(),
            count: 1,
        };
        self.link
            .request(Command::SetIrqs, &[set.as_bytes()], Some(event.as_fd()))
            .map_err(|f| self.error(format!("setting up interrupt {vector}"), f))?;
        self.enable_interrupts()?;
        Ok(Some(event))
    }

    fn reset(&self) -> Result<(), BackendError> {
        if !self.can_reset {
            let address = self.address.clone();
            return Err(BackendError::Unsupported { address, what: "a reset of the function" });
        }
        let failed = |error| self.config_error("saving the command register", error);
        let mut command = [0; 2];
        self.config.read(COMMAND, &mut command).map_err(failed)?;
        self.link
            .request(Command::Reset, &[], None)
            .map_err(|f| self.error("resetting the function", f))?;
        // A reset of a function clears it; the kernel's VFIO puts it back, and so does this.
        self.config
            .write(COMMAND, &command)
            .map_err(|error| self.config_error("restoring the command register", error))?;
        if self.interrupting.load(Ordering::Relaxed) { self.enable_interrupts() } else { Ok(()) }
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        let set = set_bus_master(&self.config, on)
            .map_err(|error| self.config_error("setting the command register", error));
        match set {
            // One that does not answer, or not as it must, may still go on with what it has.
            Err(BackendError::Gone { address }) if !on && !self.has_let_go() => {
                let reason = "the server has not closed its end of the connection".into();
                Err(BackendError::Unusable { address, reason })
            }
            set => set,
        }
    }

    fn why_lost(&self) -> Option<String> {
        self.link.why.get().cloned()
    }

    fn await_change(&self, limit: Duration) {
        // The server's end shows at once; what it says meanwhile is read by the next attempt.
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        if self.has_let_go() || poll(&mut fds, Some(&limit)).is_err() {
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    fn is_apart(&self) -> bool {
        // A server has memory and queues of their own for each connection.
        true
    }

    fn is_busy(&self) -> bool {
        matches!(self.link.connection.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn may_return(&self) -> bool {
        true
    }

    fn removal_requested(&self) -> bool {
        if !self.link.lost.load(Ordering::SeqCst) {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let connected = match recv(&self.socket, &mut [0_u8; 1], flags) {
                Ok((_, n)) => n > 0,
                Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
            };
            if connected {
                return false;
            }
            self.link.lose("the server has closed its end of the connection".into());
        }
        self.bar.disconnect();
        true
    }

    fn close(&self) {
        self.bar.disconnect();
        self.link.close();
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}
