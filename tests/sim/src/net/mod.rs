//! The network: connections between the host and the ports of the targets, and what befalls them.
//!
//! Bytes take their time, each connection's at its own pace, so that two connections overtake each
//! other and one does not overtake itself. Nothing is lost on a connection that lives; what is on the
//! way when it dies is lost, or, where the seed allows it, comes late.

mod ends;
mod faults;
mod link;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::US;
use crate::dice::Dice;
use crate::trace::Trace;
use link::{Ending, Link, Pipe};
pub use link::{Stage, Way};

/// A port of a target as the network sees it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Connections are refused.
    pub refusing: bool,
    /// Nothing arrives, in each direction, until then. Connections are not made either.
    pub stalled: [u64; 2],
    /// The least time that bytes take, in nanoseconds.
    pub latency: u64,
    /// What may come on top.
    pub jitter: u64,
    /// Nanoseconds that each byte takes of the port's time, in each direction: connections share it,
    /// and what comes while it is busy waits. Zero: any number at once.
    pub byte_time: u64,
    /// When what was sent so far has passed, where bytes take time.
    pub free_at: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connect(usize),
    Arrive { link: usize, up: bool, bytes: usize, ending: Option<Ending> },
}

impl Event {
    /// The connection and the direction on which it happens.
    const fn place(self) -> (usize, Way) {
        match self {
            Self::Connect(link) | Self::Arrive { link, up: true, .. } => (link, Way::Up),
            Self::Arrive { link, up: false, .. } => (link, Way::Down),
        }
    }
}

/// What the network wants somebody else to look at.
#[derive(Debug, Default)]
pub struct News {
    /// Connections that reached a port.
    pub accepts: Vec<usize>,
    /// Connections on which something arrived, or came free, at the target.
    pub targets: Vec<usize>,
    /// Something arrived, or came free, at the host.
    pub host: bool,
}

impl News {
    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.accepts.is_empty() && self.targets.is_empty() && !self.host
    }
}

/// The state of the network.
#[derive(Debug)]
pub struct Inner {
    /// The time, moved by [`Inner::advance`].
    pub now: u64,
    /// The record of what was sent.
    pub trace: Trace,
    /// The ports.
    pub ports: Vec<Port>,
    /// What is on the way to a target when the host cuts a connection may still arrive, so long after
    /// at most; zero: never.
    pub late: u64,
    /// Also what a stalled port holds up when the host cuts its connection.
    pub late_through_stalls: bool,
    /// Bytes that may be under way in one direction of a connection.
    pub window: usize,
    /// Connections that the host may have at a time; more cannot be made.
    pub most_links: usize,
    /// Bytes sent so far.
    pub sent: u64,
    /// Connections that were cut with something on the way that will arrive all the same.
    pub late_arrivals: u64,
    dice: Dice,
    links: Vec<Link>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Events that a stall holds back, in the order in which they happen once it ends.
    held: Vec<Event>,
    serial: u64,
    news: News,
}

/// The network, shared by the ends of all connections.
#[derive(Debug)]
pub struct Net(Mutex<Inner>);

impl Net {
    /// A network with so many ports.
    #[must_use]
    pub fn new(ports: usize, mut dice: Dice, trace: Trace, now: u64) -> Arc<Self> {
        let port = |dice: &mut Dice| Port {
            refusing: false,
            stalled: [0; 2],
            latency: dice.of(&[20, 50, 100, 300]) * US,
            jitter: dice.of(&[0, 10, 100, 1_000]) * US,
            byte_time: 0,
            free_at: [0; 2],
        };
        let ports = (0..ports).map(|_| port(&mut dice)).collect();
        let window = dice.of(&[3_000, 20_000, 1 << 20]);
        Arc::new(Self(Mutex::new(Inner {
            now,
            trace,
            ports,
            late: 0,
            late_through_stalls: false,
            window,
            most_links: usize::MAX,
            sent: 0,
            late_arrivals: 0,
            dice,
            links: Vec::new(),
            events: BinaryHeap::new(),
            held: Vec::new(),
            serial: 0,
            news: News::default(),
        })))
    }

    /// The state.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }
}

impl Inner {
    fn push(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }

    /// How long something takes on a port now. Times are whole tens of microseconds, so that things
    /// happen at once more often.
    fn travel(&mut self, port: usize) -> u64 {
        let Port { latency, jitter, .. } = self.ports[port];
        let time = latency + self.dice.roll(jitter + 1);
        time.next_multiple_of(10 * US)
    }

    /// When the next thing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let next = self.events.peek().map(|Reverse((at, ..))| *at);
        let free = self.held.iter().map(|event| self.stalled(*event)).min();
        [next, free.filter(|at| *at != u64::MAX)].into_iter().flatten().min()
    }

    /// Until when a stall holds back what happens there.
    fn stalled(&self, event: Event) -> u64 {
        let (link, way) = event.place();
        self.ports[self.links[link].port].stalled[way as usize]
    }

    /// Moves the time and lets happen what happens until then.
    pub fn advance(&mut self, now: u64) {
        self.now = now;
        // What a stall held back goes before what was sent after it, and is held again by another.
        std::mem::take(&mut self.held).into_iter().for_each(|event| self.happen(event));
        while let Some(&Reverse((at, _, event))) = self.events.peek() {
            if at > now {
                break;
            }
            self.events.pop();
            self.happen(event);
        }
    }

    /// Takes what is to be looked at.
    pub fn news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Whether there is something to be looked at.
    #[must_use]
    pub const fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    fn happen(&mut self, event: Event) {
        let (link, way) = event.place();
        let port = self.links[link].port;
        if self.ports[port].stalled[way as usize] > self.now {
            self.held.push(event);
            return;
        }
        match event {
            Event::Connect(_) => self.connected(link, port),
            Event::Arrive { bytes, ending, .. } => {
                let pipe = self.links[link].pipe(way);
                if pipe.ending == Some(Ending::Reset) {
                    return;
                }
                pipe.arrived = (pipe.arrived + bytes).min(pipe.bytes.len());
                if ending.is_some() {
                    pipe.ending = ending;
                }
                if ending == Some(Ending::Reset) {
                    pipe.bytes.clear();
                    pipe.arrived = 0;
                }
                match way {
                    Way::Up => self.news.targets.push(link),
                    Way::Down => self.news.host = true,
                }
            }
        }
    }

    fn connected(&mut self, link: usize, port: usize) {
        let refusing = self.ports[port].refusing;
        let l = &mut self.links[link];
        if l.cut || l.host_gone {
            return;
        }
        self.news.host = true;
        if refusing {
            l.stage = Stage::Refused;
        } else {
            l.stage = Stage::Open;
            self.news.accepts.push(link);
        }
    }

    /// The host connects to a port.
    pub fn connect(&mut self, port: usize) -> usize {
        let link = self.links.len();
        self.links.push(Link {
            port,
            stage: Stage::Connecting,
            up: Pipe::default(),
            down: Pipe::default(),
            cut: false,
            host_gone: false,
            target_gone: false,
            heard: 0,
        });
        let at = self.now + self.travel(port);
        self.trace.note(&[1, self.now, link as u64, port as u64]);
        self.trace.say(self.now, format_args!("link {link} connects to port {port}"));
        self.push(at, Event::Connect(link));
        link
    }

    /// Where the making of a connection is.
    #[must_use]
    pub fn stage(&self, link: usize) -> Stage {
        self.links[link].stage
    }

    /// The port of a connection.
    #[must_use]
    pub fn port_of(&self, link: usize) -> usize {
        self.links[link].port
    }

    /// Whether the host has cut a connection.
    #[must_use]
    pub fn is_cut(&self, link: usize) -> bool {
        self.links[link].cut
    }

    /// Connections that neither end has left.
    #[must_use]
    pub fn open_links(&self) -> usize {
        self.links.iter().filter(|l| !l.host_gone && !l.cut && l.stage != Stage::Refused).count()
    }

    /// Things under way, held ones too.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.events.len() + self.held.len()
    }
}
