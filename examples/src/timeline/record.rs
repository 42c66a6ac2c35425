//! What a run looked like from moment to moment.

use std::time::Duration;

use nvme_mpath::{Event, Head, HeadState, Host, Snapshot, TimedEvent};
use serde::{Deserialize, Serialize};

use crate::narrate::{About, describe};

/// Time from one moment to the next, at first.
const EVERY: Duration = Duration::from_millis(100);

/// Moments that are kept: when there are more, half of them go, and the rest are twice as far apart.
const MOMENTS: usize = 2000;

/// Events that are kept.
const EVENTS: usize = 2000;

/// Rates are not taken over less.
const SHORTEST: f64 = 0.02;

/// A run, as `quickstart --json` and `nvmeh io --json` have it under `timeline`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// The head's name.
    pub head: String,
    /// Its paths; moments have them in the same order.
    pub paths: Vec<PathName>,
    /// From the first to the last.
    pub moments: Vec<Moment>,
    /// What happened, in order.
    pub events: Vec<Happening>,
    /// Events that were too many to be kept.
    #[serde(default)]
    pub events_left_out: u64,
}

/// One path.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PathName {
    /// Number of its controller.
    pub controller: u32,
    /// Its address.
    pub address: String,
}

/// One moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since the first.
    pub t: f64,
    /// `live`, `no-path`, `removal-pending`, `removing` or `gone`.
    pub head: String,
    /// Seconds until the removal, while one is pending and has an end.
    #[serde(default)]
    pub left: Option<f64>,
    /// Requests that wait for a path.
    pub parked: u64,
    /// Writes that are held until a lost controller is fenced.
    pub held: u64,
    /// Pins that are out.
    pub pins: u64,
    /// The paths.
    pub paths: Vec<PathMoment>,
}

/// One path in one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PathMoment {
    /// The controller's state, as Linux names it; `gone`.
    pub controller: String,
    /// The path's ANA state, while the head has the path.
    #[serde(default)]
    pub ana: Option<String>,
    /// Whether I/O could be sent on it.
    pub usable: bool,
    /// I/O commands that ended so far.
    pub commands: u64,
    /// I/O commands in flight.
    pub in_flight: u64,
}

/// Something that happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Happening {
    /// Seconds since the first moment; negative for what came before it.
    pub t: f64,
    /// The address of a path, `head` or `events`.
    pub who: String,
    /// What.
    pub text: String,
    /// For what starts or ends a removal window: `scheduled`, `rearmed`, `cancelled`, `removed`.
    #[serde(default)]
    pub window: Option<String>,
    /// With `scheduled` and `rearmed`: seconds until the removal.
    #[serde(default)]
    pub after: Option<f64>,
}

impl Run {
    /// Commands per second of a path between two moments; `None` if they are too close.
    #[must_use]
    pub fn rate(&self, path: usize, from: &Moment, to: &Moment) -> Option<f64> {
        let time = to.t - from.t;
        let commands = |m: &Moment| m.paths.get(path).map(|p| p.commands);
        let (before, after) = (commands(from)?, commands(to)?);
        (time >= SHORTEST).then(|| after.saturating_sub(before) as f64 / time)
    }
}

/// Records a run of one head.
#[derive(Debug)]
pub struct Recorder {
    run: Run,
    /// The host's clock at the first moment.
    origin: Duration,
    every: Duration,
    next: Duration,
}

impl Recorder {
    /// Begins with this moment.
    #[must_use]
    pub fn new(host: &Host, head: &Head) -> Self {
        let now = host.snapshot();
        let sub = head.subsystem_nqn().to_string();
        let ours = now.controllers.iter().filter(|c| c.subsystem.as_ref() == Some(&sub));
        let paths = ours.map(|c| PathName { controller: c.id, address: c.address.clone() });
        let run = Run { head: head.name().to_owned(), paths: paths.collect(), ..Run::default() };
        let mut new = Self { run, origin: now.at, every: EVERY, next: now.at + EVERY };
        new.moment(&now, head);
        new
    }

    /// Takes a moment, if it is time for one.
    pub fn look(&mut self, host: &Host, head: &Head) {
        let now = host.snapshot();
        if now.at >= self.next {
            self.next = now.at + self.every;
            self.moment(&now, head);
        }
    }

    /// Takes the last moment, and gives the record.
    #[must_use]
    pub fn finish(mut self, host: &Host, head: &Head) -> Run {
        self.moment(&host.snapshot(), head);
        self.run
    }

    /// Notes an event, and how things are right after it.
    pub fn event(&mut self, event: &TimedEvent, host: &Host, head: &Head) {
        let Some((about, text)) = describe(&event.event) else { return };
        if self.run.events.len() == EVENTS {
            self.run.events_left_out += 1;
            return;
        }
        let who = match about {
            About::Path(address) => address.to_owned(),
            About::Head => "head".to_owned(),
            About::Events => "events".to_owned(),
        };
        let seconds = |d: &Option<Duration>| d.map(|d| d.as_secs_f64());
        let (window, after) = match &event.event {
            Event::RemovalScheduled { after, .. } => (Some("scheduled"), seconds(after)),
            Event::RemovalRearmed { after, .. } => (Some("rearmed"), seconds(after)),
            Event::RemovalCancelled { .. } => (Some("cancelled"), None),
            Event::HeadRemoved { .. } => (Some("removed"), None),
            _ => (None, None),
        };
        let at = Duration::from_nanos(event.at.as_nanos()).as_secs_f64();
        let t = at - self.origin.as_secs_f64();
        let window = window.map(str::to_owned);
        self.run.events.push(Happening { t, who, text, window, after });
        self.moment(&host.snapshot(), head);
    }

    fn moment(&mut self, now: &Snapshot, head: &Head) {
        let seen = now.heads.iter().find(|h| h.instance == head.instance());
        let state = head.state();
        let usable = seen.is_some_and(|h| h.paths.iter().any(|p| p.usable));
        let left = match &state {
            HeadState::RemovalPending { remaining, .. } => remaining.map(|r| r.as_secs_f64()),
            _ => None,
        };
        let stats = head.stats();
        let last = self.run.moments.last();
        let path = |(at, name): (usize, &PathName)| {
            let controller = now.controller(name.controller);
            let path = seen.and_then(|h| h.paths.iter().find(|p| p.controller == name.controller));
            // What is gone has counted to its end.
            let before = last.and_then(|m| m.paths.get(at)).map_or(0, |p| p.commands);
            PathMoment {
                controller: controller.map_or("gone", |c| c.state.name()).to_owned(),
                ana: path.map(|p| p.ana.name().to_owned()),
                usable: path.is_some_and(|p| p.usable),
                commands: controller.map_or(before, |c| c.commands),
                in_flight: controller.map_or(0, |c| c.in_flight),
            }
        };
        let moment = Moment {
            t: now.at.saturating_sub(self.origin).as_secs_f64(),
            head: match &state {
                HeadState::Live if !usable => "no-path".to_owned(),
                other => other.name().to_owned(),
            },
            left,
            parked: stats.parked_now,
            held: stats.held_now,
            pins: now.pins.len() as u64,
            paths: self.run.paths.iter().enumerate().map(path).collect(),
        };
        self.run.moments.push(moment);
        if self.run.moments.len() >= MOMENTS {
            let mut keep = false;
            self.run.moments.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }
}
