//! What every backend must do, on any NVMe controller that is not in use.
#![expect(unsafe_code, reason = "memory of the test's is handed to a device")]

use std::fmt;
use std::sync::Arc;

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::spec::Sqe;
use nvme_core::spec::registers::{Cap, Version, offset};
use nvme_core::transport::Transport;
use nvme_pci::{Backend, DmaMemory, PciTransport, VfioUser};

use crate::admin::Admin;

/// What did not hold.
pub struct Failure(String);

/// The end of a check.
pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// An error with this text.
pub(crate) fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(Failure(text.into()))
}

/// Bytes of Identify data.
const IDENTIFY: usize = 4096;
/// What memory is filled with, to see what the controller has written.
const POISON: u8 = 0xa5;

/// What a backend has shown itself to be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Has interrupts.
    pub interrupts: bool,
    /// Maps memory that was allocated for all backends.
    pub maps_memory: bool,
    /// Resets the function.
    pub resets: bool,
}

/// Checks one backend from opening to closing. `serial` is the serial number that the controller
/// must tell.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn check(backend: Arc<dyn Backend>, serial: &str) -> Result<Abilities> {
    let bar = backend.bar0();
    let version = Version(bar.read32(offset::VS));
    let cap = Cap(bar.read64(offset::CAP));
    if !version.at_least(1, 0) || version.major() > 2 || cap.mqes() == 0 {
        return fail(format!("CAP {cap:?} and VS {version} are no controller's"));
    }
    if bar.read32(bar.len()) != u32::MAX {
        return fail("a read outside of the BAR gave something");
    }
    backend.set_bus_master(true)?;

    let memory = backend.alloc_dma(3 * 4096 + 1, 4096)?;
    check_memory(&memory)?;
    let mut admin = Admin::new(&backend, None)?;
    for round in 0..20 {
        // Every page of the memory, and a place in the middle of it.
        let at = [0, 4096, 8192, 2048][round % 4];
        check_identify(&mut admin, &memory, at, serial)?;
    }
    admin.disable()?;
    drop(admin);

    let abilities = Abilities {
        interrupts: check_interrupt(&backend, &memory, serial)?,
        maps_memory: check_mapping(&backend, serial)?,
        resets: check_reset(&backend, &memory, serial)?,
    };
    if backend.removal_requested() {
        return fail("the function is asked for, and nobody did");
    }
    check_close(&backend, &memory)?;
    Ok(abilities)
}

fn check_memory(memory: &DmaMemory) -> Result<()> {
    let mut bytes = vec![1; memory.len()];
    if memory.len() != 4 * 4096 || !memory.copy_out(0, &mut bytes) {
        return fail(format!("{memory:?} is not rounded up to pages"));
    }
    if !memory.is_contiguous() || bytes.iter().any(|&b| b != 0) {
        return fail(format!("{memory:?} is in pieces, or not zeroed"));
    }
    Ok(())
}

/// Identify Controller into one page's worth of `memory` at `at`.
fn check_identify(admin: &mut Admin, memory: &DmaMemory, at: usize, serial: &str) -> Result<()> {
    let poison = vec![POISON; memory.len()];
    let _ = memory.copy_in(0, &poison);
    let mut sqe = Sqe::identify(1, 0);
    let next = if at.is_multiple_of(4096) { Some(0) } else { memory.bus(at / 4096 * 4096 + 4096) };
    let (Some(first), Some(second)) = (memory.bus(at), next) else {
        return fail(format!("{memory:?} has no bus address for {at}"));
    };
    sqe.set_prp(first, second);
    admin.run(sqe)?;
    let mut bytes = vec![0; memory.len()];
    let _ = memory.copy_out(0, &mut bytes);
    check_data(&bytes, at, serial)
}

/// Whether Identify Controller data is at `at` of `bytes`, and nothing else has been touched.
fn check_data(bytes: &[u8], at: usize, serial: &str) -> Result<()> {
    let (before, rest) = bytes.split_at(at);
    let (data, after) = rest.split_at(IDENTIFY);
    // The serial number is 20 characters from byte 4 (NVMe 2.1 §5.1.13.2.1).
    let found = String::from_utf8_lossy(&data[4..24]);
    if found.trim_end() != serial {
        return fail(format!("Identify tells the serial number {found:?}, not {serial:?}"));
    }
    if before.iter().chain(after).any(|&b| b != POISON) {
        return fail(format!("Identify wrote outside of its data at {at}"));
    }
    Ok(())
}

fn check_interrupt(backend: &Arc<dyn Backend>, memory: &DmaMemory, serial: &str) -> Result<bool> {
    let Some(interrupt) = backend.interrupt(0)? else { return Ok(false) };
    let mut admin = Admin::new(backend, Some(interrupt))?;
    for _ in 0..20 {
        check_identify(&mut admin, memory, 0, serial)?;
    }
    admin.disable()?;
    // A later vector, and one that no controller here has.
    if backend.interrupt(1)?.is_none() || backend.interrupt(u16::MAX)?.is_some() {
        return fail("vector 1 is missing, or vector 65535 is there");
    }
    Ok(true)
}

/// Memory of the kind that every backend reaches, where the machine has it.
fn check_mapping(backend: &Arc<dyn Backend>, serial: &str) -> Result<bool> {
    let transport = PciTransport::new(VfioUser::new());
    let Some(memory) = transport.allocate_memory(2 * IDENTIFY, MemoryKind::Huge) else {
        return fail("no memory");
    };
    let memory = Arc::new(memory?);
    let ptr = memory.as_ptr();
    // SAFETY: inside of the region, which is nobody else's.
    unsafe { ptr.write_bytes(POISON, 2 * IDENTIFY) };
    // SAFETY: the same memory, kept by the owner; only looked at by the backend.
    let odd = unsafe { Memory::from_raw_parts(ptr, IDENTIFY - 1, Box::new(Arc::clone(&memory))) };
    match (backend.map_dma(&memory), backend.map_dma(&Arc::new(odd))) {
        (Err(_), Err(_)) => Ok(false),
        (Ok(mapping), Err(_)) => {
            let mut admin = Admin::new(backend, None)?;
            let mut sqe = Sqe::identify(1, 0);
            sqe.set_prp(mapping.pages()[0], 0);
            admin.run(sqe)?;
            admin.disable()?;
            // SAFETY: the controller is disabled, and nothing else refers to the memory.
            let bytes = unsafe { std::slice::from_raw_parts(ptr.as_ptr(), 2 * IDENTIFY) };
            check_data(bytes, 0, serial)?;
            Ok(true)
        }
        (_, Ok(_)) => fail("a region that is no whole page was mapped"),
    }
}

fn check_reset(backend: &Arc<dyn Backend>, memory: &DmaMemory, serial: &str) -> Result<bool> {
    let admin = Admin::new(backend, None)?;
    if backend.reset().is_err() {
        admin.disable()?;
        return Ok(false);
    }
    let bar = backend.bar0();
    if bar.read32(offset::CC) & 1 != 0 || bar.read32(offset::CSTS) & 1 != 0 {
        return fail("the controller is enabled after a reset");
    }
    drop(admin);
    backend.set_bus_master(true)?;
    let mut admin = Admin::new(backend, None)?;
    check_identify(&mut admin, memory, 0, serial)?;
    admin.disable()?;
    Ok(true)
}

fn check_close(backend: &Arc<dyn Backend>, memory: &DmaMemory) -> Result<()> {
    backend.close();
    let bar = backend.bar0();
    bar.write32(offset::CC, 0);
    if bar.read32(offset::VS) != u32::MAX || bar.read64(offset::CAP) != u64::MAX {
        return fail("registers of a closed function do not read as all ones");
    }
    if backend.alloc_dma(4096, 4096).is_ok() || backend.reset().is_ok() {
        return fail("a closed function gives memory, or can be reset");
    }
    // What was handed out is still there.
    let mut byte = [0];
    if !memory.copy_in(0, &[7]) || !memory.copy_out(0, &mut byte) || byte != [7] {
        return fail("memory is gone with the function");
    }
    Ok(())
}
