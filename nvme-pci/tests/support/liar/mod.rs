//! A device that says and does whatever a string of bytes tells it to, and a user of the driver that
//! does the same. What must hold all the same is asserted: each command that was accepted ends once,
//! with its own buffer, and none ends without an answer before the device has been stopped.

mod device;

use std::collections::BTreeMap;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::quirk::Quirks;
use nvme_core::spec::command::Sqe;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::registers::{Aqa, Cap, Cc, Csts, offset};
use nvme_core::spec::{Cqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Completion, Data, Queue, QueueParams, QueueSetup, QueueStatus, RejectReason,
    Transport,
};
use nvme_pci::{CmbUse, Counters, Options, PciTransport};
use zerocopy::{FromBytes, IntoBytes};

use device::{Input, Liar, Opener};

/// A queue of the driver's, as its user and its device know it.
struct Side {
    qid: u16,
    queue: Box<dyn Queue>,
    sq: u64,
    cq: u64,
    entries: u64,
    /// The device's next answer.
    tail: u64,
    phase: bool,
    /// The next entry that the device looks at.
    next: u64,
    /// What is under way: where its buffer is, and how long it is.
    under_way: BTreeMap<u32, (usize, usize)>,
    failed: bool,
}

/// What a case came to, for those who want to know that the cases are worth something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Commands accepted.
    pub accepted: u64,
    /// Commands that the device answered.
    pub answered: u64,
    /// Commands that ended without an answer.
    pub aborted: u64,
    /// Queues that ended by themselves.
    pub failed: u64,
    /// Doorbells in memory that the device was told of.
    pub in_memory: u64,
}

struct Case {
    liar: Liar,
    association: Box<dyn Association>,
    sides: Vec<Side>,
    next_tag: u32,
    now: Instant,
    tally: Tally,
}

/// Runs one case. What it came to, and what the driver counted.
///
/// # Panics
/// What must hold does not.
pub fn run(bytes: &[u8]) -> (Tally, Counters) {
    let liar = Liar::new(Input::new(bytes));
    let mut options = Options::default();
    options.disable_limit = Duration::ZERO;
    options.bounce_bytes = 64 << 10;
    options.max_transfer = 64 << 10;
    options.cmb = match liar.state.lock().cmb % 3 {
        0 => CmbUse::Off,
        1 => CmbUse::Queues,
        _ => CmbUse::QueuesAndData,
    };
    let transport = PciTransport::with_defaults(Opener(liar.clone()), options);
    let endpoint = transport.endpoint("liar://device").unwrap();
    let Ok(association) = endpoint.associate(Instant::ZERO) else { return Default::default() };
    let mut case = Case {
        liar,
        association,
        sides: Vec::new(),
        next_tag: 0,
        now: Instant::ZERO,
        tally: Tally::default(),
    };
    case.spare();
    case.open(0);
    if case.sides.is_empty() {
        // There is no controller without an admin queue.
        return Default::default();
    }
    case.association.registers().unwrap().write32(offset::CC as u32, Cc::enabled(0).0);
    if case.byte() & 1 != 0 {
        case.identify();
    }
    case.open(1);
    while !case.liar.state.lock().input.is_over() {
        case.turn();
    }
    let counters = transport.counters();
    (case.end(), counters)
}

impl Case {
    fn byte(&self) -> u8 {
        self.liar.state.lock().input.byte()
    }

    fn word(&self) -> u64 {
        self.liar.state.lock().input.word()
    }

    /// As the controller layer does before it opens queues: in half of the cases nothing is to be
    /// spared. Not the quirk that takes 2.3 s.
    fn spare(&mut self) {
        let (some, bits) = (self.byte() & 1 != 0, self.word());
        let all = Quirks::from_bits_truncate(bits as u32) - Quirks::READY_DELAY;
        self.association.set_quirks(if some { all } else { Quirks::empty() });
    }

    fn open(&mut self, qid: u16) {
        let entries = 2 + u16::from(self.byte() & 0x1f);
        let params = QueueParams { qid, entries, open_timeout: Duration::from_secs(1) };
        let Ok(queue) = self.association.open_queue(params, self.now) else { return };
        let (sq, cq, entries) = match queue.setup() {
            QueueSetup::Create { cq, sq } => {
                (sq.prp().0, cq.prp().0, u64::from(cq.cdw10.get() >> 16) + 1)
            }
            _ => {
                let state = self.liar.state.lock();
                (state.asq, state.acq, u64::from(Aqa(state.aqa).acqs()) + 1)
            }
        };
        assert!(queue.capacity() as u64 == entries - 1);
        let under_way = BTreeMap::new();
        let (tail, phase, next, failed) = (0, true, 0, false);
        self.sides.push(Side { qid, queue, sq, cq, entries, tail, phase, next, under_way, failed });
    }

    fn turn(&mut self) {
        let (op, which) = (self.byte(), self.byte());
        let at = usize::from(which) % self.sides.len().max(1);
        match op % 32 {
            0..8 => self.submit(at),
            8..14 => self.poll(at),
            14..22 => self.answer(at, 0),
            22 => {
                let how = self.byte();
                self.answer(at, how);
            }
            23 if which > 128 => self.scribble(at),
            24 => {
                self.now = self.now + Duration::from_millis(u64::from(self.byte()));
                self.poll(at);
            }
            25 if which > 128 => self.lie(),
            26 => {
                if let Some(side) = self.sides.get_mut(at) {
                    side.queue.flush();
                }
            }
            27 if self.sides.len() < 4 => {
                let qid = u16::from(self.byte() & 3);
                if self.sides.iter().all(|s| s.qid != qid) {
                    self.spare();
                    self.open(qid);
                }
            }
            30 => self.spare(),
            28 if at < self.sides.len() && which > 200 => {
                // What was under way is dropped with the queue, or kept for the device.
                drop(self.sides.swap_remove(at));
            }
            29 if which > 240 => self.association.kill(),
            _ => self.answer(at, 0),
        }
    }

    /// What bring-up does first.
    fn identify(&mut self) {
        let mut sqe = Sqe::new(AdminOpcode::IDENTIFY.0, 0);
        sqe.cdw10 = 1.into();
        let (tag, data) = (self.next_tag, Data::Read(Buffer::zeroed(4096)));
        self.next_tag += 1;
        let side = &mut self.sides[0];
        let buffer = place(&data);
        if side.queue.submit(sqe, data, tag).is_ok() {
            let _ = side.under_way.insert(tag, buffer);
            self.tally.accepted += 1;
            side.queue.flush();
        }
        self.answer(0, 0);
        self.poll(0);
    }

    fn submit(&mut self, at: usize) {
        let (kind, size) = (self.byte(), self.byte());
        let Some(side) = self.sides.get_mut(at) else { return };
        let len = usize::from(size) * 97 + 1;
        let data = match kind % 3 {
            0 => Data::None,
            1 => Data::Read(Buffer::zeroed(len)),
            _ => Data::Write(Buffer::zeroed(len)),
        };
        let opcode = match kind >> 2 & 7 {
            0 => AdminOpcode::IDENTIFY.0,
            1 => AdminOpcode::DELETE_IO_CQ.0,
            2 => AdminOpcode::ASYNC_EVENT_REQUEST.0,
            _ => 2,
        };
        let mut sqe = Sqe::new(opcode, 1);
        sqe.cdw10 = 1.into();
        let (tag, buffer) = (self.next_tag, place(&data));
        self.next_tag += 1;
        match side.queue.submit(sqe, data, tag) {
            Ok(()) => {
                let _ = side.under_way.insert(tag, buffer);
                self.tally.accepted += 1;
                assert!(side.queue.in_flight() <= side.queue.capacity());
            }
            Err(rejected) => {
                assert_eq!(place(&rejected.data), buffer, "rejected with another buffer");
                let full = rejected.reason == RejectReason::Full;
                assert!(!full || side.queue.in_flight() > 0, "full with nothing in flight");
            }
        }
    }

    fn poll(&mut self, at: usize) {
        let Some(side) = self.sides.get_mut(at) else { return };
        let mut ended: Vec<Completion> = Vec::new();
        let status = side.queue.poll(self.now, &mut ended);
        let (mut aborted, mut answered) = (false, false);
        for Completion { tag, cqe, data } in ended {
            let Some(buffer) = side.under_way.remove(&tag) else {
                panic!("tag {tag} of queue {} ended twice, or was never sent", side.qid);
            };
            assert_eq!(place(&data), buffer, "another buffer");
            if cqe == Cqe::new(0, Status::ABORTED_BY_HOST, 0) {
                aborted = true;
                self.tally.aborted += 1;
            } else {
                answered = true;
                self.tally.answered += 1;
            }
        }
        let stopped = self.liar.state.lock().stopped;
        match status {
            QueueStatus::Failed(error) => {
                assert!(stopped, "the device was not stopped: {error}");
                assert!(side.under_way.is_empty() && side.queue.in_flight() == 0, "{error}");
                self.tally.failed += u64::from(!side.failed);
                side.failed = true;
            }
            _ => {
                assert!(!side.failed, "alive again");
                assert!(!aborted, "given back on a queue that lives");
                assert_eq!(side.under_way.len(), side.queue.in_flight());
            }
        }
        if answered && side.qid == 0 {
            // It may have been identified.
            self.spare();
        }
    }

    /// The device answers: 0 as it should, else with something that is wrong.
    fn answer(&mut self, at: usize, how: u8) {
        let word = if how == 0 { 0 } else { self.word() };
        let which = self.byte() & 3;
        let Some(side) = self.sides.get_mut(at) else { return };
        let state = self.liar.state.lock();
        let stride = Cap(state.cap).doorbell_stride();
        let doorbell = offset::DOORBELLS + 2 * usize::from(side.qid) * stride;
        let tail = state.doorbells.get(&doorbell).copied().unwrap_or(0);
        if side.next == u64::from(tail) && how == 0 {
            return;
        }
        let mut entry = [0; 64];
        state.read(side.sq + side.next * 64, &mut entry);
        let sqe = Sqe::read_from_bytes(&entry).unwrap();
        if side.next != u64::from(tail) {
            side.next = (side.next + 1) % side.entries;
        }
        if side.qid == 0 && sqe.opcode == AdminOpcode::IDENTIFY.0 {
            // SGLs and doorbells in memory, or not.
            let (oacs, sgls) = (u16::from(which) << 8, u32::from(which) >> 1);
            state.write(sqe.prp().0 + 256, &oacs.to_le_bytes());
            state.write(sqe.prp().0 + 536, &sgls.to_le_bytes());
        }
        if side.qid == 0 && sqe.opcode == AdminOpcode::DOORBELL_BUFFER_CONFIG.0 {
            self.tally.in_memory += 1;
        }
        let mut cqe = Cqe::new(sqe.cid.get(), Status::SUCCESS, word);
        cqe.sqid = side.qid.into();
        cqe.sqhd = (side.next as u16).into();
        let (mut slot, mut phase) = (side.tail, side.phase);
        match how % 12 {
            1 => cqe.cid = (sqe.cid.get() ^ word as u16).into(),
            2 => cqe.sqid = (word as u16).into(),
            3 => cqe.sqhd = (word as u16).into(),
            4 => phase = !phase,
            5 => slot = word % side.entries,
            6 => cqe.set_status(Status::from_raw(word as u16), false),
            7 => {
                // All of it is arbitrary.
                let noise = [word, word.rotate_left(23) ^ 0x5a5a];
                state.write(side.cq + side.tail * 16, noise.as_bytes());
                return;
            }
            8 => cqe.cid = (word as u16).into(),
            _ => {}
        }
        cqe.set_status(cqe.status(), phase);
        state.write(side.cq + slot * 16, cqe.as_bytes());
        if slot == side.tail && phase == side.phase {
            side.tail += 1;
            if side.tail == side.entries {
                (side.tail, side.phase) = (0, !side.phase);
            }
        }
    }

    /// The device writes over memory that is the driver's, rings and lists included.
    fn scribble(&mut self, at: usize) {
        let word = self.word();
        let state = self.liar.state.lock();
        let Some((start, size)) = state.memory.iter().nth(at + (word as usize & 7)) else { return };
        let offset = ((word >> 8) % *size as u64) & !7;
        state.write(start + offset, &word.rotate_left(31).to_le_bytes());
    }

    fn lie(&mut self) {
        let (kind, word) = (self.byte(), self.word());
        let mut state = self.liar.state.lock();
        match kind % 8 {
            0 => state.csts = u32::MAX,
            1 => state.csts |= Csts(0).with_cfs(1).0,
            2 => state.version = 0,
            3 => state.cap = word,
            4 => state.stuck = true,
            5 => state.lie = Some(word),
            6 => (state.reset, state.master) = (word as u8 & 3, (word >> 8) as u8 & 3),
            _ => state.csts = word as u32,
        }
    }

    /// Everything ends, once the device can be stopped.
    fn end(mut self) -> Tally {
        {
            let mut state = self.liar.state.lock();
            (state.reset, state.master) = (0, 0);
        }
        self.association.kill();
        for at in 0..self.sides.len() {
            self.poll(at);
            let side = &mut self.sides[at];
            assert!(side.failed, "queue {} lives on", side.qid);
            let data = Data::None;
            let refused = side.queue.submit(Sqe::new(2, 1), data, 0).unwrap_err();
            assert_eq!(refused.reason, RejectReason::NotReady);
        }
        let tally = self.tally;
        drop(self.sides);
        drop(self.association);
        assert!(self.liar.state.lock().memory.is_empty(), "memory is still on the bus");
        tally
    }
}

/// Where the data is.
fn place(data: &Data) -> (usize, usize) {
    match data {
        Data::None => (0, 0),
        Data::Read(b) | Data::Write(b) => (b.as_slice().as_ptr() as usize, b.len()),
    }
}
