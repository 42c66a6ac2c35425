//! One world: targets, a network, a host and its channels, and the one thread on which all of them run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_mpath::{
    Channel, Controller, ControllerId, Events, Head, Host, IoCompletion, IoOp, SubmitReason,
};
use nvme_target::{AnaState, ConnectionId, DrivenTarget};

use crate::clock::{MS, SimClock, US};
use crate::dice::Dice;
use crate::load::{Ask, Load};
use crate::net::Net;
use crate::rules::EventRules;
use crate::wire::TargetEnd;

/// The subsystems, and how many ports each has.
pub const SUBSYSTEMS: [(&str, usize); 2] =
    [("nqn.2026-01.org.example:one", 3), ("nqn.2026-01.org.example:two", 1)];

/// Channels at a time.
pub const MOST_LANES: usize = 2;

/// A target and where it is in the network.
pub struct Site {
    /// The target.
    pub target: DrivenTarget<TargetEnd>,
    /// Its first port.
    pub first: usize,
    /// Its ports.
    pub ports: usize,
    /// Its namespaces, by identifier: identity, and whether they are enabled.
    pub namespaces: BTreeMap<u32, (u64, bool)>,
    /// Namespace identifiers used so far.
    pub used: u32,
    /// It reports a time in which a controller that has lost its host stops (CQT).
    pub quiesces: bool,
    /// It takes resets of one controller by another.
    pub resets: bool,
}

/// What a seed decides once.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writes may be carried out after the connection that brought them has died.
    pub late: bool,
    /// Nothing comes late enough to outlive a fence: then no write may land on a newer one.
    pub fenced: bool,
    /// KATO in nanoseconds, or 0.
    pub keep_alive: u64,
    /// Longest wait of parked requests.
    pub park_age: u64,
    /// Paths are on ANA groups.
    pub ana: bool,
}

/// A channel and when it is looked at.
pub struct Lane {
    /// The channel.
    pub channel: Channel,
    /// Its number, never used twice.
    pub number: usize,
    /// When it is polled next, unless its own deadline comes first.
    pub due: u64,
    /// Its thread is busy elsewhere until then.
    pub busy: u64,
}

/// See the module's text.
pub struct World {
    /// The clock of everything.
    pub clock: Arc<SimClock>,
    /// The network.
    pub net: Arc<Net>,
    /// The targets.
    pub sites: Vec<Site>,
    pub(crate) connections: BTreeMap<usize, (usize, ConnectionId)>,
    /// The host; `None` once it has been dropped.
    pub host: Option<Host>,
    /// Whether the control plane has ended.
    pub ended: bool,
    pub(crate) host_due: u64,
    /// The control thread gets no processor until then.
    pub host_busy: u64,
    /// From when to when it gets none: when a removal is due, say.
    pub nap: (u64, u64),
    /// Controllers that users have disconnected.
    pub given_up: Vec<ControllerId>,
    /// Admin commands were lost: an Asynchronous Event Request may have been among them, which has no
    /// time limit, so that a controller tells its host nothing until they connect anew.
    pub deaf: bool,
    /// What the host's events must have in common.
    pub rules: EventRules,
    pub(crate) events: Option<Events>,
    /// The channels.
    pub lanes: Vec<Lane>,
    pub(crate) next_lane: usize,
    /// Handles of controllers, by port; given-up ones too.
    pub controllers: Vec<(usize, Controller)>,
    /// The load.
    pub load: Load,
    /// Who decides.
    pub dice: Dice,
    /// What was decided once.
    pub plan: Plan,
    /// Where the target's clock begins.
    pub(crate) origin: Instant,
    pub(crate) next_identity: u64,
    /// Turns of the loop.
    pub turns: u64,
    pub(crate) done: Vec<IoCompletion>,
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl From<String> for Violation {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl World {
    /// Now, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.nanos()
    }

    /// Now, as the targets count.
    pub(crate) fn target_now(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now())
    }

    /// Prints a line and puts its number into the hash.
    pub fn note(&self, what: u64, line: std::fmt::Arguments<'_>) {
        let mut net = self.net.lock();
        let now = self.now();
        net.trace.note(&[6, now, what]);
        net.trace.say(now, line);
    }

    /// The site and the listener of a port.
    #[must_use]
    pub fn place(&self, port: usize) -> (usize, usize) {
        let mut at = 0;
        while port >= self.sites[at].first + self.sites[at].ports {
            at += 1;
        }
        (at, port - self.sites[at].first)
    }

    /// Closes a channel with all that is under way on it.
    pub fn close_lane(&mut self, at: usize) {
        let lane = self.lanes.swap_remove(at);
        let number = lane.number;
        self.note(21, format_args!("channel {number} closed"));
        drop(lane);
        self.load.channel_closed(number, self.now());
    }

    /// A namespace identity that was never used.
    pub const fn fresh_identity(&mut self) -> u64 {
        self.next_identity += 1;
        self.next_identity - 1
    }

    /// Closes all connections of a site.
    pub fn kill_connections(&mut self, site: usize, listener: Option<usize>) {
        let now = self.target_now();
        self.sites[site].target.kill_connections(listener, now);
    }

    /// Changes ANA states.
    pub fn set_ana(&mut self, port: usize, group: u32, state: AnaState) {
        let (site, listener) = self.place(port);
        self.note(30, format_args!("port {port} group {group} becomes {state:?}"));
        // Group and state are valid.
        let _ = self.sites[site].target.subsystems()[0].set_ana(listener, group, state);
    }

    /// Submits a request of the load's own choice.
    pub fn submit(&mut self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        let heads = host.heads();
        if heads.is_empty() || self.lanes.is_empty() {
            return Ok(());
        }
        let head = &heads[self.dice.roll(heads.len() as u64) as usize];
        let lane = self.dice.roll(self.lanes.len() as u64) as usize;
        if self.dice.once_in(12) {
            return self.pass_through(lane, head);
        }
        let number = self.lanes[lane].number;
        let now = self.now();
        match self.load.next(&mut self.dice, head, number, now) {
            Some((number, request)) => self.hand_in(lane, head, number, request),
            None => Ok(()),
        }
    }

    /// Reads one block.
    pub fn read(&mut self, lane: usize, head: &Arc<Head>, lba: u64) -> Result<(), Violation> {
        let ask = Ask { op: IoOp::Read, slba: lba, blocks: 1, expected: 0 };
        let (channel, now) = (self.lanes[lane].number, self.now());
        match self.load.request(ask, head, channel, now) {
            Some((number, request)) => self.hand_in(lane, head, number, request),
            None => Ok(()),
        }
    }

    /// Submits a request.
    pub fn hand_in(
        &mut self,
        lane: usize,
        head: &Arc<Head>,
        number: u64,
        request: nvme_mpath::IoRequest,
    ) -> Result<(), Violation> {
        let now = self.now();
        self.note(40 + number, format_args!("request {number} to {head:?}: {request:?}"));
        if let Err(error) = self.lanes[lane].channel.submit(head, request) {
            self.load.refused(number, now);
            if !matches!(error.reason, SubmitReason::Full { .. }) {
                return Err(Violation(format!("request {number} was refused: {error:?}")));
            }
        }
        self.lanes[lane].due = now;
        Ok(())
    }

    /// A short time, as the dice will have it.
    pub fn pause(&mut self) -> u64 {
        match self.dice.roll(8) {
            0 => self.dice.between(100, 1_500) * MS,
            1 | 2 => self.dice.between(5, 100) * MS,
            _ => self.dice.between(10, 3_000) * US,
        }
    }
}
