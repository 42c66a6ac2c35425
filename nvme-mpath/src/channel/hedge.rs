//! Hedged reads: one that takes too long is sent down a second path, and the first answer wins.
//!
//! The slow path keeps the program's buffer until it answers or its connection is gone; nothing can
//! take it back before. So the second attempt reads into a buffer of the channel's own, and when it
//! wins, the program gets that one: the two are *exchanged*. The program's is added to the pool when
//! the slow path gives it back. Nothing is copied, and no buffer has two owners.

use std::collections::VecDeque;

use nvme_core::buffer::Buffer;
use nvme_core::spec::Status;
use nvme_core::time::{Instant, earlier};
use nvme_core::transport::{Completion, Data, Tag};

use super::Channel;
use super::heads::Heads;
use super::pace::Kind;
use super::policy::elsewhere;
use super::queues::Meter;
use super::request::IoCompletion;
use super::route::block_op;
use super::slab::{Flags, Hedge, Slab, Timing};
use crate::hedge::HedgeOptions;
use crate::ids::AssociationId;

/// Reads of a kind that must have been seen before one is hedged.
const WARM_UP: u32 = 128;
/// How far one sample moves the percentile, as a part of it.
const STEP: f64 = 0.05;
/// Most reads that are remembered for being hedged, of one kind on one head.
const REMEMBERED: usize = 1 << 12;

/// The reads of one kind on one head.
#[derive(Debug, Default)]
struct Class {
    /// The percentile, in nanoseconds: it goes up a little with a read that took longer and down
    /// with one that did not, so that it rests where the two are in proportion.
    limit: f64,
    seen: u32,
    /// Reads in flight, or ended since, in the order of their times.
    watched: VecDeque<(Tag, Instant)>,
}

/// What a channel keeps for a head whose reads are hedged.
#[derive(Debug)]
pub(super) struct HeadHedge {
    options: HedgeOptions,
    classes: [Class; Kind::ALL],
    /// Attempts that the budget allows now.
    allowance: f64,
}

impl HeadHedge {
    pub(super) fn new(options: HedgeOptions) -> Self {
        Self { options, classes: Default::default(), allowance: 0.0 }
    }

    pub(super) const fn set(&mut self, options: HedgeOptions) {
        self.options = options;
    }

    /// A read was sent. Returns when it is to be looked at.
    pub(super) fn sent(&mut self, kind: Kind, tag: Tag, at: Instant) -> Option<Instant> {
        self.allowance = (self.allowance + self.options.budget).min(self.options.burst);
        let class = &mut self.classes[kind.index()];
        if class.seen < WARM_UP || class.watched.len() >= REMEMBERED {
            return None;
        }
        if class.watched.capacity() == 0 {
            // Once, so that nothing is allocated later.
            class.watched.reserve_exact(REMEMBERED);
        }
        let least = self.options.min_delay.as_nanos() as u64;
        let due = at.as_nanos().saturating_add((class.limit as u64).max(least));
        let due = Instant::from_nanos(due);
        class.watched.push_back((tag, due));
        Some(due)
    }

    /// A read has succeeded, so long after it was sent.
    pub(super) fn ended(&mut self, kind: Kind, nanos: u64) {
        let class = &mut self.classes[kind.index()];
        let nanos = nanos as f64;
        if class.seen < WARM_UP {
            class.seen += 1;
            class.limit = class.limit.max(nanos);
        } else if nanos > class.limit {
            class.limit *= 1.0 + STEP * self.options.percentile;
        } else {
            class.limit *= 1.0 - STEP * (1.0 - self.options.percentile);
        }
    }
}

/// A second attempt.
#[derive(Debug)]
struct Attempt {
    generation: u16,
    /// It is in this queue, since then.
    in_flight: Option<(AssociationId, Instant)>,
    /// The request that it is for; `None`: that has ended.
    request: Option<u32>,
    kind: Kind,
    load: u32,
}

/// The channel's second attempts, and their buffers.
#[derive(Debug)]
pub(super) struct Hedges {
    attempts: Box<[Attempt]>,
    free: Vec<u16>,
    pool: Vec<Vec<u8>>,
    /// Buffers that attempts have, or slow paths owe.
    out: usize,
    /// The first tag's place: those of requests are below.
    base: u32,
    /// When a read is next to be looked at.
    pub(super) due_at: Instant,
}

impl Hedges {
    /// `limit` buffers at most; tags from `base` on.
    pub(super) fn new(limit: u16, base: u32) -> Self {
        let attempt = |_| Attempt {
            generation: 0,
            in_flight: None,
            request: None,
            kind: Kind::default(),
            load: 0,
        };
        Self {
            attempts: (0..limit).map(attempt).collect(),
            free: (0..limit).collect(),
            pool: Vec::with_capacity(limit.into()),
            out: 0,
            base,
            due_at: Instant::NEVER,
        }
    }

    /// Whether some queue has something of it.
    pub(super) const fn is_idle(&self) -> bool {
        self.out == 0
    }

    /// A buffer of `len` bytes, unless all are out.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        if self.out >= self.attempts.len() {
            return None;
        }
        self.out += 1;
        let fits = |v: &Vec<u8>| v.capacity() >= len && v.capacity() / 4 <= len.max(4096);
        let mut buffer = match self.pool.iter().rposition(fits) {
            Some(at) => self.pool.swap_remove(at),
            None => {
                // Bounded by the limit: one goes for one that comes.
                if self.pool.len() + self.out > self.attempts.len() {
                    self.pool.swap_remove(0);
                }
                Vec::with_capacity(len)
            }
        };
        buffer.resize(len, 0);
        Some(buffer)
    }

    fn put(&mut self, data: Data) {
        self.out = self.out.saturating_sub(1);
        if let Ok(buffer) = data.into_buffer().into_vec()
            && self.pool.len() + self.out < self.attempts.len()
        {
            self.pool.push(buffer);
        }
    }

    /// The first attempt of a request has ended: the second, if it is in flight, is for nobody.
    pub(super) fn abandon(&mut self, attempt: u16) {
        if let Some(attempt) = self.attempts.get_mut(usize::from(attempt)) {
            attempt.request = None;
        }
    }

    /// A slow path gives back the buffer for which the program got another one.
    pub(super) fn returned(&mut self, data: Data) {
        self.put(data);
    }

    /// The associations that have had an attempt since `before` or longer.
    pub(super) fn overdue(&self, before: Instant) -> impl Iterator<Item = AssociationId> {
        let in_flight = self.attempts.iter().filter_map(|a| a.in_flight);
        in_flight.filter(move |(_, at)| *at <= before).map(|(association, _)| association)
    }

    /// Takes a completion that is no request's: if it is a second attempt's and the first has not
    /// been answered, the request has ended.
    #[cold]
    pub(super) fn answered(
        &mut self,
        slab: &mut Slab,
        heads: &mut Heads,
        meter: &mut Meter,
        now: Instant,
        completion: Completion,
    ) -> Option<IoCompletion> {
        let at = (completion.tag & 0xffff).checked_sub(self.base)?;
        let attempt = self.attempts.get_mut(at as usize)?;
        let (_, sent) = attempt.in_flight?;
        if attempt.generation != (completion.tag >> 16) as u16 {
            return None;
        }
        attempt.generation = attempt.generation.wrapping_add(1);
        attempt.in_flight = None;
        self.free.push(at as u16);
        let (request, kind, load) = (attempt.request.take(), attempt.kind, attempt.load);
        let good = completion.cqe.status() == Status::SUCCESS;
        if good {
            meter.sample(kind, sent, load, now);
        }
        let Some(request) = request else {
            self.put(completion.data);
            return None;
        };
        if !good {
            // The first one may still succeed.
            slab.history(request).hedge = Hedge::None;
            self.put(completion.data);
            return None;
        }
        let counters = &heads[slab[request].head].head.counters;
        counters.hedges_won.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The buffer goes to the program; the slow path owes one.
        Some(slab.answer_early(request, completion.data.into_buffer()))
    }
}

impl Channel {
    /// Looks at the reads that take too long.
    #[cold]
    pub(super) fn hedge_due(&mut self, now: Instant) {
        let mut next = None;
        for place in 0..self.heads.len() {
            for class in 0..Kind::ALL {
                next = earlier(next, self.hedge_class(place, class, now));
            }
        }
        self.hedges.due_at = next.unwrap_or(Instant::NEVER);
    }

    /// Hedges the reads of one kind whose time has come; when the next one's comes.
    fn hedge_class(&mut self, place: u32, class: usize, now: Instant) -> Option<Instant> {
        loop {
            let hedge = self.heads[place].hedge.as_mut()?;
            let (tag, due) = *hedge.classes[class].watched.front()?;
            let request = self.slab.find(tag);
            let request = request.filter(|at| self.slab.past(*at).hedge == Hedge::None);
            if request.is_some() && due > now {
                return Some(due);
            }
            hedge.classes[class].watched.pop_front();
            let Some(at) = request else { continue };
            if hedge.allowance < 1.0 {
                let counters = &self.heads[place].head.counters;
                counters.hedges_denied.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                continue;
            }
            if self.send_again(at, now) {
                let known = &mut self.heads[place];
                if let Some(hedge) = known.hedge.as_mut() {
                    hedge.allowance -= 1.0;
                }
                known.head.counters.hedges.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    /// Sends a read that is in flight down another path, too. Returns whether there was one, and a
    /// buffer.
    fn send_again(&mut self, at: u32, now: Instant) -> bool {
        let entry = &self.slab[at];
        let known = &mut self.heads[entry.head];
        // Of a namespace that has been formatted since, as many blocks are another number of bytes.
        if known.layout != entry.layout {
            return false;
        }
        let first = [entry.sent_on];
        let Ok(lane) = elsewhere(known, &self.queues, &first) else {
            return false;
        };
        let (Some(op), slba) = (block_op(entry, lane.nsid), entry.slba) else { return false };
        let Some(Timing { kind, .. }) = self.slab.timing(at) else { return false };
        let len = entry.blocks as usize * entry.layout.buffer_block();
        if known.view.paths[lane.path as usize].max_transfer < len {
            return false;
        }
        let Some(place) = self.hedges.free.pop() else { return false };
        let Some(buffer) = self.hedges.take(len) else {
            self.hedges.free.push(place);
            return false;
        };
        let attempt = &mut self.hedges.attempts[usize::from(place)];
        let tag = u32::from(attempt.generation) << 16 | (self.hedges.base + u32::from(place));
        let q = self.queues.at(lane.queue as usize);
        let load = q.load() + q.others;
        let mut data = Data::Read(Buffer::from(buffer));
        match q.submit_block(op, slba, &mut data, tag) {
            Ok(()) => {
                attempt.in_flight = Some((q.association, now));
                attempt.request = Some(at);
                (attempt.kind, attempt.load) = (kind, load);
                self.slab.history(at).hedge = Hedge::Attempt(place);
                self.slab[at].flags.set(Flags::HEDGED);
                true
            }
            Err(_) => {
                self.hedges.free.push(place);
                self.hedges.put(data);
                false
            }
        }
    }
}
