//! The controller itself: its parts, its inputs and its one list of deadlines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::action::{Action, ControllerError, ControllerEvent, ControllerInfo, NamespaceInfo};
use super::admin::AdminTable;
use super::bringup::Step;
use super::config::ControllerConfig;
use super::jitter::Jitter;
use super::link::Link;
use super::namespaces::Namespaces;
use super::recovery::{Goal, Loss};
use super::shutdown::Shutdown;
use super::state::State;
use crate::spec::Status;
use crate::time::{Duration, Instant, earlier};

/// One controller of one subsystem, reached through one transport address.
///
/// A state machine without I/O and without a clock. Its driver
/// 1. calls [`start`](Self::start) once;
/// 2. after every call takes all [`Action`]s from [`poll_action`](Self::poll_action) and carries
///    them out in that order;
/// 3. calls [`handle_timeout`](Self::handle_timeout) when [`deadline`](Self::deadline) has come,
///    reading the deadline anew after every call;
/// 4. reports what happened through the other methods, with the present time.
///
/// Reports that do not fit (of an association that has ended, or doubled) do nothing. Every wait
/// for the controller is bounded; the only thing waited for without a limit is the driver's own
/// [`torn_down`](Self::torn_down).
#[derive(Debug)]
pub struct Controller {
    pub(super) config: ControllerConfig,
    pub(super) state: State,
    pub(super) phase: Phase,
    pub(super) actions: VecDeque<Action>,
    pub(super) jitter: Jitter,
    pub(super) loss: Loss,
    pub(super) admin: AdminTable,
    /// What belongs to the present association alone.
    pub(super) link: Link,
    pub(super) info: Option<Arc<ControllerInfo>>,
    pub(super) namespaces: Namespaces,
    /// A queue could not be opened for want of memory while the controller had a host memory buffer,
    /// which is therefore left out from now on.
    pub(super) spare_memory: bool,
    /// Times in a row that a wanted I/O queue ended the association because it could not be opened.
    pub(super) queue_failures: BTreeMap<u16, u32>,
    /// I/O queues that channels need, whether they can be had or not.
    pub(super) wanted: BTreeSet<u16>,
}

/// What the machine is doing; finer than [`State`], which is what others see.
#[derive(Debug)]
pub(super) enum Phase {
    /// Not started.
    Idle,
    /// An attempt is under way.
    BringUp(Step),
    /// In use.
    Live,
    /// Deleted while live: the controller is being told.
    ShuttingDown(Shutdown),
    /// Waiting for the driver to take the association apart.
    TearingDown(Goal),
    /// Waiting for the next attempt.
    Waiting(Instant),
    /// Nothing follows.
    Gone,
}

impl Controller {
    /// A controller in state [`State::New`]. Nothing happens before [`start`](Self::start).
    #[must_use]
    pub fn new(config: ControllerConfig) -> Self {
        let jitter = Jitter::new(config.seed);
        let admin = AdminTable::new(config.admin_entries);
        Self {
            config,
            state: State::New,
            phase: Phase::Idle,
            actions: VecDeque::new(),
            jitter,
            loss: Loss::default(),
            admin,
            link: Link::default(),
            info: None,
            namespaces: Namespaces::default(),
            spare_memory: false,
            queue_failures: BTreeMap::new(),
            wanted: BTreeSet::new(),
        }
    }

    /// Begins the first attempt. `ctrl_loss_tmo` and `fast_io_fail_tmo` run from here until the
    /// controller is live. Does nothing when called again.
    pub fn start(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle) && self.set_state(State::Connecting) {
            self.loss.begin(now, true);
            self.begin_attempt(now);
        }
    }

    /// The next thing to do, in order; `None` when there is nothing to do for now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next; `None`: not before
    /// something else happens. Never waits for the clock once the controller is gone.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Idle | Phase::Gone | Phase::Live | Phase::TearingDown(_) => None,
            Phase::BringUp(_) => self.link.step_deadline(),
            Phase::ShuttingDown(shutdown) => Some(shutdown.deadline()),
            Phase::Waiting(at) => Some(*at),
        };
        let mut at = earlier(phase, self.loss_deadline());
        if self.has_association() {
            at = earlier(at, self.admin.deadline());
            at = earlier(at, self.link.aborted.as_ref().map(|aborted| aborted.at));
        }
        if self.is_working() {
            at = earlier(at, self.link.deadline(self.is_live()));
        }
        at
    }

    /// Does what is due at `now`. Harmless when called early or late.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.loss_timeout(now);
        match self.phase {
            Phase::Idle | Phase::Gone | Phase::TearingDown(_) => return,
            Phase::Waiting(at) if at <= now => return self.begin_attempt(now),
            Phase::Waiting(_) => return,
            Phase::BringUp(_) => self.step_timeout(now),
            Phase::ShuttingDown(_) => self.shutdown_timeout(now),
            Phase::Live => {}
        }
        self.aborted_timeout(now);
        self.command_timeout(now);
        // Each of these may end the association, and then the others have nothing to do.
        for due in [
            Self::resetting_timeout,
            Self::io_queue_timeout,
            Self::keep_alive_timeout,
            Self::events_timeout,
            Self::ana_timeout,
            Self::scan_timeout,
            Self::cross_reset_timeout,
        ] {
            if self.is_working() {
                due(self, now);
            }
        }
    }

    /// The state as others see it.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether the controller of the present association has said that it is shut down
    /// (`CSTS.SHST`, `NVMe 2.1 §3.6`): then it executes no command any more. Meant to be asked when
    /// [`Action::Teardown`] comes.
    #[must_use]
    pub const fn has_shut_down(&self) -> bool {
        self.link.shut_down
    }

    /// What Identify Controller said on the last association that came so far.
    #[must_use]
    pub const fn info(&self) -> Option<&Arc<ControllerInfo>> {
        self.info.as_ref()
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &ControllerConfig {
        &self.config
    }

    /// Names the path in messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.config.address
    }

    /// The namespaces that were told and not taken back, by NSID. They are kept while the
    /// controller reconnects.
    #[must_use]
    pub const fn namespaces(&self) -> &BTreeMap<u32, Arc<NamespaceInfo>> {
        self.namespaces.known()
    }

    /// Whether commands can be sent and answers are of interest.
    pub(super) const fn has_association(&self) -> bool {
        matches!(self.phase, Phase::BringUp(_) | Phase::Live | Phase::ShuttingDown(_))
    }

    /// Whether the association is being made or used, not ended.
    const fn is_working(&self) -> bool {
        matches!(self.phase, Phase::BringUp(_) | Phase::Live)
    }

    pub(super) const fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    pub(super) fn emit(&mut self, event: ControllerEvent) {
        self.actions.push_back(Action::Event(event));
    }

    /// Moves to `to` if the table of states allows it, and says so. A move that it does not allow
    /// is a fault of this crate: it is reported and not made.
    pub(super) fn set_state(&mut self, to: State) -> bool {
        let from = self.state;
        if from == to {
            return true;
        }
        if !from.can_become(to) {
            self.emit(ControllerEvent::IllegalMove { from, to });
            return false;
        }
        self.state = to;
        self.emit(ControllerEvent::StateChanged { from, to });
        true
    }

    pub(super) fn timeout_error(&self, what: &'static str, limit: Duration) -> ControllerError {
        ControllerError::Timeout { address: self.config.address.clone(), what, limit }
    }

    pub(super) fn command_error(&self, command: &'static str, status: Status) -> ControllerError {
        ControllerError::Command { address: self.config.address.clone(), command, status }
    }

    pub(super) fn invalid(&self, what: &'static str, reason: impl Into<String>) -> ControllerError {
        let (address, reason) = (self.config.address.clone(), reason.into());
        ControllerError::Invalid { address, what, reason }
    }

    pub(super) fn fatal(&self, reason: impl Into<String>) -> ControllerError {
        ControllerError::Fatal { address: self.config.address.clone(), reason: reason.into() }
    }
}
