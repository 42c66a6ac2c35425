//! The end of all trouble: then everything works again, and everything that was written is read.

use std::sync::Arc;
use std::time::Duration;

use nvme_mpath::{DelayedRemoval, Head, HeadState, Host, IoOp, Window};
use nvme_target::AnaState;

use crate::clock::SEC;
use crate::load::{Ask, BLOCKS, identity};
use crate::trouble::Armed;
use crate::world::{Violation, World};

/// Longest time from the end of all trouble until everything works again: the longest keep-alive, the
/// longest reconnect delay at its longest, the time limits of a try or two.
const RECOVERY: u64 = 40 * SEC;

/// Longest time that a request is parked while all paths are there: a queue may be on its way.
const PARKED_WITH_PATHS: u64 = 3 * SEC / 2;

/// A channel looks at a queue with nothing in flight once in so many polls, where no descriptor tells it
/// to.
const IDLE_ROUNDS: u32 = 64;

impl World {
    /// All is well from now on.
    pub(crate) fn make_peace(&mut self, armed: &mut Armed) -> Result<(), Violation> {
        self.note(80, format_args!("peace"));
        self.disarm(armed);
        self.net.lock().most_links = usize::MAX;
        let ports = self.net.lock().ports.len();
        for port in 0..ports {
            self.net.lock().heal(port);
            for group in [1, 2] {
                self.set_ana(port, group, AnaState::Optimized);
            }
        }
        for site in &mut self.sites {
            let subsystem = &site.target.subsystems()[0];
            subsystem.set_queue_limit(8);
            for (nsid, (_, enabled)) in &mut site.namespaces {
                *enabled = true;
                let _ = subsystem.enable_namespace(*nsid, true);
            }
        }
        for lane in &mut self.lanes {
            lane.busy = 0;
        }
        (self.host_busy, self.nap) = (0, (0, 0));
        // A head that waits for a namespace that has gone is in the way of one in its place.
        let second = DelayedRemoval::after(Window::For(Duration::from_secs(1)));
        self.rules.windows_set(second);
        if let Some(host) = &self.host {
            host.set_delayed_removal(DelayedRemoval::OFF);
            host.heads().iter().for_each(|head| {
                head.set_fail_if_no_path(false);
                head.set_delayed_removal(second);
            });
        }
        // What was granted in worse times holds until the controller is asked again. Half of the time
        // all must come right without that.
        if self.dice.once_in(2) || self.deaf {
            self.controllers.iter().for_each(|(_, c)| c.reset("peace"));
        }
        if self.lanes.is_empty() {
            self.open_lane();
        }
        self.run_for(SEC / 100)
    }

    /// Connects what was given up, and waits until all is as it should be.
    pub(crate) fn recover(&mut self) -> Result<(), Violation> {
        let end = self.now() + RECOVERY;
        let mut first = true;
        let mut good_since = None;
        loop {
            self.reconnect();
            if first {
                // New requests must find their way as well as old ones.
                for _ in 0..4 {
                    self.submit()?;
                }
                first = false;
            }
            self.poll_idle_queues()?;
            self.run_for(SEC / 4)?;
            let missing = self.missing();
            // A connection that was begun in worse times may be one whose answers were lost: then it is
            // given up only in a while, and what a channel wants of that path is parked meanwhile.
            let unanswered = self.net.lock().unanswered();
            if missing.is_none() && unanswered.is_none() && self.load.under_way.is_empty() {
                return Ok(());
            }
            let now = self.now();
            good_since = missing.is_none().then(|| good_since.unwrap_or(now));
            let parked = self.parked_on_what_exists();
            if parked > 0 && good_since.is_some_and(|since| since + PARKED_WITH_PATHS < now) {
                return Err(Violation(format!(
                    "{parked} requests are parked, with all paths there"
                )));
            }
            if self.now() > end {
                let left = &self.load.under_way;
                let unmade = || unanswered.map(|link| format!("connection {link} is being made"));
                let missing = missing.or_else(unmade).unwrap_or_default();
                return Err(Violation(format!("no recovery: {missing}, under way {left:?}")));
            }
        }
    }

    /// Polls the channels as often as it takes for a queue without a descriptor and with nothing in
    /// flight to be looked at. A connection may have broken before the peace, and its end may only be
    /// learnt of now: until then a path counts as usable that is not, and what is submitted next
    /// finds that out, is parked, and meets the limits of parking.
    fn poll_idle_queues(&mut self) -> Result<(), Violation> {
        for _ in 0..IDLE_ROUNDS {
            let now = self.now();
            self.lanes.iter_mut().for_each(|lane| lane.due = now);
            self.turn(now)?;
        }
        Ok(())
    }

    /// Connects to ports of which no controller is left.
    fn reconnect(&mut self) {
        let Some(host) = &self.host else { return };
        let known: Vec<_> = host.controllers().iter().map(|c| c.id()).collect();
        let gone = |c: &nvme_mpath::Controller| !known.contains(&c.id());
        self.controllers.retain(|(_, c)| !gone(c));
        let ports = self.net.lock().ports.len();
        for port in 0..ports {
            if !self.controllers.iter().any(|(p, _)| *p == port) {
                self.connect(port);
            }
        }
    }

    /// Requests that are parked on namespaces that exist. What is meant for one that was deleted waits as
    /// long as a controller is on its way back that had it: nobody has asked that one yet.
    fn parked_on_what_exists(&self) -> u64 {
        let heads = self.host.as_ref().map(Host::heads).unwrap_or_default();
        let exists = |h: &&Arc<Head>| self.exists(identity(h));
        heads.iter().filter(exists).map(|h| h.stats().parked_now).sum()
    }

    /// Whether a target has the namespace with this identity.
    fn exists(&self, id: u64) -> bool {
        self.sites.iter().any(|s| s.namespaces.values().any(|(identity, _)| *identity == id))
    }

    /// What is not as it should be in peace.
    fn missing(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        let heads = host.heads();
        if let Some(link) = self.net.lock().unnoticed() {
            return Some(format!("connection {link} has ended, and the host keeps it"));
        }
        for site in &self.sites {
            for (nsid, (wanted, _)) in &site.namespaces {
                let head = heads.iter().find(|h| identity(h) == *wanted);
                let Some(head) = head else {
                    return Some(format!("namespace {nsid} ({wanted:x}) has no head"));
                };
                let usable = head.paths().iter().filter(|p| p.usable).count();
                if usable < site.ports || head.state() != HeadState::Live {
                    let (state, paths) = (head.state(), head.paths());
                    return Some(format!("{head:?} has {usable} paths: {state:?} {paths:?}"));
                }
            }
        }
        None
    }

    /// Reads every block of every namespace that is there, by every channel.
    pub(crate) fn read_all(&mut self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        // A deleted namespace may live on in a controller that cannot be asked.
        let good = |h: &Arc<Head>| h.state() == HeadState::Live && self.exists(identity(h));
        let live: Vec<Arc<Head>> = host.heads().into_iter().filter(good).collect();
        let begun = self.load.failed - self.load.without_queue;
        for head in &live {
            for lba in (0..BLOCKS).step_by(2) {
                let lane = self.dice.roll(self.lanes.len() as u64) as usize;
                let (channel, now) = (self.lanes[lane].number, self.now());
                let ask = Ask { op: IoOp::Read, slba: lba, blocks: 2, expected: 0 };
                let request = self.load.request(ask, head, channel, now);
                if let Some((number, request)) = request {
                    self.hand_in(lane, head, number, request)?;
                }
                self.run_for(SEC / 1000)?;
            }
        }
        let end = self.now() + 5 * SEC;
        while !self.load.under_way.is_empty() && self.now() < end {
            self.run_for(SEC / 20)?;
        }
        if !self.load.under_way.is_empty() {
            return Err(Violation(format!("reads in peace hang: {:?}", self.load.under_way)));
        }
        match self.load.failed - self.load.without_queue - begun {
            0 => Ok(()),
            n => Err(Violation(format!("{n} reads failed in peace"))),
        }
    }
}
