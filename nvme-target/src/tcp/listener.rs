//! Listening sockets, and the claim on a port that outlives them.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A claim on an address: a socket that is bound and never listens. While a listener is disabled, hosts are refused,
/// and yet nobody else is given the port.
#[derive(Debug)]
pub(crate) struct Claim {
    _socket: Socket,
    addr: SocketAddr,
}

impl Claim {
    /// Claims `addr`; port 0 takes a free one.
    pub fn new(addr: SocketAddr) -> io::Result<Self> {
        let socket = bound(addr)?;
        let unknown = || io::Error::other("the bound address is no IP address");
        let addr = socket.local_addr()?.as_socket().ok_or_else(unknown)?;
        Ok(Self { _socket: socket, addr })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Begins to listen.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let socket = bound(self.addr)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from_std(socket.into()))
    }
}

/// A socket bound to `addr`, together with others that do not listen or have been closed.
fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}
