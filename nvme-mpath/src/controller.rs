//! A program's handle on one controller.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvme_core::controller::{AdminResult, ControllerError, ControllerInfo, RemovedCause, State};
use nvme_core::spec::Sqe;
use nvme_core::spec::command::FeatureSelect;
use nvme_core::spec::feature::fid;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::Data;
use parking_lot::Mutex;

use crate::error::HostError;
use crate::host::Shared;
use crate::ids::{ChannelId, ControllerId};
use crate::latency::{PathCounts, PathLatency};
use crate::load::Board;
use crate::mailbox::Command;

/// What the control plane tells of a controller.
#[derive(Debug)]
pub(crate) struct ControllerStatus {
    pub(crate) id: ControllerId,
    pub(crate) address: Arc<str>,
    pub(crate) facts: Mutex<Facts>,
    pub(crate) marginal: AtomicBool,
    /// Where channels count latencies. Those of channels that are gone are in the sum.
    pub(crate) latency: Mutex<Latencies>,
}

/// The latencies of one controller.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    channels: Vec<(ChannelId, Arc<PathCounts>)>,
    past: Option<PathLatency>,
}

impl Latencies {
    /// Where a channel counts: through all of the controller's associations at the same place.
    pub(crate) fn of(&mut self, channel: ChannelId) -> Arc<PathCounts> {
        if let Some((_, counts)) = self.channels.iter().find(|(id, _)| *id == channel) {
            return Arc::clone(counts);
        }
        let counts = Arc::new(PathCounts::new());
        self.channels.push((channel, Arc::clone(&counts)));
        counts
    }

    /// A channel counts no more.
    pub(crate) fn ended(&mut self, channel: ChannelId) {
        if let Some(at) = self.channels.iter().position(|(id, _)| *id == channel) {
            let (_, counts) = self.channels.swap_remove(at);
            self.past.get_or_insert_default().add(&counts);
        }
    }

    pub(crate) fn sum(&self) -> PathLatency {
        let mut sum = self.past.clone().unwrap_or_default();
        self.channels.iter().for_each(|(_, counts)| sum.add(counts));
        sum
    }
}

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) state: State,
    pub(crate) info: Option<Arc<ControllerInfo>>,
    pub(crate) last_error: Option<ControllerError>,
    pub(crate) removed: Option<RemovedCause>,
    /// The namespaces have been looked at since the controller was last live.
    pub(crate) scanned: bool,
    pub(crate) reconnects: u64,
    pub(crate) host_memory: u64,
    /// When the program connected, and when the state last changed.
    pub(crate) made: Instant,
    pub(crate) since: Instant,
    /// What channels tell of the queues of the current association; `None` before the first one.
    board: Option<Arc<Board>>,
    /// Commands that ended on the associations before.
    past_commands: u64,
}

impl Facts {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            state: State::New,
            info: None,
            last_error: None,
            removed: None,
            scanned: false,
            reconnects: 0,
            host_memory: 0,
            made: now,
            since: now,
            board: None,
            past_commands: 0,
        }
    }

    /// A new association begins, with a board of its own.
    pub(crate) fn associate(&mut self, board: &Arc<Board>) {
        if let Some(past) = self.board.replace(Arc::clone(board)) {
            self.past_commands = self.past_commands.wrapping_add(past.completions());
        }
    }

    /// I/O commands in flight, and those that have ended on all associations. Channels count; who
    /// reads meanwhile may miss the newest.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let now = self.board.as_ref().map_or((0, 0), |b| (b.in_flight().into(), b.completions()));
        (now.0, self.past_commands.wrapping_add(now.1))
    }
}

/// Where the answer to an admin command is put.
#[derive(Debug, Default)]
pub(crate) struct AdminReply(pub(crate) Mutex<Option<Result<Arc<AdminResult>, HostError>>>);

/// One controller of a host: a path to a subsystem. Cloning clones the handle; dropping it does not
/// disconnect. All methods may be called from any thread; those that wait must not be called from
/// within [`Host::drive`](crate::Host::drive).
#[derive(Clone)]
pub struct Controller {
    pub(crate) status: Arc<ControllerStatus>,
    pub(crate) host: Arc<Shared>,
}

impl Controller {
    /// The controller's number.
    #[must_use]
    pub fn id(&self) -> ControllerId {
        self.status.id
    }

    /// Its address, such as `tcp://192.0.2.7:4420`.
    #[must_use]
    pub fn address(&self) -> &Arc<str> {
        &self.status.address
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.status.facts.lock().state
    }

    /// What it says of itself; `None` until it was live for the first time.
    #[must_use]
    pub fn info(&self) -> Option<Arc<ControllerInfo>> {
        self.status.facts.lock().info.clone()
    }

    /// Why it was last lost, or failed to come up.
    #[must_use]
    pub fn last_error(&self) -> Option<ControllerError> {
        self.status.facts.lock().last_error.clone()
    }

    /// Why it is gone for good; `None` while it is not. With
    /// [`reattach_delay`](crate::ControllerOptions::reattach_delay) it may come back all the same.
    #[must_use]
    pub fn removed(&self) -> Option<RemovedCause> {
        self.status.facts.lock().removed.clone()
    }

    /// Times that it came back after a loss.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.status.facts.lock().reconnects
    }

    /// Bytes of the host memory buffer that the controller has now (`NVMe 2.1 §8.2.3`); 0: none.
    #[must_use]
    pub fn host_memory(&self) -> u64 {
        self.status.facts.lock().host_memory
    }

    /// Waits until the controller is live and its namespaces have been looked at.
    ///
    /// # Errors
    /// [`HostError::Controller`] when an attempt failed and it never was live (the library goes on
    /// trying all the same), [`HostError::Removed`] when it was given up, [`HostError::Timeout`]
    /// after `limit`.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), HostError> {
        let verdict = self.host.wait_for(limit, || {
            let facts = self.status.facts.lock();
            if facts.state == State::Live && facts.scanned {
                return Some(Ok(()));
            }
            if let Some(cause) = &facts.removed {
                let (address, cause) = (self.status.address.to_string(), cause.clone());
                return Some(Err(HostError::Removed { address, cause }));
            }
            // Once it has been live, a failure is something that it recovers from.
            let first = facts.info.is_none();
            facts.last_error.clone().filter(|_| first).map(|error| Err(error.into()))
        });
        verdict.unwrap_or_else(|| {
            Err(HostError::Timeout { what: format!("connecting to {}", self.address()), limit })
        })
    }

    /// Disconnects, in an orderly way. Its paths leave with the cause
    /// [`Disconnected`](crate::LossCause::Disconnected). Returns at once.
    pub fn disconnect(&self) {
        self.host.commands.send(Command::Disconnect(self.id()));
    }

    /// Waits until the controller is gone for good.
    ///
    /// # Errors
    /// [`HostError::Timeout`] after `limit`.
    pub fn wait_removed(&self, limit: Duration) -> Result<RemovedCause, HostError> {
        let gone = || self.status.facts.lock().removed.clone();
        self.host.wait_for(limit, gone).ok_or_else(|| HostError::Timeout {
            what: format!("removal of {}", self.address()),
            limit,
        })
    }

    /// Takes the controller down and brings it up again. I/O goes elsewhere, or waits.
    pub fn reset(&self, reason: impl Into<String>) {
        self.host.commands.send(Command::Reset(self.id(), reason.into()));
    }

    /// Resets the whole subsystem, and with it all its controllers, those of other hosts included
    /// (`NVMe 2.1 §3.7.1`). They are brought up again as after any loss; I/O waits. Returns at once.
    ///
    /// # Errors
    /// [`HostError::Controller`] if the controller cannot do that (`CAP.NSSRS`), which is so over
    /// fabrics; [`HostError::NotLive`].
    pub fn subsystem_reset(&self, reason: impl Into<String>) -> Result<(), HostError> {
        let (state, info) = (self.state(), self.info());
        let address = self.address().to_string();
        let Some(info) = info.filter(|_| state == State::Live) else {
            return Err(HostError::NotLive { address, state });
        };
        if !info.subsystem_reset {
            let (what, reason) =
                ("Controller Capabilities", "NSSRS is 0, a subsystem reset is not possible");
            return Err(ControllerError::Invalid { address, what, reason: reason.into() }.into());
        }
        self.host.commands.send(Command::SubsystemReset(self.id(), reason.into()));
        Ok(())
    }

    /// Marks the controller's paths as marginal, or takes the mark off: they are used only when a
    /// head has no other path, whatever the policy. For links that lose or delay frames without
    /// failing. The mark stays through reconnects.
    pub fn set_marginal(&self, marginal: bool) {
        self.status.marginal.store(marginal, Ordering::Relaxed);
        self.host.commands.send(Command::MarginalChanged(self.id()));
    }

    /// Whether the controller's paths are marked as marginal.
    #[must_use]
    pub fn is_marginal(&self) -> bool {
        self.status.marginal.load(Ordering::Relaxed)
    }

    /// How long I/O took on this controller, over all of its namespaces, as far as it came from
    /// channels that count it ([`ChannelOptions::latency_histograms`]). Counts since the controller
    /// was connected, through reconnects.
    ///
    /// [`ChannelOptions::latency_histograms`]: crate::ChannelOptions::latency_histograms
    #[must_use]
    pub fn latency(&self) -> PathLatency {
        self.status.latency.lock().sum()
    }

    /// Looks at the namespaces again.
    pub fn rescan(&self) {
        self.host.commands.send(Command::Rescan(self.id()));
    }

    /// The power state that it is in, as a number into
    /// [`power_states`](ControllerInfo::power_states) (Get Features, `NVMe 2.1 §5.1.25.1.2`).
    ///
    /// # Errors
    /// As those of [`admin`](Self::admin); [`HostError::Controller`] with its answer if it refuses.
    pub fn power_state(&self, limit: Duration) -> Result<u8, HostError> {
        let sqe = Sqe::get_features(fid::POWER_MANAGEMENT, FeatureSelect::Current, 0, 0);
        let result = self.simple(sqe, "Get Features (Power Management)", limit)?;
        Ok(result as u8 & 0x1f)
    }

    /// Puts it into power state `state`, 0 to 31 (Set Features, `NVMe 2.1 §5.1.25.1.2`). It comes back
    /// from a reset in the state that it chooses itself, and with
    /// [`apst_latency`](crate::ControllerOptions::apst_latency) leaves this one when it is idle.
    ///
    /// # Errors
    /// As those of [`admin`](Self::admin); [`HostError::Controller`] with its answer if it refuses.
    pub fn set_power_state(&self, state: u8, limit: Duration) -> Result<(), HostError> {
        let sqe = Sqe::set_features(fid::POWER_MANAGEMENT, false, 0, u32::from(state & 0x1f));
        self.simple(sqe, "Set Features (Power Management)", limit).map(drop)
    }

    /// An admin command without data, whose result is wanted.
    fn simple(&self, sqe: Sqe, command: &'static str, limit: Duration) -> Result<u64, HostError> {
        let done = self.admin(sqe, Data::None, limit)?;
        let status = done.cqe.status();
        if status.is_success() {
            return Ok(done.cqe.result());
        }
        Err(ControllerError::Command { address: self.address().to_string(), command, status }
            .into())
    }

    /// Sends an admin command and waits for its end. Not retried. The caller answers for what the
    /// command does: nothing here keeps it from changing what the library relies on.
    ///
    /// # Errors
    /// [`HostError::NotLive`], [`HostError::Removed`] when the controller is gone for good,
    /// [`HostError::Timeout`] after `limit` (the command goes on). An error status is no error here: look at the completion.
    pub fn admin(
        &self,
        sqe: Sqe,
        data: Data,
        limit: Duration,
    ) -> Result<Arc<AdminResult>, HostError> {
        let reply = Arc::new(AdminReply::default());
        let command =
            Command::Admin { controller: self.id(), sqe, data, reply: Arc::clone(&reply) };
        self.host.commands.send(command);
        self.host.wait_for(limit, || reply.0.lock().take()).unwrap_or_else(|| {
            Err(HostError::Timeout { what: format!("admin command on {}", self.address()), limit })
        })
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controller({} #{}, {})", self.address(), self.id(), self.state())
    }
}
