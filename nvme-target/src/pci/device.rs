//! The handle of a device: its slot in the machine, and its registers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_core::spec::Sqe;
use nvme_core::spec::registers::offset;
use parking_lot::Mutex;

use super::config::{PciConfig, PciFault};
use super::engine::Engine;
use super::memory::{Doorbells, HostMemory, Interrupts};
use super::peer::Inbox;
use crate::error::TargetError;
use crate::target::Target;

/// The longest that a worker sleeps without being woken.
const WORKER_TICK: Duration = Duration::from_millis(100);

/// What a device counts since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PciStats {
    /// Writes to submission queue doorbells.
    pub sq_doorbells: u64,
    /// Writes to completion queue doorbells.
    pub cq_doorbells: u64,
    /// Writes to doorbells that there are not, or with values that cannot be.
    pub bad_doorbells: u64,
    /// Commands fetched.
    pub commands: u64,
    /// Commands whose data pointer was a scatter gather list.
    pub sgl_commands: u64,
    /// Accesses to bus addresses where there is no memory.
    pub dma_errors: u64,
    /// Writes to the host memory buffer.
    pub host_memory_writes: u64,
    /// Times that the host gave a host memory buffer.
    pub host_memory_given: u64,
    /// Of these, times that it returned the one before, with all that had been written to it.
    pub host_memory_returned: u64,
    /// Times that it took it away by command.
    pub host_memory_taken: u64,
    /// Times that the controller was asked to shut down while it still had the buffer.
    pub host_memory_at_shutdown: u64,
    /// Times that the controller was enabled.
    pub enables: u64,
    /// Resets of the function.
    pub resets: u64,
    /// Messages over vfio-user that were left without an answer, as a fault demands.
    pub unanswered: u64,
}

/// A PCI function with a controller of a target's subsystem behind it. Cheap to clone: clones are
/// the same device.
///
/// All methods may be called from any thread. A register write has had its effect on the device when
/// it returns; after the controller has been disabled, or the function reset, no host memory is
/// accessed any more.
#[derive(Clone)]
pub struct PciDevice {
    shared: Arc<Shared>,
}

struct Shared {
    bar_bytes: usize,
    vectors: u16,
    ids: [u16; 4],
    cmb_bytes: usize,
    inline: bool,
    inbox: Arc<Inbox>,
    engine: Mutex<Engine>,
}

impl PciDevice {
    /// A device in front of the subsystem `nqn` of `target`, plugged in, and connected to no machine.
    /// Its controller identifier stays the same for as long as it lives.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`]; [`TargetError::Gone`] if the subsystem has no controller
    /// identifier left.
    pub fn new(target: &Target, nqn: &str, config: PciConfig) -> Result<Self, TargetError> {
        let subsystem = target.subsystem(nqn)?;
        let inbox = Arc::new(Inbox::default());
        let (bar_bytes, vectors, inline) = (config.bar_bytes, config.vectors, config.inline);
        let ids = config.ids;
        let cmb_bytes = config.cmb.map_or(0, |cmb| cmb.bytes);
        let directory = Arc::clone(target.directory());
        let engine = Engine::new(directory, subsystem, config, Arc::clone(&inbox))
            .ok_or(TargetError::Gone)?;
        let engine = Mutex::new(engine);
        Ok(Self {
            shared: Arc::new(Shared { bar_bytes, vectors, ids, cmb_bytes, inline, inbox, engine }),
        })
    }

    /// Connects the device to a machine's memory and interrupts, in place of those before.
    pub fn attach(&self, memory: Arc<dyn HostMemory>, interrupts: Arc<dyn Interrupts>) {
        self.shared.engine.lock().attach(memory, interrupts);
    }

    /// Gives the device doorbells to look at, besides those that are written by calls; `None`: no
    /// such doorbells any more.
    pub fn attach_doorbells(&self, doorbells: Option<Arc<dyn Doorbells>>) {
        self.shared.engine.lock().attach_doorbells(doorbells);
    }

    /// Gives the device the bytes of its controller memory buffer, from address 0 on, which the host
    /// reaches as BAR 2. Without them accesses to the buffer fail.
    pub fn attach_controller_memory(&self, memory: Arc<dyn HostMemory>) {
        self.shared.engine.lock().attach_controller_memory(memory);
    }

    /// Bytes of BAR 2, the controller memory buffer; 0 if there is none.
    #[must_use]
    pub fn controller_memory_len(&self) -> usize {
        self.shared.cmb_bytes
    }

    /// Length of BAR 0 in bytes.
    #[must_use]
    pub fn bar_len(&self) -> usize {
        self.shared.bar_bytes
    }

    /// Interrupts that the device has.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.shared.vectors
    }

    /// Vendor, device, subsystem vendor and subsystem identifiers in configuration space.
    #[must_use]
    pub fn ids(&self) -> [u16; 4] {
        self.shared.ids
    }

    /// The admin commands that were fetched since this was last asked, 1,024 at most.
    #[must_use]
    pub fn take_admin_commands(&self) -> Vec<Sqe> {
        self.shared.engine.lock().take_admin_commands()
    }

    /// The controller identifier.
    #[must_use]
    pub fn cntlid(&self) -> u16 {
        self.shared.engine.lock().cntlid()
    }

    /// Reads 4 bytes at `offset` of BAR 0; all ones where there is nothing, or no device.
    #[must_use]
    pub fn read32(&self, offset: usize) -> u32 {
        let value = self.read64(offset & !7);
        if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 }
    }

    /// Reads 8 bytes at `offset`, a multiple of 8, of BAR 0.
    #[must_use]
    pub fn read64(&self, offset: usize) -> u64 {
        if offset.checked_add(8).is_none_or(|end| end > self.shared.bar_bytes) {
            return u64::MAX;
        }
        let mut engine = self.shared.engine.lock();
        if self.shared.inline {
            engine.step(Instant::now());
        }
        engine.register(offset)
    }

    /// Writes 4 bytes at `offset` of BAR 0.
    pub fn write32(&self, offset: usize, value: u32) {
        if offset.checked_add(4).is_none_or(|end| end > self.shared.bar_bytes) {
            return;
        }
        let mut engine = self.shared.engine.lock();
        if offset < offset::DOORBELLS {
            engine.set_register(offset, value, Instant::now());
        } else {
            engine.doorbell(offset - offset::DOORBELLS, value);
        }
        if self.shared.inline {
            engine.step(Instant::now());
        } else {
            drop(engine);
            self.shared.inbox.wake();
        }
    }

    /// Writes 8 bytes at `offset`, a multiple of 8, of BAR 0.
    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    /// Resets the function, as a function level reset does; whether there is a device.
    pub fn reset(&self) -> bool {
        self.shared.engine.lock().reset()
    }

    /// Lets the function reach memory, or forbids it; whether there is a device.
    pub fn set_bus_master(&self, on: bool) -> bool {
        self.shared.engine.lock().set_bus_master(on)
    }

    /// Does everything that there is to do now. Whether there was anything.
    pub fn step(&self) -> bool {
        self.shared.engine.lock().step(Instant::now())
    }

    /// Starts a thread that steps the device, until what is returned is dropped.
    ///
    /// # Errors
    /// [`TargetError::EventLoop`] if there can be no thread.
    pub fn start(&self) -> Result<PciWorker, TargetError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (device, told) = (self.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("nvme-target-pci".into())
            .spawn(move || {
                while !told.load(Ordering::Acquire) {
                    if !device.step() {
                        let limit = device.shared.engine.lock().next_timer(Instant::now());
                        device.shared.inbox.wait(limit.unwrap_or(WORKER_TICK).min(WORKER_TICK));
                    }
                }
            })
            .map_err(TargetError::EventLoop)?;
        Ok(PciWorker { device: self.clone(), stop, thread: Some(thread) })
    }

    /// Puts another device of the same kind in its place, without a word to anyone and faster than
    /// anyone looks: it answers through the mappings that the first one had, and knows nothing of
    /// what was set up.
    pub fn replace(&self) {
        let mut engine = self.shared.engine.lock();
        engine.unplug();
        engine.plug();
    }

    /// Takes the device out, without a word to anyone: registers read as all ones, and memory is
    /// accessed no more.
    pub fn unplug(&self) {
        self.shared.engine.lock().unplug();
    }

    /// Puts the device in again, as new.
    pub fn plug(&self) {
        self.shared.engine.lock().plug();
    }

    /// Whether the device is there.
    #[must_use]
    pub fn is_plugged(&self) -> bool {
        self.shared.engine.lock().is_plugged()
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: PciFault) {
        self.shared.engine.lock().add_fault(fault);
        self.shared.inbox.wake();
    }

    /// Ends all faults; commands that were kept are carried out.
    pub fn clear_faults(&self) {
        self.shared.engine.lock().clear_faults();
        self.shared.inbox.wake();
    }

    /// Whether a server is to answer nothing any more, this message first.
    #[cfg(feature = "vfio-user")]
    pub(crate) fn is_silenced(&self, fault: PciFault) -> bool {
        let mut engine = self.shared.engine.lock();
        let silenced = engine.has(fault);
        engine.stats.unanswered += u64::from(silenced);
        silenced
    }

    /// I/O commands that are kept by [`PciFault::Stall`] or held back by a fault rule.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.shared.engine.lock().kept()
    }

    /// Bytes of the host memory buffer that the controller has now.
    #[must_use]
    pub fn host_memory(&self) -> u64 {
        self.shared.engine.lock().host_memory_len()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> PciStats {
        self.shared.engine.lock().stats
    }
}

impl fmt::Debug for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciDevice(BAR of {} bytes)", self.shared.bar_bytes)
    }
}

/// A thread that steps a device; dropping this ends it.
#[derive(Debug)]
pub struct PciWorker {
    device: PciDevice,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for PciWorker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.device.shared.inbox.wake();
        if let Some(thread) = self.thread.take() {
            // a panic of the worker has been reported by the thread itself
            let _ = thread.join();
        }
    }
}
