//! One client: its requests, one after the other.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nvme_core::spec::registers::offset::DOORBELLS;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bus::{BufferFile, ClientMemory, DoorbellFile, Eventfds};
use super::config_space::{self, ConfigSpace};
use super::wire::{self, Access, Header};
use crate::pci::{PciDevice, PciFault};

/// What the server says of itself.
const CAPABILITIES: &[u8] =
    b"{\"capabilities\":{\"max_msg_fds\":64,\"max_data_xfer_size\":4096}}\0";

/// How often a mute server looks whether it may speak.
const MUTE_LOOK: Duration = Duration::from_millis(1);

/// A client's use of the device.
pub(super) struct Session<'a> {
    stream: &'a UnixStream,
    device: &'a PciDevice,
    memory: Arc<ClientMemory>,
    eventfds: Arc<Eventfds>,
    doorbells: Arc<DoorbellFile>,
    buffer: Option<Arc<BufferFile>>,
    config: ConfigSpace,
    /// Whether a version has been agreed upon.
    agreed: bool,
    /// Nothing is answered any more.
    silent: bool,
}

/// A request: its header, what follows that, and descriptors that came along.
type Request = (Header, Vec<u8>, Vec<OwnedFd>);

/// An answer: bytes, and a descriptor that goes along.
struct Answer<'a> {
    bytes: Vec<u8>,
    fd: Option<&'a OwnedFd>,
}

impl Answer<'_> {
    fn of(value: &(impl IntoBytes + Immutable)) -> Self {
        Self { bytes: value.as_bytes().to_vec(), fd: None }
    }
}

/// A structure at the beginning of a request.
fn parse<T: FromBytes + KnownLayout + Immutable>(payload: &[u8]) -> Result<(T, &[u8]), Errno> {
    T::read_from_prefix(payload).map_err(|_| Errno::INVAL)
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<'a> Session<'a> {
    /// Connects the device to a client.
    pub fn new(stream: &'a UnixStream, device: &'a PciDevice) -> io::Result<Self> {
        let memory = Arc::new(ClientMemory::default());
        let eventfds = Arc::new(Eventfds::new(device.vectors()));
        let doorbells = Arc::new(DoorbellFile::new(device.bar_len(), DOORBELLS)?);
        let buffer = match device.controller_memory_len() {
            0 => None,
            len => Some(Arc::new(BufferFile::new(len)?)),
        };
        device.reset();
        if let Some(buffer) = &buffer {
            device.attach_controller_memory(Arc::clone(buffer) as Arc<dyn crate::pci::HostMemory>);
        }
        device.attach(
            Arc::clone(&memory) as Arc<dyn crate::pci::HostMemory>,
            Arc::clone(&eventfds) as Arc<dyn crate::pci::Interrupts>,
        );
        device.attach_doorbells(Some(Arc::clone(&doorbells) as Arc<dyn crate::pci::Doorbells>));
        Ok(Self {
            stream,
            device,
            memory,
            eventfds,
            doorbells,
            buffer,
            config: ConfigSpace::new(),
            agreed: false,
            silent: false,
        })
    }

    /// Serves the client until it goes, is sent away, or breaks the protocol. While `mute` is set no
    /// request is carried out.
    pub fn serve(&mut self, mute: &AtomicBool) -> io::Result<()> {
        let stream = self.stream;
        loop {
            let Some((header, payload, fds)) = self.receive()? else { return Ok(()) };
            while mute.load(Ordering::Acquire) {
                std::thread::sleep(MUTE_LOOK);
            }
            if header.flags & wire::TYPE == wire::REPLY {
                return Err(broken(format!("an answer to message {}", header.id)));
            }
            self.silent |= match header.command {
                wire::DMA_MAP => self.device.is_silenced(PciFault::SilentAtMap),
                wire::SET_IRQS => self.device.is_silenced(PciFault::SilentAtInterrupt),
                _ => false,
            };
            if self.silent {
                continue;
            }
            let answer = self.handle(header.command, &payload, fds);
            if header.flags & wire::NO_REPLY == 0 {
                send(stream, &header, &answer)?;
            }
        }
    }

    fn handle(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Answer<'_>, Errno> {
        if (command == wire::VERSION) == self.agreed {
            return Err(Errno::INVAL);
        }
        match command {
            wire::VERSION => {
                let (version, _) = parse::<wire::Version>(payload)?;
                if version.major != 0 {
                    return Err(Errno::INVAL);
                }
                self.agreed = true;
                let ours = wire::Version { major: 0, minor: version.minor.min(1) };
                let mut answer = Answer::of(&ours);
                answer.bytes.extend_from_slice(CAPABILITIES);
                Ok(answer)
            }
            wire::DMA_MAP => {
                let (map, _) = parse::<wire::DmaMap>(payload)?;
                self.memory.map(&map, fds.into_iter().next())?;
                Ok(Answer { bytes: Vec::new(), fd: None })
            }
            wire::DMA_UNMAP => {
                let (unmap, _) = parse::<wire::DmaUnmap>(payload)?;
                if unmap.flags & wire::UNMAP_ALL != 0 {
                    self.memory.clear();
                } else {
                    self.memory.unmap(unmap.address, unmap.size)?;
                }
                Ok(Answer::of(&unmap))
            }
            wire::DEVICE_INFO => Ok(Answer::of(&wire::DeviceInfo {
                argsz: size_of::<wire::DeviceInfo>() as u32,
                flags: wire::RESETTABLE_PCI,
                regions: wire::REGIONS,
                irqs: wire::IRQS,
            })),
            wire::REGION_INFO => self.region_info(parse::<wire::RegionInfo>(payload)?.0),
            wire::IRQ_INFO => {
                let (mut info, _) = parse::<wire::IrqInfo>(payload)?;
                if info.index >= wire::IRQS {
                    return Err(Errno::INVAL);
                }
                info.flags = wire::IRQ_EVENTFD;
                let there = info.index == wire::MSIX;
                info.count = if there { self.device.vectors().into() } else { 0 };
                Ok(Answer::of(&info))
            }
            wire::SET_IRQS => {
                self.set_irqs(&parse::<wire::SetIrqs>(payload)?.0, fds)?;
                Ok(Answer { bytes: Vec::new(), fd: None })
            }
            wire::REGION_READ => {
                let (access, _) = parse::<Access>(payload)?;
                let mut answer = Answer::of(&access);
                answer.bytes.extend(self.read(&access)?);
                Ok(answer)
            }
            wire::REGION_WRITE => {
                let (access, data) = parse::<Access>(payload)?;
                if data.len() != access.count as usize {
                    return Err(Errno::INVAL);
                }
                self.write(&access, data)?;
                Ok(Answer::of(&access))
            }
            wire::RESET => {
                self.device.reset();
                self.config = ConfigSpace::new();
                Ok(Answer { bytes: Vec::new(), fd: None })
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn region_info(&self, ask: wire::RegionInfo) -> Result<Answer<'_>, Errno> {
        let mut info = wire::RegionInfo {
            argsz: size_of::<wire::RegionInfo>() as u32,
            flags: 0,
            index: ask.index,
            cap_offset: 0,
            size: 0,
            offset: 0,
        };
        match ask.index {
            wire::BAR0 => {
                info.size = self.device.bar_len() as u64;
                info.flags = wire::READ_WRITE | wire::MMAP_CAPS;
                info.cap_offset = info.argsz;
                info.argsz += size_of::<wire::SparseMmap>() as u32;
                let mut answer = Answer::of(&info);
                answer.fd = Some(self.doorbells.file());
                // Registers act when they are written, so that only doorbells can be mapped.
                let sparse = wire::SparseMmap {
                    id: wire::SPARSE_MMAP,
                    version: 1,
                    next: 0,
                    areas: 1,
                    reserved: 0,
                    offset: DOORBELLS as u64,
                    size: (self.device.bar_len() - DOORBELLS) as u64,
                };
                answer.bytes.extend_from_slice(sparse.as_bytes());
                // A client with too little room learns how much it needs.
                let room = (ask.argsz as usize).max(size_of::<wire::RegionInfo>());
                answer.bytes.truncate(room);
                Ok(answer)
            }
            wire::BAR2 if self.buffer.is_some() => {
                info.size = self.device.controller_memory_len() as u64;
                info.flags = wire::READ_WRITE | wire::MMAP;
                let mut answer = Answer::of(&info);
                answer.fd = self.buffer.as_deref().map(BufferFile::file);
                Ok(answer)
            }
            wire::CONFIG => {
                info.size = config_space::LEN as u64;
                info.flags = wire::READ_WRITE;
                Ok(Answer::of(&info))
            }
            n if n < wire::REGIONS => Ok(Answer::of(&info)),
            _ => Err(Errno::INVAL),
        }
    }

    fn set_irqs(&self, set: &wire::SetIrqs, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        if set.index != wire::MSIX || set.flags & wire::IRQ_TRIGGER == 0 {
            return Err(Errno::INVAL);
        }
        if set.flags & wire::IRQ_NONE != 0 && set.count == 0 {
            self.eventfds.clear();
            return Ok(());
        }
        if set.flags & wire::IRQ_EVENTFDS == 0 || fds.len() != set.count as usize {
            return Err(Errno::INVAL);
        }
        self.eventfds.set(set.start, fds.into_iter().map(Some).collect())
    }

    fn read(&self, access: &Access) -> Result<Vec<u8>, Errno> {
        let (at, len) = (access.offset as usize, access.count as usize);
        let end = at.checked_add(len).ok_or(Errno::INVAL)?;
        match (access.region, len) {
            (wire::CONFIG, _) => {
                let bytes = self.config.bytes();
                bytes.get(at..end).map(<[u8]>::to_vec).ok_or(Errno::INVAL)
            }
            (wire::BAR0, 4) if at.is_multiple_of(4) && end <= self.device.bar_len() => {
                Ok(self.device.read32(at).to_le_bytes().to_vec())
            }
            (wire::BAR0, 8) if at.is_multiple_of(8) && end <= self.device.bar_len() => {
                Ok(self.device.read64(at).to_le_bytes().to_vec())
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn write(&mut self, access: &Access, data: &[u8]) -> Result<(), Errno> {
        let at = access.offset as usize;
        let end = at.checked_add(data.len()).ok_or(Errno::INVAL)?;
        match access.region {
            wire::CONFIG if end <= config_space::LEN => {
                self.config.write(at, data);
                self.device.set_bus_master(self.config.bus_master());
                Ok(())
            }
            wire::BAR0 if end <= self.device.bar_len() => {
                if let (Ok(bytes), true) = (data.try_into(), at.is_multiple_of(4)) {
                    self.device.write32(at, u32::from_le_bytes(bytes));
                } else if let (Ok(bytes), true) = (data.try_into(), at.is_multiple_of(8)) {
                    self.device.write64(at, u64::from_le_bytes(bytes));
                } else {
                    return Err(Errno::INVAL);
                }
                Ok(())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// The next request; `None` when the client has gone.
    fn receive(&self) -> io::Result<Option<Request>> {
        let mut fds = Vec::new();
        let mut bytes = [0; size_of::<Header>()];
        if !fill(self.stream, &mut bytes, &mut fds)? {
            return Ok(None);
        }
        let header = Header::read_from_bytes(&bytes).map_err(|_| broken("no header".to_owned()))?;
        let size = header.size as usize;
        let rest = size.checked_sub(bytes.len()).filter(|&s| s <= wire::MESSAGE_MAX);
        let rest = rest.ok_or_else(|| broken(format!("a message of {size} bytes")))?;
        let mut payload = vec![0; rest];
        Ok(fill(self.stream, &mut payload, &mut fds)?.then_some((header, payload, fds)))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.device.reset();
        self.device.attach_doorbells(None);
        self.memory.clear();
        self.eventfds.clear();
    }
}

/// Receives all of `to`, and descriptors; false if the client has gone.
fn fill(stream: &UnixStream, to: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut at = 0;
    while at < to.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut to[at..])];
        let received = match recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > wire::FDS_MAX {
            return Err(broken("too many descriptors in a message".to_owned()));
        }
        if received.bytes == 0 {
            return Ok(false);
        }
        at += received.bytes;
    }
    Ok(true)
}

fn send(
    stream: &UnixStream,
    request: &Header,
    answer: &Result<Answer<'_>, Errno>,
) -> io::Result<()> {
    let (flags, error, bytes, fd) = match answer {
        Ok(answer) => (wire::REPLY, 0, answer.bytes.as_slice(), answer.fd),
        Err(errno) => {
            let number = errno.raw_os_error().cast_unsigned();
            (wire::REPLY | wire::ERROR, number, &[][..], None)
        }
    };
    let size = (size_of::<Header>() + bytes.len()) as u32;
    let header = Header { id: request.id, command: request.command, size, flags, error };
    let message = [header.as_bytes(), bytes].concat();
    let fds = fd.map(|fd| [fd.as_fd()]);
    let mut fds = fds.as_ref().map_or(&[][..], |fds| fds.as_slice());
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        match sendmsg(stream, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        // The descriptor has gone with the first byte.
        fds = &[];
    }
    Ok(())
}
