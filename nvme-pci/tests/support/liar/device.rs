//! The device: registers and memory, as the bytes say.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nvme_core::memory::Memory;
use nvme_core::spec::registers::{Cap, Cc, Csts, offset};
use nvme_pci::{Backend, BackendError, DmaMapping, DmaMemory, Location, Mmio, Open, PAGE};
use parking_lot::Mutex;

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

    pub fn is_over(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    pub fn word(&mut self) -> u64 {
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
pub struct State {
    pub input: Input,
    pub cap: u64,
    pub version: u32,
    pub cc: u32,
    pub csts: u32,
    pub aqa: u32,
    pub acq: u64,
    pub asq: u64,
    /// Registers that were read as something else, once.
    pub lie: Option<u64>,
    /// CC.EN = 0 has no effect.
    pub stuck: bool,
    /// What a reset, and taking bus mastering away, come to: 0 done, 1 gone, else not possible.
    pub reset: u8,
    pub master: u8,
    /// One of the ways to stop the device has worked.
    pub stopped: bool,
    /// Memory on the bus: its pages are at the same addresses as in the process.
    pub memory: BTreeMap<u64, usize>,
    /// Tails of the submission queues, by doorbell.
    pub doorbells: BTreeMap<usize, u32>,
    pub closed: bool,
}

/// The device.
#[derive(Clone, Debug)]
pub struct Liar {
    pub state: Arc<Mutex<State>>,
}

impl Liar {
    pub fn new(mut input: Input) -> Self {
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

    pub fn write(&self, bus: u64, bytes: &[u8]) {
        if let Some(to) = self.find(bus, bytes.len()) {
            // SAFETY: inside of memory of the driver's, to which there are no references.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    pub fn read(&self, bus: u64, bytes: &mut [u8]) {
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

    fn map_dma(&self, _: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
        Err(BackendError::Unsupported { address: self.address().into(), what: "mapping" })
    }

    fn interrupt(&self, _vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        Ok(None)
    }

    fn is_prompt(&self) -> bool {
        true
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

/// Opens it.
#[derive(Debug)]
pub struct Opener(pub Liar);

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
