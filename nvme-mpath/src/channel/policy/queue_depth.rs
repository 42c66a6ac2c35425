//! Least in flight first.

use super::lanes::{Lane, Lanes};
use crate::channel::queues::Queues;

/// The lane whose controller has the least in flight, over the whole host; the first of several, as
/// Linux has it. What other channels have in flight is read once per poll, from cells of which each
/// is written by its own channel only: the count is a little old, and no cache line has two writers.
pub(super) fn least<'a>(lanes: &'a Lanes, queues: &mut Queues) -> Option<&'a Lane> {
    queues.look_at_others();
    let mut best: Option<(u32, &Lane)> = None;
    for lane in &lanes.list {
        let queue = queues.get(lane.queue as usize);
        let depth = queue.load() + queue.others;
        if queue.is_full() || best.is_some_and(|(least, _)| least <= depth) {
            continue;
        }
        if depth == 0 {
            return Some(lane);
        }
        best = Some((depth, lane));
    }
    best.map(|(_, lane)| lane)
}
