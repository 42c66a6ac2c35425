//! A transport without a wire: controllers that live in the test's own memory, whose every answer
//! the test can hold back, change or lose, and a clock that moves only when it is told to.
//!
//! The host of a [`Bench`] has no control thread: nothing happens unless [`Bench::step`] is called.

#![forbid(unsafe_code)]

mod admin;
mod io;
mod port;
mod queue;
mod wire;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::time::{Clock, Duration, Instant};
use nvme_mpath::{
    Channel, ChannelOptions, Controller, ControllerOptions, Event, Events, Head, Host, HostOptions,
    IoCompletion, IoRequest,
};

pub use port::{Abort, Io, Ns, Port};
pub use world::World;

/// The subsystem that every port is of, unless a test says otherwise.
pub const SUBSYSTEM: &str = "nqn.2026-01.org.example:sub";

/// A clock that a test moves.
#[derive(Debug)]
pub struct TestClock(AtomicU64);

impl TestClock {
    /// One that stands at a second.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_000_000_000)))
    }

    /// Moves it.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Options of a host on a world.
pub fn host_options(world: &Arc<World>, clock: &Arc<TestClock>) -> HostOptions {
    let mut options =
        HostOptions::new(Uuid([7; 16])).transport(queue::FakeTransport(world.clone()));
    options.control_thread = false;
    options.clock = clock.clone();
    options
}

/// Options under which nothing happens by itself.
#[must_use]
pub fn quiet() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.keep_alive = Duration::ZERO;
    options.reconnect_delay = Duration::from_secs(1);
    options
}

/// A host over a [`World`], its events, and a channel.
pub struct Bench {
    /// The controllers.
    pub world: Arc<World>,
    /// The time.
    pub clock: Arc<TestClock>,
    /// The host.
    pub host: Host,
    /// Its events that are not in the log yet.
    pub events: Events,
    /// Its events so far.
    pub log: Vec<Event>,
    /// The channel.
    pub channel: Channel,
    /// What has ended.
    pub done: Vec<IoCompletion>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// A host with the options of [`host_options`].
    #[must_use]
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A host with others.
    pub fn with(change: impl FnOnce(&mut HostOptions)) -> Self {
        let clock = TestClock::new();
        let world = World::at(&clock);
        let mut options = host_options(&world, &clock);
        change(&mut options);
        let host = Host::new(options).unwrap();
        let events = host.events(1 << 16);
        let channel = host.channel(ChannelOptions::default()).unwrap();
        Self { world, clock, host, events, log: Vec::new(), channel, done: Vec::new() }
    }

    /// Connects to a port and does all that can be done at once.
    pub fn connect(&mut self, port: &str) -> Controller {
        self.connect_with(port, quiet())
    }

    /// The same with options of the test's own.
    pub fn connect_with(&mut self, port: &str, options: ControllerOptions) -> Controller {
        let subnqn = self.world.port(port, |port| port.subnqn);
        let url = format!("fake://{port}/{subnqn}");
        let controller = self.host.connect(&url, options).unwrap();
        self.settle();
        controller
    }

    /// A head of [`SUBSYSTEM`].
    #[must_use]
    pub fn head(&self, nsid: u32) -> Option<Arc<Head>> {
        self.host.head(&Nqn::new(SUBSYSTEM).unwrap(), nsid)
    }

    /// One turn of the control plane, one poll of the channel.
    pub fn step(&mut self) {
        self.host.drive(Duration::ZERO);
        self.channel.poll(&mut self.done);
        while let Some(event) = self.events.try_next() {
            self.log.push(event.event);
        }
    }

    /// So many steps that nothing is left that could happen without the clock.
    pub fn settle(&mut self) {
        for _ in 0..30 {
            self.step();
        }
    }

    /// The control plane alone.
    pub fn drive(&self) {
        for _ in 0..30 {
            self.host.drive(Duration::ZERO);
        }
    }

    /// Moves the clock in small steps.
    pub fn run(&mut self, time: Duration) {
        let until = self.clock.now() + time;
        while self.clock.now() < until {
            self.clock.advance(Duration::from_millis(100).min(time));
            for _ in 0..4 {
                self.step();
            }
        }
        self.settle();
    }

    /// Submits a write of one block that is filled with `user`.
    pub fn write(&mut self, head: &Arc<Head>, slba: u64, user: u64) {
        let buffer = vec![user as u8; 512].into();
        self.channel.submit(head, IoRequest::write(slba, buffer, user)).unwrap();
    }

    /// The one completion that has come.
    pub fn one(&mut self) -> IoCompletion {
        assert_eq!(self.done.len(), 1, "{:?}", self.done);
        self.done.remove(0)
    }

    /// How many events of the log are so.
    pub fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.log.iter().filter(|e| is(e)).count()
    }
}
