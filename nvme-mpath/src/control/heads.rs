//! Namespaces become paths of heads: who belongs to whom, and who is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8};

use nvme_core::ana::{AnaSnapshot, AnaState};
use nvme_core::controller::{NamespaceInfo, State};
use nvme_core::identity::NamespaceIds;
use nvme_core::nqn::Nqn;
use nvme_core::time::{Duration, Instant};

use super::Control;
use super::slot::{Namespace, Slot};
use crate::event::Event;
use crate::head::{Head, Path, geometry_of};
use crate::ids::{AssociationId, ControllerId};
use crate::lifecycle::{Attached, Detached, Lifecycle};
use crate::view::{HeadView, NoPath, ViewCell};
use crate::window::LossCause;

/// A globally unique identifier, as a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum IdKey {
    Uuid([u8; 16]),
    Nguid([u8; 16]),
    Eui64([u8; 8]),
}

impl IdKey {
    pub(super) fn of(ids: &NamespaceIds) -> impl Iterator<Item = Self> {
        let uuid = ids.uuid.map(|id| Self::Uuid(id.0));
        let nguid = ids.nguid.map(|id| Self::Nguid(id.0));
        let eui64 = ids.eui64.map(|id| Self::Eui64(id.0));
        [uuid, nguid, eui64].into_iter().flatten()
    }
}

/// What was told of a path.
#[derive(Clone, PartialEq)]
struct Told {
    controller: ControllerId,
    address: Arc<str>,
    usable: bool,
    ana: AnaState,
}

/// A head and what was told of it.
pub(super) struct HeadEntry {
    pub(super) head: Arc<Head>,
    told: Vec<Told>,
    told_blocks: u64,
}

impl Control {
    /// Publishes what channels see of the head, and tells what is different from the last time.
    pub(super) fn settle(&mut self, head: &Arc<Head>, now: Instant) {
        head.publish();
        self.views_changed = true;
        let Some(entry) = self.heads.get_mut(&head.index) else { return };
        let told = |p: &Path| Told {
            controller: p.controller,
            address: Arc::clone(&p.address),
            usable: p.usable(),
            ana: p.ana,
        };
        let new: Vec<Told> = head.life.with(|inner| inner.paths.iter().map(told).collect());
        let old = std::mem::replace(&mut entry.told, new.clone());
        let blocks = head.geometry().blocks;
        let from = std::mem::replace(&mut entry.told_blocks, blocks);
        let mut events = Vec::new();
        let head = || Arc::clone(head);
        for was in old.iter().filter(|t| t.usable) {
            let still = new.iter().any(|t| t.controller == was.controller && t.usable);
            if !still {
                let (controller, address) = (was.controller, Arc::clone(&was.address));
                events.push(Event::PathDown { head: head(), controller, address });
            }
        }
        for is in &new {
            let was = old.iter().find(|t| t.controller == is.controller);
            let (controller, address) = (is.controller, || Arc::clone(&is.address));
            if let Some(was) = was
                && was.ana != is.ana
            {
                let (from, to, address) = (was.ana, is.ana, address());
                events.push(Event::AnaChanged { head: head(), controller, address, from, to });
            }
            if is.usable && !was.is_some_and(|t| t.usable) {
                let address = address();
                events.push(Event::PathUp { head: head(), controller, address });
            }
        }
        if from != blocks {
            events.push(Event::HeadResized { head: head(), from, to: blocks });
        }
        let usable = |list: &[Told]| list.iter().any(|t| t.usable);
        if usable(&old) && !usable(&new) {
            events.push(Event::HeadNoPath(head()));
        }
        events.iter().for_each(|event| self.emit(now, event));
    }

    /// Changes the paths of one controller on the heads that it belongs to. Heads on which nothing
    /// has changed stay as they are.
    fn change_paths(&mut self, at: usize, now: Instant, change: impl Fn(&Slot, &mut Path)) {
        let Some(slot) = self.slots[at].as_ref() else { return };
        let heads: Vec<u32> = slot.namespaces.values().filter_map(|n| n.head).collect();
        for index in heads {
            self.change_path(at, index, now, &change);
        }
    }

    fn change_path(
        &mut self,
        at: usize,
        index: u32,
        now: Instant,
        change: impl Fn(&Slot, &mut Path),
    ) {
        let (Some(slot), Some(entry)) = (self.slots[at].as_ref(), self.heads.get(&index)) else {
            return;
        };
        let head = Arc::clone(&entry.head);
        let changed = head.life.with(|inner| {
            let own = inner.paths.iter_mut().find(|p| p.controller == slot.status.id);
            own.is_some_and(|path| {
                let facts = |p: &Path| (p.ready, p.awaited, p.ana, p.ana_pending, p.marginal);
                let before = facts(path);
                change(slot, path);
                facts(path) != before
            })
        });
        if changed {
            self.settle(&head, now);
        }
    }

    /// The association is dead: its paths cannot be used until they have been looked at again.
    pub(super) fn set_paths_unready(&mut self, at: usize, now: Instant) {
        self.change_paths(at, now, |_, path| path.ready = false);
    }

    /// The controller's state changed: I/O may wait for it, or not. Nothing is sent to one that is
    /// not live: it may have been told to shut down.
    pub(super) fn state_changed(&mut self, at: usize, to: State, now: Instant) {
        self.change_paths(at, now, |slot, path| {
            path.ready &= to == State::Live;
            path.awaited = awaited(slot);
        });
    }

    pub(super) fn marginal_changed(&mut self, at: usize, now: Instant) {
        self.change_paths(at, now, |slot, path| path.marginal = slot.is_marginal());
    }

    /// `fast_io_fail_tmo` has passed.
    pub(super) fn set_awaited(&mut self, at: usize, now: Instant) {
        self.change_paths(at, now, |slot, path| path.awaited = awaited(slot));
    }

    pub(super) fn ana_read(&mut self, at: usize, snapshot: Arc<AnaSnapshot>, now: Instant) {
        if let Some(slot) = self.slots[at].as_mut() {
            slot.ana = Some(snapshot);
        }
        self.change_paths(at, now, |slot, path| {
            path.ana = ana_state(slot, &path.info);
            path.ana_pending = false;
        });
    }

    /// A channel got an ANA error: the path is left alone until the log has been read.
    pub(super) fn ana_error(&mut self, id: AssociationId, nsid: u32, now: Instant) {
        let Some(at) = self.find_association(id) else { return };
        let Some(slot) = self.slots[at].as_mut() else { return };
        let Some(index) = slot.namespaces.get(&nsid).and_then(|n| n.head) else { return };
        if !slot.info.as_ref().is_some_and(|info| info.ana) {
            // There is no log that could say when it is over: the channels try again.
            if let Some(head) = self.heads.get(&index).map(|e| Arc::clone(&e.head)) {
                self.settle(&head, now);
            }
            return;
        }
        let pending = |p: &Path| p.controller == slot.status.id && p.ana_pending;
        let asked = self
            .heads
            .get(&index)
            .is_some_and(|entry| entry.head.life.with(|inner| inner.paths.iter().any(pending)));
        if asked {
            return;
        }
        slot.machine.confirm_ana(now);
        self.change_path(at, index, now, |_, path| path.ana_pending |= path.association == id);
        self.drain(at, now);
    }

    /// A namespace was identified on this association.
    pub(super) fn namespace_ready(&mut self, at: usize, info: Arc<NamespaceInfo>, now: Instant) {
        self.reports += 1;
        let reported = self.reports;
        let Some(slot) = self.slots[at].as_mut() else { return };
        let nsid = info.nsid;
        let known = slot.namespaces.get(&nsid).and_then(|n| n.head);
        if let Some(index) = known
            && let Some(entry) = self.heads.get(&index)
        {
            let head = Arc::clone(&entry.head);
            if head.ids == info.ids {
                let path = path_of(slot, &info, reported);
                slot.namespaces.insert(nsid, Namespace { info, head: Some(index) });
                head.life.with(|inner| {
                    if let Some(own) =
                        inner.paths.iter_mut().find(|p| p.controller == path.controller)
                    {
                        *own = path;
                    }
                });
                self.settle(&head, now);
                return;
            }
            self.namespace_left(at, nsid, LossCause::NamespaceGone, now);
        }
        let was_refused = self.slots[at]
            .as_ref()
            .and_then(|s| s.namespaces.get(&nsid))
            .is_some_and(|n| n.head.is_none());
        match self.admit(at, &info, now) {
            Ok(index) => {
                if let Some(slot) = self.slots[at].as_mut() {
                    slot.namespaces.insert(nsid, Namespace { info, head: Some(index) });
                }
            }
            Err(reason) => {
                let Some(slot) = self.slots[at].as_mut() else { return };
                let (controller, address) = (slot.status.id, Arc::clone(&slot.status.address));
                slot.namespaces.insert(nsid, Namespace { info, head: None });
                if !was_refused {
                    let event = Event::NamespaceRefused { controller, address, nsid, reason };
                    self.emit(now, &event);
                }
            }
        }
    }

    /// Finds the head that the namespace belongs to, or makes one; or says why it gets none.
    fn admit(&mut self, at: usize, info: &Arc<NamespaceInfo>, now: Instant) -> Result<u32, String> {
        let Some(slot) = self.slots[at].as_ref() else { return Err("no controller".into()) };
        let Some(subnqn) = slot.info.as_ref().map(|i| i.subnqn.clone()) else {
            return Err("the controller was not identified".into());
        };
        let path = path_of(slot, info, self.reports);
        let key = (subnqn, info.nsid);
        if let Some(head) = self.by_nsid.get(&key).and_then(|i| self.heads.get(i)) {
            let head = Arc::clone(&head.head);
            if head.ids != info.ids {
                return Err(format!("{}, but the head has {}", info.ids, head.ids));
            }
            let shared = info.shared && head.life.with(|i| i.paths.iter().all(|p| p.info.shared));
            if !shared && head.life.with(|inner| !inner.paths.is_empty()) {
                return Err("it is not shared, but another controller has it, too".into());
            }
            match head.life.attach(path) {
                Attached::Added => {
                    self.settle(&head, now);
                    return Ok(head.index);
                }
                Attached::Cancelled { pin, lost_at } => {
                    let pending_for = now.saturating_since(lost_at);
                    let event = Event::RemovalCancelled { head: Arc::clone(&head), pending_for };
                    self.emit(now, &event);
                    self.settle(&head, now);
                    drop(pin);
                    return Ok(head.index);
                }
                // Somebody ended its wait a moment ago: it goes now, and a new one is made.
                Attached::Refused => self.finish_removal(&head, now),
            }
            let Some(slot) = self.slots[at].as_ref() else { return Err("no controller".into()) };
            let path = path_of(slot, info, self.reports);
            return self.make_head(key.0, info, path, now);
        }
        self.make_head(key.0, info, path, now)
    }

    fn make_head(
        &mut self,
        subnqn: Nqn,
        info: &Arc<NamespaceInfo>,
        path: Path,
        now: Instant,
    ) -> Result<u32, String> {
        for key in IdKey::of(&info.ids) {
            if let Some(other) = self.by_identity.get(&key).and_then(|i| self.heads.get(i)) {
                return Err(format!("{} belongs to {} already", info.ids, other.head.name()));
            }
        }
        let index = self.next_head;
        self.next_head += 1;
        let (nsid, ids) = (info.nsid, info.ids);
        let name = format!("{subnqn}/{nsid}");
        let windows = *self.shared.delayed_removal.lock();
        let geometry = geometry_of(std::slice::from_ref(&path));
        let (paths, no_path, more_may_come) = (Box::default(), NoPath::Park, true);
        let policy = Default::default();
        let view = HeadView {
            geometry,
            layout: geometry.layout(),
            paths,
            policy,
            hedge: None,
            no_path,
            more_may_come,
            later_transfer: geometry.max_transfer,
        };
        let head = Arc::new(Head {
            index,
            subnqn: subnqn.clone(),
            nsid,
            ids,
            life: Lifecycle::new(name, Arc::clone(&self.shared.ledger), windows, path),
            view: ViewCell::new(view),
            fail_if_no_path: AtomicBool::new(false),
            choice: Default::default(),
            fence: AtomicU8::new(0),
            counters: Default::default(),
            host: Arc::downgrade(&self.shared),
        });
        let entry =
            HeadEntry { head: Arc::clone(&head), told: Vec::new(), told_blocks: geometry.blocks };
        self.heads.insert(index, entry);
        self.by_nsid.insert((subnqn, nsid), index);
        self.by_identity.extend(IdKey::of(&ids).map(|key| (key, index)));
        self.shared.heads.lock().insert(index, Arc::clone(&head));
        self.emit(now, &Event::HeadAdded(Arc::clone(&head)));
        self.settle(&head, now);
        Ok(index)
    }

    /// A head went, or lost its last path: namespaces that were refused because of it get another
    /// chance.
    pub(super) fn offer_refused(&mut self, now: Instant) {
        if !std::mem::take(&mut self.offer) {
            return;
        }
        let waiting = |s: &Slot| -> Vec<Arc<NamespaceInfo>> {
            let refused = s.namespaces.values().filter(|n| n.head.is_none());
            refused.map(|n| Arc::clone(&n.info)).collect()
        };
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots[at].as_ref() else { continue };
            if slot.machine.state() == State::Live {
                for info in waiting(slot) {
                    self.namespace_ready(at, info, now);
                }
            }
        }
    }

    /// A namespace is not on this controller any more.
    pub(super) fn namespace_left(&mut self, at: usize, nsid: u32, cause: LossCause, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        let controller = slot.status.id;
        let Some(namespace) = slot.namespaces.remove(&nsid) else { return };
        let Some(index) = namespace.head else { return };
        let Some(entry) = self.heads.get(&index) else { return };
        let head = Arc::clone(&entry.head);
        match head.life.detach(|p| p.controller == controller, cause, now) {
            Detached::Unknown => {}
            Detached::Remaining => self.settle(&head, now),
            Detached::Scheduled(timer) => {
                self.settle(&head, now);
                self.offer = true;
                self.removal_scheduled(&head, timer, now);
            }
            Detached::Remove => self.finish_removal(&head, now),
        }
    }
}

/// Most bytes of one command where neither controller nor transport tells a limit. Linux's TCP target
/// reports none (MDTS 0) and fails commands of 8 MiB for good.
const UNTOLD_TRANSFER: usize = 1 << 20;

/// A path by which a namespace was just found good.
fn path_of(slot: &Slot, info: &Arc<NamespaceInfo>, reported: u64) -> Path {
    let controller = slot.info.as_deref();
    let most = controller.and_then(|i| i.max_transfer).into_iter().chain(slot.max_transfer).min();
    Path {
        controller: slot.status.id,
        address: Arc::clone(&slot.status.address),
        association: slot.id,
        info: Arc::clone(info),
        reported,
        ready: slot.delete_by.is_none(),
        ana: ana_state(slot, info),
        ana_pending: false,
        awaited: awaited(slot),
        max_transfer: most.unwrap_or(UNTOLD_TRANSFER),
        marginal: slot.is_marginal(),
        numa_node: slot.options.numa_node.or_else(|| slot.endpoint.numa_node()),
        retry_delays: controller.map_or([Duration::ZERO; 3], |i| i.retry_delays),
    }
}

/// Whether I/O may wait for this path. Also while its controller is being given up: in a moment the
/// path leaves, and then the window decides, or the head goes.
const fn awaited(slot: &Slot) -> bool {
    !slot.fail_fast
}

/// The ANA state of a namespace; a group that the log does not have is not to be used.
fn ana_state(slot: &Slot, info: &NamespaceInfo) -> AnaState {
    if !slot.info.as_ref().is_some_and(|i| i.ana) {
        return AnaState::Optimized;
    }
    let known = slot.ana.as_ref().and_then(|log| log.state_of_namespace(info.nsid, info.ana_group));
    known.unwrap_or(AnaState::Inaccessible)
}
