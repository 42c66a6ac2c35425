//! One controller's function, shared by its association and its queues: how it is stopped, and what
//! outlives a queue.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nvme_core::quirk::Quirks;
use nvme_core::spec::identify::IdentifyController;
use nvme_core::spec::registers::{Cap, Cc, Csts, offset};
use nvme_core::transport::TransportError;
use parking_lot::Mutex;
use zerocopy::FromBytes;

use crate::backend::{Backend, BackendError};
use crate::cmb::Cmb;
use crate::counters::Ledger;
use crate::dma::{DmaMapping, PAGE};
use crate::hmb::HostBuffer;
use crate::options::{CmbUse, Notice, Options};
use crate::pair::Pair;
use crate::region::{RegionMap, Regions};
use crate::shadow::Shadow;

/// OACS: Doorbell Buffer Config is supported (NVMe 2.1 §5.1.13.2.1).
const DOORBELL_BUFFERS: u16 = 1 << 8;
/// How long CSTS is left alone after CC.EN has been cleared, where that is needed.
const READY_DELAY: Duration = Duration::from_millis(2300);
/// How long a controller that could not be stopped is left alone before the next try.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A descriptor that becomes readable with an interrupt, and the vector that raises it.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    pub vector: u16,
    pub fd: Arc<OwnedFd>,
}

/// What Identify Controller said, as far as the driver itself needs it.
#[derive(Debug, Default)]
struct Facts {
    /// SGLS; 0 before it is known.
    sgls: AtomicU32,
    /// Largest transfer in bytes; 0: not known, or no limit.
    max_transfer: AtomicU64,
    /// OACS: doorbells in memory are supported.
    doorbell_buffers: AtomicBool,
    /// What the controller must be spared.
    quirks: AtomicU32,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Device {
    backend: Arc<dyn Backend>,
    cap: Cap,
    /// A reset of the subsystem shows in CSTS.NSSRO.
    tells_subsystem_reset: bool,
    options: Options,
    ledger: Arc<Ledger>,
    facts: Facts,
    /// Nothing may be given to the controller any more; each queue ends with its next poll.
    dead: AtomicBool,
    /// Why. The first reason stays.
    reason: OnceLock<TransportError>,
    /// The controller has been ready: it has answered.
    was_ready: AtomicBool,
    /// The controller reaches no memory any more.
    stopped: AtomicBool,
    /// A controller that did not become disabled in time is not waited for again.
    waited: AtomicBool,
    /// Somebody sees to it that the controller is stopped.
    ending: AtomicBool,
    /// Held while the controller is being stopped.
    stopping: Mutex<()>,
    interrupts: Mutex<BTreeMap<u16, Option<Interrupt>>>,
    regions: Mutex<Regions>,
    /// Moves when `regions` does, and when the device dies: all that a submission must know of.
    changes: AtomicU64,
    /// Doorbells in memory, once the controller is known to be able to look there.
    shadow: OnceLock<Arc<Shadow>>,
    /// The controller has yet to be told of them, by the admin queue.
    shadow_untold: AtomicBool,
    /// The controller memory buffer, if it is to be used and there is one.
    cmb: OnceLock<Option<Cmb>>,
    /// The host memory buffer.
    buffer: Mutex<Option<HostBuffer>>,
    /// Queues whose owner has dropped them while the controller may still use their memory.
    yard: Mutex<Vec<(u16, Pair)>>,
    /// Memory that is not registered any more while the same holds.
    unmapped: Mutex<Vec<DmaMapping>>,
}

impl Device {
    /// A function that has been opened and whose registers can be read.
    ///
    /// # Errors
    /// `Lost` if there is no controller behind the registers.
    pub fn new(
        backend: Arc<dyn Backend>,
        options: Options,
        ledger: Arc<Ledger>,
    ) -> Result<Self, TransportError> {
        let address = || backend.address().to_owned();
        let bar = backend.bar0();
        if bar.len() < offset::DOORBELLS + 8 {
            return Err(TransportError::Protocol {
                address: address(),
                reason: format!(
                    "BAR 0 has {} bytes, not even the doorbells of the admin queue fit",
                    bar.len()
                ),
            });
        }
        let (cap, version) = (bar.read64(offset::CAP), bar.read32(offset::VS));
        if is_absent(cap, version) {
            return Err(TransportError::Lost {
                address: address(),
                reason: format!("no controller answers (CAP {cap:#018x}, VS {version:#010x})"),
            });
        }
        // One that was before, and that nobody has taken notice of, must not be taken for a new one.
        let reset = || Csts(bar.read32(offset::CSTS)).nssro() == 1;
        let can = Cap(cap).nssrs() == 1;
        if can && reset() {
            bar.write32(offset::CSTS, Csts(0).with_nssro(1).0);
        }
        let tells_subsystem_reset = can && !reset();
        Ok(Self {
            backend,
            cap: Cap(cap),
            tells_subsystem_reset,
            options,
            ledger,
            facts: Facts::default(),
            dead: AtomicBool::new(false),
            reason: OnceLock::new(),
            was_ready: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            waited: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            stopping: Mutex::new(()),
            interrupts: Mutex::default(),
            regions: Mutex::default(),
            changes: AtomicU64::new(0),
            shadow: OnceLock::new(),
            shadow_untold: AtomicBool::new(false),
            cmb: OnceLock::new(),
            buffer: Mutex::default(),
            yard: Mutex::default(),
            unmapped: Mutex::default(),
        })
    }

    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub fn address(&self) -> String {
        self.backend.address().to_owned()
    }

    pub fn cap(&self) -> Cap {
        self.cap
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes note of Identify Controller's answer.
    pub fn identified(&self, page: &[u8]) {
        let Ok((id, _)) = IdentifyController::ref_from_prefix(page) else { return };
        self.was_ready.store(true, Ordering::Relaxed);
        self.facts.sgls.store(id.sgls.get(), Ordering::Relaxed);
        let limit = match id.mdts {
            0 => 0,
            mdts => 4096u64.checked_shl(mdts.into()).unwrap_or(0),
        };
        self.facts.max_transfer.store(limit, Ordering::Relaxed);
        let able = id.oacs.get() & DOORBELL_BUFFERS != 0;
        self.facts.doorbell_buffers.store(able, Ordering::Relaxed);
    }

    /// What the controller must be spared. Once it has been identified this is all of it, and
    /// doorbells in memory are made if the controller can look there.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.facts.quirks.store(quirks.bits(), Ordering::Relaxed);
        let able = self.facts.doorbell_buffers.load(Ordering::Relaxed)
            && self.options.shadow_doorbells
            && !quirks.contains(Quirks::NO_SHADOW_DOORBELLS);
        if !able || self.shadow.get().is_some() {
            return;
        }
        // Without memory for them, registers do as well.
        let memory = self.backend.alloc_dma(2 * PAGE, PAGE).ok();
        if let Some(memory) = memory.filter(|m| m.len() >= 2 * PAGE)
            && self.shadow.set(Arc::new(Shadow::new(memory))).is_ok()
        {
            self.shadow_untold.store(true, Ordering::Release);
        }
    }

    fn must_be_spared(&self, quirk: Quirks) -> bool {
        Quirks::from_bits_retain(self.facts.quirks.load(Ordering::Relaxed)).contains(quirk)
    }

    /// The doorbells in memory, if the controller has yet to be told of them: once.
    pub fn untold_shadow(&self) -> Option<&Shadow> {
        let untold = self.shadow_untold.load(Ordering::Relaxed)
            && self.shadow_untold.swap(false, Ordering::AcqRel);
        self.shadow.get().filter(|_| untold).map(|shadow| &**shadow)
    }

    /// The doorbells in memory, if there are any and queue `qid` has its own there.
    pub fn shadow(&self, qid: u16) -> Option<Arc<Shadow>> {
        self.shadow.get().filter(|s| s.covers(self.cap, qid)).cloned()
    }

    /// Sets the controller memory buffer up, if it is to be used. The controller must be disabled.
    pub fn open_cmb(&self) -> Result<(), TransportError> {
        let wanted = match self.must_be_spared(Quirks::NO_CONTROLLER_MEMORY) {
            true => CmbUse::Off,
            false => self.options.cmb,
        };
        let cmb = match Cmb::open(self.backend(), self.cap, wanted) {
            Ok(cmb) => cmb,
            Err(BackendError::Unsupported { .. }) => None,
            Err(error) => {
                return Err(TransportError::Protocol {
                    address: self.address(),
                    reason: format!("controller memory buffer: {error}"),
                });
            }
        };
        let _ = self.cmb.set(cmb);
        Ok(())
    }

    /// The controller memory buffer.
    pub fn cmb(&self) -> Option<&Cmb> {
        self.cmb.get()?.as_ref()
    }

    /// Whether I/O commands may use scatter gather lists that begin at a multiple of 4
    /// (NVMe 2.1 §5.1.13.2.1, SGLS).
    pub fn takes_sgl(&self) -> bool {
        self.facts.sgls.load(Ordering::Relaxed) & 0x3 != 0 && !self.must_be_spared(Quirks::NO_SGL)
    }

    /// The largest transfer of one command in bytes.
    pub fn max_transfer(&self) -> usize {
        match self.facts.max_transfer.load(Ordering::Relaxed) {
            0 => self.options.max_transfer,
            limit => self.options.max_transfer.min(usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }

    /// The interrupt of queue `qid`, `None` if it is to be polled. Where there are fewer interrupts
    /// than queues, several share the admin queue's.
    pub fn interrupt(&self, qid: u16) -> Result<Option<Interrupt>, TransportError> {
        if self.options.notice == Notice::Poll {
            return Ok(None);
        }
        let mut known = self.interrupts.lock();
        let own = if self.must_be_spared(Quirks::ONE_INTERRUPT) { 0 } else { qid };
        for vector in [own, 0] {
            if let Entry::Vacant(unknown) = known.entry(vector) {
                let fd = self.backend.interrupt(vector).map_err(|e| self.connect_error(&e))?;
                unknown.insert(fd.map(|fd| Interrupt { vector, fd: Arc::new(fd) }));
            }
            if let Some(Some(interrupt)) = known.get(&vector) {
                return Ok(Some(interrupt.clone()));
            }
        }
        match self.options.notice {
            Notice::Interrupt => Err(TransportError::Connect {
                address: self.address(),
                reason: "irq=1, but the device has no interrupts here".into(),
            }),
            _ => Ok(None),
        }
    }

    pub fn connect_error(&self, error: &BackendError) -> TransportError {
        TransportError::Connect { address: self.address(), reason: error.to_string() }
    }

    /// Changes the regions.
    pub fn change_regions<R>(&self, change: impl FnOnce(&mut Regions) -> R) -> R {
        let mut regions = self.regions.lock();
        let changed = change(&mut regions);
        self.changes.fetch_add(1, Ordering::Release);
        changed
    }

    /// The number of changes, of the map of regions and of whether the device is dead.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The map of regions.
    pub fn regions(&self) -> Arc<RegionMap> {
        Arc::clone(self.regions.lock().map())
    }

    /// Nothing may be given to the controller any more.
    fn die(&self) {
        // In this order, so that whoever sees the change sees the reason for it.
        if !self.dead.swap(true, Ordering::AcqRel) {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    #[inline]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Why the device is dead.
    pub fn reason(&self) -> TransportError {
        let closed = || TransportError::Closed { address: self.address() };
        self.reason.get().cloned().unwrap_or_else(closed)
    }

    /// Whether the controller reaches no memory any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The controller, or the way to it, failed: stopping it is begun.
    pub fn fail(self: &Arc<Self>, reason: TransportError) {
        let _ = self.reason.set(reason);
        self.begin_stop();
    }

    /// Begins to stop the controller and returns at once: one that is disabled as soon as it is told
    /// to be is stopped here; for any other a thread waits, resets the function, and tries again and
    /// again if that does not help. The thread keeps the device, so that it does not matter who else
    /// drops it. [`is_stopped`](Self::is_stopped) tells the end.
    pub fn begin_stop(self: &Arc<Self>) {
        self.die();
        if self.is_stopped() {
            return;
        }
        if self.backend.is_prompt() && !self.must_be_spared(Quirks::READY_DELAY) {
            self.stop();
            return;
        }
        if self.ending.swap(true, Ordering::AcqRel) {
            return;
        }
        if !self.must_be_spared(Quirks::READY_DELAY)
            && !self.backend.is_busy()
            && let Some(_one_at_a_time) = self.stopping.try_lock()
            && self.disable(Duration::ZERO)
        {
            return self.finish_stop(true);
        }
        let device = Arc::clone(self);
        let thread = std::thread::Builder::new().name("nvme-pci-stop".into());
        let spawned = thread.spawn(move || {
            // If nobody else has the device, what follows is what dropping it does.
            while !device.stop() && Arc::strong_count(&device) > 1 {
                device.backend.await_change(RETRY_PAUSE);
            }
        });
        if spawned.is_err() {
            // Better late than never.
            self.stop();
            self.ending.store(false, Ordering::Release);
        }
    }

    /// Does something to the controller, unless it is being stopped, or has been. Stopping it waits for
    /// that.
    pub fn unless_stopping(
        &self,
        act: impl FnOnce() -> Result<(), TransportError>,
    ) -> Result<(), TransportError> {
        let _one_at_a_time = self.stopping.lock();
        if self.is_dead() { Err(self.reason()) } else { act() }
    }

    /// The first sign of trouble in the registers, if there is one.
    pub fn trouble(&self) -> Option<TransportError> {
        if self.backend.removal_requested() {
            return Some(self.gone("it is asked for, or has been taken away"));
        }
        if self.backend.is_busy() {
            // The next look will do; others must not wait for this one.
            return None;
        }
        let bar = self.backend.bar0();
        let csts = Csts(bar.read32(offset::CSTS));
        if csts.is_absent() {
            return Some(self.gone("CSTS reads as all ones"));
        }
        if csts.is_fatal() {
            let reason = format!("controller fatal status (CSTS {:#010x})", csts.0);
            return Some(TransportError::Lost { address: self.address(), reason });
        }
        if self.tells_subsystem_reset && csts.nssro() == 1 {
            let reason = "the subsystem was reset (CSTS.NSSRO)".into();
            return Some(TransportError::Lost { address: self.address(), reason });
        }
        // QEMU, and a device whose memory decoding is off, read as zero.
        if bar.read32(offset::VS) == 0 {
            return Some(self.gone("VS reads as zero"));
        }
        if !csts.is_ready() && self.was_ready.load(Ordering::Relaxed) && csts.shst() == 0 {
            let reason = format!(
                "it is not ready any more (CSTS {:#010x}): somebody has reset it, or it is another one",
                csts.0
            );
            return Some(TransportError::Lost { address: self.address(), reason });
        }
        None
    }

    /// The function has been taken away: for good, unless it may come back by itself.
    fn gone(&self, reason: &str) -> TransportError {
        let address = self.address();
        let reason = self.backend.why_lost().unwrap_or_else(|| reason.to_owned());
        if self.backend.may_return() {
            TransportError::Lost { address, reason }
        } else {
            TransportError::Gone { address, reason }
        }
    }

    /// Makes sure that the controller reaches no memory any more: disables it, and if it does not
    /// become disabled in time, resets the function, and if that cannot be done, takes away its right
    /// to reach memory. Whether one of these worked. Blocks, for at most the limit of disabling and
    /// a reset.
    fn stop(&self) -> bool {
        self.die();
        let _one_at_a_time = self.stopping.lock();
        if self.is_stopped() {
            return true;
        }
        let told = Duration::from_millis(self.cap.timeout_ms().max(500).into());
        let limit = match self.waited.swap(true, Ordering::Relaxed) {
            true => Duration::ZERO,
            false => told.min(self.options.disable_limit),
        };
        let reset = self.disable(limit) || self.backend.reset().is_ok();
        let stopped = reset || self.cut_off();
        if stopped {
            self.finish_stop(reset);
        }
        stopped
    }

    /// `reset`: the controller was, and forgets nothing else.
    fn finish_stop(&self, reset: bool) {
        self.stopped.store(true, Ordering::Release);
        self.backend.close();
        let freed = std::mem::take(&mut *self.yard.lock());
        drop(freed);
        let freed = std::mem::take(&mut *self.unmapped.lock());
        drop(freed);
        if let Some(buffer) = self.buffer.lock().take() {
            buffer.put_back(reset);
        }
    }

    /// Keeps the host memory buffer until the controller has been stopped.
    pub fn keep_buffer(&self, buffer: HostBuffer) {
        *self.buffer.lock() = Some(buffer);
    }

    /// CC.EN = 0, and CSTS.RDY = 0 within `limit` (NVMe 2.1 §3.5.4).
    fn disable(&self, limit: Duration) -> bool {
        let bar = self.backend.bar0();
        if is_absent(bar.read64(offset::CAP), bar.read32(offset::VS)) {
            return false;
        }
        let cc = Cc(bar.read32(offset::CC));
        bar.write32(offset::CC, cc.with_en(0).with_shn(Cc::SHN_NONE).0);
        if self.must_be_spared(Quirks::READY_DELAY) && cc.en() == 1 {
            std::thread::sleep(READY_DELAY);
        }
        let until = Instant::now() + limit;
        loop {
            let csts = Csts(bar.read32(offset::CSTS));
            if csts.is_absent() || is_absent(1, bar.read32(offset::VS)) {
                return false;
            }
            if !csts.is_ready() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The function is gone, or is not let at memory any more.
    fn cut_off(&self) -> bool {
        matches!(self.backend.set_bus_master(false), Ok(()) | Err(BackendError::Gone { .. }))
    }

    /// Keeps the memory of a queue that its owner has dropped, for as long as the controller may use
    /// it.
    pub fn bury(&self, qid: u16, pair: Pair) {
        let mut yard = self.yard.lock();
        if !self.is_stopped() {
            yard.push((qid, pair));
        }
    }

    /// Ends the mapping of memory that is not registered any more. A device that is being stopped is
    /// past being told: it keeps the memory, which nobody else gets, until it has stopped.
    pub fn unmap(&self, mapping: DmaMapping) {
        let mut unmapped = self.unmapped.lock();
        if self.is_dead() && !self.is_stopped() {
            unmapped.push(mapping);
            return;
        }
        // Unmapped when no lock is held.
        drop(unmapped);
        drop(mapping);
    }

    /// The controller has deleted queue `qid` and uses its memory no more (NVMe 2.1 §5.2.3).
    pub fn deleted(&self, qid: u16) {
        let freed = self.yard.lock().extract_if(.., |(q, _)| *q == qid).collect::<Vec<_>>();
        drop(freed);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.stop() {
            // The controller cannot be stopped. What it may write to must stay what it is.
            std::mem::forget(std::mem::take(&mut *self.yard.lock()));
            std::mem::forget((self.shadow.take(), self.cmb.take(), self.buffer.lock().take()));
            std::mem::forget(std::mem::take(&mut *self.regions.lock()));
            std::mem::forget(std::mem::take(&mut *self.unmapped.lock()));
        }
    }
}

/// Whether these are no registers of a controller: all ones is what a removed function reads as,
/// zero what an emulated one does; neither is possible for a controller that is there
/// (NVMe 2.1 §3.1.4.1, §3.1.4.2: MQES and the version are not zero).
pub(crate) const fn is_absent(cap: u64, version: u32) -> bool {
    cap == u64::MAX || cap == 0 || version == u32::MAX || version == 0
}
