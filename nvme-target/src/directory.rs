//! Everything that the connections of a target share: its subsystems, its listeners as discovery shows them, faults
//! and counters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nvme_core::nqn::Nqn;
use parking_lot::Mutex;

use crate::aer::AsyncEvent;
use crate::config::SubsystemConfig;
use crate::error::TargetError;
use crate::fault::Faults;
use crate::stats::Counters;
use crate::subsystem::Subsystem;
use crate::transport::Transport;

#[derive(Debug)]
pub(crate) struct Directory {
    pub faults: Faults,
    pub counters: Counters,
    pub transport: Transport,
    discovery: Arc<Subsystem>,
    state: Mutex<Catalogue>,
}

/// What the discovery log is made from.
#[derive(Debug, Default)]
struct Catalogue {
    subsystems: BTreeMap<Nqn, Arc<Subsystem>>,
    listeners: Vec<ListenerEntry>,
    generation: u64,
}

#[derive(Clone, Copy, Debug)]
struct ListenerEntry {
    addr: SocketAddr,
    enabled: bool,
}

/// The discovery log's content: each subsystem on each listener.
pub(crate) struct Listing {
    pub generation: u64,
    /// Subsystem, listener number, address.
    pub entries: Vec<(Nqn, usize, SocketAddr)>,
}

impl Directory {
    pub fn new(transport: Transport) -> Result<Self, TargetError> {
        let discovery = Subsystem::new(SubsystemConfig::named(Nqn::discovery()), true)?;
        Ok(Self {
            faults: Faults::default(),
            counters: Counters::default(),
            transport,
            discovery: Arc::new(discovery),
            state: Mutex::default(),
        })
    }

    /// The subsystem of that name, be it for I/O or for discovery.
    pub fn subsystem(&self, nqn: &Nqn) -> Option<Arc<Subsystem>> {
        if nqn.is_discovery() {
            return Some(Arc::clone(&self.discovery));
        }
        self.state.lock().subsystems.get(nqn).cloned()
    }

    /// The I/O subsystems by name.
    pub fn subsystems(&self) -> Vec<Arc<Subsystem>> {
        self.state.lock().subsystems.values().cloned().collect()
    }

    pub fn add_subsystem(&self, subsystem: Arc<Subsystem>) -> Result<(), TargetError> {
        let nqn = subsystem.nqn().clone();
        if nqn.is_discovery() {
            return Err(TargetError::DuplicateSubsystem(nqn.to_string()));
        }
        self.change(|state| match state.subsystems.entry(nqn) {
            std::collections::btree_map::Entry::Occupied(taken) => {
                Err(TargetError::DuplicateSubsystem(taken.key().to_string()))
            }
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(subsystem);
                Ok(())
            }
        })
    }

    pub fn remove_subsystem(&self, nqn: &Nqn) -> Option<Arc<Subsystem>> {
        self.change(|state| state.subsystems.remove(nqn))
    }

    pub fn add_listener(&self, addr: SocketAddr) {
        self.change(|state| state.listeners.push(ListenerEntry { addr, enabled: true }));
    }

    pub fn set_listener_enabled(&self, listener: usize, enabled: bool) {
        self.change(|state| {
            if let Some(entry) = state.listeners.get_mut(listener) {
                entry.enabled = enabled;
            }
        });
    }

    pub fn listing(&self) -> Listing {
        let state = self.state.lock();
        let listeners = || state.listeners.iter().enumerate().filter(|(_, l)| l.enabled);
        let entries = state
            .subsystems
            .keys()
            .flat_map(|nqn| listeners().map(|(i, l)| (nqn.clone(), i, l.addr)))
            .collect();
        Listing { generation: state.generation, entries }
    }

    /// Changes the catalogue, counts that, and tells the discovery controllers.
    fn change<T>(&self, change: impl FnOnce(&mut Catalogue) -> T) -> T {
        let result = {
            let mut state = self.state.lock();
            state.generation += 1;
            change(&mut state)
        };
        self.discovery.raise_event(AsyncEvent::DISCOVERY_CHANGED);
        result
    }

    /// Ends all associations.
    pub fn close_all(&self) {
        self.discovery.close_all();
        self.subsystems().iter().for_each(|s| s.close_all());
    }
}
