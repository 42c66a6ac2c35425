//! A host on a bed, and what a test does with it again and again.

use std::sync::{Arc, Once};
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::time::Instant;
use nvme_mpath::{
    BlockingError, Channel, ChannelOptions, Controller, ControllerOptions, Event, Events, Head,
    HeadState, Host, HostOptions, IoCompletion, IoError, IoRequest, TimedEvent,
};
use nvme_tcp::TcpTransport;

use crate::bed::{Bed, PORTS};
use crate::pattern::Pattern;
use crate::wait::{LIMIT, wait_for, wait_until};

/// The options of a host that speaks TCP. From the first call on, a panic on the thread of any host
/// ends the process: it would otherwise go unseen.
#[must_use]
pub fn host_options() -> HostOptions {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            if std::thread::current().name().is_some_and(|name| name.starts_with("nvme-host")) {
                eprintln!("{panic}\nA thread of the library panicked: that ends the tests.");
                std::process::exit(101);
            }
        }));
    });
    HostOptions::new(Uuid(*b"nvme-host-tests!")).transport(TcpTransport::default())
}

/// A host that speaks TCP.
#[must_use]
pub fn host() -> Host {
    Host::new(host_options()).expect("a host")
}

/// A controller that is given up as soon as it is lost, so that its paths leave, and tried again
/// by the library.
#[must_use]
pub fn eager() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.ctrl_loss_tmo = Some(Duration::ZERO);
    options.reattach_delay = Some(Duration::from_millis(50));
    options
}

/// A controller that keeps its paths while it is lost, and is tried again soon.
#[must_use]
pub fn persistent() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.reconnect_delay = Duration::from_millis(50);
    options
}

/// A step of a head's delayed removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The last path left; the window's length.
    Scheduled(Option<Duration>),
    /// The window was changed; what is left of it.
    Rearmed(Option<Duration>),
    /// A path returned.
    Cancelled,
    /// The head was removed after a window.
    Fired,
    /// The head was removed without one.
    AtOnce,
}

/// A host that is connected to a bed.
pub struct Session {
    /// The host.
    pub host: Host,
    /// What has happened since the host was made.
    pub events: Events,
    /// The bed's subsystem.
    pub subnqn: Nqn,
}

impl Session {
    /// A host that is not connected yet.
    #[must_use]
    pub fn new(bed: &impl Bed) -> Self {
        Self::with_host(bed, host())
    }

    /// As [`Session::new`], with a host of one's own.
    #[must_use]
    pub fn with_host(bed: &impl Bed, host: Host) -> Self {
        let events = host.events(100_000);
        Self { host, events, subnqn: bed.subnqn() }
    }

    /// Connects to a port and waits until that is done.
    pub fn connect(&self, bed: &impl Bed, port: u16, options: &ControllerOptions) -> Controller {
        self.connect_url(&bed.url(port), options)
    }

    /// Connects to a URL and waits until that is done.
    pub fn connect_url(&self, url: &str, options: &ControllerOptions) -> Controller {
        let controller = self.host.connect(url, options.clone()).expect("a URL");
        controller.wait_ready(LIMIT).expect("connecting");
        controller
    }

    /// Connects to all ports and waits until that is done.
    pub fn connect_all(&self, bed: &impl Bed, options: &ControllerOptions) -> Vec<Controller> {
        PORTS.iter().map(|&port| self.connect(bed, port, options)).collect()
    }

    /// The head of a namespace, waited for.
    #[must_use]
    pub fn head(&self, nsid: u32) -> Arc<Head> {
        self.host.wait_head(&self.subnqn, nsid, LIMIT).expect("a head")
    }

    /// A channel with the default options.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.host.channel(ChannelOptions::default()).expect("a channel")
    }

    /// Disconnects all controllers and waits until they are gone.
    pub fn disconnect_all(&self) {
        let controllers = self.host.controllers();
        controllers.iter().for_each(Controller::disconnect);
        for controller in controllers {
            controller.wait_removed(LIMIT).expect("a disconnect ends");
        }
    }

    /// Waits for an event for which `pick` finds something; those before it are dropped.
    pub fn event<R>(&self, what: &str, mut pick: impl FnMut(&Event) -> Option<R>) -> R {
        let until = std::time::Instant::now() + LIMIT;
        let mut met = Vec::new();
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let Some(event) = self.events.next_timeout(left) else {
                panic!("waited {LIMIT:?} for {what}; there was {met:#?}");
            };
            if let Some(found) = pick(&event.event) {
                return found;
            }
            met.push(event.event);
        }
    }

    /// All events that wait.
    #[must_use]
    pub fn take_events(&self) -> Vec<TimedEvent> {
        std::iter::from_fn(|| self.events.try_next()).collect()
    }

    /// What has been told of the removal of a head and when, among the events that wait. All other
    /// events are dropped.
    #[must_use]
    pub fn story(&self, head: &Head) -> Vec<(Removal, Instant)> {
        let of = |h: &Head, step| (h.instance() == head.instance()).then_some(step);
        let step = |e: &TimedEvent| match &e.event {
            Event::RemovalScheduled { head, after, .. } => of(head, Removal::Scheduled(*after)),
            Event::RemovalRearmed { head, after } => of(head, Removal::Rearmed(*after)),
            Event::RemovalCancelled { head, .. } => of(head, Removal::Cancelled),
            Event::HeadRemoved { head, delayed: true, .. } => of(head, Removal::Fired),
            Event::HeadRemoved { head, .. } => of(head, Removal::AtOnce),
            Event::Lagged(n) => panic!("{n} events were dropped"),
            _ => None,
        };
        self.take_events().iter().filter_map(|e| step(e).map(|s| (s, e.at))).collect()
    }

    /// Waits until a head's removal is pending.
    pub fn wait_pending(&self, head: &Head) {
        let pending = || matches!(head.state(), HeadState::RemovalPending { .. });
        wait_until(&format!("a pending removal of {head:?}"), pending);
    }

    /// Waits until a head is gone, by its handle as well as by its name, and the pins are back.
    pub fn wait_gone(&self, head: &Arc<Head>, pins: usize) {
        wait_until(&format!("the end of {head:?}"), || {
            let found = self.host.heads().iter().any(|h| Arc::ptr_eq(h, head));
            matches!(head.state(), HeadState::Gone(_)) && !found
        });
        wait_until("the pins to be back", || self.host.pin_count() == pins);
    }

    /// Waits until a head has so many paths that can be used.
    pub fn wait_usable(&self, head: &Head, count: usize) {
        wait_until(&format!("{count} usable path(s) of {head:?}"), || {
            head.paths().iter().filter(|p| p.usable).count() == count
        });
    }

    /// Shuts the host down, which must work: nothing is pinned.
    pub fn shutdown(self) {
        self.host.shutdown().expect("nothing is pinned");
        assert_eq!(self.host.pin_count(), 0);
        assert!(self.host.heads().is_empty(), "{:?}", self.host.heads());
    }
}

/// What tests do with one channel.
pub trait ChannelExt {
    /// Writes a pattern.
    fn put(&mut self, head: &Arc<Head>, slba: u64, len: usize, pattern: Pattern);
    /// Reads a pattern back.
    fn check(&mut self, head: &Arc<Head>, slba: u64, len: usize, pattern: Pattern);
    /// Submits a write of one pattern of 4 KiB at the start of the namespace.
    fn begin_write(&mut self, head: &Arc<Head>, user_data: u64, pattern: Pattern);
    /// Polls until `count` requests have ended.
    fn finish(&mut self, count: usize) -> Vec<IoCompletion>;
    /// The error of a blocking write of 4 KiB at the start of the namespace.
    fn write_error(&mut self, head: &Arc<Head>) -> IoError;
}

impl ChannelExt for Channel {
    fn put(&mut self, head: &Arc<Head>, slba: u64, len: usize, pattern: Pattern) {
        let at = slba * u64::from(head.geometry().block_size);
        let _ = self.write(head, slba, pattern.bytes(at, len).into()).expect("a write");
    }

    fn check(&mut self, head: &Arc<Head>, slba: u64, len: usize, pattern: Pattern) {
        let at = slba * u64::from(head.geometry().block_size);
        let data = self.read(head, slba, Buffer::zeroed(len)).expect("a read");
        assert_eq!(pattern.difference(at, data.as_slice()), None, "{pattern:?} at block {slba}");
    }

    fn begin_write(&mut self, head: &Arc<Head>, user_data: u64, pattern: Pattern) {
        let data = pattern.bytes(0, 4096);
        self.submit(head, IoRequest::write(0, data.into(), user_data)).expect("room for a write");
    }

    fn finish(&mut self, count: usize) -> Vec<IoCompletion> {
        let mut done = Vec::new();
        wait_for(&format!("the end of {count} requests"), || {
            self.poll(&mut done);
            (done.len() >= count).then_some(())
        });
        assert_eq!(done.len(), count, "{done:?}");
        done
    }

    fn write_error(&mut self, head: &Arc<Head>) -> IoError {
        match self.write(head, 0, Buffer::zeroed(4096)) {
            Err(BlockingError::Io { error, buffer, .. }) => {
                assert_eq!(buffer.len(), 4096, "the buffer comes back");
                *error
            }
            other => panic!("a write to {head:?} ended with {other:?}"),
        }
    }
}
