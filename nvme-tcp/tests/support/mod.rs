//! A scripted controller that speaks raw bytes, and a stream in memory to put between it and a queue.
#![expect(dead_code, reason = "each test binary uses a part")]

pub mod wire;

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use nvme_core::buffer::Buffer;
use nvme_core::spec::tcp::{CapsuleCmd, CommonHeader, PduType};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{Completion, Data, Queue, QueueStatus, TransportError};
use nvme_tcp::conn::Config;
use nvme_tcp::{Stream, TcpQueue};
use zerocopy::FromBytes;

use wire::Format;

/// Opcode of the NVM Read command.
pub const READ: u8 = 0x02;
/// Opcode of the NVM Write command.
pub const WRITE: u8 = 0x01;

#[derive(Debug, Default)]
struct Wire {
    to_host: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    closed: bool,
    cut: bool,
    /// Most bytes per read, cyclic; empty means no limit.
    read_sizes: Vec<usize>,
    reads: usize,
    /// Bytes that the host may still send.
    credit: Option<usize>,
    writes: usize,
    broken: bool,
}

/// The host's end of a connection in memory.
#[derive(Clone, Debug)]
pub struct MemStream(Arc<Mutex<Wire>>);

impl Stream for MemStream {
    fn poll_open(&mut self) -> Result<bool, TransportError> {
        Ok(true)
    }

    fn read(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut wire = self.0.lock().unwrap();
        if wire.to_host.is_empty() {
            return if wire.closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let sizes = wire.read_sizes.len();
        let mut left =
            if sizes == 0 { usize::MAX } else { wire.read_sizes[wire.reads % sizes].max(1) };
        wire.reads += 1;
        let mut total = 0;
        for buffer in buffers {
            let n = left.min(buffer.len()).min(wire.to_host.len());
            for (to, from) in buffer.iter_mut().zip(wire.to_host.drain(..n)) {
                *to = from;
            }
            total += n;
            left -= n;
        }
        Ok(total)
    }

    fn write(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut wire = self.0.lock().unwrap();
        wire.writes += 1;
        if wire.cut || wire.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let all: usize = buffers.iter().map(|b| b.len()).sum();
        let n = wire.credit.map_or(all, |c| c.min(all));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(credit) = &mut wire.credit {
            *credit -= n;
        }
        let bytes = buffers.iter().flat_map(|b| b.iter().copied()).take(n);
        let bytes: Vec<u8> = bytes.collect();
        wire.to_peer.extend(bytes);
        Ok(n)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_cut(&self) -> bool {
        self.0.lock().unwrap().cut
    }

    fn cut(&mut self) {
        self.0.lock().unwrap().cut = true;
    }

    fn address(&self) -> &str {
        "tcp://peer:4420"
    }
}

/// A PDU as the host sent it.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub header: CommonHeader,
    pub bytes: Vec<u8>,
}

impl Pdu {
    pub fn sqe(&self) -> Sqe {
        assert_eq!(self.header.pdu_type, PduType::CAPSULE_CMD);
        CapsuleCmd::read_from_prefix(&self.bytes).unwrap().0.sqe
    }

    pub fn cid(&self) -> u16 {
        self.sqe().cid.get()
    }

    /// The data, digest left out.
    pub fn data(&self, format: &Format) -> &[u8] {
        let end = self.bytes.len() - if format.data_digest { 4 } else { 0 };
        &self.bytes[usize::from(self.header.pdo)..end]
    }
}

/// A queue, and the controller's end of its connection.
pub struct Pair {
    pub queue: TcpQueue<MemStream>,
    pub done: Vec<Completion>,
    pub now: Instant,
    pub format: Format,
    wire: Arc<Mutex<Wire>>,
    partial: Vec<u8>,
}

pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

impl Pair {
    /// A connection before its ICReq.
    pub fn new(config: Config) -> Self {
        let wire = Arc::new(Mutex::new(Wire::default()));
        let now = Instant::from_nanos(1_000);
        let stream = MemStream(Arc::clone(&wire));
        let format = Format {
            header_digest: config.header_digest,
            data_digest: config.data_digest,
            align: (usize::from(config.hpda) + 1) * 4,
        };
        let queue = TcpQueue::new(stream, config, OPEN_TIMEOUT, now);
        Self { queue, done: Vec::new(), now, format, wire, partial: Vec::new() }
    }

    /// A connection that is set up, MAXH2CDATA 128 KiB.
    pub fn ready(config: Config) -> Self {
        Self::ready_with(config, 0, 128 * 1024)
    }

    pub fn ready_with(config: Config, cpda: u8, max_h2c_data: u32) -> Self {
        let mut pair = Self::new(config);
        assert!(matches!(pair.poll(), QueueStatus::Opening));
        assert_eq!(pair.take_one().header.pdu_type, PduType::IC_REQ);
        pair.send(&pair.format.ic_resp(cpda, max_h2c_data));
        assert!(matches!(pair.poll(), QueueStatus::Ready));
        pair
    }

    /// Polls until nothing is pending.
    pub fn poll(&mut self) -> QueueStatus {
        loop {
            let status = self.queue.poll(self.now, &mut self.done);
            if !self.queue.has_pending_work() {
                return status;
            }
        }
    }

    /// Sends bytes to the host.
    pub fn send(&self, bytes: &[u8]) {
        self.wire.lock().unwrap().to_host.extend(bytes);
    }

    pub fn close(&self) {
        self.wire.lock().unwrap().closed = true;
    }

    /// Makes the host's writes fail from now on.
    pub fn break_writes(&self) {
        self.wire.lock().unwrap().broken = true;
    }

    pub fn cut(&self) {
        self.wire.lock().unwrap().cut = true;
    }

    /// Limits the size of the host's reads.
    pub fn read_sizes(&self, sizes: &[usize]) {
        self.wire.lock().unwrap().read_sizes = sizes.to_vec();
    }

    /// Lets the host send `n` bytes more, or as many as it likes.
    pub fn credit(&self, n: Option<usize>) {
        self.wire.lock().unwrap().credit = n;
    }

    pub fn writes(&self) -> usize {
        self.wire.lock().unwrap().writes
    }

    /// All complete PDUs that the host has sent.
    pub fn take(&mut self) -> Vec<Pdu> {
        self.partial.extend(self.wire.lock().unwrap().to_peer.drain(..));
        let mut pdus = Vec::new();
        while let Ok((header, _)) = CommonHeader::read_from_prefix(&self.partial) {
            let len = header.plen.get() as usize;
            assert!(len >= usize::from(header.hlen), "{header:?}");
            if self.partial.len() < len {
                break;
            }
            let rest = self.partial.split_off(len);
            pdus.push(Pdu { header, bytes: std::mem::replace(&mut self.partial, rest) });
        }
        pdus
    }

    pub fn take_one(&mut self) -> Pdu {
        let mut pdus = self.take();
        assert_eq!(pdus.len(), 1, "{pdus:?}");
        pdus.remove(0)
    }

    /// Bytes of an unfinished PDU.
    pub fn partial(&self) -> usize {
        self.partial.len()
    }

    /// Submits and flushes; the command identifier that the controller saw.
    pub fn issue(&mut self, opcode: u8, data: Data, tag: u32) -> u16 {
        self.queue.submit(Sqe::new(opcode, 1), data, tag).unwrap();
        self.queue.flush();
        self.take_one().cid()
    }

    pub fn read(&mut self, len: usize, tag: u32) -> u16 {
        self.issue(READ, Data::Read(Buffer::zeroed(len)), tag)
    }

    pub fn write(&mut self, len: usize, tag: u32) -> u16 {
        self.issue(WRITE, Data::Write(pattern(len).into()), tag)
    }

    /// The only completion, which must be success.
    pub fn done_one(&mut self) -> Completion {
        assert_eq!(self.done.len(), 1, "{:?}", self.done);
        let completion = self.done.remove(0);
        assert_eq!(completion.cqe.status(), Status::SUCCESS);
        completion
    }
}

/// Bytes that tell their place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// The bytes of a completion's data.
pub fn bytes(completion: &Completion) -> &[u8] {
    match &completion.data {
        Data::Read(b) | Data::Write(b) => b.as_slice(),
        Data::None => &[],
    }
}
