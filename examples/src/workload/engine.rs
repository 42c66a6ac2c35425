//! The verifying engine: makes requests, and judges how they end.
//!
//! It does no I/O and reads no clock. Whoever drives it takes requests out with
//! [`Engine::issue`], hands them to a device, and tells each end with [`Engine::complete`], in the
//! order in which things happen.

use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;

use super::ledger::Ledger;
use super::plan::{Chooser, Kind, Plan};
use super::stamp::{MIN_BLOCK, Seen, Stamp, inspect, mix};
use super::tally::Tally;

/// A request to be submitted.
#[derive(Debug)]
pub struct Issue {
    /// Names the request; never used twice.
    pub id: u64,
    /// What it does.
    pub kind: Kind,
    /// The first block.
    pub lba: u64,
    /// What is to be written, or where to put what is read.
    pub buffer: Buffer,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// It failed; a write may have happened or not.
    Failed,
    /// It failed because its head was removed; a write may have happened or not.
    HeadRemoved,
}

/// A request under way.
#[derive(Debug)]
struct Request {
    id: u64,
    kind: Kind,
    lba: u64,
    blocks: u64,
    /// Of its blocks' stamps, if it is a write.
    sequence: u64,
    /// When it was submitted, by the ledger's count.
    begun: u64,
    /// When it was submitted, by the clock.
    at: Instant,
    /// It was under way while requests failed over.
    failover: bool,
    /// It was under way while requests waited for a path.
    waited: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    chooser: Chooser,
    ledger: Ledger,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    buffers: Vec<Buffer>,
    /// Requests made so far.
    serial: u64,
    pass: Option<Pass>,
    tally: Tally,
}

/// One pass over the region, in place of the plan's pattern.
#[derive(Clone, Copy, Debug)]
struct Pass {
    kind: Kind,
    /// The next block.
    next: u64,
}

/// Bits of a request's name that tell its slot.
const SLOT_BITS: u32 = 16;

impl Engine {
    /// An engine for `plan`. Limits given there are kept to by force: a depth of 0 is 1.
    #[must_use]
    pub fn new(mut plan: Plan) -> Self {
        plan.depth = plan.depth.clamp(1, 1 << SLOT_BITS);
        plan.request_blocks = plan.request_blocks.max(1);
        plan.blocks = plan.blocks.max(plan.request_blocks);
        plan.verify &= plan.block_size >= MIN_BLOCK;
        let counted = if plan.verify { plan.blocks } else { 0 };
        Self {
            chooser: Chooser::new(plan.seed),
            ledger: Ledger::new(
                plan.seed,
                plan.first,
                usize::try_from(counted).unwrap_or(usize::MAX),
            ),
            requests: (0..plan.depth).map(|_| None).collect(),
            free: (0..plan.depth).rev().collect(),
            buffers: Vec::with_capacity(plan.depth),
            serial: 0,
            pass: None,
            tally: Tally::default(),
            plan,
        }
    }

    /// Memory to read into and write from in place of vectors, such as devices reach; what is not as
    /// long as a request is not taken. Without, or where there is not enough, vectors are made.
    pub fn give(&mut self, buffers: impl IntoIterator<Item = Buffer>) {
        for mut buffer in buffers {
            // Zeroes would be taken for nothing by some devices.
            let bytes = buffer.as_mut_slice().iter_mut().zip(0_u64..);
            bytes.for_each(|(byte, i)| *byte = mix(i) as u8);
            let buffer = self.beside(buffer, self.plan.request_blocks);
            self.keep(buffer);
        }
    }

    /// What the engine works by.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Counts so far.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Requests under way.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.plan.depth - self.free.len()
    }

    /// From now on, writes every block once, from the first to the last, and nothing else.
    pub fn begin_fill(&mut self) {
        self.pass = Some(Pass { kind: Kind::Write, next: self.plan.first });
    }

    /// From now on, reads every block once that was written, from the first to the last, and
    /// nothing else.
    pub fn begin_sweep(&mut self) {
        self.pass = Some(Pass { kind: Kind::Read, next: self.plan.first });
    }

    /// Goes back from a pass to the plan's pattern.
    pub fn end_pass(&mut self) {
        self.pass = None;
    }

    /// Whether a pass, of which kind, was begun and not ended.
    #[must_use]
    pub fn pass(&self) -> Option<Kind> {
        self.pass.map(|p| p.kind)
    }

    /// Whether a pass was begun and all its requests have ended.
    #[must_use]
    pub fn is_pass_over(&self) -> bool {
        let end = self.plan.first + self.plan.blocks;
        self.pass.is_some_and(|p| p.next == end) && self.in_flight() == 0
    }

    /// The next request, to be submitted now; `None` when as many are under way as may be, or a
    /// pass has nothing left to do.
    pub fn issue(&mut self, now: Instant) -> Option<Issue> {
        let slot = *self.free.last()?;
        let (kind, lba, blocks) = match self.pass {
            Some(pass) => self.next_of_pass(pass)?,
            None => {
                let (kind, lba) = self.chooser.choose(&self.plan);
                (kind, lba, self.plan.request_blocks)
            }
        };
        self.free.pop();
        self.serial += 1;
        let id = self.serial << SLOT_BITS | slot as u64;
        let mut buffer = self.buffer(blocks);
        let begun = self.ledger.tick();
        if self.plan.verify {
            match kind {
                Kind::Read => (lba..lba + blocks).for_each(|lba| self.ledger.read_begins(lba)),
                Kind::Write => self.stamp(lba, begun, &mut buffer),
            }
        }
        let (sequence, failover, waited) = (self.serial, false, false);
        let request = Request { id, kind, lba, blocks, sequence, begun, at: now, failover, waited };
        self.requests[slot] = Some(request);
        Some(Issue { id, kind, lba, buffer })
    }

    /// The next stretch of a pass.
    fn next_of_pass(&mut self, pass: Pass) -> Option<(Kind, u64, u64)> {
        let end = self.plan.first + self.plan.blocks;
        let wanted = |lba: &u64| {
            pass.kind == Kind::Write || (self.plan.verify && self.ledger.is_written(*lba))
        };
        let found = (pass.next..end).find(wanted);
        let lba = found.unwrap_or(end);
        let blocks = self.plan.request_blocks.min(end - lba);
        self.pass = Some(Pass { next: lba + blocks, ..pass });
        found.map(|lba| (pass.kind, lba, blocks))
    }

    fn buffer(&mut self, blocks: u64) -> Buffer {
        let len = blocks as usize * self.plan.block_size;
        if let Some(buffer) = self.buffers.pop_if(|buffer| buffer.len() == len) {
            return buffer;
        }
        let buffer = match self.plan.verify {
            true => Buffer::zeroed(len),
            false => {
                // Not zeroes: some devices take those for nothing.
                let words = (0..len as u64).map(|i| mix(i ^ (self.serial << 32)) as u8);
                words.collect::<Vec<u8>>().into()
            }
        };
        self.beside(buffer, blocks)
    }

    /// A buffer for so many blocks, with room for their metadata, if that is beside the data.
    fn beside(&self, buffer: Buffer, blocks: u64) -> Buffer {
        match blocks as usize * self.plan.metadata_size {
            0 => buffer,
            bytes => buffer.with_metadata(Buffer::zeroed(bytes)),
        }
    }

    fn stamp(&mut self, lba: u64, begun: u64, buffer: &mut Buffer) {
        let (sequence, run) = (self.serial, self.plan.seed);
        let blocks = buffer.as_mut_slice().chunks_exact_mut(self.plan.block_size);
        for (block, lba) in blocks.zip(lba..) {
            Stamp { lba, sequence, run }.write(block);
            self.ledger.write_begins(lba, sequence, begun);
        }
        if let Some(metadata) = buffer.metadata_mut() {
            let blocks = metadata.chunks_exact_mut(self.plan.metadata_size.max(1));
            for (block, lba) in blocks.zip(lba..) {
                Stamp { lba, sequence, run }.write_metadata(block);
            }
        }
    }

    /// A request was not accepted by the device: it never happened, and is counted nowhere.
    pub fn withdraw(&mut self, id: u64, buffer: Buffer) {
        let Some(request) = self.take(id) else { return };
        if self.plan.verify {
            for lba in request.lba..request.lba + request.blocks {
                match request.kind {
                    Kind::Read => self.ledger.read_withdrawn(lba),
                    Kind::Write => self.ledger.write_withdrawn(lba, request.sequence),
                }
            }
        }
        self.keep(buffer);
    }

    /// A request ended. Returns how long it took; `None` for a request that is not under way, which
    /// is counted as a duplicate.
    pub fn complete(
        &mut self,
        id: u64,
        outcome: Outcome,
        buffer: Buffer,
        now: Instant,
    ) -> Option<Duration> {
        let Some(request) = self.take(id) else {
            self.tally.duplicated_completions += 1;
            return None;
        };
        let took = now.saturating_duration_since(request.at);
        if self.plan.verify {
            self.judge(&request, outcome, &buffer);
        }
        match outcome {
            Outcome::Done => self.count(&request, took),
            Outcome::Failed => self.tally.failed += 1,
            Outcome::HeadRemoved => {
                self.tally.failed += 1;
                self.tally.failed_after_removal += 1;
            }
        }
        self.keep(buffer);
        Some(took)
    }

    fn judge(&mut self, request: &Request, outcome: Outcome, buffer: &Buffer) {
        let now = self.ledger.tick();
        let done = outcome == Outcome::Done;
        let lbas = request.lba..request.lba + request.blocks;
        match request.kind {
            Kind::Write => {
                lbas.for_each(|l| self.ledger.write_ends(l, request.sequence, done, now));
            }
            Kind::Read if !done => lbas.for_each(|lba| self.ledger.read_withdrawn(lba)),
            Kind::Read => {
                for (lba, i) in lbas.zip(0..) {
                    let from = i * self.plan.block_size;
                    let block = buffer.as_slice().get(from..from + self.plan.block_size);
                    // A buffer that came back too short holds no version of anything.
                    let mut seen = block.map_or(Seen::Damaged, inspect);
                    let each = self.plan.metadata_size;
                    if let (Seen::Stamp(stamp), Some(metadata)) = (seen, buffer.metadata()) {
                        let beside = metadata.get(i * each..(i + 1) * each);
                        if !beside.is_some_and(|m| stamp.has_metadata(m)) {
                            seen = Seen::Damaged;
                        }
                    }
                    let verdict = self.ledger.read_ends(lba, request.begun, seen, now);
                    self.tally.judge(lba, verdict, seen);
                }
            }
        }
    }

    fn count(&mut self, request: &Request, took: Duration) {
        match request.kind {
            Kind::Read => self.tally.reads += 1,
            Kind::Write => self.tally.writes += 1,
        }
        self.tally.bytes += request.blocks * self.plan.block_size as u64;
        if request.waited {
            self.tally.waited += 1;
            return;
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.tally.latency.saturating_record(nanos);
        if request.failover {
            self.tally.longest_failover = self.tally.longest_failover.max(took);
        }
    }

    fn take(&mut self, id: u64) -> Option<Request> {
        let slot = (id & ((1 << SLOT_BITS) - 1)) as usize;
        let place = self.requests.get_mut(slot)?;
        let request = place.take_if(|r| r.id == id)?;
        self.free.push(slot);
        Some(request)
    }

    fn keep(&mut self, buffer: Buffer) {
        if buffer.len() == self.plan.request_bytes() && self.buffers.len() < self.plan.depth {
            self.buffers.push(buffer);
        }
    }

    /// Latencies are counted anew.
    pub fn forget_latencies(&mut self) {
        self.tally.latency.reset();
    }

    /// Requests are failing over: those under way are counted for the longest failover.
    pub fn mark_failover(&mut self) {
        self.requests.iter_mut().flatten().for_each(|r| r.failover = true);
    }

    /// Requests wait for a path: those under way are measured no more.
    pub fn mark_waiting(&mut self) {
        self.requests.iter_mut().flatten().for_each(|r| r.waited = true);
    }

    /// Ends the work: what is still under way is lost.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        self.tally.lost_requests += self.in_flight() as u64;
        self.tally
    }
}
