//! The receiving side: headers are gathered in a staging buffer, payload goes to the request's own
//! buffer, directly where it is large and by one copy where it came along with other PDUs.
//!
//! Between two polls hardly anything is left in the staging buffer, so a thread has one for all its
//! connections: an idle one needs none, and a busy thread finds the same one in its cache.

use std::cell::Cell;

use nvme_core::spec::tcp::TERM_REQ_MAX_LEN;
use nvme_core::transport::Data;

use super::digest::Running;
use super::quick::HEADER;
use super::slots::Slots;

/// Most bytes that one read takes into the staging buffer.
pub(crate) const STAGE: usize = 64 * 1024;

/// What a list may have beyond that, so that 16 answers of 4 KiB fit.
pub(crate) const SPILL: usize = 1024;

/// Payload of this size is worth a read of its own: a system call costs about as much as copying it.
pub(crate) const DIRECT: u32 = 16 * 1024;

/// Bytes taken into the staging buffer while payload is large, so that little of it is copied.
const STAGE_BESIDE_DIRECT: usize = 4 * 1024;

/// Room for the beginning of a PDU that has not come as a whole, while others have the staging buffer: no header is
/// longer than a termination request (TCP 1.1 §3.6.2.5). A connection of which more is there, because the
/// controller leaves much room between header and data, keeps the buffer.
const REST: usize = TERM_REQ_MAX_LEN;

thread_local! {
    /// The staging buffer of this thread, while no connection receives.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A PDU header, with its digest and the padding before the data.
    Header,
    /// Data of a C2HData PDU.
    Payload(Payload),
    /// The digest behind the data.
    DataDigest(Payload),
}

/// A C2HData PDU whose header was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// The command.
    pub(crate) slot: u16,
    /// Where the next byte belongs in the command's data.
    pub(crate) at: u32,
    /// Bytes still to come.
    pub(crate) left: u32,
    /// This PDU ends the command; no response follows.
    pub(crate) success: bool,
}

impl Payload {
    /// Where the bytes belong that are still to come.
    pub(crate) fn rest(self, slots: &mut Slots) -> &mut [u8] {
        range_mut(&mut slots.get_mut(self.slot).data, self.at, self.left)
    }
}

/// Staging buffer and position in the stream.
#[derive(Debug)]
pub(crate) struct Rx {
    pub(crate) expect: Expect,
    /// Empty while nothing is being received.
    stage: Box<[u8]>,
    /// Where the bytes in the staging buffer are kept meanwhile.
    rest: [u8; REST],
    /// What did not fit into the staging buffer, and how much.
    spill: [u8; SPILL],
    spilled: usize,
    /// Bytes in the staging buffer.
    have: usize,
    /// Bytes of those that are done with.
    pos: usize,
    /// Length of the data in the last C2HData PDU: what to expect of the next.
    last_len: u32,
    digest: Running,
    digesting: bool,
}

impl Rx {
    pub(crate) fn new() -> Self {
        Self {
            expect: Expect::Header,
            stage: Box::default(),
            rest: [0; REST],
            spill: [0; SPILL],
            spilled: 0,
            have: 0,
            pos: 0,
            last_len: 0,
            digest: Running::new(),
            digesting: false,
        }
    }

    /// Where the next bytes of the stream go, first the one, then the other.
    pub(crate) fn targets<'a>(&'a mut self, slots: &'a mut Slots) -> (&'a mut [u8], &'a mut [u8]) {
        let direct = match self.expect {
            Expect::Payload(p) => p.rest(slots),
            Expect::Header | Expect::DataDigest(_) => &mut [],
        };
        if self.stage.is_empty() {
            self.fetch();
        }
        let room = self.stage.get_mut(self.have..).unwrap_or_default();
        let window = if self.last_len >= DIRECT { STAGE_BESIDE_DIRECT } else { STAGE };
        let window = window.min(room.len());
        (direct, &mut room[..window])
    }

    /// What has come of a header, and how much that is, if nothing else is in the staging buffer and payload is small.
    pub(crate) fn begun(&mut self) -> Option<([u8; HEADER], usize)> {
        if self.pos > 0 || self.have >= HEADER || self.last_len >= DIRECT {
            return None;
        }
        if self.stage.is_empty() {
            self.fetch();
        }
        let mut begun = [0; HEADER];
        begun.get_mut(..self.have)?.copy_from_slice(self.stage.get(..self.have)?);
        Some((begun, self.have))
    }

    /// Forgets what [`Rx::begun`] has shown; how much that was.
    pub(crate) fn take_begun(&mut self) -> usize {
        std::mem::take(&mut self.have)
    }

    /// The staging buffer from `at` on.
    pub(crate) fn stage_from(&mut self, at: usize) -> &mut [u8] {
        self.stage.get_mut(at..).unwrap_or_default()
    }

    /// Puts bytes into the staging buffer at `at`, and behind it.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        let (inside, beyond) = bytes.split_at(STAGE.saturating_sub(at).min(bytes.len()));
        if let Some(to) = self.stage.get_mut(at..at + inside.len()) {
            to.copy_from_slice(inside);
        }
        let at = (at + inside.len()).saturating_sub(STAGE);
        if let Some(to) = self.spill.get_mut(at..at + beyond.len()) {
            to.copy_from_slice(beyond);
        }
    }

    /// The bytes from `pos` to `end` of the staging buffer, and what lies behind it, are to be looked at.
    pub(crate) fn look_at(&mut self, pos: usize, end: usize) {
        self.have = end.min(self.stage.len());
        self.pos = pos.min(self.have);
        self.spilled = end - self.have;
    }

    /// Moves what did not fit into the staging buffer to where room has become; whether there is any.
    pub(crate) fn unspill(&mut self) -> bool {
        let n = std::mem::take(&mut self.spilled);
        // Of what was there before only the beginning of a PDU is left, which has no data.
        debug_assert!(self.have + n <= STAGE, "no room for what did not fit");
        let from = self.spill.get(..n).unwrap_or_default();
        if let Some(to) = self.stage.get_mut(self.have..self.have + n) {
            to.copy_from_slice(from);
            self.have += n;
        }
        n > 0
    }

    /// Takes the thread's staging buffer, and puts back into it what was left.
    fn fetch(&mut self) {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        self.stage = spare.unwrap_or_else(|| vec![0; STAGE].into());
        if let Some(to) = self.stage.get_mut(..self.have)
            && let Some(rest) = self.rest.get(..self.have)
        {
            to.copy_from_slice(rest);
        }
    }

    /// Leaves the staging buffer to the thread's next connection, until the next [`Rx::targets`].
    pub(crate) fn put_aside(&mut self) {
        // Whoever stops in the middle keeps the buffer.
        if self.pos > 0 || self.stage.is_empty() || self.have > REST {
            return;
        }
        if let Some(rest) = self.rest.get_mut(..self.have)
            && let Some(from) = self.stage.get(..self.have)
        {
            rest.copy_from_slice(from);
        }
        let stage = std::mem::take(&mut self.stage);
        // While the thread ends there is nobody to leave it to.
        let _ = SPARE.try_with(|spare| spare.set(Some(stage)));
    }

    /// Takes note that `n` bytes have been put where [`Rx::targets`] said.
    pub(crate) fn filled(&mut self, n: usize, slots: &Slots) {
        let mut n = n;
        if let Expect::Payload(p) = &mut self.expect {
            let direct = n.min(p.left as usize);
            if self.digesting {
                self.digest.update(range(&slots.get(p.slot).data, p.at, direct as u32));
            }
            p.at += direct as u32;
            p.left -= direct as u32;
            n -= direct;
        }
        self.have = (self.have + n).min(self.stage.len());
    }

    /// The bytes that have not been looked at.
    pub(crate) fn pending(&self) -> &[u8] {
        self.stage.get(self.pos..self.have).unwrap_or_default()
    }

    /// Marks `n` bytes as done.
    pub(crate) fn consume(&mut self, n: usize) {
        self.pos = (self.pos + n).min(self.have);
    }

    /// Marks a PDU of `n` bytes as done whose data has been taken, `len` bytes.
    pub(crate) fn took(&mut self, n: usize, len: u32) {
        self.last_len = len;
        self.consume(n);
    }

    /// Moves the incomplete rest to the front.
    pub(crate) fn compact(&mut self) {
        if self.pos > 0 {
            self.stage.copy_within(self.pos..self.have, 0);
            self.have -= self.pos;
            self.pos = 0;
        }
    }

    /// Begins the data of a PDU.
    pub(crate) fn begin(&mut self, payload: Payload, digest: bool) {
        self.last_len = payload.left;
        self.digesting = digest;
        if digest {
            self.digest.restart();
        }
        self.expect = Expect::Payload(payload);
    }

    /// Copies payload that lies in the staging buffer to where it belongs; the payload's state after.
    pub(crate) fn copy(&mut self, mut payload: Payload, slots: &mut Slots) -> Payload {
        let pending = self.stage.get(self.pos..self.have).unwrap_or_default();
        let n = pending.len().min(payload.left as usize);
        if let Some(bytes) = pending.get(..n)
            && n > 0
        {
            let to = range_mut(&mut slots.get_mut(payload.slot).data, payload.at, n as u32);
            if to.len() == n {
                to.copy_from_slice(bytes);
            }
            if self.digesting {
                self.digest.update(bytes);
            }
            self.pos += n;
            payload.at += n as u32;
            payload.left -= n as u32;
        }
        self.expect = Expect::Payload(payload);
        payload
    }

    /// Takes the data digest from the stream, once it is there: whether it is right.
    pub(crate) fn take_digest(&mut self) -> Option<bool> {
        let received = u32::from_le_bytes(*self.pending().first_chunk()?);
        self.consume(size_of::<u32>());
        Some(received == self.digest.value())
    }
}

fn range(data: &Data, at: u32, len: u32) -> &[u8] {
    match data {
        Data::Read(buffer) => {
            buffer.as_slice().get(at as usize..(at + len) as usize).unwrap_or_default()
        }
        Data::None | Data::Write(_) => &[],
    }
}

fn range_mut(data: &mut Data, at: u32, len: u32) -> &mut [u8] {
    match data {
        Data::Read(buffer) => {
            buffer.as_mut_slice().get_mut(at as usize..(at + len) as usize).unwrap_or_default()
        }
        Data::None | Data::Write(_) => &mut [],
    }
}
