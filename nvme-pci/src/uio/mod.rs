//! Functions that are bound to `uio_pci_generic`: `uio://0000:01:00.0`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvme_core::memory::{Memory, MemoryKind};
use nvme_core::quirk::DeviceIds;

use crate::backend::{Backend, BackendError, Mmio, Open};
use crate::dma::{DmaMapping, DmaMemory};
use crate::system::address::PciAddress;
use crate::system::bar::{Bar, Calls, check_window};
use crate::system::pool::Pool;
use crate::system::{huge, io_error, unusable};
use crate::url::Location;
use crate::vfio::abi::REGION_READ_WRITE;
use crate::vfio::device::{check_bar, device_ids, set_bus_master};

/// Opens functions that are bound to `uio_pci_generic` (or another UIO driver), for machines without
/// an IOMMU. VFIO is better wherever it can be had.
///
/// The device of a URL is a PCI address, such as `0000:01:00.0`; there are no parameters. Root is
/// needed: for the BAR, for physical addresses, and because the function reaches all memory.
/// DMA memory comes from huge pages of 2 MiB, of which enough must be set aside
/// (`/proc/sys/vm/nr_hugepages`), and of the caller's memory only such pages are reached directly. There
/// are no interrupts:
/// what uio has for them does not go with message signalled interrupts. The kernel gives no warning
/// before a function is removed; it is seen within the time between two looks.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Uio;

impl Uio {
    /// The way to open functions by UIO.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

fn parse(location: &Location) -> Result<PciAddress, String> {
    if let Some((key, _)) = location.parameters.first() {
        return Err(format!("parameter {key:?} is not known"));
    }
    location.device.parse()
}

impl Open for Uio {
    fn scheme(&self) -> &'static str {
        "uio"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        parse(location).map(|pci| pci.to_string())
    }

    fn memory_kind(&self) -> MemoryKind {
        MemoryKind::Huge
    }

    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        let pci = parse(location)
            .map_err(|reason| unusable(&format!("uio://{}", location.device), reason))?;
        let address = format!("uio://{pci}");
        pci.check_nvme(&address, "uio_pci_generic", |driver| driver.contains("uio"))?;
        Ok(Arc::new(Device::new(address, pci)?))
    }
}

/// A function, by sysfs.
#[derive(Debug)]
struct Device {
    address: String,
    bar: Bar,
    config: Config,
    reset: PathBuf,
    pool: Pool,
    /// Whether the function has been seen to be gone, or has been closed.
    gone: AtomicBool,
}

/// The function's configuration space. The file belongs to the function that was there when it was
/// opened: once that has been removed, reads fail, whatever is plugged in at the same address.
#[derive(Debug)]
struct Config(File);

impl Calls for Config {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(to, offset)
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0.write_all_at(from, offset)
    }
}

impl Device {
    fn new(address: String, pci: PciAddress) -> Result<Self, BackendError> {
        let dir = pci.sysfs();
        let open = |name: &str| {
            let path = dir.join(name);
            let file = File::options().read(true).write(true).open(&path);
            file.map_err(io_error(&address, format!("opening {}", path.display())))
        };
        let config = Config(open("config")?);
        let resource = open("resource0")?;
        let size = resource.metadata().map(|m| m.len()).unwrap_or(0);
        check_bar(&address, size, REGION_READ_WRITE)?;
        // Whole pages only; the registers and first doorbells of a smaller BAR are not reached.
        let len = size as usize / rustix::param::page_size() * rustix::param::page_size();
        let mut bar = Bar::new(len, None);
        // Registers can be reached only while the function decodes memory accesses.
        set_bus_master(&config, true)
            .map_err(io_error(&address, "setting the command register"))?;
        bar.map(0..len, resource.as_fd(), 0).map_err(io_error(&address, "mapping BAR 0"))?;
        let reset = dir.join("reset");
        let (pool, gone) = (Pool::default(), AtomicBool::new(false));
        Ok(Self { address, bar, config, reset, pool, gone })
    }

    fn check_present(&self) -> Result<(), BackendError> {
        if self.removal_requested() {
            return Err(BackendError::Gone { address: self.address.clone() });
        }
        Ok(())
    }
}

impl Backend for Device {
    fn address(&self) -> &str {
        &self.address
    }

    fn device_ids(&self) -> Option<DeviceIds> {
        device_ids(&self.config)
    }

    fn bar0(&self) -> &dyn Mmio {
        &self.bar
    }

    fn alloc_dma(&self, len: usize, _align: usize) -> Result<DmaMemory, BackendError> {
        self.check_present()?;
        // Pages are aligned to more than may be asked for.
        self.pool.allocate(&self.address, len, |size| huge::chunk(&self.address, size))
    }

    fn map_dma(&self, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
        self.check_present()?;
        huge::map_region(&self.address, memory)
    }

    fn controller_memory(
        &self,
        bar: u8,
        offset: u64,
        size: u64,
        len: usize,
        bus: u64,
    ) -> Result<DmaMemory, BackendError> {
        self.check_present()?;
        let path = self.reset.with_file_name(format!("resource{bar}"));
        let what = || format!("mapping {}", path.display());
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(io_error(&self.address, what()))?;
        let has = file.metadata().map(|m| m.len()).unwrap_or(0);
        check_window(&self.address, bar, has, offset, size, len)?;
        self.bar.map_memory(file.as_fd(), offset, len, bus).map_err(io_error(&self.address, what()))
    }

    fn interrupt(&self, _: u16) -> Result<Option<OwnedFd>, BackendError> {
        Ok(None)
    }

    fn reset(&self) -> Result<(), BackendError> {
        self.check_present()?;
        if !self.reset.exists() {
            let address = self.address.clone();
            return Err(BackendError::Unsupported { address, what: "a reset of the function" });
        }
        std::fs::write(&self.reset, "1").map_err(io_error(&self.address, "resetting the function"))
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        self.check_present()?;
        set_bus_master(&self.config, on)
            .map_err(io_error(&self.address, "setting the command register"))
    }

    fn removal_requested(&self) -> bool {
        if !self.gone.load(Ordering::Relaxed) {
            let mut vendor = [0; 2];
            let there = self.config.read(0, &mut vendor).is_ok() && vendor != [0xff; 2];
            if !there {
                self.gone.store(true, Ordering::Relaxed);
                // What is plugged in next may answer through the old mapping.
                self.bar.disconnect();
            }
        }
        self.gone.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.bar.disconnect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let check = |url| Uio.check(&Location::parse("uio", url)?);
        assert_eq!(check("uio://1:0.0").unwrap(), "0000:01:00.0");
        assert!(check("uio://nvme0").unwrap_err().contains("PCI address"));
        assert!(check("uio://1:0.0?iommu=type1").unwrap_err().contains("\"iommu\""));
    }
}
