//! I/O commands as the program made them.
//!
//! What the library does for a request rests on knowing what it does. Of these it knows what the
//! program says: a command that is not called idempotent goes down one path, once, as on Linux's
//! head. It does not wait for a path (only for the queue of one that is there), is not retried, and when
//! its connection is lost nobody knows whether it was executed.

use std::collections::HashMap;
use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::spec::Sqe;
use nvme_core::spec::fabrics::FABRICS_OPCODE;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::time::Duration;
use nvme_core::transport::Data;

use super::Channel;
use super::request::IoRequest;
use super::slab::{Entry, Flags};
use crate::error::{IoOp, SubmitError, SubmitReason};
use crate::head::Head;
use crate::view::HeadView;

/// An I/O command of the program's. The namespace identifier, the command identifier and the data
/// pointer are the library's to fill in; there are no metadata and no fused commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassthroughCommand {
    /// Opcode. Its lowest two bits are the direction of the data (`NVMe 2.1 §3.3.3.1`).
    pub opcode: u8,
    /// Dwords 2 and 3.
    pub cdw2_3: [u32; 2],
    /// Dwords 10 to 15. If they speak of a length, the buffer has to be as long as they say: a
    /// controller moves what the command says, and without an IOMMU nothing keeps one on a bus from
    /// doing so beside the buffer. Of Read, Write, Compare and Zone Append it is checked.
    pub cdw10_15: [u32; 6],
    /// Executing it again has no other effect than executing it once, whatever happened in between
    /// on this head.
    pub idempotent: bool,
    /// As [`IoRequest::timeout`].
    pub timeout: Option<Duration>,
}

impl PassthroughCommand {
    /// A command of which nothing is known but its opcode.
    #[must_use]
    pub const fn new(opcode: u8) -> Self {
        let (cdw2_3, cdw10_15) = ([0; 2], [0; 6]);
        Self { opcode, cdw2_3, cdw10_15, idempotent: false, timeout: None }
    }

    /// Sets Dwords 10 to 15.
    #[must_use]
    pub const fn dwords(mut self, cdw10_15: [u32; 6]) -> Self {
        self.cdw10_15 = cdw10_15;
        self
    }

    /// It may be executed more than once: it is retried, fails over, and waits for a path like any
    /// other request. If it was in flight on a lost path it is held until that is fenced, like a
    /// write; but in no order with writes to the same blocks, which are not known here.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Gives it up after this long; see [`IoRequest::timeout`].
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    fn sqe(&self, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(self.opcode, nsid);
        [sqe.cdw2, sqe.cdw3] = self.cdw2_3.map(Into::into);
        [sqe.cdw10, sqe.cdw11, sqe.cdw12, sqe.cdw13, sqe.cdw14, sqe.cdw15] =
            self.cdw10_15.map(Into::into);
        sqe
    }

    /// Blocks that a command moves whose length is known here.
    fn blocks(&self) -> Option<usize> {
        let counted = [NvmOpcode::READ, NvmOpcode::WRITE, NvmOpcode::COMPARE, ZONE_APPEND];
        let is = counted.contains(&NvmOpcode(self.opcode));
        is.then_some((self.cdw10_15[2] & 0xffff) as usize + 1)
    }

    /// Whether it can be sent with a buffer of this length.
    fn check(&self, len: usize, view: &HeadView) -> Result<(), SubmitReason> {
        let (geometry, block) = (&view.geometry, view.layout.buffer_block());
        let fits = match self.opcode & 3 {
            _ if self.opcode == FABRICS_OPCODE => false,
            0 => len == 0,
            1 | 2 => len > 0 && self.blocks().is_none_or(|blocks| blocks * block == len),
            _ => false,
        };
        if !fits {
            return Err(SubmitReason::Command { opcode: self.opcode, len });
        }
        if self.blocks().is_some()
            && geometry.metadata_size != 0
            && block == geometry.block_size as usize
        {
            // They would have to lie in a buffer of their own, which such a command has not.
            return Err(SubmitReason::Command { opcode: self.opcode, len });
        }
        if len > geometry.max_transfer {
            return Err(SubmitReason::TooLarge { len, max: geometry.max_transfer });
        }
        Ok(())
    }
}

/// Of zoned namespaces (ZNS 1.2 §3.4.1).
const ZONE_APPEND: NvmOpcode = NvmOpcode(0x7d);

/// The commands of passthrough requests, by their place in the slab. Not looked at for others. A place
/// that is used again keeps the old command until the next one comes.
#[derive(Debug, Default)]
pub(super) struct PassthroughTable(HashMap<u32, PassthroughCommand>);

impl PassthroughTable {
    /// The command of the request at a place that is known to be passthrough.
    pub(super) fn command(&self, at: u32, nsid: u32) -> Option<Sqe> {
        self.0.get(&at).map(|command| command.sqe(nsid))
    }

    /// Whether the request is never sent again, and waits for no path.
    pub(super) fn once(&self, entry: &Entry, at: u32) -> bool {
        entry.op == IoOp::Passthrough && !self.0.get(&at).is_some_and(|c| c.idempotent)
    }
}

impl Channel {
    /// Hands in an I/O command as it is, to be sent down one of the head's paths. `buffer` is what it
    /// moves, in the direction that its opcode names; empty if it moves nothing. It ends like any
    /// request; [`IoCompletion::value`](crate::IoCompletion::value) is what the controller answered.
    ///
    /// A command that is not [`idempotent`](PassthroughCommand::idempotent) fails without a path
    /// ([`IoError::NoPath`](crate::IoError::NoPath); where the head has a path that this channel has no
    /// queue for at the moment, it waits for that one, within the limits of parking), fails with each
    /// status that is no success, and with
    /// [`IoError::OutcomeUnknown`](crate::IoError::OutcomeUnknown) if its connection is lost before
    /// the answer.
    ///
    /// # Errors
    /// [`SubmitError`] with the buffer, as for [`submit`](Self::submit).
    pub fn submit_passthrough(
        &mut self,
        head: &Arc<Head>,
        command: PassthroughCommand,
        buffer: Buffer,
        user_data: u64,
    ) -> Result<(), SubmitError> {
        self.admit_passthrough(head, command, buffer, user_data, false)
    }

    /// The same; `blocking`: somebody waits for nothing but this one.
    pub(super) fn admit_passthrough(
        &mut self,
        head: &Arc<Head>,
        command: PassthroughCommand,
        buffer: Buffer,
        user_data: u64,
        blocking: bool,
    ) -> Result<(), SubmitError> {
        let Some((place, known)) = self.heads.look_up(head, &self.shared) else {
            return Err(SubmitError { reason: SubmitReason::ForeignHead, buffer });
        };
        known.refresh(&self.queues);
        if let Err(reason) = command.check(buffer.len(), &known.view) {
            return Err(SubmitError { reason, buffer });
        }
        let mut request = IoRequest::new(IoOp::Passthrough, 0, 0, Data::None, user_data);
        if blocking {
            request.asked.flags.set(Flags::BLOCKING);
        }
        let Some((at, entry)) = self.slab.insert(&request.asked, place, 0, known.layout) else {
            let reason = SubmitReason::Full { depth: self.slab.depth() };
            return Err(SubmitError { reason, buffer });
        };
        entry.data = match command.opcode & 3 {
            1 => Data::Write(buffer),
            2 => Data::Read(buffer),
            _ => Data::None,
        };
        let ahead = !known.waiting.is_empty();
        self.passthrough.0.insert(at, command);
        if ahead {
            self.wait_for_room(at);
        } else {
            self.send(at);
        }
        self.admitted(at, command.timeout);
        Ok(())
    }
}
