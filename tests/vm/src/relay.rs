//! A relay between the tests and the ports that QEMU forwards into the guest.
//!
//! QEMU's user-mode network (libslirp 4.7) aborts the whole process when it polls a connection for
//! writing, that connection is reset, and the buffer towards the guest is full: it reads into no
//! room at all ("soread: Assertion `buf_len != 0' failed"). A library under test resets connections
//! on purpose while data goes both ways. So the tests connect to the relay, and QEMU never sees
//! more of their ends than the end of a stream (`connection.rs` has the rules).
//!
//! One thread per guest serves all of its ports and connections.

mod connection;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use connection::{Connection, Seen};

/// What the kernel is told to buffer on each side of each connection, in bytes; it takes twice as
/// much for its bookkeeping. Enough for the guest's emulated processors, and little to be late.
const KERNEL_BUFFER: usize = 128 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The addresses that tests connect to, one for each of QEMU's. Dropping it ends every connection,
/// by resets if need be: QEMU must have ended before.
pub(crate) struct Relay {
    addresses: Vec<SocketAddr>,
    moved: Vec<Arc<AtomicU64>>,
    orders: mpsc::Sender<Order>,
    /// Wakes the thread by a byte for an order, and ends it by its end.
    waker: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Begin or cease to listen.
struct Order {
    port: usize,
    listen: bool,
    done: mpsc::Sender<io::Result<()>>,
}

impl Relay {
    /// Listens for each of `targets`.
    pub(crate) fn start(targets: &[SocketAddr]) -> io::Result<Self> {
        let ports = targets.iter().map(|&to| Port::open(to)).collect::<io::Result<Vec<_>>>()?;
        let addresses = ports.iter().map(|port| port.address).collect();
        let moved = ports.iter().map(|port| Arc::clone(&port.moved)).collect();
        let (waker, wake) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (orders, received) = mpsc::channel();
        let server = Server { ports, connections: Vec::new(), orders: received, wake };
        let thread =
            thread::Builder::new().name("relay".to_owned()).spawn(move || server.serve())?;
        Ok(Self { addresses, moved, orders, waker: Some(waker), thread: Some(thread) })
    }

    /// Where the port (from 0) is reached.
    pub(crate) fn address(&self, port: usize) -> Option<SocketAddr> {
        self.addresses.get(port).copied()
    }

    /// Bytes that all connections of the port (from 0) have moved, in both directions.
    pub(crate) fn moved(&self, port: usize) -> Option<u64> {
        self.moved.get(port).map(|moved| moved.load(Ordering::Relaxed))
    }

    /// Begins to listen at a port (from 0) or ceases to, in which case the system refuses new
    /// connections and nobody else is given the port. What was accepted before lives on. Either may
    /// be so already.
    pub(crate) fn listen(&self, port: usize, listen: bool) -> io::Result<()> {
        let gone = || io::Error::other("the relay has ended");
        let (done, answer) = mpsc::channel();
        self.orders.send(Order { port, listen, done }).map_err(|_| gone())?;
        self.waker.as_ref().ok_or_else(gone)?.write_all(&[0])?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.waker.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A port of the relay's and where it leads.
struct Port {
    address: SocketAddr,
    target: SocketAddr,
    /// Bound and never listening: keeps the port while nobody listens.
    _claim: Socket,
    listener: Option<TcpListener>,
    moved: Arc<AtomicU64>,
}

impl Port {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let claim = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let unknown = || io::Error::other("the bound address is no IP address");
        let address = claim.local_addr()?.as_socket().ok_or_else(unknown)?;
        let mut port =
            Self { address, target, _claim: claim, listener: None, moved: Arc::default() };
        port.listen()?;
        Ok(port)
    }

    fn listen(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            let socket = bound(self.address)?;
            // What is accepted inherits the sizes, and an announced window cannot shrink later.
            limit_buffers(&socket)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            self.listener = Some(socket.into());
        }
        Ok(())
    }

    /// Takes all connections that wait. A failure of the system's (no descriptors left) ends the
    /// listening, so that it shows and does not make the thread spin.
    fn accept(&mut self, connections: &mut Vec<Connection>) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                // When QEMU cannot even be asked, the client sees its connection end.
                Ok((client, _)) => connections
                    .extend(Connection::open(client, self.target, Arc::clone(&self.moved)).ok()),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => self.listener = None,
                },
            }
        }
    }
}

/// A socket bound to `address` together with others that do not listen or have been closed.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn limit_buffers(socket: &Socket) -> io::Result<()> {
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)
}

/// What the thread owns.
struct Server {
    ports: Vec<Port>,
    connections: Vec<Connection>,
    orders: mpsc::Receiver<Order>,
    wake: UnixStream,
}

impl Server {
    /// Serves until the handle is dropped.
    fn serve(mut self) {
        while let Ok(ready) = self.wait() {
            if ready.woken && !self.obey() {
                return;
            }
            // Of the connections that were waited for; new ones come behind them.
            let mut seen = ready.connections.into_iter();
            let now = Instant::now();
            self.connections
                .retain_mut(|connection| connection.advance(seen.next().unwrap_or_default(), now));
            for port in &mut self.ports {
                port.accept(&mut self.connections);
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        let listeners = self.ports.iter().filter_map(|port| port.listener.as_ref());
        fds.extend(listeners.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let mut places = Vec::with_capacity(self.connections.len());
        for connection in &self.connections {
            let client = connection.poll_client().map(|fd| push(&mut fds, fd));
            let qemu = connection.poll_qemu().map(|fd| push(&mut fds, fd));
            places.push((client, qemu));
        }
        let deadline = self.connections.iter().filter_map(Connection::deadline).min();
        let limit = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ }
        });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = |place: Option<usize>| {
            place.map_or_else(PollFlags::empty, |place| fds[place].revents())
        };
        Ok(Ready {
            woken: !fds[0].revents().is_empty(),
            connections: places
                .into_iter()
                .map(|(client, qemu)| Seen { client: seen(client), qemu: seen(qemu) })
                .collect(),
        })
    }

    /// Does what was ordered; false when the handle is gone.
    fn obey(&mut self) -> bool {
        let mut bytes = [0; 64];
        match self.wake.read(&mut bytes) {
            Ok(0) => return false,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return false,
            _ => {}
        }
        for order in self.orders.try_iter() {
            let result = match self.ports.get_mut(order.port) {
                Some(port) if order.listen => port.listen(),
                Some(port) => {
                    // Who has been connected by the system stays connected.
                    port.accept(&mut self.connections);
                    port.listener = None;
                    Ok(())
                }
                None => Err(io::Error::other("the relay has no such port")),
            };
            // Who ordered waits for the answer.
            let _ = order.done.send(result);
        }
        true
    }
}

/// Appends and tells where.
fn push<T>(all: &mut Vec<T>, one: T) -> usize {
    all.push(one);
    all.len() - 1
}

/// What a wait has found; `connections` in the order of the server's.
struct Ready {
    woken: bool,
    connections: Vec<Seen>,
}
