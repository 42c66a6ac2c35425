//! A peer between host and target that passes on whole PDUs, and at a chosen one hangs up.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A direction of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the host to the target.
    Up,
    /// From the target to the host.
    Down,
}

/// Where to hang up.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub way: Way,
    /// After so many PDUs that way, over all connections.
    pub after: u64,
    /// And so many bytes of the next one.
    pub bytes: usize,
}

/// A proxy that hangs up once, and after that passes everything on.
pub struct Proxy {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    target: SocketAddr,
    cut: Cut,
    passed: AtomicU64,
    done: AtomicBool,
    ended: AtomicBool,
}

impl Proxy {
    pub fn new(target: SocketAddr, cut: Cut) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("its address"),
            target,
            cut,
            passed: AtomicU64::new(0),
            done: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&own, &listener));
        Self { shared, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Whether it has hung up.
    pub fn has_cut(&self) -> bool {
        self.shared.done.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the thread, which then sees that it is to end.
        let _ = TcpStream::connect(self.shared.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections = Vec::new();
    for host in listener.incoming() {
        if shared.ended.load(Ordering::Acquire) {
            break;
        }
        let (Ok(host), Ok(target)) = (host, TcpStream::connect(shared.target)) else { continue };
        for stream in [&host, &target] {
            let _ = stream.set_nodelay(true);
        }
        for (way, from, to) in [(Way::Up, &host, &target), (Way::Down, &target, &host)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let shared = Arc::clone(shared);
            connections.push(std::thread::spawn(move || {
                let _ = pass_on(&shared, way, &from, &to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            }));
        }
        connections.retain(|thread| !thread.is_finished());
    }
}

/// Passes PDUs on until a side closes, or it is time to hang up.
fn pass_on(
    shared: &Shared,
    way: Way,
    mut from: &TcpStream,
    mut to: &TcpStream,
) -> std::io::Result<()> {
    let mut pdu = vec![0; 8];
    loop {
        // The common header: type, flags, header length, data offset, length of all (TCP 1.1 §3.1).
        pdu.resize(8, 0);
        from.read_exact(&mut pdu)?;
        let len = u32::from_le_bytes([pdu[4], pdu[5], pdu[6], pdu[7]]) as usize;
        pdu.resize(len.max(8), 0);
        from.read_exact(&mut pdu[8..])?;
        if way == shared.cut.way && !shared.done.load(Ordering::Acquire) {
            let number = shared.passed.fetch_add(1, Ordering::AcqRel);
            if number == shared.cut.after {
                to.write_all(&pdu[..shared.cut.bytes.min(pdu.len())])?;
                shared.done.store(true, Ordering::Release);
                return Ok(());
            }
        }
        to.write_all(&pdu)?;
    }
}
