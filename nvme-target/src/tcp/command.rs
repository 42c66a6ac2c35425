//! A command's way through: capsule, data, execution.

use std::sync::Arc;

use nvme_core::spec::command::{Psdt, SUBTYPE_OFFSET, SUBTYPE_TRANSPORT, SglType};
use nvme_core::spec::fabrics::{ConnectCommand, ConnectData};
use nvme_core::spec::opcode::{DataDirection, FabricsType};
use nvme_core::spec::tcp::{DigestFlags, IcResp, PduType};
use nvme_core::spec::{Cqe, Sqe, Status};
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

use super::connection::{Alarm, Core, End};
use super::pdu::{self, Agreement, Fatal};
use super::reply::{Fault, patch, shortened};
use super::slots::Waits;
use crate::admin::{self, Outcome};
use crate::backing::Backing;
use crate::controller::ErrorRecord;
use crate::fabrics::{self, ADMIN_IN_CAPSULE, Arrival, Binding, Refusal};
use crate::fault::{BadPdu, FaultAction, Site, Subject};
use crate::io::{self, Plan};
use crate::namespace::Namespace;

/// Commands that may wait for data before a queue is connected.
const EARLY_COMMANDS: u32 = 4;

/// Where a command's data is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    InCapsule,
    Transport,
}

impl Core {
    /// Bytes of data that a command capsule may carry on this queue.
    pub fn capsule_limit(&self) -> usize {
        self.binding.as_ref().map_or(ADMIN_IN_CAPSULE, |b| b.in_capsule) as usize
    }

    /// An ICReq that is all there.
    pub fn ic_req(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let req = pdu::ic_req(bytes)?;
        let transport = &self.directory.transport;
        let granted = pdu::granted(req.dgst, transport.header_digest, transport.data_digest);
        let mut resp = IcResp::new(transport.cpda, granted, transport.max_h2c_data);
        self.agreed = Some(Agreement {
            header_digest: granted.contains(DigestFlags::HEADER),
            data_digest: granted.contains(DigestFlags::DATA),
            host_align: (usize::from(transport.cpda) + 1) * 4,
            our_align: (usize::from(req.hpda) + 1) * 4,
            max_h2c_data: transport.max_h2c_data,
            max_r2t: req.maxr2t.get().saturating_add(1),
        });
        match self.directory.faults.strike(self.listener, Site::IcResp).as_deref() {
            Some(FaultAction::BadIcResp(kind)) => {
                kind.apply(&mut resp);
                self.transmit.push(resp.as_bytes());
            }
            Some(FaultAction::TruncateAt { bytes, .. }) => {
                let pdu = resp.as_bytes();
                self.transmit.push(&pdu[..pdu.len().min(*bytes)]);
                self.finish();
            }
            _ => self.transmit.push(resp.as_bytes()),
        }
        Ok(())
    }

    /// A command capsule. `damaged` tells that the digest of its data was wrong.
    pub fn capsule(&mut self, sqe: &Sqe, data: &[u8], damaged: bool) -> Result<(), Fatal> {
        let cid = sqe.cid.get();
        let qid = match &self.binding {
            Some(binding) => binding.qid,
            None if sqe.fabrics_type() == Some(FabricsType::CONNECT) => {
                ConnectCommand::from(*sqe).qid.get()
            }
            None => 0,
        };
        self.directory.counters.command(qid == 0 || self.binding.is_none(), sqe.opcode);
        let mut fault = self.strike(qid, sqe);
        match fault.as_deref() {
            Some(FaultAction::Drop) => return Ok(()),
            Some(FaultAction::Fail(status)) => {
                let status = *status;
                self.respond(cid, status, 0, &mut fault);
                return Ok(());
            }
            _ => {}
        }
        if let Some(binding) = &self.binding {
            binding.shared.note_traffic();
        }
        let place = match self.place(sqe, data)? {
            Ok(place) => place,
            Err(status) => {
                self.fail(sqe, status, &mut fault);
                return Ok(());
            }
        };
        if damaged {
            self.respond(cid, Status::TRANSIENT_TRANSPORT_ERROR, 0, &mut fault);
            return Ok(());
        }
        let len = sqe.sgl().length.get();
        let fetch = place == Place::Transport
            && len > 0
            && sqe.data_direction() == DataDirection::HostToController;
        if !fetch {
            self.arrived(sqe, data, fault);
            return Ok(());
        }
        if let Some(FaultAction::BadPdu(kind)) = fault.as_deref()
            && kind.is_r2t()
        {
            self.bad_pdu(*kind, sqe);
            return Ok(());
        }
        match self.check_before_fetch(sqe, len) {
            Ok(()) => self.fetch(sqe, len, fault),
            Err(status) => {
                self.fail(sqe, status, &mut fault);
                Ok(())
            }
        }
    }

    fn strike(&self, qid: u16, sqe: &Sqe) -> Fault {
        let cntlid = self.binding.as_ref().map(|b| b.cntlid);
        let subject = Subject { cntlid, qid, sqe };
        self.directory.faults.strike(self.listener, Site::Command(&subject))
    }

    /// Where the data pointer says the data is (TCP 1.1 §3.4). A capsule whose length contradicts it is fatal.
    fn place(&self, sqe: &Sqe, data: &[u8]) -> Result<Result<Place, Status>, Fatal> {
        const FUSED: u8 = 0x3;
        if sqe.psdt() != Psdt::Sgl || sqe.flags & FUSED != 0 {
            return Ok(Err(Status::INVALID_FIELD.with_dnr()));
        }
        let sgl = sqe.sgl();
        let wrong_length = Fatal::field(offset_of!(nvme_core::spec::tcp::CommonHeader, plen));
        match (sgl.sgl_type(), sgl.subtype()) {
            (SglType::DATA_BLOCK, SUBTYPE_OFFSET) => {
                // ICDOFF is 0, and the data is one piece
                if sgl.address.get() != 0 {
                    return Ok(Err(Status::SGL_INVALID_OFFSET.with_dnr()));
                }
                if sgl.length.get() as usize != data.len() {
                    return Err(wrong_length);
                }
                Ok(Ok(Place::InCapsule))
            }
            (SglType::TRANSPORT_DATA_BLOCK, SUBTYPE_TRANSPORT) => {
                if data.is_empty() {
                    Ok(Ok(Place::Transport))
                } else {
                    Err(wrong_length)
                }
            }
            _ => Ok(Err(Status::SGL_INVALID_TYPE.with_dnr())),
        }
    }

    /// Whether the command may run at all, and takes as much data as its SGL says.
    fn check_before_fetch(&mut self, sqe: &Sqe, len: u32) -> Result<(), Status> {
        let expected = match &self.binding {
            None if sqe.fabrics_type() == Some(FabricsType::CONNECT) => {
                size_of::<ConnectData>() as u32
            }
            None => return Err(Status::INVALID_OPCODE.with_dnr()),
            Some(binding) if binding.qid == 0 => admin::host_data_len(sqe).unwrap_or(0),
            Some(_) => {
                self.refresh();
                return match &self.binding {
                    Some(b) => plan(b, sqe, len).map(|_| ()),
                    None => Ok(()),
                };
            }
        };
        if len == expected { Ok(()) } else { Err(Status::SGL_INVALID_DATA_LENGTH.with_dnr()) }
    }

    /// Asks the host for the command's data.
    fn fetch(&mut self, sqe: &Sqe, len: u32, fault: Fault) -> Result<(), Fatal> {
        let most = self.binding.as_ref().map_or(EARLY_COMMANDS, |b| b.entries);
        // more commands than the queue has entries
        if self.slots.len() as u32 >= most {
            return Err(Fatal::SEQUENCE);
        }
        let Some(tag) = self.slots.put(*sqe, len, Waits::Data, fault) else {
            return Err(Fatal::SEQUENCE);
        };
        self.send_r2ts(tag);
        Ok(())
    }

    /// A data PDU for a waiting command has been received.
    pub fn data_received(&mut self, tag: u16) {
        let done = self.slots.get(tag).is_some_and(|s| s.received == s.len);
        if !done {
            self.send_r2ts(tag);
            return;
        }
        let Some(mut slot) = self.slots.take(tag) else { return };
        if slot.damaged {
            let cid = slot.sqe.cid.get();
            // not fatal: the command alone failed, and may be sent again (TCP 1.1 §3.3.1.1)
            self.respond(cid, Status::TRANSIENT_TRANSPORT_ERROR, 0, &mut slot.fault);
        } else {
            self.arrived(&slot.sqe, &slot.data, slot.fault);
        }
        self.slots.recycle(slot.data);
    }

    /// A command has arrived with all its data.
    fn arrived(&mut self, sqe: &Sqe, data: &[u8], fault: Fault) {
        match fault.as_deref() {
            Some(FaultAction::CloseBefore) => self.end = Some(End::Now),
            Some(fault @ (FaultAction::Delay(_) | FaultAction::Stall { .. })) => {
                let wait = fault.wait(self.now).unwrap_or_default();
                if let Some((tag, serial)) = self.hold(sqe, data, Waits::Timer) {
                    self.alarms.push((self.now + wait, Alarm::Held { tag, serial }));
                }
            }
            Some(FaultAction::LateWrite(delay)) => {
                self.hold(sqe, data, Waits::Death(*delay));
            }
            Some(FaultAction::BadPdu(kind)) => self.bad_pdu(*kind, sqe),
            _ => self.execute(sqe, data, fault),
        }
    }

    /// Keeps a command, for a fault; its place and serial number.
    fn hold(&mut self, sqe: &Sqe, data: &[u8], waits: Waits) -> Option<(u16, u64)> {
        let tag = self.slots.put(*sqe, data.len() as u32, waits, None)?;
        let slot = self.slots.fetch_buffer(tag)?;
        slot.data.copy_from_slice(data);
        Some((tag, slot.serial))
    }

    /// Carries out a command and answers it.
    pub fn execute(&mut self, sqe: &Sqe, data: &[u8], mut fault: Fault) {
        let silent =
            matches!(fault.as_deref(), Some(FaultAction::DropAnswer | FaultAction::CloseAfter));
        let close = matches!(fault.as_deref(), Some(FaultAction::CloseAfter));
        let cid = sqe.cid.get();
        match self.run(sqe, data, silent, &mut fault) {
            Ok(Done::Answered) => {}
            Ok(Done::Result(_) | Done::Page { .. } | Done::Completion(_)) if silent => {}
            Ok(Done::Result(result)) => self.respond(cid, Status::SUCCESS, result, &mut fault),
            Ok(Done::Page { data, base }) => self.send_page(cid, data, base, &mut fault),
            Ok(Done::Completion(cqe)) => self.respond_as(cqe, &mut fault),
            Err(refusal) if !silent => {
                self.respond(cid, refusal.status, refusal.result, &mut fault);
            }
            Err(_) => {}
        }
        if close {
            self.end = Some(End::Now);
        }
    }

    fn run(
        &mut self,
        sqe: &Sqe,
        data: &[u8],
        silent: bool,
        fault: &mut Fault,
    ) -> Result<Done, Refusal> {
        let Some(binding) = &self.binding else {
            return match sqe.fabrics_type() {
                Some(FabricsType::CONNECT) => self.connect(sqe, data),
                _ => Err(Status::INVALID_OPCODE.with_dnr().into()),
            };
        };
        let admin_queue = binding.qid == 0;
        match sqe.fabrics_type() {
            Some(FabricsType::CONNECT) => Err(Status::SEQUENCE_ERROR.with_dnr().into()),
            Some(FabricsType::PROPERTY_GET | FabricsType::PROPERTY_SET) if admin_queue => {
                fabrics::property(binding, sqe, self.now).map(Done::Result)
            }
            Some(FabricsType::DISCONNECT) if admin_queue => {
                Err(Status::INVALID_QUEUE_TYPE.with_dnr().into())
            }
            Some(FabricsType::DISCONNECT) => {
                self.respond(sqe.cid.get(), Status::SUCCESS, 0, fault);
                self.finish();
                Ok(Done::Answered)
            }
            Some(_) => Err(Status::INVALID_OPCODE.with_dnr().into()),
            None if admin_queue => {
                let len = sqe.sgl().length.get();
                let outcome =
                    admin::execute(&self.directory, binding, self.local_addr, sqe, len, data);
                match outcome {
                    Outcome::Done(result) => Ok(Done::Result(result)),
                    Outcome::Data { data, base } => Ok(Done::Page { data, base }),
                    Outcome::Later => Ok(Done::Answered),
                    Outcome::Failed(status) => Err(status.into()),
                }
            }
            None => self.run_io(sqe, data, silent, fault),
        }
    }

    fn run_io(
        &mut self,
        sqe: &Sqe,
        data: &[u8],
        silent: bool,
        fault: &mut Fault,
    ) -> Result<Done, Refusal> {
        self.refresh();
        let Some(binding) = &self.binding else { return Ok(Done::Answered) };
        if !binding.shared.is_ready() {
            return Err(Status::SEQUENCE_ERROR.with_dnr().into());
        }
        let len = sqe.sgl().length.get();
        let planned = plan(binding, sqe, len);
        let (ns, plan) = planned.inspect_err(|status| self.record(sqe, *status))?;
        let Plan::Read { offset, len } = plan else {
            io::execute(ns, plan, data).inspect_err(|status| self.record(sqe, *status))?;
            return Ok(Done::Result(0));
        };
        if silent {
            return Ok(Done::Answered);
        }
        if fault.is_none() && matches!(*ns.backing, Backing::Null) {
            self.send_zeroes(sqe.cid.get(), len);
            return Ok(Done::Answered);
        }
        let backing = Arc::clone(&ns.backing);
        let total = shortened(len, fault);
        let spoilt = fault.clone();
        self.send_pieces(sqe.cid.get(), total, fault, |core, at, out| {
            let read = io::read(&backing, offset + u64::from(at), out);
            read.inspect_err(|status| core.record(sqe, *status))?;
            patch(out, at.into(), &spoilt);
            Ok(())
        });
        Ok(Done::Answered)
    }

    fn connect(&mut self, sqe: &Sqe, data: &[u8]) -> Result<Done, Refusal> {
        let command = ConnectCommand::from(*sqe);
        let Ok(data) = ConnectData::ref_from_bytes(data) else {
            return Err(Status::SGL_INVALID_DATA_LENGTH.with_dnr().into());
        };
        let from = Arrival { listener: self.listener, peer: self.model_peer(), now: self.now };
        let (binding, response) = fabrics::connect(&self.directory, &command, data, from)?;
        let flow_control = binding.flow_control;
        let admin_queue = binding.qid == 0;
        self.binding = Some(binding);
        if admin_queue {
            self.keep_alive();
        }
        if flow_control {
            return Ok(Done::Result(response.to_result()));
        }
        // FFFFh tells the host that flow control is off (NVMe 2.1 §6.3)
        let mut cqe = Cqe::new(sqe.cid.get(), Status::SUCCESS, response.to_result());
        cqe.sqhd = u16::MAX.into();
        Ok(Done::Completion(cqe))
    }

    /// Fetches the namespaces anew if they have changed.
    fn refresh(&mut self) {
        if let Some(binding) = &mut self.binding
            && binding.subsystem.generation() != binding.view.generation
        {
            binding.view = binding.subsystem.view(self.listener);
        }
    }

    /// Fails a command that was not carried out.
    fn fail(&mut self, sqe: &Sqe, status: Status, fault: &mut Fault) {
        self.record(sqe, status);
        self.respond(sqe.cid.get(), status, 0, fault);
    }

    /// Puts a failed command of an I/O queue into the error log; a lost path is no error of the controller.
    fn record(&self, sqe: &Sqe, status: Status) {
        let Some(binding) = self.binding.as_ref().filter(|b| b.qid != 0) else { return };
        if status.is_path_related() {
            return;
        }
        let record = ErrorRecord {
            count: 0,
            sqid: binding.qid,
            cid: sqe.cid.get(),
            status,
            lba: sqe.cdw10_11(),
            nsid: sqe.nsid.get(),
        };
        binding.subsystem.record_error(binding.cntlid, record);
    }
}

/// What a command came to.
enum Done {
    /// Answered already, or not to be answered now.
    Answered,
    /// Success, with this result.
    Result(u64),
    /// Success, with data.
    Page { data: Vec<u8>, base: u64 },
    /// A completion of its own making.
    Completion(Cqe),
}

impl BadPdu {
    /// Whether the PDU is an R2T, which comes before the command's data.
    fn is_r2t(self) -> bool {
        self.pdu_type() == PduType::R2T
    }
}

/// Checks an I/O command. Fabrics move no metadata beside the data (NVMe 2.1 §4.1, MPTR).
fn plan<'a>(binding: &'a Binding, sqe: &Sqe, len: u32) -> Result<(&'a Namespace, Plan), Status> {
    let (ns, plan) = io::plan(&binding.view, sqe, len, binding.max_transfer)?;
    match io::beside(ns, plan) {
        None => Ok((ns, plan)),
        Some(_) => Err(Status::INVALID_FIELD.with_dnr()),
    }
}
