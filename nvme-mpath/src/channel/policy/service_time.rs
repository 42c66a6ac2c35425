//! The answer expected soonest first.
//!
//! Paths whose expected time is about the best share the load, least in flight first; where one takes
//! longer for each request, as when a slow path is of use because the others are full, requests weigh
//! more there. Which those are is judged anew every few requests, and with a margin, so that noise does
//! not throw them to and fro. The others are tried now and then with a single request: seldom enough not to matter
//! for percentiles, and often enough to notice that a path has recovered.

use nvme_core::time::{Duration, Instant};

use super::lanes::{Lane, Lanes};
use crate::channel::pace::Kind;
use crate::channel::queues::Queues;

/// A judgement holds for so many requests, and so long.
const REQUESTS: u32 = 16;
const AGE: Duration = Duration::from_millis(1);
/// Times that differ by so little are the same, in nanoseconds.
const GRAIN: u64 = 20_000;
/// A path is tried once in so many requests, and so long after the last trial.
const TRIAL_REQUESTS: u32 = 4096;
const TRIAL_PAUSE: Duration = Duration::from_millis(100);

/// What a request weighs where all are equal.
const EQUAL: u64 = 64;

/// What was judged of the lanes, for one kind of request.
#[derive(Clone, Copy, Debug, Default)]
struct Judgement {
    /// A bit for each lane that shares the load; 64 lanes at most are considered.
    good: u64,
    /// Requests for which it holds.
    left: u32,
    at: Instant,
    /// The count of alarms that it knows of.
    alarms: u64,
}

/// The state of the policy on one head.
#[derive(Debug, Default)]
pub(super) struct ServiceTime {
    judgements: [Judgement; Kind::ALL],
    /// Requests since the last trial, in steps of [`REQUESTS`].
    since_trial: u32,
    trial_at: Instant,
    /// What a request in flight weighs, for each lane and kind: at most as much more as it makes the
    /// next one wait there, and less and less as long as the lane answers as soon as others.
    weights: Vec<[u64; Kind::ALL]>,
}

/// The lane for a request of this kind.
pub(super) fn soonest<'a>(
    lanes: &'a mut Lanes,
    queues: &mut Queues,
    kind: Kind,
    now: Instant,
) -> Option<&'a Lane> {
    if lanes.list.len() == 1 {
        return lanes.list.first().filter(|only| queues.has_room(only));
    }
    queues.look_at_others();
    let judgement = &lanes.service.judgements[kind.index()];
    let valid =
        judgement.left > 0 && judgement.alarms == queues.alarms() && now <= judgement.at + AGE;
    if !valid && let Some(trial) = judge(lanes, queues, kind, now) {
        return lanes.list.get(trial);
    }
    let judgement = &mut lanes.service.judgements[kind.index()];
    judgement.left = judgement.left.saturating_sub(1);
    let mut good = judgement.good;
    let mut best: Option<(u64, usize)> = None;
    while good != 0 {
        let at = good.trailing_zeros() as usize;
        good &= good - 1;
        let Some(lane) = lanes.list.get(at) else { break };
        let queue = queues.get(lane.queue as usize);
        let ahead = u64::from(queue.load() + queue.others) + 1;
        let depth = ahead.saturating_mul(lanes.service.weights[at][kind.index()]);
        // Of equals, the next in turn.
        let better = match best {
            None => true,
            Some((least, found)) => {
                depth < least || (depth == least && found <= lanes.turn && at > lanes.turn)
            }
        };
        if better && !queue.is_full() {
            best = Some((depth, at));
        }
    }
    let (_, at) = best?;
    lanes.turn = at;
    lanes.list.get(at)
}

/// Judges the lanes anew. Returns one that is to be tried with this request.
fn judge(lanes: &mut Lanes, queues: &Queues, kind: Kind, now: Instant) -> Option<usize> {
    let expected = |lane: &Lane| {
        let queue = queues.get(lane.queue as usize);
        queue.meter.pace.expected(kind, queue.load() + queue.others)
    };
    let considered = lanes.list.len().min(64);
    let list = &lanes.list[..considered];
    let best = list.iter().filter_map(expected).min();
    let service = &mut lanes.service;
    service.weights.resize(considered, [u64::MAX >> 8; Kind::ALL]);
    let judgement = &mut service.judgements[kind.index()];
    let was_good = judgement.good;
    let mut good = 0;
    for (at, lane) in list.iter().enumerate() {
        let stays = was_good & 1 << at != 0;
        let margin = |best: u64| best / if stays { 2 } else { 4 } + GRAIN;
        let is_good = match (expected(lane), best) {
            (Some(time), Some(best)) => time <= best + margin(best),
            // Nothing is known of any.
            (_, None) => true,
            (None, Some(_)) => {
                // One request will tell.
                let queue = queues.get(lane.queue as usize);
                if queue.load() == 0 && !queue.is_full() {
                    return Some(at);
                }
                false
            }
        };
        good |= u64::from(is_good) << at;
    }
    let (left, alarms) = (REQUESTS, queues.alarms());
    service.since_trial = service.since_trial.saturating_add(REQUESTS - judgement.left);
    *judgement = Judgement { good, left, at: now, alarms };
    let pace = |lane: &Lane| &queues.get(lane.queue as usize).meter.pace;
    let is_good = |at: usize| good & 1 << at != 0;
    let least = |of: &dyn Fn(&Lane) -> u64| {
        let good = list.iter().enumerate().filter(|(at, _)| is_good(*at));
        good.map(|(_, lane)| of(lane)).min().unwrap_or(0).max(1)
    };
    let latency = |lane: &Lane| pace(lane).expected(kind, 0).unwrap_or(0);
    let least_latency = least(&latency);
    let least_each = least(&|lane| pace(lane).each(kind));
    let about_equal = least_latency.saturating_add(least_latency / 4 + GRAIN);
    for (at, lane) in list.iter().enumerate() {
        let most = (pace(lane).each(kind).saturating_mul(EQUAL) / least_each).max(EQUAL);
        let weight = &mut service.weights[at][kind.index()];
        // Little by little: what it does to the path's times is only seen later.
        *weight = match latency(lane) <= about_equal {
            true => *weight - (*weight - EQUAL).div_ceil(8),
            false => *weight + weight.div_ceil(8),
        };
        *weight = (*weight).min(most);
    }
    // One that stood still and has resumed is tried at once.
    let is_idle = |lane: &Lane| queues.get(lane.queue as usize).load() == 0;
    let doubted = list.iter().position(|lane| is_idle(lane) && pace(lane).is_doubted());
    if doubted.is_some() {
        return doubted;
    }
    // One that answers would tell that it is the path, and not everything.
    let unclear = |lane: &Lane| pace(lane).is_unclear();
    let due = list.iter().any(unclear);
    let due = due || service.since_trial >= TRIAL_REQUESTS && now >= service.trial_at + TRIAL_PAUSE;
    if !due {
        return None;
    }
    let bad = list.iter().enumerate().filter(|(at, lane)| !is_good(*at) && is_idle(lane));
    let (trial, _) = bad.min_by_key(|(_, lane)| pace(lane).last(kind))?;
    (service.since_trial, service.trial_at) = (0, now);
    Some(trial)
}
