//! The loop: what happens next, and who looks at it.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::controller::State;
use nvme_mpath::{Controller, Events, Head, HeadState, Host};

use crate::wire::TargetEnd;
use crate::world::{Violation, World};

impl World {
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
            let own =
                self.host.as_ref().and_then(Host::deadline).map_or(u64::MAX, |at| at.as_nanos());
            let at = self.host_due.min(own);
            take((at != u64::MAX).then_some(self.awake_at(at)));
        }
        for lane in &self.lanes {
            let own = lane.channel.deadline().map_or(u64::MAX, |at| at.as_nanos());
            let at = lane.due.min(own);
            take((at != u64::MAX).then_some(at.max(lane.busy)));
        }
        next
    }

    /// When the control thread has a processor, at `at` or after.
    fn awake_at(&self, at: u64) -> u64 {
        let (from, until) = self.nap;
        let at = at.max(self.host_busy);
        if (from..until).contains(&at) { until } else { at }
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
        if !due || self.awake_at(now) > now {
            return Ok(());
        }
        self.host_due = u64::MAX;
        self.ended = !host.drive(Duration::ZERO);
        while let Some(event) = self.events.as_ref().and_then(Events::try_next) {
            self.net.lock().trace.say(now, format_args!("{:?}", event.event));
            self.rules.told(&event)?;
        }
        self.rules.all_told();
        self.rules.check(now)?;
        self.check_paths()?;
        self.check_pins()
    }

    /// What counts as usable belongs to a controller that lives, and that nobody has given up: its
    /// queues are on their way back, and must only get emptier.
    fn check_paths(&self) -> Result<(), Violation> {
        let Some(host) = &self.host else { return Ok(()) };
        let live: Vec<_> = host
            .controllers()
            .iter()
            .filter(|c| c.state() == State::Live && !self.given_up.contains(&c.id()))
            .map(Controller::id)
            .collect();
        for head in host.heads() {
            let dead = head.paths().into_iter().find(|p| p.usable && !live.contains(&p.controller));
            if let Some(path) = dead {
                return Err(Violation(format!("{head:?} has a path that cannot be: {path:?}")));
            }
        }
        Ok(())
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
        let old = self.load.under_way.iter().find(|(_, op)| op.end_by < now);
        match old {
            Some((number, op)) => {
                Err(Violation(format!("request {number} takes for ever: {op:?}")))
            }
            None => Ok(()),
        }
    }
}
