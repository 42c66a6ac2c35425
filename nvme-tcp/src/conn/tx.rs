//! The sending side: PDUs whose headers and digests lie in one staging buffer and whose data stays
//! where it is, in the buffers of the requests.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use nvme_core::spec::tcp::{
    CapsuleCmd, CommonHeader, DIGEST_LEN, DataHeader, PduFlags, PduType, TERM_REQ_MAX_LEN,
};
use nvme_core::spec::{SglDescriptor, Sqe};
use nvme_core::transport::Data;
use zerocopy::IntoBytes;

use super::check::Agreed;
use super::digest::crc32c;
use super::slots::{NONE, Phase, Slot, Slots};

/// Bytes of a command capsule without data and digest.
const CAPSULE: usize = size_of::<CapsuleCmd>();

/// PDUs staged at once.
const MAX_PDUS: usize = 128;

/// Header, digest and padding (PDO is at most 128: 72 + 4 bytes, aligned to 128) and data digest.
const MAX_FRAME: usize = 128 + DIGEST_LEN;

/// Staging room for PDUs; a termination request always fits behind it.
const STAGE: usize = MAX_PDUS * MAX_FRAME;

/// One staged PDU: a frame in the staging buffer (header before the data, digest after it) and a
/// range of a request's data between the two parts of the frame. Or several PDUs of one length
/// without data, which lie one behind the other in the staging buffer.
#[derive(Clone, Copy, Debug)]
struct Pdu {
    at: u32,
    head: u32,
    /// Bytes of `head` that are one PDU's.
    unit: u16,
    tail: u16,
    slot: u16,
    offset: u32,
    len: u32,
}

impl Pdu {
    const fn total(&self) -> usize {
        self.head as usize + self.len as usize + self.tail as usize
    }
}

/// PDUs on their way out.
#[derive(Debug)]
pub(crate) struct Tx {
    stage: Box<[u8]>,
    stage_end: usize,
    pdus: VecDeque<Pdu>,
    /// Bytes of the first PDU that have been sent.
    front_sent: usize,
    /// Stream position: bytes sent since the connection began.
    sent: u64,
    /// Stream position after everything staged.
    staged: u64,
}

impl Tx {
    pub(crate) fn new() -> Self {
        Self {
            stage: vec![0; STAGE + TERM_REQ_MAX_LEN].into(),
            stage_end: 0,
            pdus: VecDeque::with_capacity(MAX_PDUS + 1),
            front_sent: 0,
            sent: 0,
            staged: 0,
        }
    }

    /// Bytes sent since the connection began.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pdus.is_empty()
    }

    fn has_room(&self) -> bool {
        self.pdus.len() < MAX_PDUS && self.stage_end + MAX_FRAME <= STAGE
    }

    /// Stages bytes that are no command: a set-up or termination request of at most 152 bytes.
    pub(crate) fn push_plain(&mut self, bytes: &[&[u8]]) {
        let at = self.stage_end;
        for part in bytes {
            let Some(room) = self.stage.get_mut(self.stage_end..self.stage_end + part.len()) else {
                debug_assert!(false, "staging room is reserved for a termination request");
                return;
            };
            room.copy_from_slice(part);
            self.stage_end += part.len();
        }
        self.append_plain(at, (self.stage_end - at) as u16);
    }

    /// Appends a PDU without data, of which `len` bytes have been put into the stage at `at`.
    fn append_plain(&mut self, at: usize, len: u16) {
        self.staged += u64::from(len);
        if let Some(last) = self.pdus.back_mut()
            && (last.len, last.unit) == (0, len)
            && (last.at + last.head) as usize == at
        {
            last.head += u32::from(len);
            return;
        }
        let (at, head) = (at as u32, u32::from(len));
        self.pdus.push_back(Pdu { at, head, unit: len, tail: 0, slot: NONE, offset: 0, len: 0 });
    }

    /// Drops what has been staged, except for the PDU that has been sent in part.
    pub(crate) fn drop_unsent(&mut self) {
        self.pdus.truncate(usize::from(self.front_sent > 0));
        self.staged = self.sent;
        if let Some(pdu) = self.pdus.front_mut() {
            if pdu.len == 0 {
                pdu.head = (self.front_sent as u32).next_multiple_of(u32::from(pdu.unit));
            }
            self.staged += (pdu.total() - self.front_sent) as u64;
            self.stage_end = (pdu.at + pdu.head) as usize + usize::from(pdu.tail);
        } else {
            self.stage_end = 0;
        }
    }

    /// Forgets everything: nothing refers to a request's buffer any more.
    pub(crate) fn clear(&mut self) {
        self.pdus.clear();
        self.front_sent = 0;
        self.stage_end = 0;
        self.staged = self.sent;
    }

    /// Moves commands and H2CData from the send list to the stage, as far as there is room.
    pub(crate) fn stage(&mut self, slots: &mut Slots, agreed: &Agreed) {
        while self.has_room() {
            let Some(index) = slots.next_send() else { break };
            match slots.get(index).phase {
                Phase::Submitted => {
                    let sqe = slots.get(index).sqe;
                    self.stage_capsule(slots.get_mut(index), index, sqe, agreed);
                }
                Phase::Active => self.stage_data(slots, index, agreed),
                Phase::Free | Phase::Draining => {}
            }
        }
    }

    /// Stages a command at once if nothing waits before it; otherwise that is left to
    /// [`Tx::stage`].
    #[inline]
    pub(crate) fn try_stage(
        &mut self,
        slots: &mut Slots,
        index: u16,
        sqe: Sqe,
        agreed: &Agreed,
    ) -> bool {
        if slots.has_sends() || !self.has_room() {
            return false;
        }
        self.stage_capsule(slots.get_mut(index), index, sqe, agreed);
        true
    }

    /// A command capsule, with its data where that goes inside (TCP 1.1 §3.6.2.6).
    #[inline]
    fn stage_capsule(&mut self, slot: &mut Slot, index: u16, sqe: Sqe, agreed: &Agreed) {
        let mut capsule = CapsuleCmd { header: CommonHeader::new(PduType::CAPSULE_CMD), sqe };
        capsule.sqe.cid = slot.cid.into();
        slot.phase = Phase::Active;
        slot.tx_begin = self.staged;
        if slot.in_capsule {
            // Nothing is left that an R2T could ask for.
            slot.written = slot.len;
            slot.requested = slot.len;
            let data = 0..slot.len;
            let frame = Frame::new(&mut capsule.header, data.clone(), PduFlags::empty(), agreed);
            self.push(index, capsule.as_bytes(), frame, &slot.data, data, agreed);
        } else {
            self.push_bare(capsule, agreed);
        }
        slot.tx_end = self.staged;
    }

    /// A command capsule without data.
    #[inline]
    fn push_bare(&mut self, mut capsule: CapsuleCmd, agreed: &Agreed) {
        let at = self.stage_end;
        let len = CAPSULE + agreed.header_digest_len();
        if agreed.header_digest {
            capsule.header.flags |= PduFlags::HDGSTF;
            capsule.header.plen = (len as u32).into();
        }
        let room = &mut self.stage[at..at + CAPSULE + DIGEST_LEN];
        let (room, digest) = room.split_at_mut(CAPSULE);
        room.copy_from_slice(capsule.as_bytes());
        if agreed.header_digest {
            digest.copy_from_slice(&crc32c(room).to_le_bytes());
        }
        self.stage_end = at + len;
        self.append_plain(at, len as u16);
    }

    /// The next H2CData PDU of a command's oldest R2T (TCP 1.1 §3.6.2.8).
    fn stage_data(&mut self, slots: &mut Slots, index: u16, agreed: &Agreed) {
        let Some(grant) = slots.grant_mut(index) else { return };
        let len = grant.left.min(agreed.max_h2c_data);
        let (offset, ttag) = (grant.offset, grant.ttag);
        grant.offset += len;
        grant.left -= len;
        let last = grant.left == 0;
        let more = !last || slots.pop_grant(index);
        let slot = slots.get_mut(index);
        let mut header = DataHeader::h2c(slot.cid, ttag, offset, len);
        let flags = if last { PduFlags::LAST_PDU } else { PduFlags::empty() };
        let data = offset..offset + len;
        let frame = Frame::new(&mut header.header, data.clone(), flags, agreed);
        self.push(index, header.as_bytes(), frame, &slot.data, data, agreed);
        slot.written += len;
        slot.tx_end = self.staged;
        if more {
            // Behind the others: a large transfer does not hold up small ones.
            slots.queue_send(index);
        }
    }

    fn push(
        &mut self,
        index: u16,
        header: &[u8],
        frame: Frame,
        data: &Data,
        range: Range<u32>,
        agreed: &Agreed,
    ) {
        let at = self.stage_end;
        let (head, tail) = (usize::from(frame.head), usize::from(frame.tail));
        let room = &mut self.stage[at..at + head + tail];
        let (room, digest_room) = room.split_at_mut(head);
        let (room, padding) = room.split_at_mut(header.len());
        room.copy_from_slice(header);
        if !padding.is_empty() {
            padding.fill(0);
        }
        if agreed.header_digest
            && let Some(digest) = padding.first_chunk_mut()
        {
            *digest = crc32c(header).to_le_bytes();
        }
        if agreed.data_digest
            && let Some(digest) = digest_room.first_chunk_mut()
        {
            *digest = crc32c(part(data, &range)).to_le_bytes();
        }
        let len = range.end - range.start;
        let pdu = Pdu {
            at: at as u32,
            head: u32::from(frame.head),
            unit: frame.head,
            tail: frame.tail,
            slot: index,
            offset: range.start,
            len,
        };
        self.stage_end = at + head + tail;
        self.staged += pdu.total() as u64;
        self.pdus.push_back(pdu);
    }

    /// Whether [`Tx::gather`] needs no more than 3 slices.
    pub(crate) fn is_short(&self) -> bool {
        self.pdus.len() <= 1
    }

    /// Puts what is to be sent into `out`, front first; the number of slices filled.
    pub(crate) fn gather<'a>(&'a self, slots: &'a Slots, out: &mut [IoSlice<'a>]) -> usize {
        let mut list = List { stage: &self.stage, out, used: 0, run: 0..0 };
        let mut skip = self.front_sent;
        for pdu in &self.pdus {
            let at = pdu.at as usize;
            let head = pdu.head as usize;
            if pdu.len == 0 {
                list.stage(at + skip.min(head)..at + head);
            } else {
                if !list.room_for_data() {
                    break;
                }
                let s = skip.min(head);
                list.stage(at + s..at + head);
                skip -= s;
                let s = skip.min(pdu.len as usize) as u32;
                let range = pdu.offset + s..pdu.offset + pdu.len;
                list.data(part(&slots.get(pdu.slot).data, &range));
                skip -= s as usize;
                let (tail, end) = (at + head, at + head + usize::from(pdu.tail));
                list.stage(tail + skip.min(usize::from(pdu.tail))..end);
            }
            skip = 0;
        }
        list.finish()
    }

    /// Takes note that `n` bytes of what [`Tx::gather`] showed have been sent.
    pub(crate) fn advance(&mut self, mut n: usize) {
        self.sent += n as u64;
        while n > 0 {
            let Some(pdu) = self.pdus.front() else {
                debug_assert!(false, "more was sent than was staged");
                break;
            };
            let left = pdu.total() - self.front_sent;
            if n < left {
                self.front_sent += n;
                break;
            }
            n -= left;
            self.front_sent = 0;
            self.pdus.pop_front();
        }
        if self.pdus.is_empty() {
            self.stage_end = 0;
        }
    }
}

/// Lengths of the two parts of a frame.
struct Frame {
    head: u16,
    tail: u16,
}

impl Frame {
    /// Computes the frame of a PDU with `data` and writes flags, PDO and PLEN into its header.
    fn new(header: &mut CommonHeader, data: Range<u32>, flags: PduFlags, agreed: &Agreed) -> Self {
        let mut flags = flags;
        let mut head = usize::from(header.hlen) + agreed.header_digest_len();
        let mut tail = 0;
        if agreed.header_digest {
            flags |= PduFlags::HDGSTF;
        }
        if !data.is_empty() {
            head = head.next_multiple_of(agreed.send_align);
            tail = agreed.data_digest_len();
            header.pdo = head as u8;
            if agreed.data_digest {
                flags |= PduFlags::DDGSTF;
            }
        }
        header.flags = flags;
        header.plen = ((head + tail) as u32 + (data.end - data.start)).into();
        Self { head: head as u16, tail: tail as u16 }
    }
}

/// Slices being collected; neighbouring ranges of the stage become one slice.
struct List<'a, 'o> {
    stage: &'a [u8],
    out: &'o mut [IoSlice<'a>],
    used: usize,
    run: Range<usize>,
}

impl<'a> List<'a, '_> {
    /// Room for the stage before the data, the data, and the stage behind it.
    fn room_for_data(&self) -> bool {
        self.used + 3 <= self.out.len()
    }

    fn stage(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if self.run.end == range.start && !self.run.is_empty() {
            self.run.end = range.end;
        } else {
            self.end_run();
            self.run = range;
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if !run.is_empty() {
            self.put(&self.stage[run]);
        }
    }

    fn data(&mut self, bytes: &'a [u8]) {
        if !bytes.is_empty() {
            self.end_run();
            self.put(bytes);
        }
    }

    fn put(&mut self, bytes: &'a [u8]) {
        if let Some(slot) = self.out.get_mut(self.used) {
            *slot = IoSlice::new(bytes);
            self.used += 1;
        }
    }

    fn finish(mut self) -> usize {
        self.end_run();
        self.used
    }
}

/// A range of a command's write data.
fn part<'a>(data: &'a Data, range: &Range<u32>) -> &'a [u8] {
    match data {
        Data::Write(buffer) => {
            buffer.as_slice().get(range.start as usize..range.end as usize).unwrap_or(&[])
        }
        Data::None | Data::Read(_) => &[],
    }
}

/// Writes the data pointer: in the capsule or by the transport (TCP 1.1 §3.4).
pub(crate) fn set_data_pointer(sqe: &mut Sqe, len: u32, in_capsule: bool) {
    sqe.set_sgl(if in_capsule {
        SglDescriptor::in_capsule(0, len)
    } else {
        SglDescriptor::transport(len)
    });
}
