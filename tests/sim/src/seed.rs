//! One seed from beginning to end: trouble, then peace, then rest, then the end of the host; and what
//! must hold at each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use nvme_mpath::{DelayedRemoval, Head, HeadState, Host, IoOp, Window};
use nvme_target::AnaState;

use crate::clock::SEC;
use crate::load::{Ask, BLOCKS, identity};
use crate::trouble::Armed;
use crate::world::{MOST_LANES, Violation, World};

/// Longest time from the end of all trouble until everything works again: the longest keep-alive, the
/// longest reconnect delay at its longest, the time limits of a try or two.
const RECOVERY: u64 = 40 * SEC;

/// The longest window for removals. A timer that was cancelled may stay until its time.
const LONGEST_WINDOW: u64 = 6 * SEC;

/// Longest time that a request is parked while all paths are there: a queue may be on its way.
const PARKED_WITH_PATHS: u64 = 3 * SEC / 2;

/// A channel looks at a queue with nothing in flight once in so many polls, where no descriptor tells it
/// to.
const IDLE_ROUNDS: u32 = 64;

/// Longest time that the shutdown of a host takes, with peers that do not answer.
const SHUTDOWN: u64 = 30 * SEC;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash of all that happened.
    pub hash: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Simulated time in nanoseconds.
    pub simulated: u64,
    /// Requests submitted, of which so many succeeded and failed.
    pub requests: (u64, u64, u64),
    /// Writes may have been carried out long after their connection had died, past any fence.
    pub late: bool,
    /// A rule that did not hold.
    pub violation: Option<String>,
    /// A block had a value that it cannot have had, in a run where writes were carried out late and
    /// nothing was sure to fence them. Not a violation: it is what goes wrong without fencing.
    pub unfenced: Option<String>,
}

/// Runs a seed; `aloud` prints what happens.
#[must_use]
pub fn run(seed: u64, aloud: bool) -> Outcome {
    let mut world = World::new(seed, aloud);
    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(Violation(text))) => Some(text),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("panic: {}", text.unwrap_or("?")))
        }
    };
    // What one history cannot be is the last rule: without it the others say more.
    let history = world.load.history.verify().err();
    let (hash, now) = (world.net.lock().trace.hash(), world.now());
    let open = world.plan.late && !world.plan.fenced;
    let (unfenced, wrong) = if open { (history, None) } else { (None, history) };
    let load = &world.load;
    let outcome = Outcome {
        seed,
        hash,
        turns: world.turns,
        simulated: now - SEC,
        requests: (load.submitted, load.succeeded, load.failed),
        late: open,
        violation: violation.or(wrong),
        unfenced,
    };
    if outcome.violation.as_ref().is_some_and(|v| v.starts_with("panic")) {
        // What a panic has left half done is not to be touched again.
        std::mem::forget(world);
    }
    outcome
}

impl World {
    fn live(&mut self) -> Result<(), Violation> {
        let mut armed = Armed::new();
        self.begin()?;
        if self.dice.once_in(6) {
            self.hedge()?;
        }
        let rounds = self.dice.between(10, 60);
        for _ in 0..rounds {
            self.round(&mut armed)?;
        }
        match self.dice.roll(8) {
            0 | 1 => self.shut_down(true),
            2 => self.drop_host(),
            _ => {
                self.make_peace(&mut armed)?;
                self.recover()?;
                self.read_all()?;
                self.rest()?;
                let force = self.dice.once_in(2);
                self.shut_down(force)
            }
        }
    }

    /// The first connections, mostly without trouble.
    fn begin(&mut self) -> Result<(), Violation> {
        let time = self.dice.of(&[SEC / 1000, SEC / 50, SEC / 20]);
        self.run_for(time)
    }

    fn round(&mut self, armed: &mut Armed) -> Result<(), Violation> {
        for _ in 0..self.dice.roll(5) {
            self.submit()?;
        }
        if self.dice.once_in(3) {
            self.disturb(armed)?;
        }
        let pause = self.pause();
        self.run_for(pause)
    }

    /// All is well from now on.
    fn make_peace(&mut self, armed: &mut Armed) -> Result<(), Violation> {
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
        self.host_busy = 0;
        self.rules.user_acts();
        // A head that waits for a namespace that has gone is in the way of one in its place.
        let second = DelayedRemoval::after(Window::For(Duration::from_secs(1)));
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
    fn recover(&mut self) -> Result<(), Violation> {
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
            if missing.is_none() && self.load.under_way.is_empty() {
                return Ok(());
            }
            let now = self.now();
            good_since = missing.is_none().then(|| good_since.unwrap_or(now));
            let parked: usize = self.lanes.iter().map(|lane| lane.channel.parked()).sum();
            if parked > 0 && good_since.is_some_and(|since| since + PARKED_WITH_PATHS < now) {
                return Err(Violation(format!(
                    "{parked} requests are parked, with all paths there"
                )));
            }
            if self.now() > end {
                let left = &self.load.under_way;
                let missing = missing.unwrap_or_default();
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
    fn read_all(&mut self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        // A deleted namespace may live on in a controller that cannot be asked.
        let exists = |id: u64| {
            self.sites.iter().any(|s| s.namespaces.values().any(|(identity, _)| *identity == id))
        };
        let good = |h: &Arc<Head>| h.state() == HeadState::Live && exists(identity(h));
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

    /// With nothing to do, nothing is done: no timer but the keep-alive's, no request, no connection
    /// too many.
    fn rest(&mut self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        host.heads().iter().for_each(|head| _ = head.remove_now());
        self.rules.user_acts();
        self.run_for(LONGEST_WINDOW + SEC)?;
        for lane in &self.lanes {
            let (flying, parked) = (lane.channel.in_flight(), lane.channel.parked());
            if (flying, parked) != (0, 0) {
                return Err(Violation(format!("at rest: {flying} in flight, {parked} parked")));
            }
            if let Some(at) = lane.channel.deadline() {
                return Err(Violation(format!("at rest: a channel waits for {at:?}")));
            }
        }
        let Some(host) = &self.host else { return Ok(()) };
        if host.pin_count() != 0 {
            return Err(Violation(format!("at rest: pins {:?}", host.pins())));
        }
        let controllers = host.controllers().len();
        let links = self.net.lock().open_links();
        // Queues that a closed channel gave back are kept for the next one.
        let most = controllers * (1 + MOST_LANES);
        if links > most {
            return Err(Violation(format!("at rest: {links} connections, {most} are needed")));
        }
        let waits = host.deadline();
        if self.plan.keep_alive == 0 && self.controllers_are_calm() && waits.is_some() {
            return Err(Violation(format!("at rest: the host waits for {waits:?}")));
        }
        let (turns, time) = (self.turns, 4 * SEC);
        self.run_for(time)?;
        // Each keep-alive is a command, its answer, and the timers on both sides. A target looks at its
        // keep-alive timers twice a second.
        let beats = (4 * time).checked_div(self.plan.keep_alive).unwrap_or(0);
        let most = controllers as u64 * (8 * beats + 3 * 8) + 20;
        if self.controllers_are_calm() && self.turns - turns > most {
            let turns = self.turns - turns;
            return Err(Violation(format!("at rest: {turns} turns in {time} ns, not {most}")));
        }
        Ok(())
    }

    /// Whether every controller is live: one that was refused is tried again and again.
    fn controllers_are_calm(&self) -> bool {
        let live = |c: &nvme_mpath::Controller| c.state() == nvme_core::controller::State::Live;
        self.host.as_ref().is_none_or(|host| host.controllers().iter().all(live))
    }

    /// Shuts the host down, with requests under way or without.
    fn shut_down(&mut self, force: bool) -> Result<(), Violation> {
        self.note(81, format_args!("shutdown, force {force}"));
        for lane in &mut self.lanes {
            lane.busy = 0;
        }
        self.host_busy = 0;
        self.rules.user_acts();
        let Some(host) = &self.host else { return Ok(()) };
        if let Err(error) = host.begin_shutdown(force) {
            if host.pin_count() == 0 {
                return Err(Violation(format!("refused without a reason: {error}")));
            }
            // What a program does that is told so.
            host.begin_shutdown(true).map_err(|e| format!("refused by force: {e}"))?;
        }
        let end = self.now() + SHUTDOWN;
        while !self.ended {
            self.turn(end)?;
            if self.now() >= end {
                return Err(Violation("the shutdown takes for ever".into()));
            }
        }
        self.run_for(SEC / 100)?;
        self.check_gone()?;
        self.close()
    }

    fn check_gone(&self) -> Result<(), Violation> {
        let host = self.host.as_ref();
        let (pins, heads) = host.map_or((0, 0), |h| (h.pin_count(), h.heads().len()));
        let left = host.map_or(0, |h| h.controllers().len());
        if pins + heads + left + self.load.under_way.len() > 0 {
            let requests = &self.load.under_way;
            let lanes: Vec<_> = self.lanes.iter().map(|l| &l.channel).collect();
            return Err(Violation(format!(
                "after the end: {pins} pins, {heads} heads, {left} controllers, {requests:?} {lanes:?}"
            )));
        }
        Ok(())
    }

    /// Drops the host without a word.
    fn drop_host(&mut self) -> Result<(), Violation> {
        self.note(82, format_args!("the host is dropped"));
        drop::<Option<Host>>(self.host.take());
        self.ended = true;
        let now = self.now();
        for lane in &mut self.lanes {
            (lane.busy, lane.due) = (0, now);
        }
        self.run_for(SEC / 10)?;
        self.check_gone()?;
        self.close()
    }

    /// Lets go of everything; nothing may be left that holds on to the network.
    fn close(&mut self) -> Result<(), Violation> {
        self.lanes.clear();
        self.controllers.clear();
        self.host = None;
        let left = self.net.lock().open_links();
        if left > 0 {
            return Err(Violation(format!("{left} connections are left behind")));
        }
        // Whatever is still on the way, late writes too, arrives.
        self.run_for(5 * SEC)
    }
}
