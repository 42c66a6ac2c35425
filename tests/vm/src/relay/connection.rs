//! One relayed connection: a test's side (the client) and QEMU's.
//!
//! - Bytes are copied both ways through one chunk each; the relay reads no further than that.
//! - The client's reset, seen by the system at once and also while QEMU takes nothing: what it had
//!   sent and QEMU's socket had not taken is discarded. The same comes to a client that ended its
//!   stream in order and whose last bytes QEMU did not take within [`DRAIN`].
//! - Then, and after a stream that ended in order, QEMU sees the end of the stream and nothing
//!   more: what it still sends is read (and discarded when there is no client) until it ends the
//!   connection itself. No reset and no close comes before that.
//! - QEMU's end ends the client's connection: in order after what came before it, a reset by a
//!   reset.
//!
//! So what a client sent may reach the guest after the client's reset as far as it already was in
//! the kernel's buffers between the relay and QEMU ([`KERNEL_BUFFER`] and QEMU's own receive
//! buffer), in QEMU's buffer towards the guest (128 KiB), or in the chunk that the relay's thread
//! was writing at that moment. Without the relay it was the same but for the first and the last.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

#[cfg(doc)]
use super::KERNEL_BUFFER;
use super::limit_buffers;

/// Bytes copied at once, in each direction.
const CHUNK: usize = 64 << 10;
/// How long QEMU may take for the last bytes of a stream that the client has ended.
const DRAIN: Duration = Duration::from_secs(1);

/// What `poll` found at both sockets.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) client: PollFlags,
    pub(super) qemu: PollFlags,
}

impl Default for Seen {
    fn default() -> Self {
        Self { client: PollFlags::empty(), qemu: PollFlags::empty() }
    }
}

/// A connection from its acceptance to QEMU's end of it.
pub(super) struct Connection {
    /// `None` once it is gone.
    client: Option<TcpStream>,
    qemu: TcpStream,
    connecting: bool,
    /// From the client to QEMU, and back.
    up: Chunk,
    down: Chunk,
    up_ended: UpEnd,
    /// QEMU has ended its stream.
    down_ended: bool,
    /// QEMU's socket reports a hang-up whenever it is polled.
    hung: bool,
    /// Bytes that were read, in both directions, by all connections of the port.
    moved: Arc<AtomicU64>,
}

/// The end of the client's stream.
#[derive(Clone, Copy, Eq, PartialEq)]
enum UpEnd {
    /// Not yet.
    Open,
    /// The system has it; the relay or QEMU have not taken what is before it. Until then they may.
    Near(Instant),
    /// The relay has read it.
    Read(Instant),
    /// QEMU has been told.
    Told,
}

/// How a connection ends for the client.
enum End {
    Closed,
    Reset,
}

impl Connection {
    /// Begins to connect to QEMU.
    pub(super) fn open(
        client: TcpStream,
        target: SocketAddr,
        moved: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        let qemu = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        limit_buffers(&qemu)?;
        qemu.set_nonblocking(true)?;
        qemu.set_tcp_nodelay(true)?;
        match qemu.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(Self {
            client: Some(client),
            qemu: qemu.into(),
            connecting: true,
            up: Chunk::new(),
            down: Chunk::new(),
            up_ended: UpEnd::Open,
            down_ended: false,
            hung: false,
            moved,
        })
    }

    /// What to wait for at the client's socket. Errors are told in any case.
    pub(super) fn poll_client(&self) -> Option<PollFd<'_>> {
        let mut flags = PollFlags::empty();
        if self.up_ended == UpEnd::Open {
            flags |= PollFlags::RDHUP;
        }
        if self.reads_client() {
            flags |= PollFlags::IN;
        }
        if !self.down.is_empty() {
            flags |= PollFlags::OUT;
        }
        self.client.as_ref().map(|client| PollFd::new(client, flags))
    }

    /// What to wait for at QEMU's socket, which is left alone while it only repeats itself.
    pub(super) fn poll_qemu(&self) -> Option<PollFd<'_>> {
        if self.down_ended || self.hung && !self.down.is_empty() {
            return None;
        }
        let mut flags = PollFlags::empty();
        if self.connecting || !self.up.is_empty() {
            flags |= PollFlags::OUT;
        }
        if self.down.is_empty() {
            flags |= PollFlags::IN;
        }
        Some(PollFd::new(&self.qemu, flags))
    }

    /// When [`Self::advance`] is to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.up_ended {
            UpEnd::Near(limit) | UpEnd::Read(limit) if self.client.is_some() => Some(limit),
            _ => None,
        }
    }

    /// Does what can be done; false when the connection has ended.
    pub(super) fn advance(&mut self, seen: Seen, now: Instant) -> bool {
        let Err(end) = self.copy(seen, now) else { return true };
        if let (End::Reset, Some(client)) = (end, &self.client) {
            // Closing is then a reset. A client that is gone by now does not mind.
            let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
        }
        false
    }

    fn copy(&mut self, seen: Seen, now: Instant) -> Result<(), End> {
        // First of all: nothing of what a client sent before its reset is read any more.
        if seen.client.intersects(PollFlags::ERR | PollFlags::HUP) {
            self.lose_client();
        } else if seen.client.contains(PollFlags::RDHUP) && self.up_ended == UpEnd::Open {
            self.up_ended = UpEnd::Near(now + DRAIN);
        }
        if self.deadline().is_some_and(|limit| limit <= now) {
            self.lose_client();
        }
        if self.connecting {
            if seen.qemu.is_empty() {
                return Ok(());
            }
            if !matches!(self.qemu.take_error(), Ok(None)) {
                return Err(End::Reset);
            }
            self.connecting = false;
        }
        if !self.down_ended {
            self.copy_up(seen.client)?;
        }
        self.copy_down(seen.qemu)
    }

    fn copy_up(&mut self, client: PollFlags) -> Result<(), End> {
        if client.contains(PollFlags::IN) && self.reads_client() {
            match self.client.as_mut().map(|client| self.up.fill(client)) {
                Some(Ok(Some(0))) => {
                    let limit = self.deadline().unwrap_or_else(|| Instant::now() + DRAIN);
                    self.up_ended = UpEnd::Read(limit);
                }
                Some(Err(_)) => self.lose_client(),
                Some(Ok(Some(count))) => self.count(count),
                _ => {}
            }
        }
        self.up.drain(&mut self.qemu).map_err(|_| End::Reset)?;
        let ended = self.client.is_none() || matches!(self.up_ended, UpEnd::Read(_));
        if ended && self.up.is_empty() {
            self.tell_end();
        }
        Ok(())
    }

    fn copy_down(&mut self, qemu: PollFlags) -> Result<(), End> {
        let failed = qemu.contains(PollFlags::ERR);
        self.hung |= qemu.contains(PollFlags::HUP);
        if self.down.is_empty() && (failed || self.hung || qemu.contains(PollFlags::IN)) {
            match self.down.fill(&mut self.qemu) {
                Ok(Some(0)) => self.down_ended = true,
                Ok(count) => self.count(count.unwrap_or(0)),
                Err(_) => return Err(End::Reset),
            }
        }
        match &mut self.client {
            None => self.down.clear(),
            Some(client) => {
                if self.down.drain(client).is_err() {
                    self.lose_client();
                }
            }
        }
        match self.down.is_empty() {
            true if self.down_ended => Err(End::Closed),
            // What is left unsent has no way past a client that does not read.
            false if failed => Err(End::Reset),
            _ => Ok(()),
        }
    }

    fn count(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn reads_client(&self) -> bool {
        let open = matches!(self.up_ended, UpEnd::Open | UpEnd::Near(_));
        open && self.up.is_empty() && !self.connecting && !self.down_ended
    }

    /// Discards what the client has sent and what is for it, at once.
    fn lose_client(&mut self) {
        self.client = None;
        self.up.clear();
        self.down.clear();
        self.tell_end();
    }

    /// Ends the stream to QEMU; while there is no connection yet, [`Self::copy_up`] comes back.
    fn tell_end(&mut self) {
        if !self.connecting && self.up_ended != UpEnd::Told {
            self.up_ended = UpEnd::Told;
            // It fails when QEMU has reset the connection, which reading will tell.
            let _ = self.qemu.shutdown(Shutdown::Write);
        }
    }
}

/// Bytes on their way.
struct Chunk {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: vec![0; CHUNK].into_boxed_slice(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads once into an empty chunk: the count, 0 at the end of the stream, `None` when there is
    /// nothing at present.
    fn fill(&mut self, from: &mut TcpStream) -> io::Result<Option<usize>> {
        match from.read(&mut self.bytes) {
            Ok(count) => {
                (self.start, self.end) = (0, count);
                Ok(Some(count))
            }
            Err(error) if is_transient(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what the other side takes at present.
    fn drain(&mut self, to: &mut TcpStream) -> io::Result<()> {
        while !self.is_empty() {
            match to.write(&self.bytes[self.start..self.end]) {
                Ok(count) => self.start += count,
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether `poll` will say when to try again.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
