//! A subsystem: namespaces, ANA groups and the controllers through which hosts see them. No I/O in here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nvme_core::nqn::Nqn;
use parking_lot::{Mutex, MutexGuard};

use crate::aer::AsyncEvent;
use crate::ana::{AnaState, AnaTable};
use crate::config::{Limits, SubsystemConfig};
use crate::controller::{Controller, ErrorRecord, KeepAlive, Shared};
use crate::cross_reset::Ended;
use crate::error::TargetError;
use crate::namespace::{IoView, Namespace, NamespaceConfig, NamespaceIds, check_group};

/// A subsystem of a running target. All methods may be called from any thread while hosts are connected; hosts that
/// have asked for it are told about changes by asynchronous events before a method returns.
#[derive(Debug)]
pub struct Subsystem {
    nqn: Nqn,
    discovery: bool,
    /// Moves whenever what I/O queues may see changes; each queue then fetches a new [`IoView`].
    generation: AtomicU64,
    /// Times that the subsystem was reset (NVMe 2.1 §3.7.1).
    pub(crate) resets: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub limits: Limits,
    pub namespaces: BTreeMap<u32, Namespace>,
    pub ana: AnaTable,
    pub controllers: BTreeMap<u16, Controller>,
    pub next_cntlid: u16,
    /// Controllers that hosts at the network have been given so far.
    pub lives: u64,
    /// Lives of controllers that have ended, as long as something of them is left.
    pub ended: Vec<Ended>,
    views: BTreeMap<usize, Arc<IoView>>,
}

/// A controller as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControllerInfo {
    /// Controller identifier.
    pub cntlid: u16,
    /// The listener that its admin queue came in through.
    pub listener: usize,
    /// Its host.
    pub host_nqn: Nqn,
    /// Connected I/O queues.
    pub queues: Vec<u16>,
    /// Whether the host has enabled it.
    pub enabled: bool,
    /// Keep alive timeout in milliseconds, 0 for none.
    pub kato: u32,
    /// The power state that the host has chosen.
    pub power_state: u8,
    /// The table of autonomous power state transitions, if the host has set one and enabled it.
    pub apst: Option<Vec<u8>>,
}

impl Subsystem {
    pub(crate) fn new(config: SubsystemConfig, discovery: bool) -> Result<Self, TargetError> {
        let SubsystemConfig { nqn, namespaces, limits } = config;
        let state = State {
            next_cntlid: limits.cntlids.0,
            lives: 0,
            limits,
            namespaces: BTreeMap::new(),
            ana: AnaTable::default(),
            controllers: BTreeMap::new(),
            ended: Vec::new(),
            views: BTreeMap::new(),
        };
        let subsystem = Self {
            nqn,
            discovery,
            generation: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        for namespace in namespaces {
            subsystem.add_namespace(namespace)?;
        }
        Ok(subsystem)
    }

    /// The subsystem's name.
    #[must_use]
    pub fn nqn(&self) -> &Nqn {
        &self.nqn
    }

    pub(crate) fn is_discovery(&self) -> bool {
        self.discovery
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The namespaces as the I/O queues of a listener see them now.
    pub(crate) fn view(&self, listener: usize) -> Arc<IoView> {
        let mut state = self.lock();
        let generation = self.generation();
        if let Some(view) = state.views.get(&listener)
            && view.generation == generation
        {
            return Arc::clone(view);
        }
        let namespaces = state
            .namespaces
            .values()
            .map(|ns| (ns.clone(), state.ana.group(listener, ns.ana_group).state))
            .collect();
        let view = Arc::new(IoView::new(generation, namespaces));
        state.views.insert(listener, Arc::clone(&view));
        view
    }

    /// Changes the state, and makes the I/O queues look at it anew.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        self.generation.fetch_add(1, Ordering::Release);
        result
    }

    fn change_namespace(
        &self,
        nsid: u32,
        change: impl FnOnce(&mut Namespace),
    ) -> Result<(), TargetError> {
        self.change(|state| {
            let ns = state.namespaces.get_mut(&nsid).ok_or(TargetError::NoNamespace(nsid))?;
            change(ns);
            state.namespace_changed(nsid);
            Ok(())
        })
    }

    /// Adds a namespace.
    ///
    /// # Errors
    /// An identifier that is taken or out of range, a block size or ANA group that is not possible.
    pub fn add_namespace(&self, config: NamespaceConfig) -> Result<(), TargetError> {
        let namespace = Namespace::new(config, self.nqn.as_str())?;
        self.change(|state| {
            let nsid = namespace.nsid;
            match state.namespaces.entry(nsid) {
                Entry::Occupied(_) => return Err(TargetError::DuplicateNamespace(nsid)),
                Entry::Vacant(vacant) => vacant.insert(namespace),
            };
            state.namespace_changed(nsid);
            Ok(())
        })
    }

    /// Removes a namespace; what its memory held is lost.
    ///
    /// # Errors
    /// [`TargetError::NoNamespace`].
    pub fn remove_namespace(&self, nsid: u32) -> Result<(), TargetError> {
        self.change(|state| {
            state.namespaces.remove(&nsid).ok_or(TargetError::NoNamespace(nsid))?;
            state.namespace_changed(nsid);
            Ok(())
        })
    }

    /// Sets the size of a namespace, in bytes, rounded down to whole blocks. What lies past a smaller size is kept.
    ///
    /// # Errors
    /// [`TargetError::NoNamespace`].
    pub fn resize_namespace(&self, nsid: u32, bytes: u64) -> Result<(), TargetError> {
        self.change_namespace(nsid, |ns| ns.resize(bytes))
    }

    /// Gives a namespace other identifiers, as if another one had taken its place.
    ///
    /// # Errors
    /// [`TargetError::NoNamespace`].
    pub fn set_namespace_ids(&self, nsid: u32, ids: NamespaceIds) -> Result<(), TargetError> {
        self.change_namespace(nsid, |ns| ns.ids = ids)
    }

    /// Moves a namespace to another ANA group.
    ///
    /// # Errors
    /// [`TargetError::NoNamespace`], [`TargetError::AnaGroup`].
    pub fn set_namespace_group(&self, nsid: u32, group: u32) -> Result<(), TargetError> {
        check_group(group)?;
        self.change(|state| {
            let ns = state.namespaces.get_mut(&nsid).ok_or(TargetError::NoNamespace(nsid))?;
            let before = std::mem::replace(&mut ns.ana_group, group);
            state.ana.membership_changed(before);
            state.ana.membership_changed(group);
            state.namespace_changed(nsid);
            state.raise(AsyncEvent::ANA_CHANGED, |_| true);
            Ok(())
        })
    }

    /// Shows a namespace to hosts, or hides it from them; what it holds stays.
    ///
    /// # Errors
    /// [`TargetError::NoNamespace`].
    pub fn enable_namespace(&self, nsid: u32, enabled: bool) -> Result<(), TargetError> {
        self.change_namespace(nsid, |ns| ns.enabled = enabled)
    }

    /// Sets the ANA state of a group as seen through a listener.
    ///
    /// # Errors
    /// [`TargetError::AnaGroup`].
    pub fn set_ana(&self, listener: usize, group: u32, state: AnaState) -> Result<(), TargetError> {
        check_group(group)?;
        self.change(|s| {
            if s.ana.set(listener, group, state) {
                s.raise(AsyncEvent::ANA_CHANGED, |ctrl| ctrl.listener == listener);
            }
        });
        Ok(())
    }

    /// Sets how many I/O queues a controller may have from its next Number of Queues command on, 1 to 65535.
    pub fn set_queue_limit(&self, queues: u16) {
        self.lock().limits.queues = queues.max(1);
    }

    /// Sets which hosts may connect from now on; `None` allows all. Connected ones stay.
    pub fn allow_hosts(&self, hosts: Option<Vec<Nqn>>) {
        self.lock().limits.hosts = hosts;
    }

    /// Raises an event on all enabled controllers, subject to their configuration.
    pub fn raise_event(&self, event: AsyncEvent) {
        self.lock().raise(event, |_| true);
    }

    /// The controllers that exist now.
    #[must_use]
    pub fn controllers(&self) -> Vec<ControllerInfo> {
        let info = |c: &Controller| ControllerInfo {
            cntlid: c.cntlid,
            listener: c.listener,
            host_nqn: c.host_nqn.clone(),
            queues: c.queues.keys().copied().collect(),
            enabled: c.is_enabled(),
            kato: c.kato,
            power_state: c.power_state,
            apst: c.apst_enabled.then(|| c.apst.clone()),
        };
        self.lock().controllers.values().map(info).collect()
    }

    /// Makes a controller fail: CSTS.CFS is set and further commands are refused. Whether it was there.
    pub fn fail_controller(&self, cntlid: u16) -> bool {
        self.lock().controllers.get_mut(&cntlid).map(Controller::fail).is_some()
    }

    /// Ends an association: all connections of the controller are closed. Whether it was there.
    pub fn close_controller(&self, cntlid: u16) -> bool {
        self.lock().end(cntlid)
    }

    /// A queue's connection has ended. With the admin queue the whole association goes (NVMe 2.1 §3.3.2.4).
    pub(crate) fn queue_closed(&self, cntlid: u16, qid: u16, shared: &Arc<Shared>) {
        let mut state = self.lock();
        shared.closed();
        if let Some(controller) = state.controllers.get_mut(&cntlid)
            && Arc::ptr_eq(&controller.shared, shared)
        {
            if qid == 0 {
                state.end(cntlid);
            } else {
                controller.queues.remove(&qid);
            }
        }
        state.finish_resets();
    }

    /// Looks at the keep alive timer of a controller; one whose host was silent for too long is closed.
    pub(crate) fn keep_alive(&self, cntlid: u16, shared: &Arc<Shared>, now: Instant) -> KeepAlive {
        let mut state = self.lock();
        let grace = state.limits.keep_alive_grace;
        let Entry::Occupied(mut entry) = state.controllers.entry(cntlid) else {
            return KeepAlive::Off;
        };
        if !Arc::ptr_eq(&entry.get().shared, shared) {
            return KeepAlive::Off;
        }
        let found = entry.get_mut().keep_alive(now, grace);
        if found == KeepAlive::Expired {
            state.end(cntlid);
        }
        found
    }

    /// How long the commands of a lost association may live on, if that is bounded.
    pub(crate) fn quiesce_time(&self) -> Option<Duration> {
        Some(self.lock().limits.quiesce_time).filter(|time| !time.is_zero())
    }

    pub(crate) fn record_error(&self, cntlid: u16, record: ErrorRecord) {
        if let Some(ctrl) = self.lock().controllers.get_mut(&cntlid) {
            ctrl.record_error(record);
        }
    }

    /// Ends all associations.
    pub(crate) fn close_all(&self) {
        let mut state = self.lock();
        while let Some(cntlid) = state.controllers.keys().next().copied() {
            state.end(cntlid);
        }
    }
}

impl State {
    fn namespace_changed(&mut self, nsid: u32) {
        for ctrl in self.controllers.values_mut() {
            ctrl.changed.note(nsid);
            ctrl.raise(AsyncEvent::NAMESPACE_CHANGED);
        }
    }

    pub fn raise(&mut self, event: AsyncEvent, to: impl Fn(&Controller) -> bool) {
        self.controllers.values_mut().filter(|c| to(c)).for_each(|c| c.raise(event));
    }

    /// A controller identifier that is free, taken in turn.
    pub fn free_cntlid(&mut self) -> Option<u16> {
        let (first, last) = self.limits.cntlids;
        let count = u32::from(last - first) + 1;
        let start = u32::from(self.next_cntlid.clamp(first, last) - first);
        let free = (0..count)
            .map(|i| first + ((start + i) % count) as u16)
            .find(|id| !self.controllers.contains_key(id))?;
        self.next_cntlid = if free == last { first } else { free + 1 };
        Some(free)
    }
}
