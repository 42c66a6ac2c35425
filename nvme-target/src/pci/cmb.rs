//! The controller memory buffer (NVMe 2.1 §8.2.1): memory of the device's in a BAR of its own, which
//! the controller reaches by the addresses that the host has set.

use std::sync::Arc;

use nvme_core::spec::registers::CmbMsc;

use super::config::Cmb;
use super::engine::Engine;
use super::memory::HostMemory;

/// CMBSTS.CBAI: the base address is not possible (NVMe 2.1 §3.1.4.18).
const BASE_INVALID: u64 = 1;

/// What the host has set, and where the bytes are.
#[derive(Debug, Default)]
pub(super) struct CmbState {
    msc: u64,
    /// The bytes, from address 0 on.
    memory: Option<Arc<dyn HostMemory>>,
    /// The machine's memory with the buffer in it.
    joined: Option<Arc<dyn HostMemory>>,
}

/// Memory of the machine and of the device, by address.
#[derive(Debug)]
struct Joined {
    machine: Arc<dyn HostMemory>,
    buffer: Arc<dyn HostMemory>,
    base: u64,
    len: u64,
}

impl Joined {
    /// Who has the `len` bytes at `address`, and under which address.
    fn at(&self, address: u64, len: usize) -> (&dyn HostMemory, u64) {
        let inside = address.checked_sub(self.base).filter(|at| *at < self.len);
        match inside {
            Some(at) if at + len as u64 <= self.len => (&*self.buffer, at),
            _ => (&*self.machine, address),
        }
    }
}

impl HostMemory for Joined {
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        let (memory, at) = self.at(address, to.len());
        memory.read(at, to)
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        let (memory, at) = self.at(address, from.len());
        memory.write(at, from)
    }

    fn store(&self, address: u64, value: u64) -> bool {
        let (memory, at) = self.at(address, 8);
        memory.store(at, value)
    }

    fn load32(&self, address: u64) -> Option<u32> {
        let (memory, at) = self.at(address, 4);
        memory.load32(at)
    }

    fn store32(&self, address: u64, value: u32) -> bool {
        let (memory, at) = self.at(address, 4);
        memory.store32(at, value)
    }
}

impl Engine {
    /// Gives the device the bytes of its buffer.
    pub fn attach_controller_memory(&mut self, memory: Arc<dyn HostMemory>) {
        self.cmb.memory = Some(memory);
        self.join();
    }

    /// The machine's memory, with the buffer where the host has put it.
    pub(super) fn joined(&self, machine: &Arc<dyn HostMemory>) -> Arc<dyn HostMemory> {
        Arc::clone(self.cmb.joined.as_ref().unwrap_or(machine))
    }

    /// Forgets what the host has set.
    pub(super) fn reset_cmb(&mut self) {
        self.cmb.msc = 0;
        self.join();
    }

    /// CMBLOC and CMBSZ.
    pub(super) fn cmb_registers(&self) -> u64 {
        match self.config.cmb {
            Some(Cmb { location, size, .. }) if CmbMsc(self.cmb.msc).cre() == 1 => {
                u64::from(location) | u64::from(size) << 32
            }
            _ => 0,
        }
    }

    /// CMBMSC.
    pub(super) fn cmb_control(&self) -> u64 {
        self.cmb.msc
    }

    /// CMBSTS.
    pub(super) fn cmb_status(&self) -> u64 {
        let msc = CmbMsc(self.cmb.msc);
        if msc.cmse() == 1 && self.cmb_range().is_none() { BASE_INVALID } else { 0 }
    }

    pub(super) fn control_cmb(&mut self, value: u64) {
        if self.config.cmb.is_some() {
            self.cmb.msc = value;
            self.join();
        }
    }

    /// Where the controller takes addresses for the buffer's.
    fn cmb_range(&self) -> Option<(u64, u64)> {
        let msc = CmbMsc(self.cmb.msc);
        let (base, len) = (msc.cba() << 12, self.config.cmb?.bytes as u64);
        (msc.cre() == 1 && msc.cmse() == 1 && base.checked_add(len).is_some())
            .then_some((base, len))
    }

    pub(super) fn join(&mut self) {
        self.cmb.joined = None;
        let Some((base, len)) = self.cmb_range() else { return };
        if let (Some(bus), Some(buffer)) = (&self.bus, &self.cmb.memory) {
            let (machine, buffer) = (Arc::clone(&bus.memory), Arc::clone(buffer));
            self.cmb.joined = Some(Arc::new(Joined { machine, buffer, base, len }));
        }
    }
}
