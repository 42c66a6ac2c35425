//! What befalls the network.

use super::Inner;
use super::link::{Ending, Link, Pipe, Stage, Way};

/// ICResp and the capsule with the answer to Connect, in bytes (TCP 1.1 §3.6.2.3, §3.6.2.7).
const ANSWERS: usize = 128 + 24;

impl Inner {
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

    /// Lets everything through again, what a stall holds back at once, however long it was meant to last.
    pub fn heal(&mut self, port: usize) {
        self.ports[port].stalled = [0; 2];
        self.ports[port].refusing = false;
    }

    /// A connection that the target has ended, or the network, and that the host has not let go of.
    #[must_use]
    pub fn unnoticed(&self) -> Option<usize> {
        let over = |l: &Link| l.target_gone || l.down.closing || l.up.ending.is_some();
        let kept = |l: &Link| !l.cut && !l.host_gone && l.stage == Stage::Open;
        self.links.iter().position(|l| kept(l) && over(l))
    }

    /// A connection that the host is still making: it has not got the answers to the first two things
    /// that it says on each, ICReq and the Connect command.
    #[must_use]
    pub fn unanswered(&self) -> Option<usize> {
        let kept = |l: &Link| !l.cut && !l.host_gone && l.stage != Stage::Refused;
        self.links.iter().position(|l| kept(l) && l.heard < ANSWERS)
    }
}
