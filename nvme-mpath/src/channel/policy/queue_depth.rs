//! Least in flight first.

use super::lanes::{Lane, Lanes};
use super::leaders::{Leaders, Outlook};
use crate::channel::queues::Queues;

/// The lane whose controller has the least in flight, over the whole host; the first of several, as
/// Linux has it. What other channels have in flight is read once per poll, from cells of which each
/// is written by its own channel only: the count is a little old, and no cache line has two writers.
pub(super) fn least<'a>(lanes: &'a mut Lanes, queues: &mut Queues) -> Option<&'a Lane> {
    let Lanes { list, leaders, .. } = lanes;
    let at = match leaders.take(queues.round(), |at| queues.load(&list[at])) {
        Some(at) if queues.has_room(&list[at]) => at,
        _ => look(list, leaders, queues)?,
    };
    lanes.list.get(at)
}

/// The same, where it is known at once. Whether it has room is not.
#[inline]
pub(super) fn known<'a>(lanes: &'a mut Lanes, queues: &Queues) -> Option<&'a Lane> {
    let Lanes { list, leaders, .. } = lanes;
    let at = leaders.take(queues.round(), |at| queues.load(&list[at]))?;
    list.get(at)
}

/// The same by a look at all lanes.
fn look(list: &[Lane], leaders: &mut Leaders, queues: &mut Queues) -> Option<usize> {
    queues.look_at_others();
    let outlook = |lane: &Lane| {
        let load = queues.load(lane);
        queues.has_room(lane).then_some(Outlook { time: load.into(), each: 1, load })
    };
    leaders.look(queues.round(), list.iter().map(outlook))
}
