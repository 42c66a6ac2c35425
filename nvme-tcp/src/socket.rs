//! TCP sockets that never block: resolving, connecting, sending, receiving.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nvme_core::transport::TransportError;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::counters::{Ledger, StreamCounters};
use crate::options::Options;
use crate::stream::Stream;
use crate::switch::Switch;
use crate::url::Target;

/// What all sockets of one association have in common.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) target: Target,
    pub(crate) address: String,
    pub(crate) options: Options,
    pub(crate) ledger: Arc<Ledger>,
}

/// A TCP connection, from before its name is resolved.
pub(crate) struct TcpStream {
    route: Arc<Route>,
    /// The address that the first queue of the association reached; all others go there too.
    peer: Arc<OnceLock<SocketAddr>>,
    switch: Arc<Switch>,
    counters: Arc<StreamCounters>,
    stage: Stage,
    socket: Option<Arc<Socket>>,
    candidates: std::vec::IntoIter<SocketAddr>,
    last_error: Option<String>,
    /// Sockets given up during the present poll. Kept open until the next, so that a new socket does
    /// not get the number of the descriptor that the caller is still waiting on.
    retired: Vec<Arc<Socket>>,
}

enum Stage {
    Resolving {
        answer: Receiver<io::Result<Vec<SocketAddr>>>,
        event: Arc<OwnedFd>,
    },
    /// The next candidate is to be tried.
    Choosing,
    Connecting(SocketAddr),
    Open,
}

impl TcpStream {
    /// Begins to connect.
    pub(crate) fn begin(
        route: Arc<Route>,
        peer: Arc<OnceLock<SocketAddr>>,
        switch: Arc<Switch>,
    ) -> Result<Self, TransportError> {
        let known = match (&route.target, peer.get()) {
            (_, Some(known)) => Some(*known),
            (Target::Address(address), None) => Some(*address),
            (Target::Name(..), None) => None,
        };
        let (stage, candidates) = match (&route.target, known) {
            (Target::Name(name, port), None) => (resolve(name.clone(), *port, &switch), Vec::new()),
            (_, known) => (Ok(Stage::Choosing), known.into_iter().collect()),
        };
        let stage = stage.map_err(|e| connect_error(&route.address, &e.to_string()))?;
        let mut this = Self {
            counters: route.ledger.open(),
            route,
            peer,
            switch,
            stage,
            socket: None,
            candidates: candidates.into_iter(),
            last_error: None,
            retired: Vec::new(),
        };
        // Starts the handshake, and finds at once what is wrong with the options.
        this.poll_open()?;
        Ok(this)
    }

    /// Tries the next candidate.
    fn choose(&mut self) -> Result<(), TransportError> {
        let Some(to) = self.candidates.next() else {
            let reason = self.last_error.take();
            let reason = reason.as_deref().unwrap_or("the name has no usable address");
            return Err(connect_error(&self.route.address, reason));
        };
        match start(to, &self.route.options) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                self.switch.hold_socket(&socket);
                self.retired.extend(self.socket.replace(socket));
                self.stage = Stage::Connecting(to);
            }
            Err(reason) => self.last_error = Some(reason),
        }
        Ok(())
    }

    /// Whether the handshake is done; an error is this candidate's.
    fn connected(&self) -> Result<bool, String> {
        let Some(socket) = &self.socket else { return Ok(false) };
        match socket.take_error() {
            Ok(None) => {}
            Ok(Some(e)) | Err(e) => return Err(e.to_string()),
        }
        match (socket.peer_addr(), socket.local_addr()) {
            // With nobody listening on a local port, the port chosen for this end may be the very
            // same, and the socket is then connected to itself.
            (Ok(peer), Ok(local)) if peer == local => Err("nobody listens there".to_owned()),
            (Ok(_), _) => Ok(true),
            (Err(e), _) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            (Err(e), _) => Err(e.to_string()),
        }
    }
}

impl Stream for TcpStream {
    fn poll_open(&mut self) -> Result<bool, TransportError> {
        self.retired.clear();
        loop {
            match &self.stage {
                Stage::Open => return Ok(true),
                Stage::Resolving { answer, .. } => {
                    let found = match answer.try_recv() {
                        Ok(found) => found,
                        Err(TryRecvError::Empty) => return Ok(false),
                        Err(TryRecvError::Disconnected) => {
                            Err(io::Error::other("the resolver ended without an answer"))
                        }
                    };
                    let found = found.map_err(|e| {
                        connect_error(&self.route.address, &format!("resolving the name: {e}"))
                    })?;
                    self.candidates = found.into_iter();
                    self.stage = Stage::Choosing;
                }
                Stage::Choosing => self.choose()?,
                Stage::Connecting(to) => match self.connected() {
                    Ok(false) => return Ok(false),
                    Ok(true) => {
                        let _ = self.peer.set(*to);
                        self.stage = Stage::Open;
                    }
                    Err(reason) => {
                        self.last_error = Some(reason);
                        self.stage = Stage::Choosing;
                    }
                },
            }
        }
    }

    fn read(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        self.counters.receive();
        Ok(match buffers {
            [one] => rustix::io::read(socket.as_ref(), &mut **one)?,
            all => rustix::io::readv(socket.as_ref(), all)?,
        })
    }

    fn write(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        self.counters.send();
        // A library must not rely on the program to ignore SIGPIPE.
        Ok(match buffers {
            [one] => rustix::net::send(socket.as_ref(), one, SendFlags::NOSIGNAL)?,
            all => {
                let mut control = SendAncillaryBuffer::default();
                rustix::net::sendmsg(socket.as_ref(), all, &mut control, SendFlags::NOSIGNAL)?
            }
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match (&self.stage, &self.socket) {
            (Stage::Resolving { event, .. }, _) => Some(event.as_fd()),
            (_, Some(socket)) => Some(socket.as_fd()),
            (_, None) => None,
        }
    }

    fn is_cut(&self) -> bool {
        self.switch.is_cut()
    }

    fn cut(&mut self) {
        // Orderly, so that a termination request still goes out; closing throws the rest away.
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    fn address(&self) -> &str {
        &self.route.address
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // The association may live on; the socket must not.
        self.switch.cut();
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("address", &self.route.address)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

fn connect_error(address: &str, reason: &str) -> TransportError {
    TransportError::Connect { address: address.to_owned(), reason: reason.to_owned() }
}

/// Resolves a name in a thread of its own, because the system's resolver blocks.
fn resolve(name: String, port: u16, switch: &Switch) -> io::Result<Stage> {
    let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, answer) = sync_channel(1);
    let signal = Arc::clone(&event);
    std::thread::Builder::new().name("nvme-tcp-resolve".to_owned()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody may be waiting any more.
        let _ = sender.send(found);
        let _ = rustix::io::write(signal.as_ref(), &1u64.to_ne_bytes());
    })?;
    switch.hold_event(&event);
    Ok(Stage::Resolving { answer, event })
}

/// A socket on its way to `to`.
fn start(to: SocketAddr, options: &Options) -> Result<Socket, String> {
    let doing = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    if let Some(from) = options.host_traddr
        && from.is_ipv4() != to.is_ipv4()
    {
        return Err(format!("host_traddr {from} and {} are of different families", to.ip()));
    }
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
        .map_err(doing("creating a socket"))?;
    socket.set_nonblocking(true).map_err(doing("making the socket non-blocking"))?;
    socket.set_tcp_nodelay(true).map_err(doing("setting TCP_NODELAY"))?;
    // What is unsent when the socket is closed belongs to commands that have been given up.
    socket.set_linger(Some(Duration::ZERO)).map_err(doing("setting SO_LINGER"))?;
    set_congestion(&socket, to, options.congestion.as_deref())?;
    if let Some(priority) = options.priority {
        socket.set_priority(priority).map_err(doing("setting the priority"))?;
    }
    if let Some(tos) = options.tos {
        let result = if to.is_ipv4() {
            socket.set_tos_v4(tos.into())
        } else {
            socket.set_tclass_v6(tos.into())
        };
        result.map_err(doing("setting the type of service"))?;
    }
    if let Some(limit) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(limit)).map_err(doing("setting TCP_USER_TIMEOUT"))?;
    }
    if let Some(iface) = &options.host_iface {
        socket
            .bind_device(Some(iface.as_bytes()))
            .map_err(|e| format!("binding to interface {iface}: {e}"))?;
    }
    if let Some(from) = options.host_traddr {
        socket
            .bind(&SocketAddr::new(from, 0).into())
            .map_err(|e| format!("binding to {from}: {e}"))?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => Ok(socket),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Ok(socket)
        }
        Err(e) => Err(e.to_string()),
    }
}

/// A way to control congestion that does not pace what is sent; every kernel has it, and every program
/// may choose it.
const UNPACED: &str = "reno";

/// Chooses how the socket controls congestion. Within this machine there is no path whose rate could be
/// found out: where the system's choice is `bbr`, its estimate of one stays low for seconds after a
/// receiver was slow once, and a timer holds back what could be sent.
fn set_congestion(socket: &Socket, to: SocketAddr, asked: Option<&str>) -> Result<(), String> {
    match asked {
        Some(name) => socket
            .set_tcp_congestion(name.as_bytes())
            .map_err(|e| format!("setting congestion control {name}: {e}")),
        None => {
            if to.ip().is_loopback() {
                // Otherwise it is as the system has chosen, which is slower and no error.
                let _ = socket.set_tcp_congestion(UNPACED.as_bytes());
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn congestion(options: &Options) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let to = listener.local_addr().map_err(|e| e.to_string())?;
        let name = start(to, options)?.tcp_congestion().map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }

    #[test]
    fn nothing_is_paced_on_loopback_unless_that_is_asked_for() {
        assert_eq!(congestion(&Options::default()).as_deref(), Ok(UNPACED));
        let file = "/proc/sys/net/ipv4/tcp_congestion_control";
        let system = std::fs::read_to_string(file).unwrap().trim().to_owned();
        let asked = Options { congestion: Some(system.clone()), ..Options::default() };
        assert_eq!(congestion(&asked), Ok(system));
        let unknown = Options { congestion: Some("no-such-one".to_owned()), ..Options::default() };
        let error = congestion(&unknown).unwrap_err();
        assert!(error.starts_with("setting congestion control no-such-one: "), "{error}");
    }
}
