//! What was seen of late.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nvme_mpath::{LatencyHistogram, PathLatency, Snapshot};

/// Moments that are kept of each controller.
const POINTS: usize = 240;

/// Events that are kept.
const EVENTS: usize = 100;

/// One controller from moment to moment, the newest last.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    /// I/O commands per second.
    pub iops: VecDeque<u64>,
    /// Half of the commands took no longer, in nanoseconds; 0 where there were none.
    pub latency: VecDeque<u64>,
    /// In the last moment, half of the commands took no longer.
    pub p50: Duration,
    /// In the last moment, 99 of 100 took no longer.
    pub p99: Duration,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Happening {
    /// On the host's clock, as [`Snapshot::at`].
    pub at: Duration,
    /// Who it is about.
    pub who: String,
    /// What.
    pub text: String,
}

/// The last snapshot, and what came out of the ones before it.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: Option<Snapshot>,
    begun: Duration,
    trends: BTreeMap<u32, Trend>,
    events: VecDeque<Happening>,
}

impl History {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next snapshot of the host.
    pub fn take(&mut self, now: Snapshot) {
        let before = match self.now.take() {
            Some(before) => before,
            None => {
                self.begun = now.at;
                now.clone()
            }
        };
        let time = now.at.saturating_sub(before.at).as_secs_f64();
        self.trends.retain(|id, _| now.controller(*id).is_some());
        for c in &now.controllers {
            let trend = self.trends.entry(c.id).or_default();
            let was = before.controller(c.id);
            let commands = was.map_or(0, |was| c.commands.saturating_sub(was.commands));
            let iops = if time > 0.0 { commands as f64 / time } else { 0.0 };
            push(&mut trend.iops, iops as u64);
            let none = PathLatency::default();
            let was = was.map_or(&none, |was| &was.latency);
            let recent =
                busier(c.latency.reads.since(&was.reads), c.latency.writes.since(&was.writes));
            (trend.p50, trend.p99) = (recent.quantile(0.5), recent.quantile(0.99));
            push(&mut trend.latency, u64::try_from(trend.p50.as_nanos()).unwrap_or(u64::MAX));
        }
        self.now = Some(now);
    }

    /// Notes something that happened.
    pub fn tell(&mut self, happening: Happening) {
        self.events.push_back(happening);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// The last snapshot.
    #[must_use]
    pub const fn now(&self) -> Option<&Snapshot> {
        self.now.as_ref()
    }

    /// When the first snapshot was taken.
    #[must_use]
    pub const fn begun(&self) -> Duration {
        self.begun
    }

    /// What was seen of a controller.
    #[must_use]
    pub fn trend(&self, controller: u32) -> Option<&Trend> {
        self.trends.get(&controller)
    }

    /// What happened, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Happening> {
        self.events.iter()
    }
}

/// The direction with more commands tells how long they take.
fn busier(reads: LatencyHistogram, writes: LatencyHistogram) -> LatencyHistogram {
    if writes.count() > reads.count() { writes } else { reads }
}

fn push(list: &mut VecDeque<u64>, value: u64) {
    list.push_back(value);
    if list.len() > POINTS {
        list.pop_front();
    }
}
