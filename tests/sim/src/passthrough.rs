//! Commands as a program made them: reads and writes of checked blocks, of which the library knows
//! nothing but whether they may be executed more than once.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_mpath::{Head, IoOp, PassthroughCommand, SubmitReason};

use crate::clock::MS;
use crate::load::{Ask, BLOCK, BLOCKS};
use crate::world::{Violation, World};

impl World {
    /// Submits a passthrough command of the dice's choice.
    pub fn pass_through(&mut self, lane: usize, head: &Arc<Head>) -> Result<(), Violation> {
        let (op, code) = match self.dice.once_in(2) {
            true => (IoOp::Write, NvmOpcode::WRITE),
            false => (IoOp::Read, NvmOpcode::READ),
        };
        let blocks = self.dice.of(&[1, 1, 2]);
        let slba = self.dice.roll(BLOCKS - blocks + 1);
        let idempotent = self.dice.once_in(2);
        let limit = self.dice.of(&[None, None, None, Some(20 * MS), Some(300 * MS)]);
        let (channel, now) = (self.lanes[lane].number, self.now());
        let ask = Ask { op, slba, blocks, expected: 0 };
        let Some(number) = self.load.begin(ask, head, channel, now) else { return Ok(()) };
        let mut bytes = vec![0xa5; BLOCK * blocks as usize];
        if op == IoOp::Write {
            self.load.fill(&mut bytes, number, head, slba);
        }
        self.load.passes_through(number, idempotent, limit, now);
        let block = slba as u32;
        let mut command =
            PassthroughCommand::new(code.0).dwords([block, 0, blocks as u32 - 1, 0, 0, 0]);
        if idempotent {
            command = command.idempotent();
        }
        if let Some(limit) = limit {
            command = command.timeout(Duration::from_nanos(limit));
        }
        self.note(40 + number, format_args!("request {number} to {head:?}: {command:?}"));
        let buffer = Buffer::from(bytes);
        let lane = &mut self.lanes[lane];
        lane.due = now;
        if let Err(error) = lane.channel.submit_passthrough(head, command, buffer, number) {
            self.load.refused(number, now);
            if !matches!(error.reason, SubmitReason::Full { .. }) {
                return Err(Violation(format!("request {number} was refused: {error:?}")));
            }
        }
        Ok(())
    }
}
