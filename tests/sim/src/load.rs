//! The load: requests with blocks that tell who wrote them, and what became of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_mpath::{Head, IoCompletion, IoError, IoOp, IoRequest};

use crate::check::{Block, End, History, NEVER_WRITTEN};
use crate::clock::{MS, SEC};
use crate::dice::Dice;

/// Bytes in a block.
pub const BLOCK: usize = 512;

/// Blocks of each namespace whose history is checked: every write has a value of its own, and none is
/// submitted while another one to the same block is under way.
pub const BLOCKS: u64 = 10;

/// Of those, blocks that are written more often where writes may come late.
const HOT: u64 = 3;

/// All blocks. Those past [`BLOCKS`] are zeroed, discarded and written at will; what is read there must
/// have been written there, or be zero.
pub const ALL_BLOCKS: u64 = 16;

/// Longest time that a request may take, whatever happens: parked, in flight, and sent again.
const LONGEST_REQUEST: u64 = 60 * SEC;

/// Longest time that a request takes which was cancelled, or whose own time is up: the time limit of
/// I/O, that of its Abort, and a thread that is busy meanwhile.
const GIVEN_UP: u64 = 8 * SEC;

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// What is done.
    pub op: IoOp,
    namespace: u64,
    slba: u64,
    blocks: u64,
    /// When it was submitted.
    pub begun: u64,
    /// When it must have ended.
    pub end_by: u64,
    /// The value that a compare expects.
    expected: u64,
    /// The program has cancelled it; it has a time limit of its own.
    cancelled: bool,
    limited: bool,
    /// A passthrough command; whether it may be executed more than once.
    passthrough: Option<bool>,
    /// The channel that it was submitted to.
    pub channel: usize,
}

/// What a request is to do.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What.
    pub op: IoOp,
    /// The first block.
    pub slba: u64,
    /// How many.
    pub blocks: u64,
    /// The value that a compare expects.
    pub expected: u64,
}

/// What was asked for, and what was answered.
#[derive(Debug, Default)]
pub struct Load {
    /// The history of the blocks.
    pub history: History,
    /// Requests under way, by number.
    pub under_way: BTreeMap<u64, Op>,
    /// What a write that failed, or whose channel was closed, may still do: nothing, or anything.
    pub late: bool,
    /// Requests submitted.
    pub submitted: u64,
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Reads that a second path answered first.
    pub exchanged: u64,
    /// Of those that failed, requests for which there was no queue: a controller grants as many as it did when
    /// it was asked.
    pub without_queue: u64,
}

/// The number that stands for a namespace: the end of its UUID.
#[must_use]
pub fn identity(head: &Head) -> u64 {
    head.ids()
        .uuid
        .map_or(0, |uuid| u64::from_be_bytes(uuid.0.last_chunk().copied().unwrap_or_default()))
}

fn fill(buffer: &mut [u8], value: u64, namespace: u64, slba: u64) {
    for (i, block) in buffer.chunks_exact_mut(BLOCK).enumerate() {
        let words = [value, namespace, slba + i as u64, !value];
        for (j, word) in block.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&words[j % 4].to_le_bytes());
        }
    }
}

/// The value of a block as it was read; what is wrong with it.
fn value_of(block: &[u8], at: Block) -> Result<u64, String> {
    let word = |j: usize| block[j * 8..].first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
    let (value, namespace, lba) = (word(0), word(1), word(2));
    if (0..BLOCK / 8).all(|j| word(j) == 0) {
        return Ok(0);
    }
    if (namespace, lba) != (at.namespace, at.lba) {
        return Err(format!("{at:?} was read as block {lba} of namespace {namespace:x}, {value}"));
    }
    let expected = [value, namespace, lba, !value];
    match (0..BLOCK / 8).find(|j| word(*j) != expected[j % 4]) {
        Some(j) => Err(format!("{at:?} is torn at byte {}: {value} and {}", j * 8, word(j))),
        None => Ok(value),
    }
}

impl Load {
    /// A request for `head`, and its number; `None` if what the dice wanted is not to be had now.
    pub fn next(
        &mut self,
        dice: &mut Dice,
        head: &Arc<Head>,
        channel: usize,
        now: u64,
    ) -> Option<(u64, IoRequest)> {
        let blocks = dice.of(&[1, 1, 1, 2, 4]);
        let op = match dice.roll(24) {
            0 => IoOp::Flush,
            1 => IoOp::WriteZeroes,
            2 => IoOp::Discard,
            3 | 4 => IoOp::Compare,
            5..=14 => IoOp::Write,
            _ => IoOp::Read,
        };
        let at_will = ALL_BLOCKS - BLOCKS;
        let slba = match op {
            IoOp::WriteZeroes | IoOp::Discard => BLOCKS + dice.roll(at_will - blocks + 1),
            IoOp::Write | IoOp::Read if dice.once_in(8) => BLOCKS + dice.roll(at_will - blocks + 1),
            // Where writes may come late, newer ones to the same blocks are to be there already.
            _ if self.late && dice.once_in(2) => dice.roll(HOT),
            _ => dice.roll(BLOCKS - blocks + 1),
        };
        let mut ask = Ask { op, slba, blocks, expected: 0 };
        if op == IoOp::Compare {
            let block = Block { namespace: identity(head), lba: slba };
            (ask.blocks, ask.expected) = (1, self.history.some_value(block, dice));
        }
        let (number, request) = self.request(ask, head, channel, now)?;
        if !dice.once_in(8) {
            return Some((number, request));
        }
        let limit = dice.of(&[1, 20, 300, 2_000]) * MS;
        if let Some(op) = self.under_way.get_mut(&number) {
            op.end_by = now + limit + GIVEN_UP;
            op.limited = true;
        }
        Some((number, request.timeout(Duration::from_nanos(limit))))
    }

    /// The program has cancelled a request.
    pub fn cancelled(&mut self, number: u64, now: u64) {
        if let Some(op) = self.under_way.get_mut(&number) {
            op.end_by = op.end_by.min(now + GIVEN_UP);
            op.cancelled = true;
        }
    }

    /// A request. One write at a time for each block: what two that overlap come to is nobody's
    /// promise when one of them has to be sent again.
    pub fn request(
        &mut self,
        ask: Ask,
        head: &Arc<Head>,
        channel: usize,
        now: u64,
    ) -> Option<(u64, IoRequest)> {
        let Ask { op, slba, blocks, expected } = ask;
        let number = self.begin(ask, head, channel, now)?;
        let namespace = identity(head);
        let len = BLOCK * blocks as usize;
        let request = match op {
            IoOp::Write => {
                let mut bytes = vec![0; len];
                fill(&mut bytes, number, namespace, slba);
                IoRequest::write(slba, bytes.into(), number)
            }
            IoOp::Read => IoRequest::read(slba, vec![0xa5; len].into(), number),
            IoOp::Compare => {
                let mut bytes = vec![0; len];
                if expected != NEVER_WRITTEN {
                    fill(&mut bytes, expected, namespace, slba);
                }
                IoRequest::compare(slba, bytes.into(), number)
            }
            IoOp::WriteZeroes => IoRequest::write_zeroes(slba, blocks as u32, number),
            IoOp::Discard => IoRequest::discard(slba, blocks as u32, number),
            _ => IoRequest::flush(number),
        };
        Some((number, request))
    }

    /// Takes a request down as submitted; its number, which is the value that it writes. `None`:
    /// another write to these blocks is under way.
    pub fn begin(&mut self, ask: Ask, head: &Head, channel: usize, now: u64) -> Option<u64> {
        let Ask { op, slba, blocks, expected } = ask;
        let namespace = identity(head);
        let meets = |o: &Op| {
            o.op == IoOp::Write
                && o.namespace == namespace
                && o.slba < slba + blocks
                && slba < o.slba + o.blocks
        };
        if op == IoOp::Write && slba < BLOCKS && self.under_way.values().any(meets) {
            return None;
        }
        self.submitted += 1;
        let number = self.submitted;
        if op == IoOp::Write {
            for lba in slba..slba + blocks {
                self.history.write_begins(Block { namespace, lba }, number, now);
            }
        }
        let (begun, end_by) = (now, now + LONGEST_REQUEST);
        let (cancelled, limited) = (false, false);
        let op = Op {
            op,
            namespace,
            slba,
            blocks,
            begun,
            channel,
            end_by,
            expected,
            cancelled,
            limited,
            passthrough: None,
        };
        self.under_way.insert(number, op);
        Some(number)
    }

    /// What a write with this number writes.
    pub fn fill(&self, bytes: &mut [u8], number: u64, head: &Head, slba: u64) {
        fill(bytes, number, identity(head), slba);
    }

    /// A request is a passthrough command, with a time limit or without.
    pub fn passes_through(&mut self, number: u64, idempotent: bool, limit: Option<u64>, now: u64) {
        let Some(op) = self.under_way.get_mut(&number) else { return };
        op.passthrough = Some(idempotent);
        if let Some(limit) = limit {
            op.end_by = now + limit + GIVEN_UP;
            op.limited = true;
        }
    }

    /// A request was refused at submission.
    pub fn refused(&mut self, number: u64, now: u64) {
        if let Some(op) = self.under_way.remove(&number) {
            self.write_over(&op, number, End::NotDone, now);
        }
    }

    fn write_over(&mut self, op: &Op, number: u64, end: End, until: u64) {
        if op.op == IoOp::Write {
            for lba in op.slba..op.slba + op.blocks {
                let block = Block { namespace: op.namespace, lba };
                self.history.write_ends(block, number, end, until);
            }
        }
    }

    /// A channel was closed with requests under way.
    pub fn channel_closed(&mut self, channel: usize, now: u64) {
        let until = if self.late { u64::MAX } else { now };
        let (lost, left) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(_, op)| op.channel == channel);
        self.under_way = left;
        let lost: BTreeMap<u64, Op> = lost;
        for (number, op) in lost {
            self.write_over(&op, number, End::Open, until);
        }
    }

    /// A request has ended on a channel.
    ///
    /// # Errors
    /// It had ended before, on another channel, without its buffer, or with data that cannot be.
    pub fn ended(&mut self, done: &IoCompletion, channel: usize, now: u64) -> Result<(), String> {
        let number = done.user_data;
        let Some(op) = self.under_way.remove(&number) else {
            return Err(format!("request {number} ended a second time: {done:?}"));
        };
        if op.channel != channel {
            return Err(format!("request {number} ended on another channel"));
        }
        let len = match op.op {
            IoOp::Read | IoOp::Write | IoOp::Compare => BLOCK * op.blocks as usize,
            _ => 0,
        };
        if done.buffer.len() != len {
            return Err(format!("request {number} came back with another buffer"));
        }
        if op.op != IoOp::Read && done.exchanged {
            return Err(format!("request {number}, not a read, came back with a hedge's buffer"));
        }
        self.exchanged += u64::from(done.exchanged);
        match &done.result {
            Err(error) => self.has_failed(&op, number, error, done.uncertain, now),
            Ok(()) => {
                self.succeeded += 1;
                self.write_over(&op, number, End::Done, now);
                match op.op {
                    IoOp::Read => self.check_read(&op, &done.buffer, now),
                    IoOp::Compare => {
                        let block = Block { namespace: op.namespace, lba: op.slba };
                        self.history.read(block, op.expected, op.begun, now)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn has_failed(
        &mut self,
        op: &Op,
        number: u64,
        error: &IoError,
        uncertain: bool,
        now: u64,
    ) -> Result<(), String> {
        self.failed += 1;
        let (cancelled, expired) =
            (matches!(error, IoError::Cancelled { .. }), matches!(error, IoError::Expired { .. }));
        if cancelled && !op.cancelled || expired && !op.limited {
            return Err(format!("request {number}: {error}, and nobody wanted that: {op:?}"));
        }
        // Only what may be executed once at most is given up with its connection.
        let unknown = matches!(error, IoError::OutcomeUnknown { .. });
        if unknown && op.passthrough != Some(false) {
            return Err(format!("request {number}: {error}, which cannot be: {op:?}"));
        }
        self.without_queue += u64::from(matches!(error, IoError::NoQueue { .. }));
        // No controller has answered, and none was lost with it: then it was not done.
        let not_done = !uncertain && !unknown && !matches!(error, IoError::Status { .. });
        let (end, until) = match not_done {
            true => (End::NotDone, now),
            false if self.late => (End::Open, u64::MAX),
            false => (End::Open, now),
        };
        self.write_over(op, number, end, until);
        Ok(())
    }

    fn check_read(&mut self, op: &Op, buffer: &Buffer, now: u64) -> Result<(), String> {
        let blocks = buffer.as_slice().chunks_exact(BLOCK);
        for (lba, bytes) in (op.slba..).zip(blocks) {
            let block = Block { namespace: op.namespace, lba };
            let value = value_of(bytes, block)?;
            self.history.read(block, value, op.begun, now)?;
        }
        Ok(())
    }
}
