//! What sockets alone can do: the bytes of NVMe/TCP I/O, in batches as large as they come, over
//! loopback, with no protocol work on either side.
//!
//! A request is 72 bytes, and the data behind it where it writes; an answer is 24 bytes, and the data
//! behind it where it reads, as in NVMe/TCP with the data in the capsule and success in the last data
//! PDU. Both sides poll sockets that do not block and look at nothing but how many bytes came. A side
//! that has found nothing for a while lets others have its processor, for on a busy machine the other
//! side may be waiting for that one.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use socket2::SockRef;

/// Bytes of a command capsule without data.
const CAPSULE: usize = 72;

/// Bytes of a data header, or of a response.
const ANSWER: usize = 24;

/// Bytes received at once, at most.
const WINDOW: usize = 256 << 10;

/// The same where each request has memory of its own, unless an answer is longer.
const WINDOW_APART: usize = 64 << 10;

/// Slices in one write, at most.
const SLICES: usize = 64;

/// What one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The data goes to the server; otherwise it comes from there.
    pub write: bool,
    /// Bytes of data, at least 1.
    pub bytes: usize,
    /// Requests under way at once, at least 1.
    pub depth: usize,
    /// Each of those has memory of its own, as the requests of a program have. Otherwise all have the same, which
    /// stays in the processor's cache.
    pub apart: bool,
}

impl Shape {
    const fn request(&self) -> usize {
        CAPSULE + if self.write { self.bytes } else { 0 }
    }

    const fn answer(&self) -> usize {
        ANSWER + if self.write { 0 } else { self.bytes }
    }
}

/// What [`Floor::run`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// System calls that sent something.
    pub sends: u64,
    /// System calls that received something.
    pub receives: u64,
    /// System calls that found nothing to receive, or no room to send.
    pub idle: u64,
}

/// Two sockets, and the thread behind the second.
#[derive(Debug)]
pub struct Floor {
    socket: TcpStream,
    server: Option<JoinHandle<io::Result<()>>>,
    shape: Shape,
    /// Received into in turn.
    windows: Vec<Vec<u8>>,
    out: Outgoing,
}

impl Floor {
    /// Connects two sockets over loopback.
    ///
    /// # Errors
    /// What the operating system says about sockets and threads.
    pub fn new(shape: Shape) -> io::Result<Self> {
        let shape = Shape { bytes: shape.bytes.max(1), depth: shape.depth.max(1), ..shape };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let socket = ready(TcpStream::connect(listener.local_addr()?)?)?;
        let (peer, _) = listener.accept()?;
        let peer = ready(peer)?;
        let serve = move || serve(peer, shape);
        let server = std::thread::Builder::new().name("floor".into()).spawn(serve)?;
        Ok(Self {
            socket,
            server: Some(server),
            shape,
            windows: windows(shape),
            out: Outgoing::new(shape.request(), if shape.apart { shape.depth } else { 1 }),
        })
    }

    /// Does `count` requests, and calls `each` with the number of those that have ended whenever
    /// some have.
    ///
    /// # Errors
    /// What the operating system says about a socket.
    pub fn run(&mut self, count: u64, mut each: impl FnMut(u64)) -> io::Result<Calls> {
        let (mut sent, mut ended, mut received) = (0, 0, 0);
        let mut calls = Calls::default();
        let answer = self.shape.answer() as u64;
        let mut rest = Rest::default();
        while ended < count {
            let free = (self.shape.depth as u64 - (sent - ended)).min(count - sent);
            self.out.add(free);
            sent += free;
            self.out.send(&mut self.socket, &mut calls)?;
            let Some(window) = self.windows.first_mut() else { break };
            let n = receive(&mut self.socket, window, &mut calls)?;
            rest.found(n);
            if n > 0 {
                self.windows.rotate_left(1);
                received += n as u64;
                let before = ended;
                ended = received / answer;
                if ended > before {
                    each(ended - before);
                }
            }
        }
        Ok(calls)
    }
}

/// What the answers of a shape are received into.
fn windows(shape: Shape) -> Vec<Vec<u8>> {
    if !shape.apart {
        return vec![vec![0; WINDOW]];
    }
    let bytes = shape.answer().max(WINDOW_APART);
    vec![vec![0; bytes]; (shape.depth * shape.answer()).div_ceil(bytes)]
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Errors mean that it is over already.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn ready(socket: TcpStream) -> io::Result<TcpStream> {
    // As the library and its target do on loopback: nothing is to be paced.
    SockRef::from(&socket).set_tcp_congestion(b"reno")?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn serve(mut socket: TcpStream, shape: Shape) -> io::Result<()> {
    let mut window = vec![0; WINDOW];
    let mut out = Outgoing::new(shape.answer(), 1);
    let mut received = 0;
    let mut calls = Calls::default();
    let mut rest = Rest::default();
    loop {
        match receive(&mut socket, &mut window, &mut calls) {
            Ok(n) => {
                rest.found(n);
                received += n;
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        out.add((received / shape.request()) as u64);
        received %= shape.request();
        out.send(&mut socket, &mut calls)?;
    }
}

/// Looks in a row that may find nothing.
const VAIN: u32 = 100;

/// How often nothing has been found in a row.
#[derive(Debug, Default)]
struct Rest(u32);

impl Rest {
    fn found(&mut self, bytes: usize) {
        self.0 = if bytes > 0 { 0 } else { self.0 + 1 };
        if self.0 > VAIN {
            self.0 = 0;
            std::thread::yield_now();
        }
    }
}

/// Bytes received, 0 if there were none.
fn receive(socket: &mut TcpStream, window: &mut [u8], calls: &mut Calls) -> io::Result<usize> {
    match socket.read(window) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(n) => {
            calls.receives += 1;
            Ok(n)
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            calls.idle += 1;
            Ok(0)
        }
        Err(e) => Err(e),
    }
}

/// Units of one size on their way out, each from the next of some pieces of memory.
#[derive(Debug)]
struct Outgoing {
    units: Vec<Vec<u8>>,
    /// Bytes of one.
    unit: usize,
    bytes: usize,
}

impl Outgoing {
    fn new(unit: usize, pieces: usize) -> Self {
        Self { units: vec![vec![0; unit]; pieces], unit, bytes: 0 }
    }

    fn add(&mut self, units: u64) {
        self.bytes += units as usize * self.unit;
    }

    /// Sends until nothing is left or the socket takes no more.
    fn send(&mut self, socket: &mut TcpStream, calls: &mut Calls) -> io::Result<()> {
        while self.bytes > 0 {
            let count = self.bytes.div_ceil(self.unit);
            // Of the first a part may have been sent.
            let sent = count * self.unit - self.bytes;
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = count.min(SLICES);
            for (slice, unit) in slices.iter_mut().zip(self.units.iter().cycle()).take(used) {
                *slice = IoSlice::new(unit);
            }
            slices[0].advance(sent);
            match socket.write_vectored(&slices[..used]) {
                Ok(n) => {
                    calls.sends += 1;
                    self.bytes -= n.min(self.bytes);
                    let done = (sent + n) / self.unit;
                    let pieces = self.units.len();
                    self.units.rotate_left(done % pieces);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    calls.idle += 1;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_answered_once() {
        for (write, apart) in [(false, false), (false, true), (true, false), (true, true)] {
            for (bytes, depth) in [(1, 1), (4096, 32), (300_000, 3)] {
                let mut floor = Floor::new(Shape { write, bytes, depth, apart }).unwrap();
                let mut ended = 0;
                let calls = floor.run(100, |n| ended += n).unwrap();
                assert_eq!(ended, 100);
                assert!(calls.sends > 0 && calls.receives > 0);
                // Nothing is left over that a second run would take for its own.
                ended = 0;
                floor.run(50, |n| ended += n).unwrap();
                assert_eq!(ended, 50);
            }
        }
    }
}
