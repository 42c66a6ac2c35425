//! A command's way through the device, and the faults that it may meet.

use std::sync::Arc;
use std::time::Instant;

use nvme_core::spec::command::Psdt;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::{Cqe, Sqe, Status};

use super::config::PciFault;
use super::data;
use super::engine::{Engine, Kept};
use super::memory::HostMemory;
use crate::controller::ErrorRecord;
use crate::fault::{FaultAction, Site, Subject};
use crate::io::{self, Plan};
use crate::namespace::Namespace;

impl Engine {
    /// A command that has been fetched.
    pub(super) fn command(&mut self, memory: &dyn HostMemory, qid: u16, sqe: &Sqe, now: Instant) {
        self.directory.counters.command(qid == 0, sqe.opcode);
        self.stats.sgl_commands += u64::from(sqe.psdt() != Psdt::Prp);
        self.binding.shared.note_traffic();
        let cid = sqe.cid.get();
        let subject = Subject { cntlid: Some(self.binding.cntlid), qid, sqe };
        let fault = self.directory.faults.strike(self.config.port, Site::Command(&subject));
        match fault.as_deref() {
            Some(FaultAction::Drop) => return,
            Some(FaultAction::Fail(status)) => return self.answer(qid, Cqe::new(cid, *status, 0)),
            Some(fault @ (FaultAction::Delay(_) | FaultAction::Stall { .. })) if qid != 0 => {
                let wait = fault.wait(now).unwrap_or_default();
                return self.keep(memory, qid, sqe, Some(now + wait));
            }
            _ => {}
        }
        if qid != 0 {
            if self.count_to_fatal() {
                return self.fail();
            }
            if self.has(PciFault::Stall) {
                return self.keep(memory, qid, sqe, None);
            }
        }
        self.execute(memory, qid, sqe, fault.as_deref());
    }

    /// Whether it is the command at which the controller fails.
    fn count_to_fatal(&mut self) -> bool {
        for fault in &mut self.faults {
            if let PciFault::FatalAfter(left) = fault {
                match left.checked_sub(1) {
                    Some(rest) => *left = rest,
                    None => return true,
                }
            }
        }
        false
    }

    fn keep(&mut self, memory: &dyn HostMemory, qid: u16, sqe: &Sqe, until: Option<Instant>) {
        let mut pieces = Vec::new();
        if NvmOpcode(sqe.opcode) == NvmOpcode::READ {
            // What cannot be found now fails when the command is carried out.
            let len = self.data_len(sqe);
            let _ = data::find(memory, sqe, len as usize, false, &mut pieces);
            let plan = io::plan(&self.binding.view, sqe, len as u32, u64::MAX);
            let metadata = plan.ok().and_then(|(ns, plan)| io::beside(ns, plan));
            pieces.extend(metadata.map(|(_, bytes)| (sqe.mptr.get(), bytes)));
        }
        self.kept.push_back(Kept { qid, sqe: *sqe, until, pieces });
    }

    /// Writes over what kept reads may write to.
    pub(super) fn scribble(&mut self, memory: &dyn HostMemory) {
        for (address, len) in self.kept.iter().flat_map(|k| &k.pieces) {
            if !memory.write(*address, &vec![0xff; *len]) {
                self.stats.dma_errors += 1;
            }
        }
    }

    /// Carries out the kept commands that are due.
    pub(super) fn release(&mut self, memory: &dyn HostMemory, now: Instant) -> bool {
        let mut worked = false;
        let due = |k: &Kept| k.until.is_some_and(|t| t <= now);
        while let Some(at) = self.kept.iter().position(due) {
            let Some(kept) = self.kept.remove(at) else { break };
            worked = true;
            self.execute(memory, kept.qid, &kept.sqe, None);
        }
        worked
    }

    fn execute(
        &mut self,
        memory: &dyn HostMemory,
        qid: u16,
        sqe: &Sqe,
        fault: Option<&FaultAction>,
    ) {
        let cid = sqe.cid.get();
        let done = match qid {
            0 => self.run_admin(memory, sqe),
            _ => Some(self.run_io(memory, qid, sqe).map(|()| 0)),
        };
        let mut cqe = match done {
            None => return,
            Some(Ok(result)) => Cqe::new(cid, Status::SUCCESS, result),
            Some(Err(status)) => Cqe::new(cid, status, 0),
        };
        match fault {
            Some(FaultAction::DropAnswer) => return,
            Some(FaultAction::Result(result)) => cqe.set_result(*result),
            Some(FaultAction::StaleCommandId(bits)) => cqe.cid = (cid ^ bits).into(),
            Some(FaultAction::AnswerTwice) => self.answer(qid, cqe),
            _ => {}
        }
        if qid == 0 { self.answer(qid, cqe) } else { self.answer_io(qid, cqe) }
    }

    /// An I/O answer, as the device's faults make it.
    fn answer_io(&mut self, qid: u16, mut cqe: Cqe) {
        let Some(sq) = self.sqs.get(&qid) else { return };
        let cqid = sq.cqid;
        cqe.sqid = qid.into();
        cqe.sqhd = (sq.head as u16).into();
        let fault = self.take_fault(|f| match f {
            PciFault::AnswerTwice
            | PciFault::WrongCid(_)
            | PciFault::WrongSqid(_)
            | PciFault::WrongSqhd(_)
            | PciFault::WrongPhase => Some(f),
            _ => None,
        });
        match fault {
            Some(PciFault::AnswerTwice) => self.push_forged(cqid, cqe, false),
            Some(PciFault::WrongCid(bits)) => cqe.cid = (cqe.cid.get() ^ bits).into(),
            Some(PciFault::WrongSqid(sqid)) => cqe.sqid = sqid.into(),
            Some(PciFault::WrongSqhd(sqhd)) => cqe.sqhd = sqhd.into(),
            _ => {}
        }
        self.push_forged(cqid, cqe, fault == Some(PciFault::WrongPhase));
    }

    /// Bytes that an I/O command moves. PRPs give no length: the command does.
    fn data_len(&self, sqe: &Sqe) -> u64 {
        match NvmOpcode(sqe.opcode) {
            NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE => {
                let block = self.binding.view.find(sqe.nsid.get()).map_or(1, Namespace::block);
                u64::from((sqe.cdw12.get() & 0xffff) + 1) * block
            }
            NvmOpcode::DATASET_MANAGEMENT => u64::from((sqe.cdw10.get() & 0xff) + 1) * 16,
            _ => 0,
        }
    }

    fn run_io(&mut self, memory: &dyn HostMemory, qid: u16, sqe: &Sqe) -> Result<(), Status> {
        if self.subsystem.generation() != self.binding.view.generation {
            self.binding.view = self.subsystem.view(self.config.port);
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.move_and_execute(memory, sqe, &mut pieces, &mut buffer);
        self.pieces = pieces;
        self.buffer = buffer;
        if let Err(status) = done {
            if status.is(Status::DATA_TRANSFER_ERROR) {
                self.stats.dma_errors += 1;
            }
            self.record(qid, sqe, status);
        }
        done
    }

    fn move_and_execute(
        &self,
        memory: &dyn HostMemory,
        sqe: &Sqe,
        pieces: &mut Vec<data::Piece>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Status> {
        let view = Arc::clone(&self.binding.view);
        let told =
            u32::try_from(self.data_len(sqe)).map_err(|_| Status::INVALID_FIELD.with_dnr())?;
        let (ns, plan) = io::plan(&view, sqe, told, self.binding.max_transfer)?;
        let len = plan.host_sends().max(plan.host_gets()) as usize;
        data::find(memory, sqe, len, false, pieces)?;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let buffer = buffer.get_mut(..len).unwrap_or_default();
        let metadata = Self::metadata(sqe, io::beside(ns, plan))?;
        if let Plan::Read { offset, .. } = plan {
            io::read(&ns.backing, offset, buffer)?;
            data::scatter(memory, pieces, buffer)?;
            if let Some((at, address, bytes)) = metadata {
                let mut metadata = vec![0; bytes];
                io::read(&ns.beside, at, &mut metadata)?;
                data::scatter(memory, &[(address, bytes)], &metadata)?;
            }
            return Ok(());
        }
        data::gather(memory, pieces, buffer)?;
        if let Some((at, address, bytes)) = metadata {
            let mut metadata = vec![0; bytes];
            data::gather(memory, &[(address, bytes)], &mut metadata)?;
            io::execute_beside(ns, plan, at, &metadata)?;
        }
        io::execute(ns, plan, buffer)
    }

    /// Where metadata beside the data is in the namespace, where for the host, and how long it is.
    fn metadata(
        sqe: &Sqe,
        beside: Option<(u64, usize)>,
    ) -> Result<Option<(u64, u64, usize)>, Status> {
        let Some((at, bytes)) = beside else { return Ok(None) };
        let address = sqe.mptr.get();
        // One piece, from a multiple of 4 on (NVMe 2.1 §4.1, MPTR).
        if !address.is_multiple_of(4) || sqe.psdt() == Psdt::SglBoth {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(Some((at, address, bytes)))
    }

    /// Puts a failed command into the error log; a lost path is no error of the controller.
    fn record(&self, qid: u16, sqe: &Sqe, status: Status) {
        if status.is_path_related() {
            return;
        }
        let (cid, lba, nsid) = (sqe.cid.get(), sqe.cdw10_11(), sqe.nsid.get());
        let record = ErrorRecord { count: 0, sqid: qid, cid, status, lba, nsid };
        self.subsystem.record_error(self.binding.cntlid, record);
    }
}
