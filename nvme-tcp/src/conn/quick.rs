//! The PDUs that a connection mostly gets, in one look: data of a read that is there as a whole, and
//! the response to a command that succeeded.
//!
//! Whatever is not exactly as it mostly is, the least fault included, is left untouched to the general
//! way, which knows what to say about it.

use nvme_core::spec::tcp::{CapsuleResp, DataHeader, PduFlags, PduType};
use nvme_core::spec::{Cqe, Status};
use nvme_core::transport::{Data, Sink};
use zerocopy::FromBytes;

use super::check::Agreed;
use super::digest::crc32c;
use super::{Connection, State, complete};

/// Bytes of both headers.
pub(super) const HEADER: usize = size_of::<DataHeader>();
const _: () = assert!(HEADER == size_of::<CapsuleResp>());

/// What TYPE, FLAGS, HLEN and PDO mostly are, as the first dword of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usual {
    pub(super) data: u32,
    pub(super) response: u32,
    /// Bytes of a response.
    response_len: usize,
    /// Bytes before the data of a data PDU.
    data_offset: usize,
}

/// The flags of a data PDU that differ from one to the next.
pub(super) const LAST: u32 = (PduFlags::LAST_PDU.bits() as u32) << 8;
pub(super) const SUCCESS: u32 = (PduFlags::SUCCESS.bits() as u32) << 8;

impl Usual {
    /// What is usual on a connection on which this has been agreed.
    pub(crate) fn of(agreed: &Agreed) -> Self {
        let response_len = HEADER + agreed.header_digest_len();
        let data_offset = response_len.next_multiple_of(agreed.receive_align);
        let (mut of_header, mut of_data) = (PduFlags::empty(), PduFlags::empty());
        of_header.set(PduFlags::HDGSTF, agreed.header_digest);
        of_data.set(PduFlags::DDGSTF, agreed.data_digest);
        let word = |pdu: PduType, flags: PduFlags, pdo: usize| {
            u32::from_le_bytes([pdu.0, flags.bits(), HEADER as u8, pdo as u8])
        };
        Self {
            data: word(PduType::C2H_DATA, of_header | of_data, data_offset),
            response: word(PduType::CAPSULE_RESP, of_header, 0),
            response_len,
            data_offset,
        }
    }
}

impl Connection {
    /// Acts on the next PDU if it is of the usual kind, and there; otherwise leaves it.
    #[inline]
    pub(super) fn quick(&mut self, sink: &mut dyn Sink) -> bool {
        if self.state != State::Ready {
            return false;
        }
        let Some(first) = self.rx.pending().first_chunk() else { return false };
        let first = u32::from_le_bytes(*first);
        if first & !(LAST | SUCCESS) == self.usual.data {
            self.whole_data(first, sink).is_some()
        } else if first == self.usual.response {
            self.plain_response(sink).is_some()
        } else {
            false
        }
    }

    /// The data of a read with all its data, in its place.
    #[inline]
    fn whole_data(&mut self, first: u32, sink: &mut dyn Sink) -> Option<()> {
        let pending = self.rx.pending();
        let header = DataHeader::ref_from_bytes(pending.first_chunk::<HEADER>()?).ok()?;
        let (len, offset) = (header.datal.get(), header.datao.get());
        let pdo = self.usual.data_offset;
        let end_of_data = pdo.checked_add(len as usize)?;
        let plen = end_of_data + self.agreed.data_digest_len();
        let payload = pending.get(pdo..end_of_data)?;
        let unit = pending.get(..plen)?;
        if header.header.plen.get() as usize != plen || len == 0 {
            return None;
        }
        let (last, success) = (first & LAST != 0, first & SUCCESS != 0);
        let (index, slot) = self.slots.active_mut(header.cccid.get())?;
        let end = offset.checked_add(len)?;
        let fits = offset == slot.received && !slot.last_seen && end <= slot.len;
        // Success without the last flag, or without all data, is an error.
        let ends = !success || (last && end == slot.len);
        let sent = slot.tx_end <= self.tx.sent();
        if !(fits && ends && sent) || (self.agreed.header_digest && !is_right(unit, HEADER, 0)) {
            return None;
        }
        let Data::Read(buffer) = &mut slot.data else { return None };
        let to = buffer.as_mut_slice().get_mut(offset as usize..end as usize)?;
        to.copy_from_slice(payload);
        if self.agreed.data_digest && !is_right(unit, end_of_data, pdo) {
            slot.damaged = true;
        }
        slot.received = end;
        slot.last_seen = last;
        let (cid, damaged) = (slot.cid, slot.damaged);
        self.rx.took(plen, len);
        let plain = pdo == HEADER && plen == HEADER + len as usize;
        self.ahead.learn(plain, success);
        if success {
            let status = if damaged { Status::DATA_TRANSFER_ERROR } else { Status::SUCCESS };
            complete(&mut self.slots, index, Cqe::new(cid, status, 0), sink);
        }
        Some(())
    }

    /// A response that says success, to a command all of whose data has been moved.
    #[inline]
    fn plain_response(&mut self, sink: &mut dyn Sink) -> Option<()> {
        let len = self.usual.response_len;
        let unit = self.rx.pending().get(..len)?;
        let response = CapsuleResp::ref_from_bytes(unit.first_chunk::<HEADER>()?).ok()?;
        let cqe = response.cqe;
        let plen = response.header.plen.get() as usize;
        if plen != len || !cqe.status().is_success() {
            return None;
        }
        let (index, slot) = self.slots.active_mut(cqe.cid.get())?;
        let moved = match slot.data {
            Data::None => slot.len,
            Data::Read(_) => slot.received,
            Data::Write(_) => slot.written,
        };
        let sent = slot.tx_end <= self.tx.sent() && !slot.queued;
        if moved < slot.len || !sent || slot.damaged {
            return None;
        }
        if self.agreed.header_digest && !is_right(unit, HEADER, 0) {
            return None;
        }
        self.rx.consume(len);
        complete(&mut self.slots, index, cqe, sink);
        Some(())
    }
}

/// Whether the digest at `at` is that of the bytes from `from` to there.
fn is_right(unit: &[u8], at: usize, from: usize) -> bool {
    let digest = unit.get(at..).and_then(<[u8]>::first_chunk);
    let bytes = unit.get(from..at);
    digest.zip(bytes).is_some_and(|(digest, bytes)| u32::from_le_bytes(*digest) == crc32c(bytes))
}
