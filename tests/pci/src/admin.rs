//! An admin queue with one command at a time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nvme_core::spec::registers::{Cap, offset};
use nvme_core::spec::{Cqe, Sqe};
use nvme_pci::{Backend, DmaMemory};
use rustix::event::{PollFd, PollFlags, poll};
use zerocopy::{FromBytes, IntoBytes};

use crate::check::{Result, fail};

/// Entries in both rings.
const ENTRIES: u16 = 8;
/// The longest that anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// CC for 64-byte and 16-byte entries, pages of 4 KiB, the NVM command set, enabled (NVMe 2.1
/// §3.1.4.5).
const CC_ENABLED: u32 = 4 << 20 | 6 << 16 | 1;
const CSTS_READY: u32 = 1;

/// A controller that is enabled, and its admin queue.
#[derive(Debug)]
pub struct Admin {
    backend: Arc<dyn Backend>,
    cap: Cap,
    sq: DmaMemory,
    cq: DmaMemory,
    interrupt: Option<OwnedFd>,
    tail: u16,
    head: u16,
    phase: bool,
}

impl Admin {
    /// Disables the controller, sets up the admin queue, and enables it. With `interrupt`, ends of
    /// commands are waited for on that descriptor.
    ///
    /// # Errors
    /// What did not work.
    pub fn new(backend: &Arc<dyn Backend>, interrupt: Option<OwnedFd>) -> Result<Self> {
        let bar = backend.bar0();
        bar.write32(offset::CC, 0);
        wait("CSTS.RDY = 0", || bar.read32(offset::CSTS) & CSTS_READY == 0)?;
        let sq = backend.alloc_dma(4096, 4096)?;
        let cq = backend.alloc_dma(4096, 4096)?;
        let (Some(asq), Some(acq)) = (sq.bus(0), cq.bus(0)) else {
            return fail("the rings have no bus address");
        };
        bar.write32(offset::AQA, u32::from(ENTRIES - 1) << 16 | u32::from(ENTRIES - 1));
        bar.write64(offset::ASQ, asq);
        bar.write64(offset::ACQ, acq);
        bar.write32(offset::CC, CC_ENABLED);
        wait("CSTS.RDY = 1", || bar.read32(offset::CSTS) & CSTS_READY == 1)?;
        Ok(Self {
            backend: Arc::clone(backend),
            cap: Cap(bar.read64(offset::CAP)),
            sq,
            cq,
            interrupt,
            tail: 0,
            head: 0,
            phase: true,
        })
    }

    /// Runs one command, whose data pointer is set already, to its end.
    ///
    /// # Errors
    /// If it does not end, or ends with an error.
    pub fn run(&mut self, sqe: Sqe) -> Result<Cqe> {
        let bar = self.backend.bar0();
        let cid = 0x4000 | self.tail;
        let entry = sqe.with_cid(cid);
        if !self.sq.copy_in(usize::from(self.tail) * 64, entry.as_bytes()) {
            return fail("the entry is outside of the ring");
        }
        self.tail = (self.tail + 1) % ENTRIES;
        bar.write32(self.cap.sq_doorbell(0), self.tail.into());
        if let Some(interrupt) = &self.interrupt {
            wait_readable(interrupt)?;
        }
        let at = usize::from(self.head) * 16;
        let (cq, phase) = (&self.cq, self.phase);
        // The phase is bit 16 of the last doubleword (NVMe 2.1 §4.2.4).
        let ended = || cq.word(at + 8).is_some_and(|w| is_new(w.load(Ordering::Acquire), phase));
        if self.interrupt.is_some() && !ended() {
            return fail("an interrupt came before the completion");
        }
        wait("a completion", ended)?;
        let mut bytes = [0; 16];
        let _ = self.cq.copy_out(at, &mut bytes);
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        bar.write32(self.cap.cq_doorbell(0), self.head.into());
        let Ok(cqe) = Cqe::read_from_bytes(&bytes) else { return fail("not 16 bytes") };
        if cqe.cid.get() != cid || !cqe.status().is_success() {
            return fail(format!("command {cid:#x} ended as {cqe:?}"));
        }
        Ok(cqe)
    }

    /// Disables the controller.
    ///
    /// # Errors
    /// If it stays ready.
    pub fn disable(&self) -> Result<()> {
        let bar = self.backend.bar0();
        bar.write32(offset::CC, 0);
        wait("CSTS.RDY = 0", || bar.read32(offset::CSTS) & CSTS_READY == 0)
    }
}

/// Whether the upper half of a completion has the phase that is waited for.
const fn is_new(high: u64, phase: bool) -> bool {
    (high >> 48 & 1 == 1) == phase
}

/// Polls until something is so.
fn wait(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !ready() {
        if Instant::now() > end {
            return fail(format!("{what} did not come within {LIMIT:?}"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Waits for an eventfd and takes what is in it.
pub(crate) fn wait_readable(event: &OwnedFd) -> Result<()> {
    let limit = rustix::time::Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN)];
    if poll(&mut fds, Some(&limit))? == 0 {
        return fail(format!("no interrupt within {LIMIT:?}"));
    }
    rustix::io::read(event, &mut [0; 8])?;
    Ok(())
}
