//! PDUs as no controller should send them.

use nvme_core::spec::tcp::{
    CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, DigestFlags, FatalError, IcResp, PduFlags,
    PduType, R2t,
};
use nvme_core::spec::{Cqe, Sqe, Status};
use zerocopy::IntoBytes;

use super::connection::Core;
use super::pdu::{self, Fatal};
use super::reply::{Piece, c2h_data};
use crate::fault::{BadIcResp, BadPdu};

/// Bits that turn a command identifier into one that no host has in use.
const OTHER_COMMAND: u16 = 0x8000 | 0x0fff;
/// Data that comes where none should.
const STRAY_DATA: u32 = 512;

impl BadIcResp {
    pub(super) fn apply(self, resp: &mut IcResp) {
        match self {
            Self::Version => resp.pfv = 1.into(),
            Self::Digests => resp.dgst ^= DigestFlags::HEADER | DigestFlags::DATA,
            Self::Alignment => resp.cpda = 32,
            Self::MaxDataTooSmall => resp.maxh2cdata = 2048.into(),
            Self::MaxDataUnaligned => resp.maxh2cdata = 8193.into(),
            Self::Length => resp.header.plen = 132.into(),
            Self::HeaderLength => resp.header.hlen = 24,
            Self::Type => resp.header.pdu_type = PduType::CAPSULE_RESP,
        }
    }
}

impl BadPdu {
    /// The type of PDU that this is a bad one of.
    pub(super) fn pdu_type(self) -> PduType {
        match self {
            Self::UnknownType => PduType(0x08),
            Self::WrongDirection => PduType::CAPSULE_CMD,
            Self::SecondIcResp => PduType::IC_RESP,
            Self::HeaderLength
            | Self::LengthTooShort
            | Self::LengthTooLong
            | Self::HeaderDigestFlag
            | Self::UnknownCommand => PduType::CAPSULE_RESP,
            Self::DataDigestFlag
            | Self::DataOffset
            | Self::DataUnknownCommand
            | Self::DataPastEnd
            | Self::DataOffsetSkips
            | Self::DataEmpty
            | Self::SuccessWithoutLast => PduType::C2H_DATA,
            Self::R2tUnexpected | Self::R2tEmpty | Self::R2tPastEnd | Self::R2tUnknownCommand => {
                PduType::R2T
            }
            Self::TermReq => PduType::C2H_TERM_REQ,
        }
    }
}

impl Core {
    /// Sends a bad PDU in place of a command's answer.
    pub fn bad_pdu(&mut self, kind: BadPdu, sqe: &Sqe) {
        match kind.pdu_type() {
            PduType::IC_RESP => {
                let transport = &self.directory.transport;
                let resp = IcResp::new(0, DigestFlags::empty(), transport.max_h2c_data);
                self.transmit.push(resp.as_bytes());
            }
            PduType::CAPSULE_CMD => {
                let mut pdu = CapsuleCmd::new(*sqe);
                self.complete_header(&mut pdu.header);
                self.send_plain(PduType::CAPSULE_CMD, pdu.as_bytes(), &mut None);
            }
            PduType::C2H_DATA => self.bad_data(kind, sqe),
            PduType::R2T => self.bad_r2t(kind, sqe),
            PduType::C2H_TERM_REQ => {
                let fatal = Fatal { fes: FatalError::PDU_SEQUENCE, fei: 0 };
                self.transmit.push(&fatal.term_req(sqe.as_bytes()));
                self.finish();
            }
            _ => self.bad_response(kind, sqe),
        }
    }

    fn bad_response(&mut self, kind: BadPdu, sqe: &Sqe) {
        let mut pdu = CapsuleResp::new(Cqe::new(sqe.cid.get(), Status::SUCCESS, 0));
        self.complete_header(&mut pdu.header);
        let header = &mut pdu.header;
        match kind {
            BadPdu::HeaderLength => header.hlen = 16,
            BadPdu::LengthTooShort => header.plen = 8.into(),
            BadPdu::LengthTooLong => header.plen = u32::MAX.into(),
            BadPdu::HeaderDigestFlag => header.flags ^= PduFlags::HDGSTF,
            BadPdu::UnknownCommand => pdu.cqe.cid = (sqe.cid.get() ^ OTHER_COMMAND).into(),
            _ => header.pdu_type = kind.pdu_type(),
        }
        self.send_plain(PduType::CAPSULE_RESP, pdu.as_bytes(), &mut None);
    }

    fn bad_r2t(&mut self, kind: BadPdu, sqe: &Sqe) {
        let len = sqe.sgl().length.get();
        let cid = sqe.cid.get();
        let mut pdu = match kind {
            BadPdu::R2tEmpty => R2t::new(cid, 0, 0, 0),
            BadPdu::R2tPastEnd => R2t::new(cid, 0, 0, len.saturating_add(STRAY_DATA)),
            BadPdu::R2tUnknownCommand => R2t::new(cid ^ OTHER_COMMAND, 0, 0, len.max(STRAY_DATA)),
            _ => R2t::new(cid, 0, 0, len.max(STRAY_DATA)),
        };
        self.complete_header(&mut pdu.header);
        self.send_plain(PduType::R2T, pdu.as_bytes(), &mut None);
    }

    fn bad_data(&mut self, kind: BadPdu, sqe: &Sqe) {
        let Some(agreed) = self.agreed else { return };
        let wanted = sqe.sgl().length.get();
        // `c2h_data` gets a well formed header; what is wrong is then put right over it
        let (cid, offset, len) = match kind {
            BadPdu::DataUnknownCommand => {
                (sqe.cid.get() ^ OTHER_COMMAND, 0, wanted.max(STRAY_DATA))
            }
            BadPdu::DataPastEnd => (sqe.cid.get(), 0, wanted.saturating_add(STRAY_DATA)),
            BadPdu::DataOffsetSkips => (sqe.cid.get(), 4, wanted.saturating_sub(4).max(4)),
            BadPdu::DataEmpty => (sqe.cid.get(), 0, 0),
            _ => (sqe.cid.get(), 0, wanted.max(STRAY_DATA)),
        };
        let flags = match kind {
            BadPdu::SuccessWithoutLast => PduFlags::SUCCESS,
            _ => PduFlags::LAST_PDU,
        };
        let piece = Piece { cid, offset, len, flags };
        let zeroes = |out: &mut [u8]| {
            out.fill(0);
            Ok(())
        };
        let Ok(plen) = c2h_data(&mut self.transmit, &agreed, piece, zeroes) else { return };
        let mark = self.transmit.mark() - plen;
        let pdu = self.transmit.since(mark);
        match kind {
            BadPdu::DataDigestFlag => {
                pdu[std::mem::offset_of!(CommonHeader, flags)] ^= PduFlags::DDGSTF.bits();
            }
            BadPdu::DataOffset => pdu[std::mem::offset_of!(CommonHeader, pdo)] = 8,
            _ => return,
        }
        if agreed.header_digest {
            let hlen = size_of::<DataHeader>();
            let digest = pdu::digest(&pdu[..hlen]);
            pdu[hlen..hlen + digest.len()].copy_from_slice(&digest);
        }
    }
}
