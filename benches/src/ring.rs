//! A controller in the process whose I/O queues answer within the write to the doorbell, and do
//! nothing else: what is measured on it is the host alone.
//!
//! Bring-up and admin commands are the software target's; the I/O queues that the host creates are
//! known from the admin ring, and their doorbells do not reach the target.
#![expect(unsafe_code, reason = "a device in the process reaches rings by address, as hardware")]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::spec::registers::{Aqa, offset};
use nvme_pci::mem::MemSlots;
use nvme_pci::{Backend, BackendError, DmaMapping, DmaMemory, Location, Mmio, Open};
use nvme_target::{PciConfig, PciDevice, Target};

/// Queues that are known, the admin queue included.
const QUEUES: usize = 8;
const CREATE_SQ: u8 = 0x01;
const CREATE_CQ: u8 = 0x05;

/// One submission queue entry, as a device reads it.
type Entry = [u64; 8];

/// A queue pair that answers every command with success.
///
/// Used by one thread at a time, that of the queue's owner; atomics take the place of a lock.
// A device's queues share no cache line, so that the threads that ring them do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Answering {
    sq: AtomicPtr<Entry>,
    cq: AtomicPtr<[AtomicU64; 2]>,
    entries: AtomicU16,
    qid: AtomicU16,
    head: AtomicU16,
    tail: AtomicU16,
    /// The phase tag of the pass, 0 or 1.
    phase: AtomicU16,
}

impl Answering {
    /// A pair of rings of `entries`.
    ///
    /// # Safety
    /// Both rings must be aligned to 8 and hold `entries` entries for as long as doorbells are rung.
    #[must_use]
    pub unsafe fn new(
        qid: u16,
        sq: NonNull<Entry>,
        cq: NonNull<[AtomicU64; 2]>,
        entries: u16,
    ) -> Self {
        let pair = Self::default();
        pair.open(qid, sq.as_ptr(), cq.as_ptr(), entries);
        pair
    }

    fn open(&self, qid: u16, sq: *mut Entry, cq: *mut [AtomicU64; 2], entries: u16) {
        self.sq.store(sq, Ordering::Relaxed);
        self.cq.store(cq, Ordering::Relaxed);
        self.entries.store(entries, Ordering::Relaxed);
        self.qid.store(qid, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
        self.tail.store(0, Ordering::Relaxed);
        self.phase.store(1, Ordering::Release);
    }

    /// The submission doorbell: reads each new entry's identifier, and writes its answer.
    #[inline]
    pub fn ring(&self, to: u16) {
        let (sq, cq) = (self.sq.load(Ordering::Relaxed), self.cq.load(Ordering::Relaxed));
        let entries = self.entries.load(Ordering::Relaxed);
        let qid = u64::from(self.qid.load(Ordering::Relaxed));
        let (mut head, mut tail) =
            (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Relaxed));
        let mut phase = u64::from(self.phase.load(Ordering::Relaxed));
        if sq.is_null() || to >= entries {
            return;
        }
        while head != to {
            // SAFETY: `head` is less than `entries`, of which there is memory; whoever made the rings
            // keeps it, and wrote the entry before it rang.
            let first = unsafe { sq.add(head.into()).cast::<u64>().read_volatile() };
            head = if head + 1 == entries { 0 } else { head + 1 };
            let cid = first >> 16 & 0xffff;
            // SAFETY: the same for the completion ring, which is accessed as atomics only.
            let answer = unsafe { &*cq.add(tail.into()) };
            answer[0].store(0, Ordering::Relaxed);
            let second = u64::from(head) | qid << 16 | cid << 32 | phase << 48;
            answer[1].store(second, Ordering::Release);
            tail += 1;
            if tail == entries {
                (tail, phase) = (0, phase ^ 1);
            }
        }
        self.head.store(head, Ordering::Relaxed);
        self.tail.store(tail, Ordering::Relaxed);
        self.phase.store(phase as u16, Ordering::Relaxed);
    }
}

/// Opens functions `ring://ANYTHING`: each is the one device, whose I/O queues answer at once.
#[derive(Debug)]
pub struct Rings {
    slots: MemSlots,
}

impl Rings {
    /// In front of subsystem `nqn` of `target`.
    ///
    /// # Panics
    /// When the target has no such subsystem.
    #[must_use]
    pub fn new(target: &Target, nqn: &str) -> Self {
        let config = PciConfig::new().inline().without_shadow_doorbells();
        let device = PciDevice::new(target, nqn, config).expect("a subsystem");
        let slots = MemSlots::new();
        slots.insert("inner", device);
        Self { slots }
    }
}

impl Open for Rings {
    fn scheme(&self) -> &'static str {
        "ring"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        Ok(location.device.clone())
    }

    fn memory_kind(&self) -> MemoryKind {
        self.slots.memory_kind()
    }

    fn is_prompt(&self) -> bool {
        true
    }

    fn open(&self, _: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        let reason = |reason| BackendError::Unusable { address: "ring://".into(), reason };
        let inner = Location::parse("mem", "mem://inner").map_err(reason)?;
        let inner = self.slots.open(&inner)?;
        Ok(Arc::new(RingBackend {
            inner,
            given: Mutex::default(),
            admin: AtomicU64::new(0),
            admin_entries: AtomicU32::new(0),
            admin_head: AtomicU32::new(0),
            pairs: Default::default(),
            completion_rings: Default::default(),
        }))
    }
}

#[derive(Debug)]
struct RingBackend {
    inner: Arc<dyn Backend>,
    /// Memory that was given out: its bus address, and where it is.
    given: Mutex<Vec<(u64, usize)>>,
    /// Bus address of the admin submission ring.
    admin: AtomicU64,
    admin_entries: AtomicU32,
    admin_head: AtomicU32,
    pairs: [Answering; QUEUES],
    completion_rings: [AtomicPtr<[AtomicU64; 2]>; QUEUES],
}

impl RingBackend {
    fn place(&self, bus: u64) -> Option<usize> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest first: bus addresses are not used again, but be sure.
        given.iter().rev().find(|(at, _)| *at == bus).map(|(_, ptr)| *ptr)
    }

    /// Looks at the admin commands up to `tail`, for the queues that they create.
    fn look(&self, tail: u32) {
        let entries = self.admin_entries.load(Ordering::Relaxed);
        let Some(ring) = self.place(self.admin.load(Ordering::Relaxed)) else { return };
        let mut head = self.admin_head.load(Ordering::Relaxed);
        while head != tail && head < entries {
            // SAFETY: the admin ring has `entries` entries, which the host has written.
            let entry = unsafe { (ring as *const Entry).add(head as usize).read_volatile() };
            head = (head + 1) % entries;
            let (opcode, bus, cdw10) = (entry[0] as u8, entry[3], entry[5] as u32);
            let (qid, entries) = (cdw10 as u16, (cdw10 >> 16) as u16 + 1);
            let (Some(at), Some(pair)) = (self.place(bus), self.pairs.get(usize::from(qid))) else {
                continue;
            };
            let cq = &self.completion_rings[usize::from(qid)];
            match opcode {
                CREATE_CQ => cq.store(at as *mut _, Ordering::Relaxed),
                CREATE_SQ => pair.open(qid, at as *mut _, cq.load(Ordering::Relaxed), entries),
                _ => {}
            }
        }
        self.admin_head.store(head, Ordering::Relaxed);
    }
}

impl Mmio for RingBackend {
    fn len(&self) -> usize {
        self.inner.bar0().len()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.inner.bar0().read32(offset)
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.bar0().read64(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        // Doorbells are 4 bytes apart: submission, completion, by queue.
        if let Some(at) = offset.checked_sub(offset::DOORBELLS + 8) {
            if at.is_multiple_of(8)
                && let Some(pair) = self.pairs.get(at / 8 + 1)
            {
                pair.ring(value as u16);
            }
            return;
        }
        match offset {
            offset::AQA => {
                self.admin_entries.store(Aqa(value).asqs() + 1, Ordering::Relaxed);
                self.admin_head.store(0, Ordering::Relaxed);
            }
            offset::DOORBELLS => self.look(value),
            _ => {}
        }
        self.inner.bar0().write32(offset, value);
    }

    fn write64(&self, offset: usize, value: u64) {
        if offset == offset::ASQ {
            self.admin.store(value, Ordering::Relaxed);
        }
        self.inner.bar0().write64(offset, value);
    }
}

impl Backend for RingBackend {
    fn address(&self) -> &str {
        self.inner.address()
    }

    fn is_prompt(&self) -> bool {
        true
    }

    fn bar0(&self) -> &dyn Mmio {
        self
    }

    fn alloc_dma(&self, len: usize, align: usize) -> Result<DmaMemory, BackendError> {
        let memory = self.inner.alloc_dma(len, align)?;
        if let Some(bus) = memory.bus(0) {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.push((bus, memory.as_ptr().as_ptr() as usize));
        }
        Ok(memory)
    }

    fn map_dma(&self, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
        self.inner.map_dma(memory)
    }

    fn interrupt(&self, vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        self.inner.interrupt(vector)
    }

    fn reset(&self) -> Result<(), BackendError> {
        self.inner.reset()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        self.inner.set_bus_master(on)
    }

    fn removal_requested(&self) -> bool {
        self.inner.removal_requested()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// The floor: `count` times, `depth` at a time, an entry of 64 bytes is written, the doorbell rung,
/// and an answer of 16 bytes read.
#[must_use]
pub fn floor(depth: u16, count: u64) -> u64 {
    let entries = 1024_u16;
    let mut sq = vec![[0_u64; 8]; usize::from(entries) + 1];
    let mut cq: Vec<[AtomicU64; 2]> = Vec::new();
    cq.resize_with(entries.into(), Default::default);
    let (sq, cq) = (NonNull::new(sq.as_mut_ptr()), NonNull::new(cq.as_mut_ptr()).zip(Some(cq)));
    let (Some(sq), Some((cq, answers))) = (sq, cq) else { return 0 };
    // SAFETY: both vectors live to the end of this function.
    let device = unsafe { Answering::new(1, sq, cq, entries) };
    let (mut tail, mut head, mut phase, mut sum) = (0_u16, 0_usize, 1_u64, 0_u64);
    for _ in 0..count / u64::from(depth) {
        for n in 0..depth {
            let entry = [u64::from(n) << 16, 1, 2, 3, 4, 5, 6, 7];
            // SAFETY: `tail` is less than `entries`.
            unsafe { sq.as_ptr().add(tail.into()).write_volatile(entry) };
            tail = (tail + 1) % entries;
        }
        device.ring(tail);
        for _ in 0..depth {
            let second = answers[head][1].load(Ordering::Acquire);
            assert_eq!(second >> 48 & 1, phase, "an answer to each entry");
            sum = sum.wrapping_add(answers[head][0].load(Ordering::Relaxed) + second);
            head += 1;
            if head == answers.len() {
                (head, phase) = (0, phase ^ 1);
            }
        }
    }
    sum
}
