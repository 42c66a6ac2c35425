//! The paths among which a policy chooses.

use crate::channel::queues::{ChannelQueue, Queues};
use crate::ids::AssociationId;
use crate::policy::PathPolicy;
use crate::view::HeadView;

use super::NoLane;
use super::leaders::Leaders;
use super::service_time::ServiceTime;

/// A path for which there is a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::channel) struct Lane {
    /// Its place in the view.
    pub(in crate::channel) path: u32,
    /// The queue's place in the channel's table.
    pub(in crate::channel) queue: u32,
    /// The namespace's identifier there.
    pub(in crate::channel) nsid: u32,
}

/// How a new request finds its lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// The next one. Where there is only one lane, whatever the policy is.
    #[default]
    InTurn,
    LeastInFlight,
    Soonest,
    /// The time of each request is taken: it goes the general way.
    Timed,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(in crate::channel) struct Lanes {
    pub(super) way: Way,
    /// Whether that is [`Way::InTurn`], so that the others make no jump of this one.
    pub(super) in_turn: bool,
    pub(super) list: Vec<Lane>,
    /// Where the round-robin stands, in the list.
    pub(super) turn: usize,
    /// Those with the least in flight.
    pub(super) leaders: Leaders,
    /// Where that is the policy.
    pub(super) service: Option<Box<ServiceTime>>,
    /// Where the round-robin of requests that avoid a path stands, in the view.
    pub(super) elsewhere: usize,
    /// What to say when the list is empty: a queue is missing, or this many are granted.
    missing: bool,
    granted: Option<u16>,
}

impl Lanes {
    /// Makes the lanes of what a view says and which queues there are. `timed`: times are taken of all
    /// requests, whatever the policy is.
    pub(in crate::channel) fn make(
        &mut self,
        view: &HeadView,
        avoided: &[(AssociationId, u64)],
        queues: &Queues,
        timed: bool,
    ) {
        // The turn stays with the path that it stood at, as far as places tell.
        let last = self.list.get(self.turn).map(|lane| lane.path);
        self.list.clear();
        self.leaders = Leaders::default();
        self.service = (view.policy == PathPolicy::ServiceTime).then(Box::default);
        (self.missing, self.granted) = (false, None);
        let mut best = u8::MAX;
        for (at, path) in view.paths.iter().enumerate() {
            if avoided.iter().any(|(a, _)| *a == path.association) {
                continue;
            }
            let Some(queue) = queues.find(path.association) else {
                match queues.refused(path.association) {
                    Some(n) => self.granted = self.granted.max(Some(n)),
                    None => self.missing = true,
                }
                continue;
            };
            if path.rank < best {
                best = path.rank;
                self.list.clear();
            }
            if path.rank == best {
                self.list.push(Lane { path: at as u32, queue: queue as u32, nsid: path.nsid });
            }
        }
        self.missing |= view.more_may_come || !avoided.is_empty();
        let after = |last: u32| self.list.iter().rposition(|lane| lane.path <= last);
        self.turn = last.and_then(after).unwrap_or(self.list.len().saturating_sub(1));
        let path = |lane: &Lane| &view.paths[lane.path as usize];
        let of_least = |key: &dyn Fn(&Lane) -> u32| {
            (0..self.list.len()).min_by_key(|at| key(&self.list[*at])).unwrap_or(0)
        };
        self.way = match view.policy {
            _ if timed => Way::Timed,
            PathPolicy::QueueDepth if self.list.len() > 1 => Way::LeastInFlight,
            PathPolicy::ServiceTime if self.list.len() > 1 => Way::Soonest,
            _ => Way::InTurn,
        };
        self.in_turn = self.way == Way::InTurn;
        // Of policies that use one path the others are no lanes.
        let fixed = match view.policy {
            PathPolicy::Numa => of_least(&|lane| queues.distance(path(lane).numa_node)),
            PathPolicy::ActivePassive => of_least(&|lane| u32::from(!path(lane).preferred)),
            PathPolicy::RoundRobin | PathPolicy::QueueDepth | PathPolicy::ServiceTime => return,
        };
        if let Some(lane) = self.list.get(fixed).copied() {
            self.list.clear();
            self.list.push(lane);
            self.turn = 0;
        }
    }

    /// Whether times are taken of requests.
    #[inline]
    pub(in crate::channel) const fn is_timed(&self) -> bool {
        matches!(self.way, Way::Soonest | Way::Timed)
    }

    /// The next one and its queue, if that has room.
    #[inline(always)]
    pub(super) fn quick_in_turn<'q>(
        &mut self,
        queues: &'q mut Queues,
    ) -> Option<(&Lane, &'q mut ChannelQueue)> {
        let next = if self.turn + 1 < self.list.len() { self.turn + 1 } else { 0 };
        let lane = self.list.get(next)?;
        let queue = queues.open(lane)?;
        self.turn = next;
        Some((lane, queue))
    }

    /// The next one whose queue has room. If there is none the turn stays.
    pub(super) fn next_in_turn(&mut self, queues: &Queues) -> Option<&Lane> {
        let next = if self.turn + 1 < self.list.len() { self.turn + 1 } else { 0 };
        let (first, last) = self.list.split_at(next);
        let found = last.iter().chain(first).position(|lane| queues.has_room(lane))?;
        self.turn = (next + found) % self.list.len();
        self.list.get(self.turn)
    }

    /// Why none was found.
    #[cold]
    pub(in crate::channel) fn why_none(&self) -> NoLane {
        match self.granted {
            _ if !self.list.is_empty() => NoLane::Full,
            Some(granted) if !self.missing => NoLane::Refused { granted },
            _ => NoLane::None,
        }
    }
}
