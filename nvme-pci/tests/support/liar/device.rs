//! The device: registers and memory, as the bytes say.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nvme_core::memory::Memory;
use nvme_core::spec::registers::{Cap, Cc, CmbLoc, CmbSz, Csts, offset};
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
    /// What is asked of the driver about the controller memory buffer, and what CMBLOC and CMBSZ say.
    pub cmb: u8,
    pub cmb_registers: (u32, u32),
    /// The buffer, where the driver has it: on the bus, and in the process.
    pub cmb_memory: Option<(u64, usize, usize)>,
}

/// Bytes of BAR 2.
const CMB_BYTES: usize = 256 << 10;

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
        let cmb = input.byte() & 0x3f;
        let cap = if cmb < 48 { Cap(cap).with_cmbs(1).0 } else { cap };
        let cmb_registers = match cmb {
            0..4 => (input.word() as u32, input.word() as u32),
            // A size and an offset that may be too large by a little.
            _ => {
                let (at, units) = (u64::from(input.byte() & 1), u64::from(input.byte() % 6));
                let size = CmbSz(u32::from(input.byte() & 0x1f)).with_szu(1).with_sz(units as u32);
                (CmbLoc(0).with_bir(2).with_ofst(at as u32).0, size.0)
            }
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
            cmb,
            cmb_registers,
            cmb_memory: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl State {
    /// The process's address of `len` bytes on the bus, if they are memory.
    fn find(&self, bus: u64, len: usize) -> Option<*mut u8> {
        let end = bus.checked_add(len as u64)?;
        if let Some((base, size, at)) = self.cmb_memory.filter(|(base, ..)| bus >= *base) {
            let inside = end <= base + size as u64;
            return inside.then_some((at + (bus - base) as usize) as *mut u8);
        }
        let (start, size) = self.memory.range(..=bus).next_back()?;
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
            offset::CMBLOC => state.cmb_registers.0,
            offset::CMBSZ => state.cmb_registers.1,
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

    fn controller_memory(
        &self,
        bar: u8,
        offset: u64,
        size: u64,
        len: usize,
        bus: u64,
    ) -> Result<DmaMemory, BackendError> {
        let inside = offset.checked_add(size).is_some_and(|end| end <= CMB_BYTES as u64);
        if bar != 2 || !inside || len as u64 > size {
            let (address, reason) = (self.address().into(), "no such bytes".into());
            return Err(BackendError::Unusable { address, reason });
        }
        let layout = Layout::from_size_align(len, PAGE).unwrap();
        // SAFETY: not of size zero: there are bytes to be mapped.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        self.state.lock().cmb_memory = Some((bus, len, base.as_ptr() as usize));
        let pages = (0..len / PAGE).map(|i| bus + (i * PAGE) as u64).collect();
        let owner = (GoneBuffer(self.clone()), Pages { base, layout });
        // SAFETY: the pages are the owner's, and nobody else's.
        Ok(unsafe { DmaMemory::new(base, pages, Box::new(owner)) })
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

/// Takes the buffer away.
struct GoneBuffer(Liar);

impl Drop for GoneBuffer {
    fn drop(&mut self) {
        self.0.state.lock().cmb_memory = None;
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

    fn is_prompt(&self) -> bool {
        true
    }

    fn open(&self, _location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(self.0.clone()))
    }
}
