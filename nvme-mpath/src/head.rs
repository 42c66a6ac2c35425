//! The head: one handle for one namespace, over however many paths.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nvme_core::ana::AnaState;
use nvme_core::controller::NamespaceInfo;
use nvme_core::identity::NamespaceIds;
use nvme_core::nqn::Nqn;
use nvme_core::spec::Status;
use nvme_core::time::{Duration, Instant};
use parking_lot::Mutex;

use crate::fence::Fence;
use crate::hedge::HedgeOptions;
use crate::host::Shared;
use crate::ids::{AssociationId, ControllerId};
use crate::lifecycle::{Lifecycle, Phase, WindowSet};
use crate::mailbox::Command;
use crate::policy::PathPolicy;
use crate::view::{Geometry, HeadView, NoPath, PathView, ViewCell};
use crate::window::{DelayedRemoval, LossCause};

/// One path of a head: a namespace on a controller. Kept while the controller reconnects.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) controller: ControllerId,
    pub(crate) address: Arc<str>,
    pub(crate) association: AssociationId,
    pub(crate) info: Arc<NamespaceInfo>,
    /// Moves with each report of a namespace, on any path: the highest is the newest.
    pub(crate) reported: u64,
    /// The controller is live and the namespace was identified on this association.
    pub(crate) ready: bool,
    pub(crate) ana: AnaState,
    /// The controller answered with an ANA error; not used until the log has been read again.
    pub(crate) ana_pending: bool,
    /// I/O may wait for the controller: `fast_io_fail_tmo` has not passed since its loss.
    pub(crate) awaited: bool,
    pub(crate) max_transfer: usize,
    /// To be used last, for the program said so.
    pub(crate) marginal: bool,
    pub(crate) numa_node: Option<u32>,
    pub(crate) retry_delays: [Duration; 3],
}

impl Path {
    /// Whether I/O may be sent on it.
    pub(crate) fn usable(&self) -> bool {
        self.ready && !self.ana_pending && self.ana.is_accessible()
    }
}

/// How a head is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadState {
    /// It has paths (which need not work at the moment).
    Live,
    /// It has none and will be removed.
    RemovalPending {
        /// Why the last path left.
        cause: LossCause,
        /// How long ago.
        lost_for: Duration,
        /// Time left; `None`: for ever.
        remaining: Option<Duration>,
    },
    /// It is being taken apart.
    Removing(LossCause),
    /// It is gone.
    Gone(LossCause),
}

impl HeadState {
    /// The names of all states.
    pub(crate) const NAMES: [&'static str; 4] = ["live", "removal-pending", "removing", "gone"];

    /// The name of the state.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Live => 0,
            Self::RemovalPending { .. } => 1,
            Self::Removing(_) => 2,
            Self::Gone(_) => 3,
        }]
    }
}

/// A path as it is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathInfo {
    /// The controller.
    pub controller: ControllerId,
    /// Its address.
    pub address: Arc<str>,
    /// Namespace ID on it.
    pub nsid: u32,
    /// ANA state of the namespace's group on it.
    pub ana: AnaState,
    /// Whether I/O may be sent on it.
    pub usable: bool,
    /// Whether it is used only when there is no other; see
    /// [`Controller::set_marginal`](crate::Controller::set_marginal).
    pub marginal: bool,
    /// Writes that were in flight on its controller when that was lost, and are held until it is
    /// fenced.
    pub held: u64,
}

/// What the program said about this head's paths.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    policy: Option<PathPolicy>,
    preferred: Option<ControllerId>,
    hedge: Option<HedgeOptions>,
}

/// Counts since the head was made. Written by channels when something goes wrong, never in steady state.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failovers: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) parked: AtomicU64,
    /// Requests parked now.
    pub(crate) parked_now: AtomicU64,
    /// Commands that went with their connection, without an answer.
    pub(crate) lost: AtomicU64,
    /// Answers that were no success, by type and code: 2,048 at most.
    errors: Mutex<BTreeMap<u16, u64>>,
    pub(crate) failed_no_path: AtomicU64,
    pub(crate) held: AtomicU64,
    /// Writes held now, by the slot of the lost controller; `u32::MAX`: behind another write.
    pub(crate) held_by_slot: Mutex<BTreeMap<u32, u64>>,
    pub(crate) hedges: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    pub(crate) hedges_denied: AtomicU64,
}

impl Counters {
    /// A command did not succeed.
    pub(crate) fn failed(&self, status: Status, lost: bool) {
        if lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            *self.errors.lock().entry(status.code().raw()).or_insert(0) += 1;
        }
    }

    pub(crate) fn errors(&self) -> Vec<(Status, u64)> {
        let errors = self.errors.lock();
        errors.iter().map(|(raw, count)| (Status::from_raw(*raw), *count)).collect()
    }
}

/// A snapshot of a head's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeadStats {
    /// Requests that were moved to another path, or parked, after their path failed.
    pub failovers: u64,
    /// Requests sent again on account of their status.
    pub retries: u64,
    /// Times that a request was parked for want of a path.
    pub parked: u64,
    /// Requests that are parked now.
    pub parked_now: u64,
    /// Requests that failed for want of a path.
    pub failed_no_path: u64,
    /// Commands that went with their connection, without an answer.
    pub lost: u64,
    /// Times that a write was held until a lost controller was fenced, or behind a held one.
    pub held: u64,
    /// Writes that are held now.
    pub held_now: u64,
    /// Reads that were sent down a second path because the first took too long.
    pub hedges: u64,
    /// Those among them that the second path answered first.
    pub hedges_won: u64,
    /// Reads that were not, because the budget was used up.
    pub hedges_denied: u64,
}

/// One namespace of one subsystem.
///
/// Shared by its handles and the library. A handle that outlives the head answers with errors.
/// All methods may be called from any thread.
pub struct Head {
    pub(crate) index: u32,
    pub(crate) subnqn: Nqn,
    pub(crate) nsid: u32,
    pub(crate) ids: NamespaceIds,
    pub(crate) life: Lifecycle<Path>,
    pub(crate) view: ViewCell,
    pub(crate) fail_if_no_path: AtomicBool,
    pub(crate) choice: Mutex<Choice>,
    /// 0: not said here; else as in [`Head::set_fence`].
    pub(crate) fence: AtomicU8,
    pub(crate) counters: Counters,
    pub(crate) host: Weak<Shared>,
}

impl Head {
    /// `SUBNQN/NSID`: names the head in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.life.name()
    }

    /// A number that no other head of this host has had.
    #[must_use]
    pub const fn instance(&self) -> u32 {
        self.index
    }

    /// NQN of the subsystem.
    #[must_use]
    pub const fn subsystem_nqn(&self) -> &Nqn {
        &self.subnqn
    }

    /// Namespace ID.
    #[must_use]
    pub const fn nsid(&self) -> u32 {
        self.nsid
    }

    /// The identifiers that a returning path must have.
    #[must_use]
    pub const fn ids(&self) -> &NamespaceIds {
        &self.ids
    }

    /// Size and shape, as last reported. Kept through the loss of all paths.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.view.load().1.geometry
    }

    /// How the head is doing.
    #[must_use]
    pub fn state(&self) -> HeadState {
        let now = self.now();
        self.life.with(|inner| match &inner.phase {
            Phase::Live => HeadState::Live,
            Phase::Pending(p) => HeadState::RemovalPending {
                cause: p.cause,
                lost_for: now.saturating_since(p.lost_at),
                remaining: (p.deadline != Instant::NEVER).then(|| p.deadline.saturating_since(now)),
            },
            Phase::Removing { cause, .. } => HeadState::Removing(*cause),
            Phase::Gone { cause } => HeadState::Gone(*cause),
        })
    }

    /// The paths, in the order in which they were found.
    #[must_use]
    pub fn paths(&self) -> Vec<PathInfo> {
        let held = self.counters.held_by_slot.lock().clone();
        let info = |p: &Path| PathInfo {
            controller: p.controller,
            address: Arc::clone(&p.address),
            nsid: p.info.nsid,
            ana: p.ana,
            usable: p.usable(),
            marginal: p.marginal,
            held: held.get(&p.association.slot).copied().unwrap_or(0),
        };
        self.life.with(|inner| inner.paths.iter().map(info).collect())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> HeadStats {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        HeadStats {
            failovers: read(&self.counters.failovers),
            retries: read(&self.counters.retries),
            parked: read(&self.counters.parked),
            parked_now: read(&self.counters.parked_now),
            lost: read(&self.counters.lost),
            failed_no_path: read(&self.counters.failed_no_path),
            held: read(&self.counters.held),
            held_now: self.counters.held_by_slot.lock().values().sum(),
            hedges: read(&self.counters.hedges),
            hedges_won: read(&self.counters.hedges_won),
            hedges_denied: read(&self.counters.hedges_denied),
        }
    }

    /// The windows that apply to this head.
    #[must_use]
    pub fn delayed_removal(&self) -> DelayedRemoval {
        self.life.windows()
    }

    /// Sets the windows. One that is open is counted anew from the moment of the loss; if it is
    /// over by the new count, the head is removed now. (Linux keeps the old deadline.)
    pub fn set_delayed_removal(self: &Arc<Self>, windows: impl Into<DelayedRemoval>) {
        let outcome = self.life.set_windows(windows.into(), self.now());
        let command = match outcome {
            WindowSet::Stored => return self.changed(),
            WindowSet::Rearmed(timer) => Command::RemovalRearmed(Arc::clone(self), timer),
            WindowSet::Remove => Command::FinishRemoval(Arc::clone(self)),
        };
        self.send(command);
    }

    /// Sets the windows for the next loss. One that is open keeps its deadline, as on Linux.
    pub fn set_next_delayed_removal(self: &Arc<Self>, windows: impl Into<DelayedRemoval>) {
        self.life.set_next_windows(windows.into());
        self.changed();
    }

    /// Removes a head whose removal is pending now, instead of at its deadline. Returns whether it
    /// was pending.
    pub fn remove_now(self: &Arc<Self>) -> bool {
        let pending = self.life.remove_now();
        if pending {
            self.send(Command::FinishRemoval(Arc::clone(self)));
        }
        pending
    }

    /// Cancels the removal of a head whose removal is pending: it then waits for a path without end,
    /// pinned, until one returns, [`remove_now`](Self::remove_now), a change of the windows, or a
    /// forced shutdown. The windows are not changed. Returns whether a removal was pending.
    pub fn cancel_removal(self: &Arc<Self>) -> bool {
        let timer = self.life.keep();
        if let Some(timer) = timer {
            self.send(Command::RemovalRearmed(Arc::clone(self), timer));
        }
        timer.is_some()
    }

    /// While set, requests fail at once when no path can be used, parked ones too, whatever the
    /// window says. Reconnecting goes on.
    pub fn set_fail_if_no_path(self: &Arc<Self>, fail: bool) {
        self.fail_if_no_path.store(fail, Ordering::Release);
        self.changed();
    }

    /// How channels choose among the paths: the head's own policy, else the subsystem's, else the
    /// host's.
    #[must_use]
    pub fn policy(&self) -> PathPolicy {
        self.view.load().1.policy
    }

    /// Sets a policy for this head, or with `None` leaves it to its subsystem and the host again.
    /// In effect with the next request that any channel sends.
    pub fn set_policy(self: &Arc<Self>, policy: Option<PathPolicy>) {
        self.choice.lock().policy = policy;
        self.changed();
    }

    /// Names the path that [`PathPolicy::ActivePassive`] uses while it is usable and no other is
    /// better by its ANA state; `None`: the one that was found first. The controller need not be
    /// there (yet).
    pub fn set_preferred_path(self: &Arc<Self>, controller: Option<ControllerId>) {
        self.choice.lock().preferred = controller;
        self.changed();
    }

    /// Sends reads that take too long down a second path, too; `None`: not (the default). For each
    /// channel by itself, from its next request on. See [`HedgeOptions`] for what becomes of buffers.
    pub fn set_hedged_reads(self: &Arc<Self>, options: Option<HedgeOptions>) {
        self.choice.lock().hedge = options.map(HedgeOptions::checked);
        self.changed();
    }

    /// The program changed something that channels see.
    pub(crate) fn changed(&self) {
        self.publish();
        self.send(Command::HeadChanged);
    }

    /// Sets what becomes of writes that were in flight on a lost path of this head; `None`: what the
    /// controller or the host say. Applies to losses from now on.
    pub fn set_fence(&self, fence: Option<Fence>) {
        let code = match fence {
            None => 0,
            Some(Fence::Auto) => 1,
            Some(Fence::Strict) => 2,
            Some(Fence::Off) => 3,
        };
        self.fence.store(code, Ordering::Relaxed);
    }

    /// What was set with [`set_fence`](Self::set_fence).
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        match self.fence.load(Ordering::Relaxed) {
            1 => Some(Fence::Auto),
            2 => Some(Fence::Strict),
            3 => Some(Fence::Off),
            _ => None,
        }
    }

    fn now(&self) -> Instant {
        self.host.upgrade().map_or(Instant::NEVER, |host| host.clock.now())
    }

    fn send(&self, command: Command) {
        if let Some(host) = self.host.upgrade() {
            host.commands.send(command);
        }
    }

    /// Makes the view that channels see from the paths and the phase.
    pub(crate) fn publish(&self) {
        let host = self.host.upgrade();
        self.life.with(|inner| {
            // Read in here: of two that publish, the later one has seen what the other was told.
            let fail = self.fail_if_no_path.load(Ordering::Acquire);
            let choice = self.choice.lock();
            let general = || host.as_ref().map(|host| host.policies.lock().of(&self.subnqn));
            let policy = choice.policy.or_else(general).unwrap_or_default();
            let geometry = match inner.paths.last() {
                Some(_) => geometry_of(&inner.paths),
                None => self.view.load().1.geometry,
            };
            let hedge = choice.hedge;
            let paths = inner.paths.iter().filter(|p| p.usable());
            let paths = paths.map(|p| path_view(p, &choice)).collect();
            let awaited = inner.paths.iter().any(|p| p.awaited);
            let no_path = match &inner.phase {
                Phase::Removing { cause, .. } | Phase::Gone { cause } => NoPath::Removed(*cause),
                _ if fail => NoPath::Fail,
                Phase::Pending(_) => NoPath::Park,
                Phase::Live if awaited || inner.windows.outlasts() => NoPath::Park,
                Phase::Live => NoPath::Fail,
            };
            let later = inner.paths.iter().filter(|p| p.awaited && !p.usable());
            let later_transfer = later.map(|p| p.max_transfer).max();
            self.view.publish(HeadView {
                geometry,
                layout: geometry.layout(),
                paths,
                policy,
                hedge,
                no_path,
                more_may_come: later_transfer.is_some(),
                later_transfer: later_transfer.unwrap_or(0),
            });
        });
    }
}

/// The shape of a namespace: the newest report of it; the transfer limit is the least of all.
pub(crate) fn geometry_of(paths: &[Path]) -> Geometry {
    let newest = paths.iter().max_by_key(|p| p.reported);
    let info = newest.map(|p| Arc::clone(&p.info));
    let mut geometry = Geometry {
        block_size: 512,
        blocks: 0,
        max_transfer: 0,
        read_only: true,
        metadata_size: 0,
        extended_metadata: false,
    };
    if let Some(info) = info {
        geometry.block_size = info.block_size;
        geometry.blocks = info.blocks;
        geometry.read_only = info.read_only;
        geometry.metadata_size = info.metadata_size;
        geometry.extended_metadata = info.extended_lba && info.metadata_size != 0;
    }
    let block = geometry.buffer_block() as usize;
    // One command moves at most 65,536 blocks (NVM 1.1 §3.3.4, NLB is 0's based and 16 bits).
    let most = block << 16;
    let limit = paths.iter().map(|p| p.max_transfer).min().unwrap_or(most).min(most);
    geometry.max_transfer = (limit / block).max(1) * block;
    geometry
}

fn path_view(p: &Path, choice: &Choice) -> PathView {
    PathView {
        association: p.association,
        nsid: p.info.nsid,
        rank: u8::from(p.ana != AnaState::Optimized) + 2 * u8::from(p.marginal),
        preferred: choice.preferred == Some(p.controller),
        numa_node: p.numa_node,
        retry_delays: p.retry_delays,
        max_transfer: p.max_transfer,
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({} #{})", self.name(), self.index)
    }
}
