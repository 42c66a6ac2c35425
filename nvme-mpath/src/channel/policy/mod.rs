//! Which of the usable paths a request takes.
//!
//! What a view says and which queues the channel has is worked out once, when either changes, into
//! [`Lanes`]: the paths of the best rank for which there is a queue. A request then only looks at
//! those.

mod lanes;
mod leaders;
mod queue_depth;
mod service_time;

use nvme_core::spec::BlockCount;

use crate::error::IoOp;
use crate::ids::AssociationId;
use crate::policy::PathPolicy;
use crate::view::Layout;

use super::heads::{Known, Timed};
use super::pace::Kind;
use super::queues::{ChannelQueue, Queues};
use lanes::Way;
pub(super) use lanes::{Lane, Lanes};

/// Why there is no path for a request.
#[derive(Clone, Copy)]
pub(super) enum NoLane {
    /// There are paths, but their queues are full.
    Full,
    /// None that this channel can use now.
    None,
    /// There are paths, but none on which this channel was granted a queue.
    Refused { granted: u16 },
}

/// Whether a policy takes lanes in turn. Those that use one path have one lane: a second one would not
/// do, and the first is waited for.
const fn in_turn(policy: PathPolicy) -> bool {
    matches!(policy, PathPolicy::RoundRobin | PathPolicy::Numa | PathPolicy::ActivePassive)
}

/// A path for a new request, where one is known at once and the request's time is not to be taken; the
/// general way for others is [`choose`]. What is known of the head must be [fresh](Known::refresh).
#[inline(always)]
pub(super) fn quick<'a, 'q>(
    lanes: &'a mut Lanes,
    queues: &'q mut Queues,
    op: IoOp,
    blocks: BlockCount,
    layout: Layout,
) -> Option<(&'a Lane, &'q mut ChannelQueue)> {
    // Before the others, which saves the default a jump.
    if lanes.in_turn {
        return lanes.quick_in_turn(queues);
    }
    let lane = match lanes.way {
        Way::LeastInFlight => queue_depth::known(lanes, queues),
        Way::Soonest => {
            let kind = Kind::new(op, blocks.get() as usize * layout.buffer_block());
            service_time::known(lanes, queues, kind)
        }
        Way::InTurn | Way::Timed => None,
    };
    lane.and_then(|lane| Some((lane, queues.open(lane)?)))
}

/// A path for a request, by the head's policy. The head must be [fresh](Known::refresh).
pub(super) fn choose<'a>(
    known: &'a mut Known,
    queues: &mut Queues,
    timed: Option<Timed>,
) -> Option<&'a Lane> {
    let (lanes, policy) = (&mut known.lanes, known.view.policy);
    match (policy, timed) {
        _ if in_turn(policy) => lanes.next_in_turn(queues),
        (PathPolicy::ServiceTime, Some(Timed { kind, at, .. })) => {
            service_time::soonest(lanes, queues, kind, at)
        }
        _ => queue_depth::least(lanes, queues),
    }
}

/// A path that is on none of these associations, in turn; of a lower rank, if need be.
pub(super) fn elsewhere(
    known: &mut Known,
    queues: &Queues,
    shunned: &[AssociationId],
) -> Result<Lane, NoLane> {
    let other = |a: AssociationId| !shunned.contains(&a) && !known.avoids(a);
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
        let (path, queue, nsid) = (at as u32, queue as u32, paths[at].nsid);
        return Ok(Lane { path, queue, nsid });
    }
    Err(if full { NoLane::Full } else { NoLane::None })
}
