//! Bytes from the host, taken apart into PDUs.

use std::io::{self, IoSliceMut, Read};

use nvme_core::spec::Sqe;
use nvme_core::spec::tcp::{
    CapsuleCmd, CommonHeader, DIGEST_LEN, DataHeader, FatalError, PduFlags, PduType,
};
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

use super::connection::Core;
use super::pdu::{self, Fatal, RunningDigest, Shape};
use super::slots::Waits;

/// First and largest size of a receive buffer, beyond what one PDU may need.
const BUFFER_MIN: usize = 16 << 10;
const BUFFER_MAX: usize = 256 << 10;
/// Data that is still to come in one piece is read straight to its place if it is at least this much.
const DIRECT_MIN: usize = 32 << 10;
/// Bytes taken into the buffer at once while such data comes, so that little of it is copied.
const BESIDE_DIRECT: usize = 4 << 10;
/// Answers pending at which a connection sends before it takes further commands.
const SEND_FIRST: usize = 1 << 20;

/// Why parsing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All complete PDUs are dealt with.
    NeedsBytes,
    /// Enough is waiting to be sent.
    SendFirst,
}

/// A fatal error, with the header of the PDU that caused it.
pub(crate) type Failure = (Fatal, Vec<u8>);

#[derive(Debug, Default)]
pub(crate) struct Receive {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that the PDU at the start needs, if more than are there.
    need: usize,
    payload: Option<Payload>,
    /// The last command's data was to be read straight to its place.
    large: bool,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Bytes; none is the end of the stream.
    pub bytes: usize,
    /// There was room for more.
    pub short: bool,
}

/// The data of an H2CData PDU whose header has been dealt with.
struct Payload {
    tag: u16,
    left: usize,
    digest: Option<RunningDigest>,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").field("tag", &self.tag).field("left", &self.left).finish()
    }
}

impl Receive {
    /// Reads from the socket: large data straight to where it belongs, and into the buffer what comes behind it or
    /// is not large.
    pub fn fill(&mut self, socket: &mut impl Read, core: &mut Core) -> io::Result<Filled> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        self.make_room();
        let have = self.end - self.start;
        let mut payload = self.payload.as_mut().filter(|p| have == 0 && p.left >= DIRECT_MIN);
        let slot = payload.as_ref().and_then(|p| core.slots.get(p.tag));
        let direct = match (&payload, slot) {
            (Some(payload), Some(slot)) => {
                let at = slot.received as usize;
                slot.data.get_mut(at..at + payload.left).unwrap_or_default()
            }
            _ => Default::default(),
        };
        let room = &mut self.buf[self.end..];
        let few = BESIDE_DIRECT.max(self.need.saturating_sub(have));
        let window = if self.large { few.min(room.len()) } else { room.len() };
        let room = &mut room[..window];
        let want = direct.len() + room.len();
        let bytes = if direct.is_empty() {
            socket.read(room)?
        } else {
            socket.read_vectored(&mut [IoSliceMut::new(direct), IoSliceMut::new(room)])?
        };
        let straight = bytes.min(direct.len());
        if let Some(payload) = &mut payload {
            payload.took(&direct[..straight]);
            if let Some(slot) = core.slots.get(payload.tag) {
                slot.received += straight as u32;
            }
        }
        self.end += bytes - straight;
        Ok(Filled { bytes, short: bytes < want })
    }

    fn make_room(&mut self) {
        let full = self.end == self.buf.len();
        if full && self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let busy = full && self.buf.len() < BUFFER_MAX;
        let need = self.need.max(BUFFER_MIN);
        if busy || self.buf.len() < need {
            self.buf.resize((self.buf.len() * 2).min(BUFFER_MAX).max(need), 0);
        }
        if self.end == self.buf.len() || self.buf.len() - self.start < self.need {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Deals with what is in the buffer.
    pub fn progress(&mut self, core: &mut Core) -> Result<Progress, Failure> {
        loop {
            if core.end.is_some() {
                return Ok(Progress::NeedsBytes);
            }
            if core.transmit.pending() >= SEND_FIRST {
                return Ok(Progress::SendFirst);
            }
            let more = if self.payload.is_some() {
                self.data(core)
            } else {
                self.pdu(core).map_err(|fatal| (fatal, self.header()))?
            };
            if !more {
                return Ok(Progress::NeedsBytes);
            }
        }
    }

    /// The header at the start of the buffer, as far as it is there.
    fn header(&self) -> Vec<u8> {
        let bytes = &self.buf[self.start..self.end];
        let hlen = bytes.get(2).map_or(0, |hlen| usize::from(*hlen));
        bytes[..hlen.clamp(8, 128).min(bytes.len())].to_vec()
    }

    /// Deals with the PDU at the start of the buffer; false if it is not complete.
    fn pdu(&mut self, core: &mut Core) -> Result<bool, Fatal> {
        let bytes = &self.buf[self.start..self.end];
        let Ok((common, _)) = CommonHeader::ref_from_prefix(bytes) else {
            self.need = size_of::<CommonHeader>();
            return Ok(false);
        };
        let shape = pdu::shape(common, core.agreed.as_ref())?;
        let flags = common.flags;
        if shape.pdu_type == PduType::CAPSULE_CMD && shape.data > core.capsule_limit() {
            return Err(Fatal::LIMIT);
        }
        // the data of H2CData may be large and is taken as it comes
        let whole = if shape.pdu_type == PduType::H2C_DATA { shape.pdo } else { shape.plen };
        let Some(pdu) = bytes.get(..whole) else {
            self.need = whole;
            return Ok(false);
        };
        self.need = 0;
        check_header_digest(pdu, &shape, core)?;
        match shape.pdu_type {
            PduType::CAPSULE_CMD => {
                self.large &= shape.data == 0;
                capsule(pdu, &shape, core)?;
            }
            PduType::H2C_DATA => {
                let payload = data_header(pdu, &shape, flags, core)?;
                self.large = payload.left >= DIRECT_MIN;
                self.payload = Some(payload);
            }
            PduType::IC_REQ => core.ic_req(pdu)?,
            // the host says that the connection is broken
            _ => core.end = Some(super::connection::End::Now),
        }
        self.start += whole;
        Ok(true)
    }

    /// Takes data of an H2CData PDU; false if there is none left.
    fn data(&mut self, core: &mut Core) -> bool {
        let Some(payload) = &mut self.payload else { return true };
        let bytes = &self.buf[self.start..self.end];
        let Some(slot) = core.slots.get(payload.tag) else {
            // cannot be: a slot that waits for data is only taken by its last data
            core.end = Some(super::connection::End::Now);
            return false;
        };
        if payload.left > 0 {
            let piece = &bytes[..payload.left.min(bytes.len())];
            let at = slot.received as usize;
            slot.data[at..at + piece.len()].copy_from_slice(piece);
            slot.received += piece.len() as u32;
            payload.took(piece);
            self.start += piece.len();
            if payload.left > 0 {
                return false;
            }
        }
        if let Some(digest) = &payload.digest {
            let Some(sent) = self.buf[self.start..self.end].get(..DIGEST_LEN) else { return false };
            slot.damaged |= sent != digest.value();
            self.start += DIGEST_LEN;
        }
        let tag = payload.tag;
        self.payload = None;
        core.data_received(tag);
        true
    }
}

impl Payload {
    fn took(&mut self, piece: &[u8]) {
        self.left -= piece.len();
        if let Some(digest) = &mut self.digest {
            digest.update(piece);
        }
    }
}

fn check_header_digest(pdu: &[u8], shape: &Shape, core: &Core) -> Result<(), Fatal> {
    let checked = matches!(shape.pdu_type, PduType::CAPSULE_CMD | PduType::H2C_DATA);
    if !checked || !core.agreed.is_some_and(|a| a.header_digest) {
        return Ok(());
    }
    let (header, rest) = pdu.split_at(shape.hlen);
    let sent = rest.first_chunk().copied().unwrap_or_default();
    if pdu::digest(header) == sent {
        return Ok(());
    }
    // the error names the digest that came (TCP 1.1 §3.6.2.5)
    Err(Fatal { fes: FatalError::HEADER_DIGEST, fei: u32::from_le_bytes(sent) })
}

/// A command capsule that is all there.
fn capsule(pdu: &[u8], shape: &Shape, core: &mut Core) -> Result<(), Fatal> {
    let at = offset_of!(CapsuleCmd, sqe);
    let mut sqe = Sqe::default();
    sqe.as_mut_bytes().copy_from_slice(&pdu[at..at + size_of::<Sqe>()]);
    let data = &pdu[shape.pdo..shape.pdo + shape.data];
    let sent = &pdu[shape.pdo + shape.data..];
    let damaged = !sent.is_empty() && sent != pdu::digest(data);
    core.capsule(&sqe, data, damaged)
}

/// The header of an H2CData PDU: it must be what an R2T asked for, and the next piece of it.
fn data_header(
    pdu: &[u8],
    shape: &Shape,
    flags: PduFlags,
    core: &mut Core,
) -> Result<Payload, Fatal> {
    let Some(agreed) = core.agreed else { return Err(Fatal::SEQUENCE) };
    let header = pdu::h2c_data(&pdu[..shape.hlen], shape, &agreed)?;
    let r2t_bytes = core.directory.transport.r2t_bytes;
    let tag = header.ttag.get();
    let waits = core.slots.get(tag).is_some_and(|slot| slot.waits == Waits::Data);
    let Some(slot) = core.slots.fetch_buffer(tag).filter(|_| waits) else {
        return Err(Fatal::field(offset_of!(DataHeader, ttag)));
    };
    if slot.sqe.cid != header.cccid {
        return Err(Fatal::field(offset_of!(DataHeader, cccid)));
    }
    let (offset, len) = (header.datao.get(), header.datal.get());
    if offset != slot.received || len > slot.requested - slot.received {
        return Err(Fatal::OUT_OF_RANGE);
    }
    // R2Ts are cut at multiples of their largest size; the last PDU of each says so, and no other
    let end = offset + len;
    let r2t_end = (offset / r2t_bytes).saturating_add(1).saturating_mul(r2t_bytes);
    let r2t_end = r2t_end.min(slot.len);
    if end > r2t_end {
        return Err(Fatal::OUT_OF_RANGE);
    }
    if flags.contains(PduFlags::LAST_PDU) != (end == r2t_end) {
        return Err(Fatal::field(offset_of!(CommonHeader, flags)));
    }
    let digest = agreed.data_digest.then(RunningDigest::new);
    Ok(Payload { tag, left: shape.data, digest })
}
