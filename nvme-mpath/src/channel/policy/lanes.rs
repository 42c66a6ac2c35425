//! The paths among which a policy chooses.

use crate::channel::queues::Queues;
use crate::ids::AssociationId;
use crate::policy::PathPolicy;
use crate::view::HeadView;

use super::Route;
use super::service_time::ServiceTime;

/// A path for which there is a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::channel) struct Lane {
    /// Its place in the view.
    pub(in crate::channel) path: u32,
    /// The queue's place in the channel's table.
    pub(in crate::channel) queue: u32,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(in crate::channel) struct Lanes {
    /// The generation of the view, and of the table of queues, that this was made from; `None`:
    /// to be made anew.
    made_from: Option<(u64, u64)>,
    pub(super) list: Vec<Lane>,
    /// Where the round-robin stands, in the list.
    pub(super) turn: usize,
    /// The lane of policies that use one.
    fixed: usize,
    pub(super) service: ServiceTime,
    /// Where the round-robin of requests that avoid a path stands, in the view.
    pub(super) elsewhere: usize,
    /// What to say when the list is empty: a queue is missing, or this many are granted.
    missing: bool,
    granted: Option<u16>,
}

impl Lanes {
    /// What the lanes were made from has changed in a way that generations do not tell.
    pub(in crate::channel) const fn outdated(&mut self) {
        self.made_from = None;
    }

    /// Makes the lanes anew if what they are made from has changed.
    pub(super) fn refresh(
        &mut self,
        view: &HeadView,
        avoided: &[(AssociationId, u64)],
        generation: u64,
        queues: &Queues,
    ) {
        let from = Some((generation, queues.generation()));
        if self.made_from != from {
            self.made_from = from;
            self.make(view, avoided, queues);
        }
    }

    #[cold]
    fn make(&mut self, view: &HeadView, avoided: &[(AssociationId, u64)], queues: &Queues) {
        // The turn stays with the path that it stood at, as far as places tell.
        let last = self.list.get(self.turn).map(|lane| lane.path);
        self.list.clear();
        self.service = ServiceTime::default();
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
                self.list.push(Lane { path: at as u32, queue: queue as u32 });
            }
        }
        self.missing |= view.more_may_come || !avoided.is_empty();
        let after = |last: u32| self.list.iter().rposition(|lane| lane.path <= last);
        self.turn = last.and_then(after).unwrap_or(self.list.len().saturating_sub(1));
        let path = |lane: &Lane| &view.paths[lane.path as usize];
        let of_least = |key: &dyn Fn(&Lane) -> u32| {
            (0..self.list.len()).min_by_key(|at| key(&self.list[*at])).unwrap_or(0)
        };
        self.fixed = match view.policy {
            PathPolicy::Numa => of_least(&|lane| queues.distance(path(lane).numa_node)),
            _ => of_least(&|lane| u32::from(!path(lane).preferred)),
        };
    }

    /// The next one whose queue has room.
    pub(super) fn next_in_turn(&mut self, queues: &Queues) -> Option<Lane> {
        let count = self.list.len();
        let mut at = self.turn;
        for _ in 0..count {
            at = if at + 1 < count { at + 1 } else { 0 };
            let lane = self.list[at];
            if !queues.get(lane.queue as usize).is_full() {
                self.turn = at;
                return Some(lane);
            }
        }
        None
    }

    /// The one that is used, if its queue has room.
    pub(super) fn fixed(&self, queues: &Queues) -> Option<Lane> {
        let lane = *self.list.get(self.fixed)?;
        (!queues.get(lane.queue as usize).is_full()).then_some(lane)
    }

    /// Why none was found.
    #[cold]
    pub(super) fn why_none(&self) -> Route {
        match self.granted {
            _ if !self.list.is_empty() => Route::Full,
            Some(granted) if !self.missing => Route::Refused { granted },
            _ => Route::None,
        }
    }
}
