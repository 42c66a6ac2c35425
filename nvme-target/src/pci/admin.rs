//! Admin commands: those that make and delete queues here, the others in the model.

use std::net::{Ipv4Addr, SocketAddr};

use nvme_core::spec::command::{GetLogPage, Psdt};
use nvme_core::spec::feature::{HostBehavior, fid};
use nvme_core::spec::identify::{IDENTIFY_LEN, IdentifyController, cns};
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::{Cqe, Sqe, Status};

use super::config::PciFault;
use super::data;
use super::engine::Engine;
use super::memory::HostMemory;
use super::rings::{CompletionQueue, SubmissionQueue};
use super::shadow::Shadow;
use crate::admin::{self, Outcome};
use zerocopy::FromBytes;

/// OACS: Doorbell Buffer Config.
const DOORBELL_BUFFERS: u16 = 1 << 8;
/// Bits of Create I/O Completion Queue and Create I/O Submission Queue, dword 11.
const PHYSICALLY_CONTIGUOUS: u32 = 1 << 0;
const INTERRUPTS_ENABLED: u32 = 1 << 1;

impl Engine {
    /// Carries out an admin command; `None` if it is answered later.
    pub(super) fn run_admin(
        &mut self,
        memory: &dyn HostMemory,
        sqe: &Sqe,
    ) -> Option<Result<u64, Status>> {
        let done = match AdminOpcode(sqe.opcode) {
            AdminOpcode::CREATE_IO_CQ => self.create_cq(sqe),
            AdminOpcode::CREATE_IO_SQ => self.create_sq(sqe),
            AdminOpcode::DELETE_IO_SQ => self.delete_sq(sqe),
            AdminOpcode::DELETE_IO_CQ => self.delete_cq(sqe),
            AdminOpcode::DOORBELL_BUFFER_CONFIG if self.config.shadow => self.set_shadow(sqe),
            AdminOpcode::SET_FEATURES
                if self.config.host_memory.preferred != 0
                    && sqe.cdw10.get() as u8 == fid::HOST_MEMORY_BUFFER =>
            {
                self.set_host_memory(memory, sqe)
            }
            _ => return self.run_model(memory, sqe).transpose(),
        };
        Some(done.map(|()| 0))
    }

    fn run_model(&mut self, memory: &dyn HostMemory, sqe: &Sqe) -> Result<Option<u64>, Status> {
        let len = controller_sends(sqe);
        if len > self.binding.max_transfer {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let host_sends = admin::host_data_len(sqe).unwrap_or(0) as usize;
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut from_host = vec![0; host_sends];
        let moved = host_sends.max(len as usize);
        let reached = data::find(memory, sqe, moved, true, &mut pieces).and_then(|()| {
            if host_sends == 0 { Ok(()) } else { data::gather(memory, &pieces, &mut from_host) }
        });
        let done = reached.and_then(|()| {
            let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let outcome = admin::execute(
                &self.directory,
                &self.binding,
                nowhere,
                sqe,
                moved as u32,
                &from_host,
            );
            match outcome {
                Outcome::Done(result) => Ok(Some(result)),
                Outcome::Data { mut data, .. } => {
                    self.amend(sqe, &mut data);
                    data::scatter(memory, &pieces, &data).map(|()| Some(0))
                }
                Outcome::Later => Ok(None),
                Outcome::Failed(status) => Err(status),
            }
        });
        self.pieces = pieces;
        if matches!(done, Err(s) if s.is(Status::DATA_TRANSFER_ERROR)) {
            self.stats.dma_errors += 1;
        }
        done
    }

    /// What this transport adds to the model's answers.
    fn amend(&self, sqe: &Sqe, page: &mut [u8]) {
        let controller = AdminOpcode(sqe.opcode) == AdminOpcode::IDENTIFY
            && sqe.cdw10.get() as u8 == cns::CONTROLLER;
        let id = IdentifyController::mut_from_prefix(page);
        if let (true, Ok((id, _))) = (controller, id) {
            if self.config.shadow {
                id.oacs = (id.oacs.get() | DOORBELL_BUFFERS).into();
            }
            let wish = self.config.host_memory;
            (id.hmpre, id.hmmin) = (wish.preferred.into(), wish.least.into());
            (id.hmminds, id.hmmaxd) = (wish.least_piece.into(), wish.most_pieces.into());
        }
    }

    /// Doorbell Buffer Config (NVMe 2.1 §5.2.5).
    fn set_shadow(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let (doorbells, events) = sqe.prp();
        if doorbells % 4096 != 0 || events % 4096 != 0 {
            return Err(Status::PRP_INVALID_OFFSET.with_dnr());
        }
        self.shadow = Some(Shadow::new(doorbells, events, self.config.dstrd));
        Ok(())
    }

    /// A fault may leave fewer queues than were granted.
    fn check_fewer(&self, qid: u16, sq: bool) -> Result<(), Status> {
        let too_many = |fault: &PciFault| match fault {
            PciFault::FewerSubmissionQueues(most) => sq && qid > *most,
            PciFault::FewerCompletionQueues(most) => !sq && qid > *most,
            _ => false,
        };
        match self.faults.iter().any(too_many) {
            true => Err(Status::QID_INVALID.with_dnr()),
            false => Ok(()),
        }
    }

    /// What both kinds of queue need: an identifier that may be used, a size, an address.
    fn check_queue(&self, sqe: &Sqe) -> Result<(u16, u32, u64), Status> {
        let qid = sqe.cdw10.get() as u16;
        let entries = (sqe.cdw10.get() >> 16) + 1;
        let (base, _) = sqe.prp();
        let limits = self.subsystem.lock().limits.clone();
        if qid == 0 || qid > limits.queues {
            return Err(Status::QID_INVALID.with_dnr());
        }
        if entries < 2 || entries > u32::from(limits.queue_entries) {
            return Err(Status::QUEUE_SIZE_INVALID.with_dnr());
        }
        if sqe.cdw11.get() & PHYSICALLY_CONTIGUOUS == 0 || sqe.psdt() != Psdt::Prp {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        if base % 4096 != 0 {
            return Err(Status::PRP_INVALID_OFFSET.with_dnr());
        }
        Ok((qid, entries, base))
    }

    fn create_cq(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let (qid, entries, base) = self.check_queue(sqe)?;
        self.check_fewer(qid, false)?;
        if self.cqs.contains_key(&qid) {
            return Err(Status::QID_INVALID.with_dnr());
        }
        let cdw11 = sqe.cdw11.get();
        let vector = (cdw11 >> 16) as u16;
        if vector >= self.config.vectors.max(1) {
            return Err(Status::INVALID_INTERRUPT_VECTOR.with_dnr());
        }
        let vector = (cdw11 & INTERRUPTS_ENABLED != 0).then_some(vector);
        self.clear_doorbell(qid, true);
        self.cqs.insert(qid, CompletionQueue::new(base, entries, vector));
        Ok(())
    }

    fn create_sq(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let (qid, entries, base) = self.check_queue(sqe)?;
        self.check_fewer(qid, true)?;
        let cqid = (sqe.cdw11.get() >> 16) as u16;
        if cqid == 0 || !self.cqs.contains_key(&cqid) {
            return Err(Status::CQ_INVALID.with_dnr());
        }
        if self.sqs.contains_key(&qid) {
            return Err(Status::QID_INVALID.with_dnr());
        }
        self.clear_doorbell(qid, false);
        self.sqs.insert(qid, SubmissionQueue::new(base, entries, cqid));
        let peer = self.peer(qid);
        if let Some(ctrl) = self.subsystem.lock().controllers.get_mut(&self.binding.cntlid) {
            ctrl.queues.insert(qid, peer);
        }
        Ok(())
    }

    /// Commands that are still under way end with the queue (NVMe 2.1 §5.2.4).
    fn delete_sq(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let qid = sqe.cdw10.get() as u16;
        if qid == 0 || !self.sqs.contains_key(&qid) {
            return Err(Status::QID_INVALID.with_dnr());
        }
        let kept = std::mem::take(&mut self.kept);
        let (ended, kept) = kept.into_iter().partition(|k| k.qid == qid);
        self.kept = kept;
        for command in ended {
            self.answer(qid, Cqe::new(command.sqe.cid.get(), Status::ABORTED_SQ_DELETION, 0));
        }
        self.sqs.remove(&qid);
        if let Some(ctrl) = self.subsystem.lock().controllers.get_mut(&self.binding.cntlid) {
            ctrl.queues.remove(&qid);
        }
        Ok(())
    }

    fn delete_cq(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let qid = sqe.cdw10.get() as u16;
        if qid == 0 || !self.cqs.contains_key(&qid) {
            return Err(Status::QID_INVALID.with_dnr());
        }
        if self.sqs.values().any(|sq| sq.cqid == qid) {
            return Err(Status::INVALID_QUEUE_DELETION.with_dnr());
        }
        self.cqs.remove(&qid);
        Ok(())
    }
}

/// Bytes that an admin command sends to the host. PRPs give no length: the command does.
fn controller_sends(sqe: &Sqe) -> u64 {
    match AdminOpcode(sqe.opcode) {
        AdminOpcode::IDENTIFY => IDENTIFY_LEN as u64,
        AdminOpcode::GET_LOG_PAGE => GetLogPage::from_sqe(sqe).len,
        AdminOpcode::GET_FEATURES => match sqe.cdw10.get() as u8 {
            fid::HOST_BEHAVIOR => size_of::<HostBehavior>() as u64,
            fid::HOST_IDENTIFIER => 16,
            _ => 0,
        },
        _ => 0,
    }
}
