//! A device that says and does whatever a string of bytes tells it to, and a user of the driver that
//! does the same. What must hold all the same is asserted: each command that was accepted ends once,
//! with its own buffer, and none ends without an answer before the device has been stopped.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::spec::command::Sqe;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::registers::{Aqa, Cap, Cc, Csts, offset};
use nvme_core::spec::{Cqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Completion, Data, Queue, QueueParams, QueueSetup, QueueStatus, RejectReason,
    Transport,
};
use nvme_pci::{
    Backend, BackendError, DmaMapping, DmaMemory, Location, Mmio, Open, Options, PAGE, PciTransport,
};
use parking_lot::Mutex;
use zerocopy::{FromBytes, IntoBytes};

/// The bytes that decide; zeroes when they are used up.
#[derive(Debug)]
pub struct Input {
    bytes: Vec<u8>,
    at: usize,
}

impl Input {
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0 }
    }

    fn is_over(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }
}

/// Page-aligned memory.
struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a case runs on one thread.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// What the device is and knows.
#[derive(Debug)]
struct State {
    input: Input,
    cap: u64,
    version: u32,
    cc: u32,
    csts: u32,
    aqa: u32,
    acq: u64,
    asq: u64,
    /// Registers that were read as something else, once.
    lie: Option<u64>,
    /// CC.EN = 0 has no effect.
    stuck: bool,
    /// What a reset, and taking bus mastering away, come to: 0 done, 1 gone, else not possible.
    reset: u8,
    master: u8,
    /// One of the ways to stop the device has worked.
    stopped: bool,
    /// Memory on the bus: its pages are at the same addresses as in the process.
    memory: BTreeMap<u64, usize>,
    /// Tails of the submission queues, by doorbell.
    doorbells: BTreeMap<usize, u32>,
    closed: bool,
}

/// The device.
#[derive(Clone, Debug)]
struct Liar {
    state: Arc<Mutex<State>>,
}

impl Liar {
    fn new(mut input: Input) -> Self {
        let kind = input.byte();
        let sane = Cap(0).with_mqes(15).with_cqr(1).with_to(1).with_css(Cap::CSS_NVM).0;
        let (cap, version) = match kind {
            0..8 => (input.word(), input.word() as u32),
            8..16 => (Cap(sane).with_mqes(input.word()).with_dstrd(input.word()).0, 0x10400),
            _ => (sane, 0x10400),
        };
        let (reset, master) = (input.byte() & 3, input.byte() & 3);
        let state = State {
            input,
            cap,
            version,
            cc: 0,
            csts: 0,
            aqa: 0,
            acq: 0,
            asq: 0,
            lie: None,
            stuck: false,
            reset,
            master,
            stopped: false,
            memory: BTreeMap::new(),
            doorbells: BTreeMap::new(),
            closed: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl State {
    /// The process's address of `len` bytes on the bus, if they are memory.
    fn find(&self, bus: u64, len: usize) -> Option<*mut u8> {
        let (start, size) = self.memory.range(..=bus).next_back()?;
        let end = bus.checked_add(len as u64)?;
        (end <= start + *size as u64).then_some(bus as usize as *mut u8)
    }

    fn write(&self, bus: u64, bytes: &[u8]) {
        if let Some(to) = self.find(bus, bytes.len()) {
            // SAFETY: inside of memory of the driver's, to which there are no references.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    fn read(&self, bus: u64, bytes: &mut [u8]) {
        if let Some(from) = self.find(bus, bytes.len()) {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        }
    }
}

impl Mmio for Liar {
    fn len(&self) -> usize {
        0x2000
    }

    fn read32(&self, at: usize) -> u32 {
        let mut state = self.state.lock();
        if state.closed {
            return u32::MAX;
        }
        if let Some(lie) = state.lie.take() {
            return lie as u32;
        }
        match at {
            0 => state.cap as u32,
            4 => (state.cap >> 32) as u32,
            offset::VS => state.version,
            offset::CC => state.cc,
            offset::CSTS => {
                let csts = Csts(state.csts);
                if Cc(state.cc).en() == 0 && !csts.is_ready() && !csts.is_absent() {
                    state.stopped = true;
                }
                state.csts
            }
            _ => state.input.byte().into(),
        }
    }

    fn write32(&self, at: usize, value: u32) {
        let mut state = self.state.lock();
        match at {
            offset::CC => {
                state.cc = value;
                let en = Cc(value).en() == 1;
                if en || !state.stuck {
                    state.csts = Csts(0).with_rdy(en.into()).0;
                }
                state.stopped &= !en;
            }
            offset::AQA => state.aqa = value,
            offset::ASQ => state.asq = state.asq & !0xffff_ffff | u64::from(value),
            0x2c => state.asq = state.asq & 0xffff_ffff | u64::from(value) << 32,
            offset::ACQ => state.acq = state.acq & !0xffff_ffff | u64::from(value),
            0x34 => state.acq = state.acq & 0xffff_ffff | u64::from(value) << 32,
            offset::DOORBELLS.. => {
                let _ = state.doorbells.insert(at, value);
            }
            _ => {}
        }
    }
}

impl Backend for Liar {
    fn address(&self) -> &str {
        "liar://device"
    }

    fn bar0(&self) -> &dyn Mmio {
        self
    }

    fn alloc_dma(&self, len: usize, _align: usize) -> Result<DmaMemory, BackendError> {
        let layout = Layout::from_size_align(len.next_multiple_of(PAGE), PAGE).unwrap();
        // SAFETY: not of size zero: the driver asks for no empty memory.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        let start = base.as_ptr() as u64;
        let _ = self.state.lock().memory.insert(start, layout.size());
        let bus = (0..layout.size() / PAGE).map(|i| start + (i * PAGE) as u64).collect();
        let owner = (Gone { liar: self.clone(), start }, Pages { base, layout });
        // SAFETY: the pages are the owner's, and nobody else's.
        Ok(unsafe { DmaMemory::new(base, bus, Box::new(owner)) })
    }

    unsafe fn map_dma(&self, _ptr: NonNull<u8>, _len: usize) -> Result<DmaMapping, BackendError> {
        Err(BackendError::Unsupported { address: self.address().into(), what: "mapping" })
    }

    fn interrupt(&self, _vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        Ok(None)
    }

    fn reset(&self) -> Result<(), BackendError> {
        let mut state = self.state.lock();
        let how = state.reset;
        outcome(&mut state, how)
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        let mut state = self.state.lock();
        let how = state.master;
        if on { Ok(()) } else { outcome(&mut state, how) }
    }

    fn removal_requested(&self) -> bool {
        false
    }

    fn close(&self) {
        self.state.lock().closed = true;
    }
}

fn outcome(state: &mut State, how: u8) -> Result<(), BackendError> {
    let address = "liar://device".into();
    state.stopped |= how < 2;
    match how {
        0 => Ok(()),
        1 => Err(BackendError::Gone { address }),
        _ => Err(BackendError::Unsupported { address, what: "that" }),
    }
}

/// Takes memory off the bus. It must have been stopped, or be no queue's any more.
struct Gone {
    liar: Liar,
    start: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.liar.state.lock().memory.remove(&self.start);
    }
}

#[derive(Debug)]
struct Opener(Liar);

impl Open for Opener {
    fn scheme(&self) -> &'static str {
        "liar"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        Ok(location.device.clone())
    }

    fn open(&self, _location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(self.0.clone()))
    }
}

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
}

struct Case {
    liar: Liar,
    association: Box<dyn Association>,
    sides: Vec<Side>,
    next_tag: u32,
    now: Instant,
    tally: Tally,
}

/// Runs one case.
///
/// # Panics
/// What must hold does not.
pub fn run(bytes: &[u8]) -> Tally {
    let liar = Liar::new(Input::new(bytes));
    let mut options = Options::default();
    options.disable_limit = Duration::ZERO;
    options.bounce_bytes = 64 << 10;
    options.max_transfer = 64 << 10;
    let transport = PciTransport::with_defaults(Opener(liar.clone()), options);
    let endpoint = transport.endpoint("liar://device").unwrap();
    let Ok(association) = endpoint.associate(Instant::ZERO) else { return Tally::default() };
    let mut case = Case {
        liar,
        association,
        sides: Vec::new(),
        next_tag: 0,
        now: Instant::ZERO,
        tally: Tally::default(),
    };
    case.open(0);
    case.association.registers().unwrap().write32(offset::CC as u32, Cc::enabled(0).0);
    case.open(1);
    while !case.liar.state.lock().input.is_over() {
        case.turn();
    }
    case.end()
}

impl Case {
    fn byte(&self) -> u8 {
        self.liar.state.lock().input.byte()
    }

    fn word(&self) -> u64 {
        self.liar.state.lock().input.word()
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
                    self.open(qid);
                }
            }
            28 if at < self.sides.len() && which > 200 => {
                // What was under way is dropped with the queue, or kept for the device.
                drop(self.sides.swap_remove(at));
            }
            29 if which > 240 => self.association.kill(),
            _ => self.answer(at, 0),
        }
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
        let mut aborted = false;
        for Completion { tag, cqe, data } in ended {
            let Some(buffer) = side.under_way.remove(&tag) else {
                panic!("tag {tag} of queue {} ended twice, or was never sent", side.qid);
            };
            assert_eq!(place(&data), buffer, "another buffer");
            if cqe == Cqe::new(0, Status::ABORTED_BY_HOST, 0) {
                aborted = true;
                self.tally.aborted += 1;
            } else {
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
    }

    /// The device answers: 0 as it should, else with something that is wrong.
    fn answer(&mut self, at: usize, how: u8) {
        let word = if how == 0 { 0 } else { self.word() };
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
