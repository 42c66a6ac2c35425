//! What goes back to the host: R2T, data, responses; and the faults that spoil them.

use std::sync::Arc;

use nvme_core::spec::tcp::{
    CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, PduFlags, PduType, R2t,
};
use nvme_core::spec::{Cqe, Status};
use zerocopy::IntoBytes;

use super::connection::Core;
use super::pdu::{self, Agreement, DigestOfZeroes};
use super::transmit::Transmit;
use crate::fault::FaultAction;
use crate::transport::SuccessFlag;

/// What is to befall the PDUs of one command, until it has.
pub(crate) type Fault = Option<Arc<FaultAction>>;

/// A piece of a command's data on its way to the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub cid: u16,
    /// Offset within the command's data.
    pub offset: u32,
    pub len: u32,
    pub flags: PduFlags,
}

/// Bytes of a data header.
const HEADER: usize = size_of::<DataHeader>();

/// The header of a C2HData PDU.
struct Head {
    header: DataHeader,
    /// Where the data begins.
    pdo: usize,
    plen: usize,
}

impl Head {
    fn new(piece: Piece, agreed: &Agreement) -> Self {
        let mut header = DataHeader::c2h(piece.cid, piece.offset, piece.len);
        let pdo = (HEADER + agreed.header_digest_len()).next_multiple_of(agreed.our_align);
        let plen = pdo + piece.len as usize + agreed.data_digest_len();
        header.header.flags = piece.flags;
        header.header.flags.set(PduFlags::HDGSTF, agreed.header_digest);
        header.header.flags.set(PduFlags::DDGSTF, agreed.data_digest);
        header.header.pdo = pdo as u8;
        header.header.plen = (plen as u32).into();
        Self { header, pdo, plen }
    }

    /// Writes everything that comes before the data.
    fn write(&self, out: &mut [u8], agreed: &Agreement) {
        let (header, rest) = out.split_at_mut(HEADER);
        header.copy_from_slice(self.header.as_bytes());
        let (digest, padding) = rest.split_at_mut(agreed.header_digest_len());
        if agreed.header_digest {
            digest.copy_from_slice(&pdu::digest(header));
        }
        padding.fill(0);
    }
}

/// Writes a C2HData PDU whose data `fill` provides; its length. Nothing is written if `fill` fails.
pub(crate) fn c2h_data(
    transmit: &mut Transmit,
    agreed: &Agreement,
    piece: Piece,
    fill: impl FnOnce(&mut [u8]) -> Result<(), Status>,
) -> Result<usize, Status> {
    let head = Head::new(piece, agreed);
    let (pdo, plen) = (head.pdo, head.plen);
    let data_end = pdo + piece.len as usize;
    let pdu = transmit.reserve(plen);
    if let Err(status) = fill(&mut pdu[pdo..data_end]) {
        transmit.give_back(plen);
        return Err(status);
    }
    head.write(&mut pdu[..pdo], agreed);
    if agreed.data_digest {
        let digest = pdu::digest(&pdu[pdo..data_end]);
        pdu[data_end..].copy_from_slice(&digest);
    }
    Ok(plen)
}

/// Writes a C2HData PDU whose data is zeroes, which are nowhere written.
fn c2h_zeroes(
    transmit: &mut Transmit,
    agreed: &Agreement,
    piece: Piece,
    digest: &mut DigestOfZeroes,
) {
    let head = Head::new(piece, agreed);
    head.write(transmit.reserve(head.pdo), agreed);
    transmit.push_zeroes(piece.len as usize);
    if agreed.data_digest {
        transmit.push(&digest.of(piece.len as usize));
    }
}

impl Core {
    /// Sends a response capsule.
    pub fn respond(&mut self, cid: u16, status: Status, result: u64, fault: &mut Fault) {
        let mut sqhd = 0;
        if let Some(binding) = self.binding.as_ref().filter(|b| b.flow_control) {
            let next = u32::from(self.sqhd) + 1;
            self.sqhd = if next >= binding.entries { 0 } else { next as u16 };
            sqhd = self.sqhd;
        }
        let mut cqe = Cqe::new(cid, status, result);
        cqe.sqhd = sqhd.into();
        self.respond_as(cqe, fault);
    }

    /// Sends a response capsule with this very completion.
    pub fn respond_as(&mut self, mut cqe: Cqe, fault: &mut Fault) {
        let mut copies = 1;
        match fault.as_deref() {
            Some(FaultAction::StaleCommandId(bits)) => cqe.cid = (cqe.cid.get() ^ bits).into(),
            Some(FaultAction::AnswerTwice) => copies = 2,
            Some(FaultAction::Result(result)) => cqe.set_result(*result),
            _ => {}
        }
        for _ in 0..copies {
            let mut pdu = CapsuleResp::new(cqe);
            self.complete_header(&mut pdu.header);
            self.send_plain(PduType::CAPSULE_RESP, pdu.as_bytes(), fault);
        }
    }

    /// Asks for the data of a waiting command, as much at a time as the host takes.
    pub fn send_r2ts(&mut self, tag: u16) {
        let Some(agreed) = self.agreed else { return };
        let most = self.directory.transport.r2t_bytes;
        loop {
            let Some(slot) = self.slots.get(tag) else { return };
            let total = slot.len;
            let outstanding = (slot.requested - slot.received).div_ceil(most);
            if slot.requested == total || outstanding >= agreed.max_r2t {
                return;
            }
            let len = most.min(total - slot.requested);
            let mut r2t = R2t::new(slot.sqe.cid.get(), tag, slot.requested, len);
            slot.requested += len;
            let mut fault = slot.fault.clone();
            self.complete_header(&mut r2t.header);
            self.send_plain(PduType::R2T, r2t.as_bytes(), &mut fault);
        }
    }

    /// Whether reads may end with the SUCCESS flag; not if a fault needs a response capsule to act on.
    pub fn may_flag_success(&self, fault: &Fault) -> bool {
        let needs_response = matches!(
            fault.as_deref(),
            Some(
                FaultAction::AnswerTwice
                    | FaultAction::Result(_)
                    | FaultAction::StaleCommandId(_)
                    | FaultAction::TruncateAt { pdu: PduType::CAPSULE_RESP, .. }
            )
        );
        let by_choice = match self.directory.transport.success {
            SuccessFlag::Never => false,
            SuccessFlag::WithoutFlowControl => {
                self.binding.as_ref().is_some_and(|b| !b.flow_control)
            }
            SuccessFlag::Always => true,
        };
        by_choice && !needs_response
    }

    /// Lets a fault act on the PDU of `plen` bytes that was pushed last.
    pub fn spoil(&mut self, pdu_type: PduType, hlen: usize, plen: usize, fault: &mut Fault) {
        let Some(action) = fault.as_deref() else { return };
        let Some(agreed) = self.agreed else { return };
        let mark = self.transmit.mark() - plen;
        match action {
            FaultAction::CorruptHeaderDigest if agreed.header_digest => {
                self.transmit.since(mark)[hlen] ^= 0xff;
                *fault = None;
            }
            FaultAction::CorruptDataDigest
                if agreed.data_digest && pdu_type == PduType::C2H_DATA =>
            {
                self.transmit.since(mark)[plen - 1] ^= 0xff;
                *fault = None;
            }
            FaultAction::TruncateAt { pdu, bytes } if *pdu == pdu_type => {
                self.transmit.give_back(plen.saturating_sub(*bytes));
                self.finish();
                *fault = None;
            }
            _ => {}
        }
    }

    /// Sends data that is at hand: a page or a structure, whose byte `base` it begins with.
    pub fn send_page(&mut self, cid: u16, mut data: Vec<u8>, base: u64, fault: &mut Fault) {
        patch(&mut data, base, fault);
        let total = shortened(data.len() as u32, fault);
        self.send_pieces(cid, total, fault, |_, offset, out| {
            let at = offset as usize;
            out.copy_from_slice(&data[at..at + out.len()]);
            Ok(())
        });
    }

    /// Sends `total` bytes as C2HData, in PDUs of the size chosen, and then the response. `fill` gets an offset and
    /// the place to put the bytes from there.
    pub fn send_pieces(
        &mut self,
        cid: u16,
        total: u32,
        fault: &mut Fault,
        fill: impl Fn(&Self, u32, &mut [u8]) -> Result<(), Status>,
    ) {
        let Some(agreed) = self.agreed else { return };
        let success = self.may_flag_success(fault);
        // out of the way, so that `fill` may look at everything else
        let mut transmit = std::mem::take(&mut self.transmit);
        let mut outcome = Ok(());
        for piece in pieces(cid, total, self.directory.transport.c2h_bytes, success) {
            if self.end.is_some() {
                break;
            }
            let fill = |out: &mut [u8]| fill(self, piece.offset, out);
            match c2h_data(&mut transmit, &agreed, piece, fill) {
                Ok(plen) => {
                    if fault.is_some() {
                        std::mem::swap(&mut self.transmit, &mut transmit);
                        self.spoil(PduType::C2H_DATA, size_of::<DataHeader>(), plen, fault);
                        std::mem::swap(&mut self.transmit, &mut transmit);
                    }
                }
                Err(status) => {
                    outcome = Err(status);
                    break;
                }
            }
        }
        self.transmit = transmit;
        match outcome {
            Ok(()) if success && total > 0 => {}
            Ok(()) => self.respond(cid, Status::SUCCESS, 0, fault),
            Err(status) => self.respond(cid, status, 0, fault),
        }
    }

    /// Sends `total` zeroes like [`send_pieces`](Self::send_pieces), where no fault is to act on them.
    pub fn send_zeroes(&mut self, cid: u16, total: u32) {
        let Some(agreed) = self.agreed else { return };
        let success = self.may_flag_success(&None);
        for piece in pieces(cid, total, self.directory.transport.c2h_bytes, success) {
            c2h_zeroes(&mut self.transmit, &agreed, piece, &mut self.zeroes_digest);
        }
        if !success || total == 0 {
            self.respond(cid, Status::SUCCESS, 0, &mut None);
        }
    }

    /// Adds to the header of a PDU without data what digests need.
    pub fn complete_header(&self, header: &mut CommonHeader) {
        if self.agreed.is_some_and(|a| a.header_digest) {
            header.flags |= PduFlags::HDGSTF;
            header.plen = (u32::from(header.hlen) + DIGEST_LEN as u32).into();
        }
    }

    /// Sends a PDU that is all header, and its digest.
    pub fn send_plain(&mut self, pdu_type: PduType, header: &[u8], fault: &mut Fault) {
        if self.end.is_some() {
            return;
        }
        let mut plen = header.len();
        self.transmit.push(header);
        if self.agreed.is_some_and(|a| a.header_digest) {
            self.transmit.push(&pdu::digest(header));
            plen += DIGEST_LEN;
        }
        self.spoil(pdu_type, header.len(), plen, fault);
    }
}

/// `total` bytes in pieces of at most `most`, the last of which says so, and that the command has succeeded
/// if `success`.
fn pieces(cid: u16, total: u32, most: u32, success: bool) -> impl Iterator<Item = Piece> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let left = total - offset;
        if left == 0 {
            return None;
        }
        let len = most.min(left);
        let mut flags = PduFlags::empty();
        flags.set(PduFlags::LAST_PDU, len == left);
        flags.set(PduFlags::SUCCESS, len == left && success);
        let piece = Piece { cid, offset, len, flags };
        offset += len;
        Some(piece)
    })
}

/// Overwrites what a fault wants overwritten in data that begins at byte `base` of its page.
pub(crate) fn patch(data: &mut [u8], base: u64, fault: &Fault) {
    let Some(FaultAction::PatchData { offset, bytes }) = fault.as_deref() else { return };
    for (at, byte) in (*offset..).zip(bytes) {
        let place = at.checked_sub(base).and_then(|at| usize::try_from(at).ok());
        if let Some(place) = place.and_then(|at| data.get_mut(at)) {
            *place = *byte;
        }
    }
}

/// The length that is sent of `len` bytes.
pub(crate) fn shortened(len: u32, fault: &Fault) -> u32 {
    match fault.as_deref() {
        Some(FaultAction::ShortRead(by)) => len.saturating_sub(*by),
        _ => len,
    }
}
