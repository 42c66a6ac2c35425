//! The making of a world: targets, controllers and channels with the settings that a seed picks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::nqn::Uuid;
use nvme_mpath::{
    ChannelOptions, ControllerOptions, DelayedRemoval, Fence, Host, HostOptions, OverdueAction,
    PathPolicy, TimeoutPolicy, Window,
};
use nvme_target::{NamespaceConfig, NamespaceIds, SubsystemConfig, Target};

use crate::clock::{MS, SEC, SimClock};
use crate::dice::Dice;
use crate::load::{ALL_BLOCKS, BLOCK, Load};
use crate::net::Net;
use crate::rules::EventRules;
use crate::trace::Trace;
use crate::wire::SimTransport;
use crate::world::{Lane, Plan, SUBSYSTEMS, Site, World};

/// CQT where it is reported: longer than any fault delays a write in a fenced world.
const QUIESCE: Duration = Duration::from_millis(500);

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
    let bytes = ALL_BLOCKS * BLOCK as u64;
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
            let site = Self::site(&mut dice, plan, nqn, first, ports, &mut next_identity);
            sites.push(site);
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
        let (fence, policy) = (options.fence, options.policy);
        #[expect(clippy::expect_used, reason = "a simulation cannot go on without descriptors")]
        let host = Host::new(options).expect("making a host");
        let events = Some(host.events(1 << 16));
        let mut world = Self {
            clock,
            net,
            sites,
            connections: BTreeMap::new(),
            host: Some(host),
            ended: false,
            host_due: 0,
            host_busy: 0,
            nap: (0, 0),
            given_up: Vec::new(),
            deaf: false,
            rules: EventRules::default(),
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
        world.note(1, format_args!("{plan:?}, fence {fence:?}, policy {policy:?}"));
        for site in &world.sites {
            let Site { first, quiesces, resets, .. } = site;
            world.note(2, format_args!("port {first}..: CQT {quiesces}, CCR {resets}"));
        }
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
            .instance_seed(dice.bits())
            .queues(dice.of(&[1, 2, 8]))
            .queue_entries(32)
            .ana_transition(dice.of(&[1, 10]));
        let quiesces = plan.fenced || dice.once_in(4);
        if quiesces {
            config = config.quiesce_time(QUIESCE);
        }
        let resets = dice.once_in(2);
        if resets {
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
        Site { target, first, ports, namespaces, used, quiesces, resets }
    }

    /// Windows for removals.
    pub fn windows(dice: &mut Dice) -> DelayedRemoval {
        let after = Duration::from_millis(dice.of(&[0, 500, 2_000, 6_000]));
        match dice.roll(3) {
            0 => DelayedRemoval::like_linux(Window::For(after)),
            _ => DelayedRemoval::after(Window::For(after)),
        }
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
        options.marginal = dice.once_in(8);
        let mut on_timeout = TimeoutPolicy::default();
        if dice.once_in(3) {
            on_timeout.reads = dice.of(&[OverdueAction::AbortThenReset, OverdueAction::Reset]);
            on_timeout.writes = dice.of(&[OverdueAction::AbortThenReset, OverdueAction::Reset]);
        }
        on_timeout.abort_wait = ms(dice.of(&[50, 1_000]));
        options.on_timeout = on_timeout;
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
}
