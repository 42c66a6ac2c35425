//! The network as the host and the targets see it: streams, and a transport that makes queues of the
//! library's own TCP core on them.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Endpoint, Queue, QueueParams, Registers, Transport, TransportError, TransportKind,
    UrlError,
};
use nvme_target::Wire;
use nvme_tcp::conn::Config;
use nvme_tcp::{Stream, TcpQueue};

use crate::net::{Net, Stage, Way};

/// The host's end of a connection.
#[derive(Debug)]
struct HostEnd {
    net: Arc<Net>,
    link: usize,
    address: Arc<str>,
}

impl Stream for HostEnd {
    fn poll_open(&mut self) -> Result<bool, TransportError> {
        match self.net.lock().stage(self.link) {
            Stage::Connecting => Ok(false),
            Stage::Open => Ok(true),
            Stage::Refused => Err(TransportError::Connect {
                address: self.address.to_string(),
                reason: "refused".into(),
            }),
        }
    }

    fn read(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut net = self.net.lock();
        let mut total = 0;
        for buffer in buffers.iter_mut().filter(|b| !b.is_empty()) {
            match net.read(self.link, Way::Down, buffer) {
                Ok(n) => total += n,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(total)
    }

    fn write(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|b| b.iter().copied()).collect();
        self.net.lock().write(self.link, Way::Up, &bytes)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_cut(&self) -> bool {
        self.net.lock().is_cut(self.link)
    }

    fn cut(&mut self) {
        self.net.lock().finish(self.link, Way::Up);
    }

    fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        self.net.lock().host_leaves(self.link);
    }
}

/// A target's end of a connection.
#[derive(Debug)]
pub struct TargetEnd {
    net: Arc<Net>,
    link: usize,
}

impl TargetEnd {
    /// The end of a connection that has reached a port.
    #[must_use]
    pub const fn new(net: Arc<Net>, link: usize) -> Self {
        Self { net, link }
    }
}

impl Read for TargetEnd {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.net.lock().read(self.link, Way::Up, out)
    }
}

impl Write for TargetEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.net.lock().write(self.link, Way::Down, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for TargetEnd {
    fn finish(&mut self) -> io::Result<()> {
        self.net.lock().finish(self.link, Way::Down);
        Ok(())
    }
}

impl Drop for TargetEnd {
    fn drop(&mut self) {
        self.net.lock().target_leaves(self.link);
    }
}

/// The transport for URLs `sim://PORT/NQN`.
#[derive(Debug)]
pub struct SimTransport {
    net: Arc<Net>,
    digests: (bool, bool),
}

impl SimTransport {
    /// A transport on a network, with header and data digests or without.
    #[must_use]
    pub const fn new(net: Arc<Net>, digests: (bool, bool)) -> Self {
        Self { net, digests }
    }
}

impl Transport for SimTransport {
    fn scheme(&self) -> &'static str {
        "sim"
    }

    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError> {
        let bad = || UrlError { url: url.into(), reason: "must be sim://PORT/NQN".into() };
        let rest = url.strip_prefix("sim://").ok_or_else(bad)?;
        let (port, nqn) = rest.split_once('/').ok_or_else(bad)?;
        Ok(Arc::new(SimEndpoint {
            net: Arc::clone(&self.net),
            port: port.parse().map_err(|_| bad())?,
            address: format!("sim://{port}").into(),
            nqn: nqn.into(),
            digests: self.digests,
        }))
    }
}

#[derive(Clone, Debug)]
struct SimEndpoint {
    net: Arc<Net>,
    port: usize,
    address: Arc<str>,
    nqn: String,
    digests: (bool, bool),
}

impl Endpoint for SimEndpoint {
    fn address(&self) -> &str {
        &self.address
    }

    fn subsystem_nqn(&self) -> Option<&str> {
        Some(&self.nqn)
    }

    fn associate(&self, _: Instant) -> Result<Box<dyn Association>, TransportError> {
        Ok(Box::new(SimAssociation { endpoint: self.clone(), links: Vec::new(), killed: false }))
    }
}

struct SimAssociation {
    endpoint: SimEndpoint,
    links: Vec<usize>,
    killed: bool,
}

impl Association for SimAssociation {
    fn kind(&self) -> TransportKind {
        TransportKind::Fabrics
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        None
    }

    fn open_queue(
        &mut self,
        params: QueueParams,
        now: Instant,
    ) -> Result<Box<dyn Queue>, TransportError> {
        let SimEndpoint { net, port, address, digests, .. } = &self.endpoint;
        if self.killed {
            return Err(TransportError::Closed { address: address.to_string() });
        }
        let link = {
            let mut net = net.lock();
            if net.open_links() >= net.most_links {
                return Err(TransportError::Connect {
                    address: address.to_string(),
                    reason: "too many open files".into(),
                });
            }
            net.connect(*port)
        };
        self.links.push(link);
        let stream = HostEnd { net: Arc::clone(net), link, address: Arc::clone(address) };
        let config = Config {
            entries: params.entries,
            admin: params.qid == 0,
            header_digest: digests.0,
            data_digest: digests.1,
            ..Config::default()
        };
        Ok(Box::new(TcpQueue::new(stream, config, params.open_timeout, now)))
    }

    fn kill(&mut self) {
        self.killed = true;
        let mut net = self.endpoint.net.lock();
        for link in self.links.drain(..) {
            net.host_cuts(link);
        }
    }

    fn max_transfer(&self) -> Option<usize> {
        None
    }
}

impl Drop for SimAssociation {
    fn drop(&mut self) {
        self.kill();
    }
}
