//! The load: requests with blocks that tell who wrote them, and what became of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_mpath::{Head, IoCompletion, IoError, IoOp, IoRequest};

use crate::check::{Block, History};
use crate::dice::Dice;

/// Bytes in a block.
pub const BLOCK: usize = 512;

/// Blocks that the load uses in each namespace.
pub const BLOCKS: u64 = 10;

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
    /// The channel that it was submitted to.
    pub channel: usize,
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
    /// Of those, requests for which there was no queue: a controller grants as many as it did when
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
        let slba = dice.roll(BLOCKS - blocks + 1);
        let op = match dice.roll(20) {
            0 => IoOp::Flush,
            1..=10 => IoOp::Write,
            _ => IoOp::Read,
        };
        self.request(op, head, slba, blocks, channel, now)
    }

    /// A request. One write at a time for each block: what two that overlap come to is nobody's
    /// promise when one of them has to be sent again.
    pub fn request(
        &mut self,
        op: IoOp,
        head: &Arc<Head>,
        slba: u64,
        blocks: u64,
        channel: usize,
        now: u64,
    ) -> Option<(u64, IoRequest)> {
        let namespace = identity(head);
        let meets = |o: &Op| {
            o.op == IoOp::Write
                && o.namespace == namespace
                && o.slba < slba + blocks
                && slba < o.slba + o.blocks
        };
        if op == IoOp::Write && self.under_way.values().any(meets) {
            return None;
        }
        self.submitted += 1;
        let number = self.submitted;
        let len = BLOCK * blocks as usize;
        let request = match op {
            IoOp::Write => {
                let mut bytes = vec![0; len];
                fill(&mut bytes, number, namespace, slba);
                for lba in slba..slba + blocks {
                    self.history.write_begins(Block { namespace, lba }, number, now);
                }
                IoRequest::write(slba, bytes.into(), number)
            }
            IoOp::Read => IoRequest::read(slba, vec![0xa5; len].into(), number),
            _ => IoRequest::flush(number),
        };
        let op = Op { op, namespace, slba, blocks, begun: now, channel };
        self.under_way.insert(number, op);
        Some((number, request))
    }

    /// A request was refused at submission.
    pub fn refused(&mut self, number: u64, now: u64) {
        if let Some(op) = self.under_way.remove(&number) {
            self.write_over(&op, number, false, now);
        }
    }

    fn write_over(&mut self, op: &Op, number: u64, done: bool, until: u64) {
        if op.op == IoOp::Write {
            for lba in op.slba..op.slba + op.blocks {
                let block = Block { namespace: op.namespace, lba };
                self.history.write_ends(block, number, done, until);
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
            self.write_over(&op, number, false, until);
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
        let len = if op.op == IoOp::Flush { 0 } else { BLOCK * op.blocks as usize };
        if done.buffer.len() != len {
            return Err(format!("request {number} came back with another buffer"));
        }
        if done.result.is_err() {
            self.failed += 1;
            let no_queue =
                done.result.as_ref().err().is_some_and(|e| matches!(**e, IoError::NoQueue { .. }));
            self.without_queue += u64::from(no_queue);
            let until = if self.late { u64::MAX } else { now };
            self.write_over(&op, number, false, until);
            return Ok(());
        }
        self.succeeded += 1;
        self.write_over(&op, number, true, now);
        if op.op == IoOp::Read {
            self.check_read(&op, &done.buffer, now)?;
        }
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
