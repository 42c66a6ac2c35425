//! The answer expected soonest first.
//!
//! A request takes the path on which it is expected to be answered first: the path's own time, and what
//! each request costs that is in flight there already. So a slow path gets one now and then where the
//! others are full, and none where they are not. Paths that are about equal count as equal, so that noise
//! does not throw requests to and fro; of those the one with the least in flight is taken. What is known of
//! the paths is looked at anew every so many requests. Those that are worse are tried now and then with a single
//! request: seldom enough not to matter for percentiles, and often enough to notice that a path has
//! recovered.

use nvme_core::time::{Duration, Instant};

use super::lanes::{Lane, Lanes};
use super::leaders::{Leaders, Outlook};
use crate::channel::pace::{Kind, Line};
use crate::channel::queues::Queues;

/// A judgement holds for so many requests, and so long.
const REQUESTS: u32 = 128;
const AGE: Duration = Duration::from_millis(1);
/// Times that differ by so little are the same, in nanoseconds.
const GRAIN: u64 = 20_000;
/// A path is tried once in so many requests, and so long after the last trial.
const TRIAL_REQUESTS: u32 = 4096;
const TRIAL_PAUSE: Duration = Duration::from_millis(100);

/// Lanes that are considered.
const LANES: usize = 64;

/// What was judged of the lanes, for one kind of request.
#[derive(Clone, Copy, Debug, Default)]
struct Judgement {
    /// Requests for which it holds.
    left: u32,
    at: Instant,
    /// The count of alarms that it knows of.
    alarms: u64,
    /// The lanes that are best by it.
    leaders: Leaders,
    /// Times are to be taken of requests that go to those now.
    measuring: bool,
}

/// The state of the policy on one head.
#[derive(Debug, Default)]
pub(super) struct ServiceTime {
    judgements: [Judgement; Kind::ALL],
    /// Requests since the last trial, in steps of [`REQUESTS`].
    since_trial: u32,
    trial_at: Instant,
    /// What is expected of each lane, for each kind.
    lines: Vec<[Line; Kind::ALL]>,
}

/// Of a lane of which nothing is known, where something is known of others.
const UNKNOWN: Line = Line { base: u64::MAX, each: 1 };

/// The lane for a request of this kind.
pub(super) fn soonest<'a>(
    lanes: &'a mut Lanes,
    queues: &mut Queues,
    kind: Kind,
    now: Instant,
) -> Option<&'a Lane> {
    let Lanes { list, service, .. } = lanes;
    let service = service.as_mut()?;
    let leaders = &mut service.judgements[kind.index()].leaders;
    let at = match leaders.take(queues.round(), |at| queues.load(&list[at])) {
        Some(at) => at,
        None => look(list, service, queues, kind, now)?,
    };
    // Where the best one is full, to wait for it is better than to take another one.
    lanes.list.get(at).filter(|lane| queues.has_room(lane))
}

/// The same, where it is known at once and no time is to be taken. Whether it has room is not known.
#[inline]
pub(super) fn known<'a>(lanes: &'a mut Lanes, queues: &Queues, kind: Kind) -> Option<&'a Lane> {
    let Lanes { list, service, .. } = lanes;
    let Judgement { measuring: false, leaders, .. } =
        &mut service.as_mut()?.judgements[kind.index()]
    else {
        return None;
    };
    let at = leaders.take(queues.round(), |at| queues.load(&list[at]))?;
    list.get(at)
}

/// The same by what was judged of all lanes, or is now.
fn look(
    list: &[Lane],
    service: &mut ServiceTime,
    queues: &mut Queues,
    kind: Kind,
    now: Instant,
) -> Option<usize> {
    let judgement = &mut service.judgements[kind.index()];
    judgement.left = judgement.left.saturating_sub(judgement.leaders.taken());
    let valid =
        judgement.left > 0 && judgement.alarms == queues.alarms() && now <= judgement.at + AGE;
    queues.look_at_others();
    if !valid && let Some(trial) = judge(list, service, queues, kind, now) {
        return Some(trial);
    }
    let outlook = |(lane, lines): (&Lane, &[Line; Kind::ALL])| {
        let (line, load) = (lines[kind.index()], queues.load(lane));
        Some(Outlook { time: line.at(load), each: line.each, load })
    };
    let lanes = list.iter().zip(&service.lines).map(outlook);
    let judgement = &mut service.judgements[kind.index()];
    let found = judgement.leaders.look(queues.round(), lanes);
    // Whether times are to be taken of those that the best ones get now.
    let (load, all) = judgement.leaders.best();
    let best = list.iter().take(LANES).enumerate().filter(|(at, _)| all & 1 << at != 0);
    let wants = |(_, lane): (usize, &Lane)| {
        queues.get(lane.queue as usize).meter.pace.would_want(kind, now, load)
    };
    let (any, more) = best.map(wants).fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1));
    judgement.measuring = any;
    if more {
        judgement.leaders.stop();
    }
    found
}

/// Judges the lanes anew. Returns one that is to be tried with this request.
fn judge(
    list: &[Lane],
    service: &mut ServiceTime,
    queues: &Queues,
    kind: Kind,
    now: Instant,
) -> Option<usize> {
    let pace = |lane: &Lane| &queues.get(lane.queue as usize).meter.pace;
    let is_idle = |lane: &Lane| queues.get(lane.queue as usize).load() == 0;
    let list = &list[..list.len().min(LANES)];
    let line = |lane: &Lane| pace(lane).line(kind);
    let told = list.iter().filter_map(line).filter(|line| line.each > 0).min_by_key(|l| l.base);
    // What is not known of one lane is taken to be in proportion as on another one; half of the time is the
    // path's own where it is known of none.
    let known = |lane: &Lane| {
        line(lane).map(|line| match (line.each, told) {
            (0, Some(told)) => {
                let each =
                    u128::from(told.each) * u128::from(line.base) / u128::from(told.base.max(1));
                Line { each: each as u64 | 1, ..line }
            }
            (0, None) => Line { each: line.base / 2 + 1, ..line },
            _ => line,
        })
    };
    let best = list.iter().filter_map(known).min_by_key(|line| line.base);
    let about = |best: Line, line: Line| {
        line.base <= best.base.saturating_add(best.base / 4 + GRAIN)
            && line.each <= best.each.saturating_mul(4)
            && best.each <= line.each.saturating_mul(4)
    };
    service.lines.resize(list.len(), [Line::default(); Kind::ALL]);
    // Lanes that are worse, by bit.
    let mut bad = 0_u64;
    let mut left = REQUESTS;
    for (at, lane) in list.iter().enumerate() {
        let line = match (known(lane), best) {
            (Some(line), Some(best)) if !about(best, line) => {
                bad |= u64::from(line.base > best.base) << at;
                line
            }
            (Some(_), Some(best)) => best,
            // Nothing is known of any, and soon something will be.
            (_, None) => {
                left = 1;
                Line { base: 0, each: 1 }
            }
            (None, Some(_)) => {
                // One request will tell.
                if is_idle(lane) {
                    return Some(at);
                }
                UNKNOWN
            }
        };
        service.lines[at][kind.index()] = line;
    }
    let judgement = &mut service.judgements[kind.index()];
    let alarms = queues.alarms();
    service.since_trial =
        service.since_trial.saturating_add(REQUESTS.saturating_sub(judgement.left));
    *judgement = Judgement { left, at: now, alarms, leaders: Leaders::default(), measuring: true };
    // One that stood still and has resumed is tried at once.
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
    let bad = list.iter().enumerate().filter(|(at, lane)| bad & 1 << at != 0 && is_idle(lane));
    let (trial, _) = bad.min_by_key(|(_, lane)| pace(lane).last(kind))?;
    (service.since_trial, service.trial_at) = (0, now);
    Some(trial)
}
