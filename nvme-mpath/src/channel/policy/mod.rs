//! Which of the usable paths a request takes.
//!
//! What a view says and which queues the channel has is worked out once, when either changes, into
//! [`Lanes`]: the paths of the best rank for which there is a queue. A request then only looks at
//! those.

mod lanes;
mod queue_depth;
mod service_time;

use nvme_core::time::Instant;

use crate::ids::AssociationId;
use crate::policy::PathPolicy;

use super::heads::Known;
use super::pace::Kind;
use super::queues::Queues;
pub(super) use lanes::Lanes;

/// What the look for a path found.
pub(super) enum Route {
    /// This path of the view, by this queue.
    Path { path: usize, queue: usize },
    /// There are paths, but their queues are full.
    Full,
    /// None that this channel can use now.
    None,
    /// There are paths, but none on which this channel was granted a queue.
    Refused { granted: u16 },
}

/// A path for a request, by the head's policy. `kind` and `now` only matter where the view says
/// that times are to be taken.
pub(super) fn choose(known: &mut Known, queues: &mut Queues, kind: Kind, now: Instant) -> Route {
    known.lanes.refresh(&known.view, &known.avoided, known.generation, queues);
    let lanes = &mut known.lanes;
    let lane = match known.view.policy {
        PathPolicy::RoundRobin => lanes.next_in_turn(queues),
        // A second one would not do: the first is waited for.
        PathPolicy::Numa | PathPolicy::ActivePassive => lanes.fixed(queues),
        PathPolicy::QueueDepth => queue_depth::least(lanes, queues),
        PathPolicy::ServiceTime => service_time::soonest(lanes, queues, kind, now),
    };
    match lane {
        Some(lane) => Route::Path { path: lane.path as usize, queue: lane.queue as usize },
        None => known.lanes.why_none(),
    }
}

/// A path that is not on such an association, in turn; of a lower rank, if need be.
pub(super) fn elsewhere(
    known: &mut Known,
    queues: &Queues,
    shunned: impl Fn(AssociationId) -> bool,
) -> Route {
    let other = |a: AssociationId| !shunned(a) && !known.avoids(a);
    let paths = &known.view.paths;
    let mut full = false;
    for step in 1..=paths.len() {
        let at = (known.lanes.elsewhere + step) % paths.len();
        let best =
            paths.iter().filter(|p| other(p.association) && queues.find(p.association).is_some());
        if Some(paths[at].rank) != best.map(|p| p.rank).min() || !other(paths[at].association) {
            continue;
        }
        let Some(queue) = queues.find(paths[at].association) else { continue };
        if queues.get(queue).is_full() {
            full = true;
            continue;
        }
        known.lanes.elsewhere = at;
        return Route::Path { path: at, queue };
    }
    if full { Route::Full } else { Route::None }
}
