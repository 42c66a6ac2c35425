//! The network: connections between the host and the ports of the targets, and what befalls them.
//!
//! Bytes take their time, each connection's at its own pace, so that two connections overtake each
//! other and one does not overtake itself. Nothing is lost on a connection that lives; what is on the
//! way when it dies is lost, or, where the seed allows it, comes late.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::clock::US;
use crate::dice::Dice;
use crate::trace::Trace;

/// A direction on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the host to the target.
    Up,
    /// From the target to the host.
    Down,
}

/// How a connection, or one direction of it, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// What was sent before still arrives.
    Finished,
    /// At once.
    Reset,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    /// Sent and not read.
    bytes: VecDeque<u8>,
    /// Of those, how many have arrived.
    arrived: usize,
    ending: Option<Ending>,
    /// The ending has been scheduled; nothing is sent any more.
    closing: bool,
    /// When the last of what is on the way arrives.
    last: u64,
    /// The sender found no room.
    crowded: bool,
}

/// Where a connection is in its life, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being made.
    Connecting,
    /// Made.
    Open,
    /// Nobody listens.
    Refused,
}

#[derive(Debug)]
struct Link {
    port: usize,
    stage: Stage,
    up: Pipe,
    down: Pipe,
    /// The host has cut it.
    cut: bool,
    host_gone: bool,
    target_gone: bool,
}

impl Link {
    const fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

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

/// Bytes that arrive at once at most, where they take time.
const PIECE: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connect(usize),
    Arrive { link: usize, up: bool, bytes: usize, ending: Option<Ending> },
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
    /// Events held back by a stall without end.
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

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
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
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Moves the time and lets happen what happens until then.
    pub fn advance(&mut self, now: u64) {
        self.now = now;
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
        let (link, way) = match event {
            Event::Connect(link) => (link, Way::Up),
            Event::Arrive { link, up: true, .. } => (link, Way::Up),
            Event::Arrive { link, up: false, .. } => (link, Way::Down),
        };
        let port = self.links[link].port;
        let until = self.ports[port].stalled[way as usize];
        if until > self.now {
            if until == u64::MAX {
                self.held.push(event);
            } else {
                let pipe = self.links[link].pipe(way);
                pipe.last = pipe.last.max(until);
                self.push(until, event);
            }
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

    /// Reads what has arrived.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has; a reset.
    pub fn read(&mut self, link: usize, way: Way, out: &mut [u8]) -> io::Result<usize> {
        let pipe = self.links[link].pipe(way);
        if pipe.ending == Some(Ending::Reset) {
            return Err(broken());
        }
        let n = out.len().min(pipe.arrived);
        if n == 0 {
            let finished = pipe.ending == Some(Ending::Finished);
            return if finished { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let (first, second) = pipe.bytes.as_slices();
        let from_first = n.min(first.len());
        out[..from_first].copy_from_slice(&first[..from_first]);
        out[from_first..n].copy_from_slice(&second[..n - from_first]);
        pipe.bytes.drain(..n);
        pipe.arrived -= n;
        if std::mem::take(&mut pipe.crowded) {
            match way {
                Way::Up => self.news.host = true,
                Way::Down => self.news.targets.push(link),
            }
        }
        Ok(n)
    }

    /// Sends bytes; as many as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; a connection that has ended.
    pub fn write(&mut self, link: usize, way: Way, bytes: &[u8]) -> io::Result<usize> {
        let window = self.window;
        let l = &mut self.links[link];
        let port = l.port;
        let other_reset = match way {
            Way::Up => l.down.ending == Some(Ending::Reset),
            Way::Down => l.up.ending == Some(Ending::Reset),
        };
        let pipe = l.pipe(way);
        if other_reset || pipe.closing || pipe.ending.is_some() {
            return Err(broken());
        }
        let n = window.saturating_sub(pipe.bytes.len()).min(bytes.len());
        if n == 0 {
            pipe.crowded = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.bytes.extend(&bytes[..n]);
        self.sent += n as u64;
        self.trace.note(&[2, self.now, link as u64, way as u64]);
        self.trace.bytes(&bytes[..n]);
        self.trace.say(self.now, format_args!("link {link} {way:?} {n} bytes"));
        self.schedule(link, port, way, n, None);
        Ok(n)
    }

    fn schedule(
        &mut self,
        link: usize,
        port: usize,
        way: Way,
        bytes: usize,
        ending: Option<Ending>,
    ) {
        let mut bytes = bytes;
        while self.ports[port].byte_time > 0 && bytes > PIECE {
            self.arrive(link, port, way, PIECE, None);
            bytes -= PIECE;
        }
        self.arrive(link, port, way, bytes, ending);
    }

    fn arrive(&mut self, link: usize, port: usize, way: Way, bytes: usize, ending: Option<Ending>) {
        let mut soonest = self.now + self.travel(port);
        let Port { byte_time, free_at, .. } = &mut self.ports[port];
        if *byte_time > 0 {
            let free = &mut free_at[way as usize];
            *free = (*free).max(self.now) + *byte_time * bytes as u64;
            soonest += *free - self.now;
        }
        let pipe = self.links[link].pipe(way);
        let at = soonest.max(pipe.last);
        pipe.last = at;
        self.push(at, Event::Arrive { link, up: way == Way::Up, bytes, ending });
    }

    /// Nothing more is sent in this direction; what has been sent arrives.
    pub fn finish(&mut self, link: usize, way: Way) {
        let port = self.links[link].port;
        if !std::mem::replace(&mut self.links[link].pipe(way).closing, true) {
            self.schedule(link, port, way, 0, Some(Ending::Finished));
        }
    }

    /// The host makes a connection harmless: nothing is sent from now on. What was on the way is lost
    /// or, where that is allowed, comes late. The target learns of it, unless the network is stalled.
    pub fn host_cuts(&mut self, link: usize) {
        let (now, late) = (self.now, self.late);
        let port = self.links[link].port;
        let deaf = self.ports[port].stalled[Way::Up as usize] > now;
        let l = &mut self.links[link];
        if std::mem::replace(&mut l.cut, true) || l.target_gone {
            return;
        }
        // Its own sockets tell the host, whatever the network does.
        self.news.host = true;
        let on_the_way = l.up.bytes.len() - l.up.arrived;
        self.trace.note(&[3, now, link as u64]);
        self.trace.say(now, format_args!("link {link} cut by the host, {on_the_way} on the way"));
        let may = late > 0 && on_the_way > 0 && (!deaf || self.late_through_stalls);
        let survives = may && self.dice.once_in(2);
        let delay = if survives { self.dice.roll(late) } else { 0 };
        let unheard = deaf && self.dice.once_in(2);
        let l = &mut self.links[link];
        l.down = Pipe { ending: Some(Ending::Reset), closing: true, ..Pipe::default() };
        l.up.closing = true;
        if survives {
            // It comes whole, long after, with the reset behind it.
            self.late_arrivals += 1;
            l.up.last = l.up.last.max(now + delay);
        } else {
            l.up.bytes.truncate(l.up.arrived);
        }
        if survives || !unheard {
            self.schedule(link, port, Way::Up, on_the_way, Some(Ending::Reset));
        }
    }

    /// The host's end is gone.
    pub fn host_leaves(&mut self, link: usize) {
        self.host_cuts(link);
        self.links[link].host_gone = true;
    }

    /// The target's end is gone.
    pub fn target_leaves(&mut self, link: usize) {
        let rude = self.dice.once_in(2);
        let l = &mut self.links[link];
        if std::mem::replace(&mut l.target_gone, true) {
            return;
        }
        let port = l.port;
        self.trace.note(&[4, self.now, link as u64]);
        self.trace.say(self.now, format_args!("link {link} closed by the target"));
        l.up = Pipe { ending: Some(Ending::Reset), closing: true, ..Pipe::default() };
        if rude {
            l.down.bytes.truncate(l.down.arrived);
        }
        if !std::mem::replace(&mut l.down.closing, true) || rude {
            let ending = if rude { Ending::Reset } else { Ending::Finished };
            self.schedule(link, port, Way::Down, 0, Some(ending));
        }
    }

    /// Connections that live, to be chosen from.
    #[must_use]
    pub fn living(&self) -> Vec<usize> {
        let alive = |l: &Link| !l.cut && !l.target_gone && l.stage == Stage::Open;
        (0..self.links.len()).filter(|i| alive(&self.links[*i])).collect()
    }

    /// Breaks a connection: both ends see a reset, and what is on the way is lost. The target's end
    /// goes first: what it has not got by then it does not get any more.
    pub fn break_link(&mut self, link: usize) {
        let port = self.links[link].port;
        self.trace.note(&[5, self.now, link as u64]);
        self.trace.say(self.now, format_args!("link {link} breaks"));
        let l = &mut self.links[link];
        l.up = Pipe { ending: Some(Ending::Reset), closing: true, ..Pipe::default() };
        l.down.bytes.truncate(l.down.arrived);
        l.down.closing = true;
        self.news.targets.push(link);
        self.schedule(link, port, Way::Down, 0, Some(Ending::Reset));
    }

    /// Lets nothing through on a port until `until` (`u64::MAX`: until [`heal`](Self::heal)).
    pub fn stall(&mut self, port: usize, ways: &[Way], until: u64) {
        for way in ways {
            self.ports[port].stalled[*way as usize] = until;
        }
    }

    /// Lets everything through again.
    pub fn heal(&mut self, port: usize) {
        self.ports[port].stalled = [0; 2];
        self.ports[port].refusing = false;
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(|event| {
            let (Event::Connect(link) | Event::Arrive { link, .. }) = *event;
            self.links[link].port == port
        });
        self.held = held;
        let free: Vec<Event> = free;
        for event in free {
            let at = self.now;
            self.push(at, event);
            if let Event::Arrive { link, up, .. } = event {
                let pipe = self.links[link].pipe(if up { Way::Up } else { Way::Down });
                pipe.last = pipe.last.max(at);
            }
        }
    }

    /// Things under way, held ones too.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.events.len() + self.held.len()
    }
}
