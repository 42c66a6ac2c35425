//! What path policies make of equal paths, of a slow one, and of one that stands still now and then.
//!
//! Two paths to one namespace and two channels, in virtual time: the figures say what a policy decides, not
//! what the library costs. A path has a latency and a rate, which the connections of both channels share, so
//! that requests queue on it. Throughput is measured with as many requests under way as there is place for;
//! percentiles at a fixed rate, where a request that has to wait counts from when it was due: with a fixed
//! number under way, few would be submitted while a path stands still, and hardly any would be seen to wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_core::nqn::Uuid;
use nvme_mpath::{
    Channel, ChannelOptions, ControllerOptions, Head, HedgeOptions, Host, HostOptions, IoRequest,
    PathPolicy,
};
use nvme_target::{ConnectionId, DrivenTarget, NamespaceConfig, SubsystemConfig, Target};

use crate::clock::{MS, SEC, SimClock, US};
use crate::dice::Dice;
use crate::net::{Net, Way};
use crate::trace::Trace;
use crate::wire::{SimTransport, TargetEnd};

const NQN: &str = "nqn.2026-01.org.example:policies";
const BYTES: usize = 4096;
const CHANNELS: usize = 2;
/// Requests under way on each channel in the throughput runs.
const DEPTH: usize = 16;
/// Requests per second in the percentile runs, both channels together, unless another rate is asked for.
pub const RATE: u64 = 2_000;
/// One way, on a good path.
const LATENCY: u64 = 100 * US;
/// What comes on top, at most.
const JITTER: u64 = 20 * US;
/// Nanoseconds per byte on a good path: about 5,000 reads a second.
const BYTE_TIME: u64 = 48;
const STALL: u64 = SEC;
const STALL_EVERY: u64 = 10 * SEC;
const FIRST_STALL: u64 = 2 * SEC;

/// What is wrong with the first path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Nothing,
    /// Ten times the latency, a tenth of the rate.
    Slow,
    /// Nothing passes for 1 s, every 10 s.
    Stalls,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Slow, Self::Stalls];

    /// Virtual length of one run: three stalls, where there are any.
    #[must_use]
    pub const fn time(self) -> u64 {
        match self {
            Self::Stalls => 30 * SEC,
            _ => 10 * SEC,
        }
    }
}

/// What chooses the paths.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it is called in tables.
    pub name: &'static str,
    /// The policy.
    pub policy: PathPolicy,
    /// The path without the fault is the preferred one, and not the other.
    pub prefer_good: bool,
    /// Reads are hedged.
    pub hedged: bool,
}

const fn setup(name: &'static str, policy: PathPolicy) -> Setup {
    Setup { name, policy, prefer_good: false, hedged: false }
}

/// The lines of the table.
pub const SETUPS: [Setup; 9] = [
    setup("round-robin", PathPolicy::RoundRobin),
    setup("numa (the bad path is near)", PathPolicy::Numa),
    setup("queue-depth", PathPolicy::QueueDepth),
    setup("active-passive, bad path preferred", PathPolicy::ActivePassive),
    Setup {
        prefer_good: true,
        ..setup("active-passive, good path preferred", PathPolicy::ActivePassive)
    },
    setup("service-time", PathPolicy::ServiceTime),
    Setup { hedged: true, ..setup("round-robin, reads hedged", PathPolicy::RoundRobin) },
    Setup { hedged: true, ..setup("queue-depth, reads hedged", PathPolicy::QueueDepth) },
    Setup { hedged: true, ..setup("service-time, reads hedged", PathPolicy::ServiceTime) },
];

/// What was measured of one setup with one fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Reads per second with full queues.
    pub per_second: f64,
    /// Percentiles at the fixed rate, in milliseconds.
    pub p99: f64,
    /// The same.
    pub p999: f64,
    /// The same.
    pub p9999: f64,
    /// Second attempts per read at the fixed rate.
    pub extra: f64,
}

/// Measures one setup with one fault, for `time` nanoseconds of full queues, and of the fixed `rate` for as
/// long as [`RATE`] would take for as many reads in `time`. The same seed gives the same figures.
///
/// # Errors
/// What went wrong, where something did.
pub fn measure(
    setup: Setup,
    fault: Fault,
    time: u64,
    rate: u64,
    seed: u64,
) -> Result<Figures, String> {
    let mut full = Bench::new(setup, fault, seed)?;
    let (count, _) = full.run(None, time)?;
    let mut fixed = Bench::new(setup, fault, seed)?;
    // As many reads at each rate, so that percentiles mean the same.
    let (_, mut latencies) = fixed.run(Some(rate), time * RATE / rate.max(1))?;
    latencies.sort_unstable();
    let at = |q: f64| {
        let place = (latencies.len() as f64 * q).ceil() as usize;
        latencies.get(place.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / MS as f64)
    };
    Ok(Figures {
        per_second: count as f64 * SEC as f64 / time as f64,
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        extra: fixed.head()?.stats().hedges as f64 / latencies.len() as f64,
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A channel and its load.
struct Lane {
    channel: Channel,
    spare: Vec<Buffer>,
    /// When the next request is due, at a fixed rate.
    due: u64,
}

struct Bench {
    clock: Arc<SimClock>,
    net: Arc<Net>,
    target: DrivenTarget<TargetEnd>,
    connections: BTreeMap<usize, ConnectionId>,
    /// Where the target's clock begins.
    origin: Instant,
    // Before the host: a channel is closed while its host is there.
    lanes: Vec<Lane>,
    host: Host,
    dice: Dice,
    fault: Fault,
    /// When the path stands still next.
    stall_at: u64,
}

impl Bench {
    /// Two paths that are up, and channels that have their queues.
    fn new(setup: Setup, fault: Fault, seed: u64) -> Result<Self, String> {
        let mut dice = Dice::new(seed);
        let clock = SimClock::new();
        let net = Net::new(2, dice.fork(), Trace::new(false), clock.nanos());
        {
            let mut net = net.lock();
            net.window = 1 << 22;
            for (at, port) in net.ports.iter_mut().enumerate() {
                let times = if at == 0 && fault == Fault::Slow { 10 } else { 1 };
                (port.latency, port.jitter) = (LATENCY * times, JITTER * times);
                port.byte_time = BYTE_TIME * times;
            }
        }
        let namespace = NamespaceConfig::null(1, 1 << 30).block_size(BYTES as u32);
        let config = SubsystemConfig::new(NQN).map_err(text)?;
        let config = config.namespace(namespace);
        let builder = Target::builder().subsystem(config);
        let target =
            builder.listen("192.0.2.1:4420").listen("192.0.2.2:4420").drive().map_err(text)?;
        let mut options = HostOptions::new(Uuid([7; 16]));
        options = options.transport(SimTransport::new(Arc::clone(&net), (false, false)));
        options.control_thread = false;
        options.clock = Arc::clone(&clock) as Arc<_>;
        options.seed = dice.bits();
        let host = Host::new(options).map_err(text)?;
        let (origin, connections, lanes) = (Instant::now(), BTreeMap::new(), Vec::new());
        let stall_at = u64::MAX;
        let mut bench =
            Self { clock, net, target, connections, origin, lanes, host, dice, fault, stall_at };
        bench.prepare(setup)?;
        Ok(bench)
    }

    fn prepare(&mut self, setup: Setup) -> Result<(), String> {
        for port in 0..2 {
            let mut options = ControllerOptions::default();
            // Nothing but reads: what stands still is not reset.
            options.keep_alive = Duration::ZERO;
            self.host.connect(&format!("sim://{port}/{NQN}"), options).map_err(text)?;
            // One after the other, so that the first path is the first.
            self.settle()?;
        }
        for _ in 0..CHANNELS {
            let channel = self.host.channel(ChannelOptions::default()).map_err(text)?;
            self.lanes.push(Lane { channel, spare: Vec::new(), due: 0 });
        }
        self.settle()?;
        let head = self.head()?;
        head.set_policy(Some(setup.policy));
        let paths = head.paths();
        if paths.len() != 2 {
            return Err(format!("paths: {paths:?}"));
        }
        head.set_preferred_path(Some(paths[usize::from(setup.prefer_good)].controller));
        head.set_hedged_reads(setup.hedged.then(HedgeOptions::default));
        self.settle()
    }

    fn head(&self) -> Result<Arc<Head>, String> {
        self.host.heads().first().cloned().ok_or_else(|| "there is no head".into())
    }

    /// Lets a second pass without load.
    fn settle(&mut self) -> Result<(), String> {
        let end = self.clock.nanos() + SEC;
        while self.clock.nanos() < end {
            self.turn(end);
            let mut done = Vec::new();
            for lane in &mut self.lanes {
                lane.channel.poll(&mut done);
            }
        }
        Ok(())
    }

    /// Reads for `time`. How many ended within it, and the latencies of all.
    fn run(&mut self, rate: Option<u64>, time: u64) -> Result<(u64, Vec<u64>), String> {
        let head = self.head()?;
        let begin = self.clock.nanos();
        let end = begin + time;
        if self.fault == Fault::Stalls {
            self.stall_at = begin + FIRST_STALL;
        }
        let interval = rate.map_or(0, |rate| SEC * CHANNELS as u64 / rate);
        let most = |lane: &Lane| if rate.is_some() { lane.channel.depth() } else { DEPTH };
        for lane in &mut self.lanes {
            let most = most(lane);
            lane.spare.extend((0..most).map(|_| Buffer::zeroed(BYTES)));
            lane.due = begin;
        }
        let (mut done, mut latencies, mut ended, mut slba) = (Vec::new(), Vec::new(), 0, 0);
        loop {
            let now = self.clock.nanos();
            let mut next = end;
            for lane in &mut self.lanes {
                while now < end
                    && lane.due <= now
                    && let Some(buffer) = lane.spare.pop()
                {
                    let since = if rate.is_some() { lane.due } else { now };
                    slba = (slba + 1) % 10_000;
                    let request = IoRequest::read(slba, buffer, since);
                    lane.channel.submit(&head, request).map_err(text)?;
                    if rate.is_some() {
                        lane.due += self.dice.roll(2 * interval);
                    }
                }
                lane.channel.poll(&mut done);
                for completion in done.drain(..) {
                    completion.result.map_err(text)?;
                    latencies.push(now - completion.user_data);
                    ended += u64::from(now < end);
                    lane.spare.push(completion.buffer);
                }
                if !lane.spare.is_empty() {
                    next = next.min(lane.due.max(now));
                }
            }
            let idle = self.lanes.iter().all(|lane| lane.spare.len() == most(lane));
            if now >= end && idle {
                return Ok((ended, latencies));
            }
            self.turn(if now < end { next } else { u64::MAX });
        }
    }

    /// Moves on to the next thing that happens, at most to `limit`, and lets it happen.
    fn turn(&mut self, limit: u64) {
        let before = self.clock.nanos();
        let since = |at: Instant| at.saturating_duration_since(self.origin).as_nanos() as u64;
        let mut now = limit.min(self.stall_at);
        let mut at = |deadline: Option<u64>| now = deadline.map_or(now, |at| now.min(at));
        at(self.net.lock().deadline());
        at(self.target.deadline().map(since));
        at(self.host.deadline().map(|at| at.as_nanos()));
        for lane in &self.lanes {
            at(lane.channel.deadline().map(|at| at.as_nanos()));
        }
        let now = now.max(before);
        self.clock.set(now);
        if now >= self.stall_at {
            self.net.lock().stall(0, &[Way::Up, Way::Down], now + STALL);
            self.stall_at += STALL_EVERY;
        }
        self.net.lock().advance(now);
        self.run_target(self.origin + Duration::from_nanos(now));
        self.host.drive(Duration::ZERO);
    }

    fn run_target(&mut self, now: Instant) {
        loop {
            self.target.step(now);
            let news = self.net.lock().news();
            if news.accepts.is_empty() && news.targets.is_empty() {
                return;
            }
            for link in news.accepts {
                let port = self.net.lock().port_of(link);
                let end = TargetEnd::new(Arc::clone(&self.net), link);
                if let Ok(Some(id)) = self.target.accept(port, end, now) {
                    self.connections.insert(link, id);
                }
            }
            for link in news.targets {
                if let Some(id) = self.connections.get(&link) {
                    self.target.ready(*id, now);
                }
            }
        }
    }
}
