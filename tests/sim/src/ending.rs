//! Rest, in which nothing is done, and the end of the host.

use nvme_core::controller::State;
use nvme_mpath::{Controller, HeadSnapshot, Host};

use crate::clock::SEC;
use crate::world::{MOST_LANES, Violation, World};

/// The longest window for removals. A timer that was cancelled may stay until its time.
const LONGEST_WINDOW: u64 = 6 * SEC;

/// Longest time that the shutdown of a host takes, with peers that do not answer.
const SHUTDOWN: u64 = 30 * SEC;

impl World {
    /// With nothing to do, nothing is done: no timer but the keep-alive's, no request, no connection
    /// too many.
    pub(crate) fn rest(&mut self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        host.heads().iter().for_each(|head| _ = head.remove_now());
        self.rules.heads_given_up();
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
        let seen = host.snapshot();
        let flying: u64 = seen.controllers.iter().map(|c| c.in_flight).sum();
        let waiting = |h: &HeadSnapshot| h.stats.parked_now + h.stats.held_now;
        let waiting: u64 = seen.heads.iter().map(waiting).sum();
        if flying + waiting > 0 {
            let text = format!("at rest: {flying} are said to be in flight, {waiting} to wait");
            return Err(Violation(text));
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
        let live = |c: &Controller| c.state() == State::Live;
        self.host.as_ref().is_none_or(|host| host.controllers().iter().all(live))
    }

    /// Shuts the host down, with requests under way or without.
    pub(crate) fn shut_down(&mut self, force: bool) -> Result<(), Violation> {
        self.note(81, format_args!("shutdown, force {force}"));
        for lane in &mut self.lanes {
            lane.busy = 0;
        }
        (self.host_busy, self.nap) = (0, (0, 0));
        self.rules.host_ends();
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
    pub(crate) fn drop_host(&mut self) -> Result<(), Violation> {
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
