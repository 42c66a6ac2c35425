//! What the PDUs of the controller do to the commands in flight.

use nvme_core::spec::tcp::{
    CapsuleResp, CommonHeader, DataHeader, PduFlags, PduType, R2t, TermReq,
};
use nvme_core::spec::{Cqe, Status};
use nvme_core::transport::{Data, Sink};
use zerocopy::FromBytes;

use super::quick::Usual;
use super::rx::{Expect, Payload};
use super::slots::{Grant, Phase};
use super::{Connection, ProtocolError, State, check, complete};

/// Bytes of the header of a command capsule.
const CAPSULE_HEADER: u64 = 72;

impl Connection {
    /// Acts on the next piece of what has been received; false when more bytes are needed.
    pub(super) fn step(&mut self, sink: &mut dyn Sink) -> Result<bool, ProtocolError> {
        match self.rx.expect {
            Expect::Header => self.header(sink),
            Expect::Payload(payload) => {
                let payload = self.rx.copy(payload, &mut self.slots);
                if payload.left > 0 {
                    return Ok(false);
                }
                if self.agreed.data_digest {
                    self.rx.expect = Expect::DataDigest(payload);
                } else {
                    self.end_of_data(payload, sink);
                }
                Ok(true)
            }
            Expect::DataDigest(payload) => {
                let Some(right) = self.rx.take_digest() else { return Ok(false) };
                if !right {
                    self.slots.get_mut(payload.slot).damaged = true;
                }
                self.end_of_data(payload, sink);
                Ok(true)
            }
        }
    }

    fn header(&mut self, sink: &mut dyn Sink) -> Result<bool, ProtocolError> {
        let Ok((common, _)) = CommonHeader::read_from_prefix(self.rx.pending()) else {
            return Ok(false);
        };
        let framed = match self.state {
            State::SettingUp => check::frame_in_setup(&common),
            _ => check::frame(&common, &self.agreed),
        };
        let result = match framed {
            Ok(need) if self.rx.pending().len() < need => return Ok(false),
            Ok(need) => self.pdu(&common, need, sink),
            Err(error) => Err(error),
        };
        result.inspect_err(|_| self.remember_offender(&common)).map(|()| true)
    }

    /// Keeps a copy of the header that broke the protocol, for the termination request.
    #[cold]
    fn remember_offender(&mut self, common: &CommonHeader) {
        let (copy, len) = &mut self.offender;
        let want = common.pdu_type.header_len().map_or(size_of::<CommonHeader>(), usize::from);
        let pending = self.rx.pending();
        let n = want.min(pending.len()).min(copy.len());
        if let (Some(to), Some(from)) = (copy.get_mut(..n), pending.get(..n)) {
            to.copy_from_slice(from);
            *len = n as u8;
        }
    }

    /// A PDU of which `need` bytes, the part without data, are present. Consumes them if it is right.
    fn pdu(
        &mut self,
        common: &CommonHeader,
        need: usize,
        sink: &mut dyn Sink,
    ) -> Result<(), ProtocolError> {
        let unit = self.rx.pending().get(..need).unwrap_or_default();
        check::header_digest(common, unit, &self.agreed)?;
        match common.pdu_type {
            PduType::CAPSULE_RESP => {
                if let Ok((resp, _)) = CapsuleResp::read_from_prefix(unit) {
                    self.response(resp.cqe, sink)?;
                }
            }
            PduType::C2H_DATA => {
                if let Ok((data, _)) = DataHeader::read_from_prefix(unit) {
                    let payload = self.c2h_data(&data)?;
                    self.rx.begin(payload, self.agreed.data_digest);
                }
            }
            PduType::R2T => {
                if let Ok((r2t, _)) = R2t::read_from_prefix(unit) {
                    self.r2t(&r2t)?;
                }
            }
            PduType::IC_RESP => {
                self.agreed = check::ic_resp(unit, self.asked, self.agreed.receive_align)?;
                self.usual = Usual::of(&self.agreed);
                self.state = State::Ready;
            }
            PduType::C2H_TERM_REQ => {
                let (fes, fei) = TermReq::read_from_prefix(unit)
                    .map_or((0, 0), |(t, _)| (t.fes.get(), t.fei.get()));
                return Err(ProtocolError::Terminated { fes: fes.into(), fei });
            }
            other => return Err(ProtocolError::UnknownPdu(other)),
        }
        self.rx.consume(need);
        Ok(())
    }

    /// The slot of a command that the controller has been sent.
    fn command(&self, pdu: PduType, cid: u16) -> Result<u16, ProtocolError> {
        let index =
            self.slots.find(cid).map_err(|why| ProtocolError::UnknownCommand { pdu, cid, why })?;
        let slot = self.slots.get(index);
        let header_len = CAPSULE_HEADER + self.agreed.header_digest_len() as u64;
        if slot.phase == Phase::Submitted || self.tx.sent() < slot.tx_begin + header_len {
            let why = "the command has not been sent yet";
            return Err(ProtocolError::Sequence { pdu, cid, why });
        }
        Ok(index)
    }

    fn response(&mut self, cqe: Cqe, sink: &mut dyn Sink) -> Result<(), ProtocolError> {
        let (pdu, cid) = (PduType::CAPSULE_RESP, cqe.cid.get());
        let index = self.command(pdu, cid)?;
        let slot = self.slots.get_mut(index);
        let mut cqe = cqe;
        if cqe.status().is_success() {
            let expected = slot.len;
            match slot.data {
                Data::Read(_) if slot.received < expected => {
                    let moved = slot.received;
                    return Err(ProtocolError::ShortRead { pdu, cid, moved, expected });
                }
                Data::Write(_) if slot.written < expected => {
                    return Err(ProtocolError::ShortWrite { cid, moved: slot.written, expected });
                }
                _ => {}
            }
            if slot.damaged {
                cqe.set_status(Status::DATA_TRANSFER_ERROR, false);
            }
        }
        if slot.queued || slot.tx_end > self.tx.sent() {
            slot.phase = Phase::Draining;
            slot.answer = cqe;
            self.draining.push(index);
        } else {
            complete(&mut self.slots, index, cqe, sink);
        }
        Ok(())
    }

    fn c2h_data(&mut self, data: &DataHeader) -> Result<Payload, ProtocolError> {
        check::c2h_data(data, &self.agreed)?;
        let (pdu, cid) = (PduType::C2H_DATA, data.cccid.get());
        let index = self.command(pdu, cid)?;
        let slot = self.slots.get_mut(index);
        let (offset, len, limit) = (data.datao.get(), data.datal.get(), slot.len);
        match slot.data {
            Data::Read(_) => {}
            Data::Write(_) => {
                let why = "data for a command that writes";
                return Err(ProtocolError::WrongCommand { pdu, cid, why });
            }
            Data::None => {
                let why = "data for a command without data";
                return Err(ProtocolError::WrongCommand { pdu, cid, why });
            }
        }
        if slot.last_seen {
            let why = "data after the last data PDU";
            return Err(ProtocolError::Sequence { pdu, cid, why });
        }
        if u64::from(offset) + u64::from(len) > u64::from(limit) {
            return Err(ProtocolError::OutOfRange { pdu, cid, offset, len, limit });
        }
        if offset != slot.received {
            return Err(ProtocolError::OutOfOrder { pdu, cid, offset, expected: slot.received });
        }
        let success = data.header.flags.contains(PduFlags::SUCCESS);
        let end = offset + len;
        if success && end < limit {
            return Err(ProtocolError::ShortRead { pdu, cid, moved: end, expected: limit });
        }
        slot.received = end;
        slot.last_seen = data.header.flags.contains(PduFlags::LAST_PDU);
        Ok(Payload { slot: index, at: offset, left: len, success })
    }

    /// The data of a C2HData PDU is complete; with SUCCESS so is its command (TCP 1.1 §3.6.2.9).
    pub(super) fn end_of_data(&mut self, payload: Payload, sink: &mut dyn Sink) {
        self.rx.expect = Expect::Header;
        if payload.success {
            let slot = self.slots.get(payload.slot);
            let status = if slot.damaged { Status::DATA_TRANSFER_ERROR } else { Status::SUCCESS };
            let cqe = Cqe::new(slot.cid, status, 0);
            complete(&mut self.slots, payload.slot, cqe, sink);
        }
    }

    fn r2t(&mut self, r2t: &R2t) -> Result<(), ProtocolError> {
        let (pdu, cid) = (PduType::R2T, r2t.cccid.get());
        let index = self.command(pdu, cid)?;
        let slot = self.slots.get_mut(index);
        if !matches!(slot.data, Data::Write(_)) {
            let why = "the command does not write";
            return Err(ProtocolError::WrongCommand { pdu, cid, why });
        }
        check::r2t(r2t, slot.len, slot.requested)?;
        let (offset, left) = (r2t.r2to.get(), r2t.r2tl.get());
        slot.requested = offset + left;
        if !self.slots.push_grant(index, Grant { offset, left, ttag: r2t.ttag.get() }) {
            return Err(ProtocolError::R2tLimit { cid, limit: self.max_r2t });
        }
        self.slots.queue_send(index);
        Ok(())
    }
}
