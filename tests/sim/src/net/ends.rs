//! What the two ends of a connection do: read, write, finish, leave.

use std::io;

use super::link::{Ending, Pipe, Way};
use super::{Event, Inner, Port};

/// Bytes that arrive at once at most, where they take time.
const PIECE: usize = 2048;

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Inner {
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
        let crowded = std::mem::take(&mut pipe.crowded);
        if way == Way::Down {
            self.links[link].heard += n;
        }
        if crowded {
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

    pub(super) fn schedule(
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
}
