//! The engine against a device in memory that misbehaves in one chosen way.

use std::time::{Duration, Instant};

use super::engine::{Engine, Issue, Outcome};
use super::plan::{Kind, Pattern, Plan};
use super::stamp::mix;
use super::tally::Tally;

const BLOCK: usize = 512;
const BLOCKS: u64 = 16;

/// What the device does wrong, when it comes to its 500th command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A write is acknowledged and not carried out.
    LoseWrite,
    /// A read shows the versions of an earlier moment.
    StaleRead,
    /// A write changes the first half of its first block only.
    TearBlock,
    /// A write goes to the next block, too.
    Misdirect,
    /// A request is completed twice.
    CompleteTwice,
    /// A request is never completed.
    NeverComplete,
    /// The buffer of a read comes back empty.
    ShortRead,
    /// A write fails, and is carried out much later.
    LateWrite,
    /// Writes fail now and then, whether they were carried out or not. That is legal.
    HonestFailures,
}

/// Carries out commands in any order.
struct Device {
    fault: Fault,
    data: Vec<u8>,
    /// The data as it was some time ago.
    old: Vec<u8>,
    queue: Vec<Issue>,
    random: u64,
    /// Commands until the fault.
    left: u32,
    late: Option<(u32, Issue)>,
}

/// How a command ends.
type End = (Issue, Outcome);

impl Device {
    fn new(fault: Fault, seed: u64) -> Self {
        let data = vec![0; BLOCK * BLOCKS as usize];
        let (old, queue, late) = (data.clone(), Vec::new(), None);
        Self { fault, data, old, queue, random: seed, left: 500, late }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(1);
        (mix(self.random) % below as u64) as usize
    }

    fn write(&mut self, issue: &Issue) {
        let at = issue.lba as usize * BLOCK;
        self.data[at..at + issue.buffer.len()].copy_from_slice(issue.buffer.as_slice());
    }

    /// Carries out one command of those under way, whichever.
    fn step(&mut self) -> Vec<End> {
        if let Some((0, late)) = self.late.take_if(|(left, _)| *left == 0) {
            self.write(&late);
        }
        if let Some((left, _)) = &mut self.late {
            *left -= 1;
        }
        let at = self.random(self.queue.len());
        let mut issue = self.queue.swap_remove(at);
        self.left = self.left.saturating_sub(1);
        if self.left == 50 {
            self.old = self.data.clone();
        }
        let range = issue.lba as usize * BLOCK..issue.lba as usize * BLOCK + issue.buffer.len();
        let due = self.left == 0;
        match (issue.kind, self.fault) {
            (Kind::Write, Fault::LoseWrite) if due => self.disarm(),
            (Kind::Write, Fault::TearBlock) if due => {
                self.disarm();
                let torn = range.start + BLOCK / 2..range.start + BLOCK;
                let kept = self.data[torn.clone()].to_vec();
                self.write(&issue);
                self.data[torn].copy_from_slice(&kept);
            }
            (Kind::Write, Fault::Misdirect) if due && range.end < self.data.len() => {
                self.disarm();
                self.write(&issue);
                let block = &issue.buffer.as_slice()[..BLOCK];
                self.data[range.end..range.end + BLOCK].copy_from_slice(block);
            }
            (Kind::Write, Fault::LateWrite) if due && self.late.is_none() => {
                let copy = issue.buffer.as_slice().to_vec();
                let late = Issue { buffer: copy.into(), ..issue };
                self.late = Some((200, late));
                self.fault = Fault::None;
                return vec![(issue, Outcome::Failed)];
            }
            (Kind::Write, Fault::HonestFailures) if self.random(4) == 0 => {
                if self.random(2) == 0 {
                    self.write(&issue);
                }
                return vec![(issue, Outcome::Failed)];
            }
            (Kind::Write, _) => self.write(&issue),
            (Kind::Read, Fault::StaleRead) if due => {
                self.disarm();
                issue.buffer.as_mut_slice().copy_from_slice(&self.old[range]);
            }
            (Kind::Read, Fault::ShortRead) if due => {
                self.disarm();
                issue.buffer = nvme_core::buffer::Buffer::empty();
            }
            (Kind::Read, _) => issue.buffer.as_mut_slice().copy_from_slice(&self.data[range]),
        }
        match self.fault {
            Fault::CompleteTwice if due => {
                self.disarm();
                let again = Issue { buffer: issue.buffer.as_slice().to_vec().into(), ..issue };
                vec![(issue, Outcome::Done), (again, Outcome::Done)]
            }
            Fault::NeverComplete if due => {
                self.disarm();
                Vec::new()
            }
            _ => vec![(issue, Outcome::Done)],
        }
    }

    fn disarm(&mut self) {
        self.fault = Fault::None;
    }
}

/// Runs 3,000 requests of one to three blocks that overlap a great deal.
fn run(fault: Fault, seed: u64) -> Tally {
    let mut engine = Engine::new(Plan {
        pattern: Pattern::RandRw,
        first: 0,
        blocks: BLOCKS,
        block_size: BLOCK,
        metadata_size: 0,
        request_blocks: 1 + seed % 3,
        aligned: false,
        verify: true,
        depth: 8,
        seed: seed + 1,
    });
    let mut device = Device::new(fault, seed);
    let mut ended: Vec<End> = Vec::new();
    let now = Instant::now();
    for round in 0..3000 {
        if round == 2900 {
            engine.begin_sweep();
        }
        while let Some(issue) = engine.issue(now) {
            device.queue.push(issue);
        }
        if !device.queue.is_empty() {
            ended.extend(device.step());
        }
        // A command that was carried out is told at once, or later, and not in order.
        while ended.len() > 2 || (!ended.is_empty() && device.random(3) > 0) {
            let at = device.random(ended.len());
            let (issue, outcome) = ended.swap_remove(at);
            engine.complete(issue.id, outcome, issue.buffer, now);
        }
    }
    for (issue, outcome) in ended {
        engine.complete(issue.id, outcome, issue.buffer, now);
    }
    while !device.queue.is_empty() {
        for (issue, outcome) in device.step() {
            engine.complete(issue.id, outcome, issue.buffer, now);
        }
    }
    engine.finish()
}

#[test]
fn a_device_that_reorders_everything_it_may_is_found_correct() {
    for seed in 0..40 {
        let tally = run(Fault::None, seed);
        assert!(tally.is_clean(), "seed {seed}: {:?}", tally.findings);
        assert!(tally.judged_blocks > 1000 && tally.failed == 0);
    }
}

#[test]
fn failed_writes_that_happened_or_not_are_legal() {
    for seed in 0..40 {
        let tally = run(Fault::HonestFailures, seed);
        assert!(tally.is_clean(), "seed {seed}: {:?}", tally.findings);
        assert!(tally.failed > 100);
    }
}

/// Runs a fault with many seeds; it must be found, as the right thing, in most of them. (A lost or
/// late write that is overwritten before anybody reads the block leaves no trace.)
fn found(fault: Fault, count: impl Fn(&Tally) -> u64) {
    let runs: Vec<Tally> = (0..40).map(|seed| run(fault, seed)).collect();
    let found = runs.iter().filter(|t| count(t) > 0).count();
    assert!(found >= 12, "{fault:?} was found in {found} of 40 runs");
    let others = runs.iter().filter(|t| !t.is_clean() && count(t) == 0).count();
    assert_eq!(others, 0, "{fault:?} was taken for something else");
}

#[test]
fn a_lost_write_is_found() {
    found(Fault::LoseWrite, |t| t.stale_blocks + t.lost_blocks);
}

#[test]
fn a_write_that_comes_late_is_found() {
    found(Fault::LateWrite, |t| t.stale_blocks);
}

#[test]
fn stale_data_is_found() {
    found(Fault::StaleRead, |t| t.stale_blocks + t.lost_blocks);
}

#[test]
fn a_torn_block_is_found() {
    found(Fault::TearBlock, |t| t.torn_blocks);
    found(Fault::ShortRead, |t| t.torn_blocks);
}

#[test]
fn a_block_in_the_wrong_place_is_found() {
    found(Fault::Misdirect, |t| t.misplaced_blocks);
}

#[test]
fn requests_that_end_twice_or_never_are_found() {
    for seed in 0..20 {
        let twice = run(Fault::CompleteTwice, seed);
        assert_eq!((twice.duplicated(), twice.lost()), (1, 0), "{:?}", twice.findings);
        let never = run(Fault::NeverComplete, seed);
        assert_eq!((never.duplicated(), never.lost_requests), (0, 1));
    }
}

/// Before a block is written there is nothing to lose; afterwards its old state is "lost".
#[test]
fn a_write_that_vanishes_from_a_fresh_block_is_lost_not_stale() {
    let plan = Plan {
        pattern: Pattern::Write,
        first: 0,
        blocks: BLOCKS,
        block_size: BLOCK,
        metadata_size: 0,
        request_blocks: 1,
        aligned: true,
        verify: true,
        depth: 1,
        seed: 1,
    };
    let mut engine = Engine::new(plan);
    let now = Instant::now();
    let write = engine.issue(now).unwrap();
    engine.complete(write.id, Outcome::Done, write.buffer, now);
    engine.begin_sweep();
    let mut read = engine.issue(now).unwrap();
    assert_eq!((read.kind, read.lba), (Kind::Read, 0));
    read.buffer.as_mut_slice().fill(0);
    engine.complete(read.id, Outcome::Done, read.buffer, now);
    assert!(engine.issue(now).is_none() && engine.is_pass_over());
    let tally = engine.finish();
    assert_eq!((tally.lost(), tally.stale_blocks), (1, 0));
}

#[test]
fn the_longest_failover_leaves_out_those_who_waited_for_a_path() {
    let plan = Plan {
        pattern: Pattern::RandRead,
        first: 0,
        blocks: BLOCKS,
        block_size: BLOCK,
        metadata_size: 0,
        request_blocks: 1,
        aligned: true,
        verify: false,
        depth: 2,
        seed: 1,
    };
    let mut engine = Engine::new(plan);
    let start = Instant::now();
    let ms = Duration::from_millis;
    let a = engine.issue(start).unwrap();
    engine.mark_failover();
    let b = engine.issue(start).unwrap();
    engine.complete(a.id, Outcome::Done, a.buffer, start + ms(30));
    engine.mark_failover();
    engine.mark_waiting();
    engine.complete(b.id, Outcome::Done, b.buffer, start + ms(900));
    let tally = engine.finish();
    assert_eq!((tally.longest_failover, tally.waited), (ms(30), 1));
    assert_eq!((tally.completed(), tally.latency.len()), (2, 1));
}

#[test]
fn a_fill_writes_every_block_once() {
    let plan = Plan {
        pattern: Pattern::RandRead,
        first: 4,
        blocks: BLOCKS,
        block_size: BLOCK,
        metadata_size: 0,
        request_blocks: 3,
        aligned: true,
        verify: true,
        depth: 4,
        seed: 9,
    };
    let (mut engine, now) = (Engine::new(plan), Instant::now());
    engine.begin_fill();
    let mut next = 4;
    while let Some(issue) = engine.issue(now) {
        assert_eq!((issue.kind, issue.lba), (Kind::Write, next));
        next += (issue.buffer.len() / BLOCK) as u64;
        engine.complete(issue.id, Outcome::Done, issue.buffer, now);
    }
    assert!(engine.is_pass_over() && next == 4 + BLOCKS);
    engine.end_pass();
    assert_eq!(engine.issue(now).unwrap().kind, Kind::Read);
}

#[test]
fn a_withdrawn_request_is_counted_nowhere() {
    let plan = Plan {
        pattern: Pattern::RandRw,
        first: 0,
        blocks: BLOCKS,
        block_size: BLOCK,
        metadata_size: 0,
        request_blocks: 2,
        aligned: false,
        verify: true,
        depth: 4,
        seed: 9,
    };
    let mut engine = Engine::new(plan);
    for _ in 0..100 {
        let issue = engine.issue(Instant::now()).unwrap();
        engine.withdraw(issue.id, issue.buffer);
    }
    assert_eq!(engine.in_flight(), 0);
    engine.begin_sweep();
    assert!(engine.issue(Instant::now()).is_none(), "nothing was written");
    let tally = engine.finish();
    assert!(tally.is_clean() && tally.completed() == 0 && tally.failed == 0);
}
