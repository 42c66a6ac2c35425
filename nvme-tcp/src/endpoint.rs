//! The transport, its endpoints and associations.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use nvme_core::nqn::Nqn;
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Endpoint, Queue, QueueParams, Registers, Transport, TransportError, TransportKind,
    UrlError,
};

use crate::conn::Config;
use crate::counters::{Counters, Ledger};
use crate::options::Options;
use crate::queue::TcpQueue;
use crate::socket::{Route, TcpStream};
use crate::switch::Switch;
use crate::url;

/// NVMe over TCP, for URLs `tcp://HOST[:PORT]/NQN?parameters`.
///
/// The port is 4420 unless given, 8009 for the discovery subsystem, which is meant when the URL
/// names none. [`Options`] lists the parameters.
#[derive(Clone, Debug, Default)]
pub struct TcpTransport {
    defaults: Options,
    ledger: Arc<Ledger>,
}

impl TcpTransport {
    /// The transport with default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport with other defaults for what a URL leaves open.
    #[must_use]
    pub fn with_defaults(defaults: Options) -> Self {
        Self { defaults, ledger: Arc::default() }
    }

    /// What all connections, of this value and of its clones, have done so far. Any thread may ask;
    /// a connection that is in use may be a few calls ahead.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.ledger.read()
    }
}

impl Transport for TcpTransport {
    fn scheme(&self) -> &'static str {
        "tcp"
    }

    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError> {
        let parsed = url::parse(url, &self.defaults)?;
        Ok(Arc::new(TcpEndpoint {
            nqn: parsed.nqn,
            route: Arc::new(Route {
                target: parsed.target,
                address: parsed.address,
                options: parsed.options,
                ledger: Arc::clone(&self.ledger),
            }),
        }))
    }
}

/// The address of one controller's port.
#[derive(Debug)]
struct TcpEndpoint {
    nqn: Nqn,
    route: Arc<Route>,
}

impl Endpoint for TcpEndpoint {
    fn address(&self) -> &str {
        &self.route.address
    }

    fn subsystem_nqn(&self) -> Option<&str> {
        Some(self.nqn.as_str())
    }

    fn associate(&self, _now: Instant) -> Result<Box<dyn Association>, TransportError> {
        Ok(Box::new(TcpAssociation {
            route: Arc::clone(&self.route),
            peer: Arc::new(OnceLock::new()),
            switches: Vec::new(),
            killed: false,
        }))
    }
}

/// The connections of one attempt to reach a controller.
#[derive(Debug)]
struct TcpAssociation {
    route: Arc<Route>,
    peer: Arc<OnceLock<SocketAddr>>,
    switches: Vec<Weak<Switch>>,
    killed: bool,
}

impl Association for TcpAssociation {
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
        if self.killed {
            return Err(TransportError::Closed { address: self.route.address.clone() });
        }
        let switch = Arc::new(Switch::default());
        self.switches.retain(|s| s.strong_count() > 0);
        self.switches.push(Arc::downgrade(&switch));
        let stream = TcpStream::begin(Arc::clone(&self.route), Arc::clone(&self.peer), switch)?;
        let options = &self.route.options;
        let config = Config {
            entries: params.entries,
            admin: params.qid == 0,
            header_digest: options.header_digest,
            data_digest: options.data_digest,
            max_r2t: options.max_r2t,
            hpda: 0,
        };
        Ok(Box::new(TcpQueue::new(stream, config, params.open_timeout, now)))
    }

    fn kill(&mut self) {
        self.killed = true;
        for switch in self.switches.drain(..).filter_map(|s| s.upgrade()) {
            switch.cut();
        }
    }

    fn max_transfer(&self) -> Option<usize> {
        None
    }
}

impl Drop for TcpAssociation {
    fn drop(&mut self) {
        self.kill();
    }
}
