//! Data of small reads received in place, before the header in front of it has been looked at.
//!
//! Once bytes have come, every header is compared with the one that was expected where it lies. What is as expected is
//! complete without a copy. From the first thing on that is not, and where a header is there in part, everything
//! is copied in the order of the stream to where it would have been received otherwise, and goes the general
//! way, which knows what to say about it. A buffer belongs to the queue until its command is completed, so
//! that bytes of another answer which lay in it meanwhile harm nobody: a read that succeeds has been
//! written to as a whole by then, and after one that fails the contents are undefined.

use std::io::IoSliceMut;

use nvme_core::spec::tcp::{CapsuleResp, DataHeader};
use nvme_core::spec::{Cqe, Status};
use nvme_core::transport::{Data, Sink};
use zerocopy::FromBytes;

use super::ahead::{Ends, LIST, Piece};
use super::quick::{HEADER, LAST, SUCCESS};
use super::rx::{Expect, Payload};
use super::{Connection, complete};

impl Connection {
    /// Shows where the next bytes belong if reads are answered in order: the rest of the data that is being
    /// received, then headers and buffers in turn, then the staging buffer, behind as much of it as it
    /// would take to copy the list. How many of `out` that are; none if there is no list.
    pub(super) fn list<'a>(&'a mut self, out: &mut [IoSliceMut<'a>]) -> usize {
        self.ahead.give_back(0, &mut self.slots);
        if !self.has_list() || out.len() < LIST {
            return 0;
        }
        let receiving = match self.rx.expect {
            Expect::Header => None,
            Expect::Payload(payload) => Some(payload),
            Expect::DataDigest(_) => return 0,
        };
        let Some((begun, len)) = self.rx.begun() else { return 0 };
        if receiving.is_some() && len > 0 {
            return 0;
        }
        self.ahead.collect(&mut self.slots, self.tx.sent(), receiving);
        if !self.ahead.is_listed() {
            return 0;
        }
        let mut used = 0;
        let mut put = |bytes: &'a mut [u8]| {
            if let Some(slice) = out.get_mut(used)
                && !bytes.is_empty()
            {
                *slice = IoSliceMut::new(bytes);
                used += 1;
            }
        };
        if let Some(payload) = receiving {
            put(payload.rest(&mut self.slots));
        }
        let full = self.ahead.is_full();
        let bytes = self.ahead.list(begun.get(..len).unwrap_or_default(), &mut put);
        // With more reads to come the next list begins where this one ends.
        if !full {
            put(self.rx.stage_from(bytes));
        }
        used
    }

    /// Takes `n` bytes that have come to where [`Connection::list`] said.
    pub(super) fn placed(&mut self, n: usize, sink: &mut dyn Sink) {
        let mut n = n;
        if let Expect::Payload(mut payload) = self.rx.expect {
            let direct = n.min(payload.left as usize);
            n -= direct;
            payload.at += direct as u32;
            payload.left -= direct as u32;
            self.rx.expect = Expect::Payload(payload);
            if payload.left > 0 {
                self.ahead.give_back(0, &mut self.slots);
                return;
            }
            self.end_of_data(payload, sink);
        }
        n += self.rx.take_begun();
        let by_response = self.ahead.ends == Ends::ByResponse;
        let flags = if by_response { LAST } else { LAST | SUCCESS };
        let data_word = self.usual.data | flags;
        // Bytes of the list that are done with, where the lead at `index` begins, and reads that are completed.
        let (mut done, mut lead_at, mut index, mut completed) = (0, 0, 0, 0);
        let mut right = true;
        while index <= self.ahead.used {
            lead_at = done;
            let response = self.ahead.response_before(index);
            let (before, from) = self.ahead.pieces.split_at_mut(index);
            let Some(piece) = from.first_mut() else { break };
            if response > 0 {
                if n - done < HEADER {
                    break;
                }
                let cqe = response_in(&piece.lead, self.usual.response);
                let slot = before.last().map(|piece| piece.slot).or(self.ahead.owed);
                let (Some(cqe), Some(slot)) = (cqe, slot) else {
                    right = false;
                    break;
                };
                if cqe.cid.get() != self.slots.get(slot).cid {
                    right = false;
                    break;
                }
                done += HEADER;
                if let Some(last) = before.last_mut() {
                    let (tag, _) = self.slots.release(slot);
                    sink.complete_from(tag, &cqe, &mut last.data);
                    last.data = Data::None;
                    completed = index;
                } else {
                    complete(&mut self.slots, slot, cqe, sink);
                }
            }
            if index == self.ahead.used || n - done < HEADER {
                break;
            }
            right = is_data_of(piece, data_word);
            if !right {
                break;
            }
            done += HEADER;
            let slot = self.slots.get_mut(piece.slot);
            slot.received = piece.len;
            slot.last_seen = true;
            let got = (n - done).min(piece.len as usize);
            done += got;
            if got < piece.len as usize {
                let (at, left) = (got as u32, piece.len - got as u32);
                let success = !by_response;
                self.rx.begin(Payload { slot: piece.slot, at, left, success }, false);
                break;
            }
            index += 1;
            if !by_response {
                let (tag, _) = self.slots.release(piece.slot);
                let cqe = Cqe::new(piece.cid, Status::SUCCESS, 0);
                sink.complete_from(tag, &cqe, &mut piece.data);
                piece.data = Data::None;
                completed = index;
            }
        }
        if done < n {
            // To where it would be if all had come there.
            let (ahead, rx) = (&self.ahead, &mut self.rx);
            let mut at = lead_at;
            ahead.each_from(index, |bytes| {
                let bytes = bytes.get(..n.saturating_sub(at).min(bytes.len())).unwrap_or_default();
                rx.put(at, bytes);
                at += bytes.len();
            });
            rx.look_at(done, n);
        }
        self.ahead.completed(completed, right);
        self.ahead.give_back(completed, &mut self.slots);
    }
}

/// The response at the beginning of a lead, if it says success and is as they mostly are.
fn response_in(lead: &[u8; 2 * HEADER], word: u32) -> Option<Cqe> {
    let response = CapsuleResp::ref_from_bytes(lead.first_chunk::<HEADER>()?).ok()?;
    let usual = u32::from_le_bytes(*lead.first_chunk()?) == word
        && response.header.plen.get() as usize == HEADER
        && response.cqe.status().is_success();
    usual.then_some(response.cqe)
}

/// Whether the header before the data of this piece is that of all its data.
fn is_data_of(piece: &Piece, word: u32) -> bool {
    let Some(bytes) = piece.lead.last_chunk::<HEADER>() else { return false };
    let Ok(header) = DataHeader::ref_from_bytes(bytes) else { return false };
    bytes.first_chunk().is_some_and(|first| u32::from_le_bytes(*first) == word)
        && header.header.plen.get() == HEADER as u32 + piece.len
        && header.cccid.get() == piece.cid
        && header.datao.get() == 0
        && header.datal.get() == piece.len
}
