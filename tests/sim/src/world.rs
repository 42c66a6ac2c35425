//! One world: targets, a network, a host and its channels, and the one thread on which all of them run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::nqn::Uuid;
use nvme_mpath::{
    Channel, ChannelOptions, Controller, ControllerOptions, DelayedRemoval, Events, Fence, Head,
    HeadState, Host, HostOptions, IoCompletion, PathPolicy, SubmitReason, Window,
};
use nvme_target::{
    AnaState, ConnectionId, DrivenTarget, NamespaceConfig, NamespaceIds, SubsystemConfig, Target,
};

use crate::clock::{MS, SEC, SimClock, US};
use crate::dice::Dice;
use crate::load::{BLOCK, BLOCKS, Load};
use crate::net::Net;
use crate::trace::Trace;
use crate::wire::{SimTransport, TargetEnd};

/// The subsystems, and how many ports each has.
pub const SUBSYSTEMS: [(&str, usize); 2] =
    [("nqn.2026-01.org.example:one", 3), ("nqn.2026-01.org.example:two", 1)];

/// Longest time that a request may take, whatever happens: parked, in flight, and sent again.
const LONGEST_REQUEST: u64 = 60 * SEC;

/// CQT where it is reported: longer than any fault delays a write in a fenced world.
const QUIESCE: Duration = Duration::from_millis(500);

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
    connections: BTreeMap<usize, (usize, ConnectionId)>,
    /// The host; `None` once it has been dropped.
    pub host: Option<Host>,
    /// Whether the control plane has ended.
    pub ended: bool,
    host_due: u64,
    events: Option<Events>,
    /// The channels.
    pub lanes: Vec<Lane>,
    next_lane: usize,
    /// Handles of controllers, by port; given-up ones too.
    pub controllers: Vec<(usize, Controller)>,
    /// The load.
    pub load: Load,
    /// Who decides.
    pub dice: Dice,
    /// What was decided once.
    pub plan: Plan,
    /// Where the target's clock begins.
    origin: Instant,
    next_identity: u64,
    /// Turns of the loop.
    pub turns: u64,
    done: Vec<IoCompletion>,
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl From<String> for Violation {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The UUID of a namespace with this identity.
fn uuid(identity: u64) -> Uuid {
    let mut bytes = [0x51; 16];
    bytes[8..].copy_from_slice(&identity.to_be_bytes());
    Uuid(bytes)
}

/// A namespace with this identity.
#[must_use]
pub fn namespace(nsid: u32, identity: u64) -> NamespaceConfig {
    let ids = NamespaceIds { uuid: uuid(identity), ..NamespaceIds::default() };
    let bytes = BLOCKS * BLOCK as u64;
    NamespaceConfig::memory(nsid, bytes).block_size(BLOCK as u32).ids(ids).ana_group(1 + nsid % 2)
}

impl World {
    /// The world of a seed.
    ///
    /// # Panics
    /// When the operating system has no descriptors left.
    #[must_use]
    pub fn new(seed: u64, aloud: bool) -> Self {
        let mut dice = Dice::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let clock = SimClock::new();
        let (late, fenced) = (dice.once_in(3), dice.once_in(2));
        let plan = Plan {
            late,
            fenced: late && fenced,
            // A fence rests on the time in which a target notices that its host has gone.
            keep_alive: if late && fenced { 2 * SEC } else { dice.of(&[0, SEC, 2 * SEC]) },
            park_age: dice.of(&[2 * SEC, 8 * SEC]),
            ana: dice.once_in(2),
        };
        let ports = SUBSYSTEMS.iter().map(|s| s.1).sum();
        let net = Net::new(ports, dice.fork(), Trace::new(aloud), clock.nanos());
        if plan.late {
            let late = dice.of(&[10 * MS, 300 * MS, SEC]);
            let mut net = net.lock();
            net.late = if plan.fenced { 10 * MS } else { late };
            net.late_through_stalls = !plan.fenced;
        }
        let mut next_identity = 0x1000;
        let mut first = 0;
        let mut sites = Vec::new();
        for (nqn, ports) in SUBSYSTEMS {
            sites.push(Self::site(&mut dice, plan, nqn, first, ports, &mut next_identity));
            first += ports;
        }
        let mut options = HostOptions::new(Uuid([7; 16]));
        let digests = (dice.once_in(4), dice.once_in(4));
        if dice.once_in(8) {
            net.lock().most_links = 9;
        }
        options = options.transport(SimTransport::new(Arc::clone(&net), digests));
        options.control_thread = false;
        options.clock = Arc::clone(&clock) as Arc<_>;
        options.seed = dice.bits();
        options.delayed_removal = Self::windows(&mut dice);
        options.fence = match dice.roll(3) {
            0 if !plan.fenced => Fence::Off,
            1 => Fence::Strict,
            _ => Fence::Auto,
        };
        options.policy = dice.of(&PathPolicy::ALL);
        #[expect(clippy::expect_used, reason = "a simulation cannot go on without descriptors")]
        let host = Host::new(options).expect("making a host");
        let events = aloud.then(|| host.events(1 << 16));
        let mut world = Self {
            clock,
            net,
            sites,
            connections: BTreeMap::new(),
            host: Some(host),
            ended: false,
            host_due: 0,
            events,
            lanes: Vec::new(),
            next_lane: 0,
            controllers: Vec::new(),
            load: Load { late: plan.late, ..Load::default() },
            dice,
            plan,
            origin: Instant::now(),
            next_identity,
            turns: 0,
            done: Vec::new(),
        };
        for port in 0..ports {
            if port != 2 || world.dice.once_in(2) {
                world.connect(port);
            }
        }
        world.open_lane();
        world
    }

    fn site(
        dice: &mut Dice,
        plan: Plan,
        nqn: &str,
        first: usize,
        ports: usize,
        next: &mut u64,
    ) -> Site {
        #[expect(clippy::expect_used, reason = "the name and the namespaces are constants")]
        let mut config = SubsystemConfig::new(nqn)
            .expect("a good name")
            .queues(dice.of(&[1, 2, 8]))
            .queue_entries(32);
        if plan.fenced || dice.once_in(4) {
            config = config.quiesce_time(QUIESCE);
        }
        if dice.once_in(2) {
            config = config.cross_controller_resets(dice.of(&[1, 4]));
        }
        let mut namespaces = BTreeMap::new();
        for nsid in 1..=dice.between(1, 3) as u32 {
            config = config.namespace(namespace(nsid, *next));
            namespaces.insert(nsid, (*next, true));
            *next += 1;
        }
        let mut builder = Target::builder().subsystem(config);
        for port in 0..ports {
            builder = builder.listen(&format!("192.0.2.{}:4420", 1 + first + port));
        }
        #[expect(clippy::expect_used, reason = "the configuration is a constant")]
        let target = builder.drive().expect("a good configuration");
        let used = namespaces.len() as u32;
        Site { target, first, ports, namespaces, used }
    }

    /// Windows for removals.
    pub fn windows(dice: &mut Dice) -> DelayedRemoval {
        let after = Duration::from_millis(dice.of(&[0, 500, 2_000, 6_000]));
        match dice.roll(3) {
            0 => DelayedRemoval::like_linux(Window::For(after)),
            _ => DelayedRemoval::after(Window::For(after)),
        }
    }

    /// Now, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.nanos()
    }

    /// Now, as the targets count.
    fn target_now(&self) -> Instant {
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

    /// Begins to connect to a port.
    pub fn connect(&mut self, port: usize) {
        let Some(host) = &self.host else { return };
        let dice = &mut self.dice;
        let mut options = ControllerOptions::default();
        let ms = Duration::from_millis;
        options.keep_alive = Duration::from_nanos(self.plan.keep_alive);
        options.reconnect_delay = ms(dice.of(&[100, 500, 1_000]));
        options.ctrl_loss_tmo = dice.of(&[None, Some(ms(0)), Some(ms(1_000)), Some(ms(5_000))]);
        options.fast_io_fail_tmo = dice.of(&[None, None, Some(ms(800))]);
        options.reattach_delay = dice.of(&[None, Some(ms(400))]);
        options.io_entries = 16;
        options.max_io_queues = 4;
        options.admin_timeout = ms(dice.of(&[1_000, 3_000]));
        options.connect_timeout = ms(dice.of(&[500, 2_000]));
        let site = self.place(port).0;
        let url = format!("sim://{port}/{}", SUBSYSTEMS[site].0);
        if let Ok(controller) = host.connect(&url, options) {
            self.note(10 + port as u64, format_args!("connect to port {port}"));
            self.controllers.push((port, controller));
        }
    }

    /// Opens a channel.
    pub fn open_lane(&mut self) {
        let Some(host) = &self.host else { return };
        let mut options = ChannelOptions::default();
        options.depth = 16;
        options.io_timeout = Duration::from_millis(self.dice.of(&[700, 2_000]));
        options.max_parked_requests = self.dice.of(&[2, 16, 16, 16]);
        options.max_parked_bytes = self.dice.of(&[3 * BLOCK, 1 << 20, 1 << 20]);
        options.max_parked_age = Some(Duration::from_nanos(self.plan.park_age));
        if let Ok(channel) = host.channel(options) {
            self.next_lane += 1;
            self.lanes.push(Lane { channel, number: self.next_lane, due: 0, busy: 0 });
            self.note(20, format_args!("channel {} opened", self.next_lane));
        }
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
        let number = self.lanes[lane].number;
        let now = self.now();
        match self.load.next(&mut self.dice, head, number, now) {
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

    /// When something happens next; `None`: nothing ever will.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let mut next = self.net.lock().deadline();
        if self.net.lock().has_news() {
            return Some(self.now());
        }
        let mut take = |at: Option<u64>| next = [next, at].into_iter().flatten().min();
        for site in &self.sites {
            let at = site.target.deadline();
            take(at.map(|at| at.saturating_duration_since(self.origin).as_nanos() as u64));
        }
        if !self.ended {
            take((self.host_due != u64::MAX).then_some(self.host_due));
            take(self.host.as_ref().and_then(Host::deadline).map(|at| at.as_nanos()));
        }
        for lane in &self.lanes {
            let own = lane.channel.deadline().map_or(u64::MAX, |at| at.as_nanos());
            let at = lane.due.min(own);
            take((at != u64::MAX).then_some(at.max(lane.busy)));
        }
        next
    }

    /// Moves on to the next thing that happens, at most to `limit`, and lets it happen.
    pub fn turn(&mut self, limit: u64) -> Result<(), Violation> {
        self.turns += 1;
        let now = self.deadline().map_or(limit, |at| at.clamp(self.now(), limit.max(self.now())));
        self.clock.set(now);
        self.net.lock().advance(now);
        self.run_targets();
        self.run_host(now)?;
        self.run_lanes(now)
    }

    fn wake_host(&mut self) {
        let now = self.now();
        self.host_due = self.host_due.min(now);
        for lane in &mut self.lanes {
            lane.due = lane.due.min(now);
        }
    }

    fn run_targets(&mut self) {
        let now = self.target_now();
        loop {
            self.sites.iter_mut().for_each(|site| site.target.step(now));
            let news = self.net.lock().news();
            if news.is_empty() {
                return;
            }
            if news.host {
                self.wake_host();
            }
            for link in news.accepts {
                let port = self.net.lock().port_of(link);
                let (at, listener) = self.place(port);
                let end = TargetEnd::new(Arc::clone(&self.net), link);
                if let Ok(Some(id)) = self.sites[at].target.accept(listener, end, now) {
                    self.connections.insert(link, (at, id));
                }
            }
            for link in news.targets {
                if let Some(&(at, id)) = self.connections.get(&link) {
                    self.sites[at].target.ready(id, now);
                    if !self.sites[at].target.is_open(id) {
                        self.connections.remove(&link);
                    }
                }
            }
        }
    }

    fn run_host(&mut self, now: u64) -> Result<(), Violation> {
        if self.ended {
            return Ok(());
        }
        let Some(host) = &self.host else { return Ok(()) };
        let due = self.host_due <= now || host.deadline().is_some_and(|at| at.as_nanos() <= now);
        if !due {
            return Ok(());
        }
        self.host_due = u64::MAX;
        self.ended = !host.drive(Duration::ZERO);
        if let Some(events) = &self.events {
            while let Some(event) = events.try_next() {
                self.net.lock().trace.say(now, format_args!("{:?}", event.event));
            }
        }
        self.check_pins()
    }

    /// A pin for each head that waits for its removal, and for none else.
    fn check_pins(&self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        let heads = host.heads();
        let waits = |h: &&Arc<Head>| {
            matches!(h.state(), HeadState::RemovalPending { .. } | HeadState::Removing(_))
        };
        let waiting = heads.iter().filter(waits).count();
        if host.pin_count() != waiting {
            let states: Vec<_> = heads.iter().map(|h| h.state()).collect();
            let pins = host.pins();
            return Err(Violation(format!("{pins:?} are out, and the heads are {states:?}")));
        }
        Ok(())
    }

    fn run_lanes(&mut self, now: u64) -> Result<(), Violation> {
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            let timer = lane.channel.deadline().is_some_and(|d| d.as_nanos() <= now);
            if lane.busy > now || lane.due > now && !timer {
                continue;
            }
            lane.due = u64::MAX;
            lane.channel.poll(&mut self.done);
            let number = lane.number;
            for done in std::mem::take(&mut self.done) {
                let (request, good) = (done.user_data, done.result.is_ok());
                let mut net = self.net.lock();
                net.trace.note(&[7, now, request, u64::from(good)]);
                net.trace.say(now, format_args!("request {request} ends: {:?}", done.result));
                drop(net);
                self.load.ended(&done, number, now)?;
            }
        }
        Ok(())
    }

    /// Lets time pass.
    pub fn run_for(&mut self, nanos: u64) -> Result<(), Violation> {
        let end = self.now() + nanos;
        while self.now() < end {
            self.turn(end)?;
            self.check_turns()?;
        }
        self.check_ages()
    }

    fn check_turns(&self) -> Result<(), Violation> {
        if self.turns > 400_000 {
            return Err(Violation("it does not come to rest: 400,000 turns".into()));
        }
        Ok(())
    }

    fn check_ages(&self) -> Result<(), Violation> {
        let now = self.now();
        let old = self.load.under_way.iter().find(|(_, op)| op.begun + LONGEST_REQUEST < now);
        match old {
            Some((number, op)) => {
                Err(Violation(format!("request {number} takes for ever: {op:?}")))
            }
            None => Ok(()),
        }
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
