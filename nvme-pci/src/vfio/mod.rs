//! Functions that the kernel's VFIO hands to this process: `vfio://0000:01:00.0`.
//!
//! Permission to read and write the group's file `/dev/vfio/N` (or the function's
//! `/dev/vfio/devices/vfioN`) is enough; root is needed only without an IOMMU.

pub(crate) mod abi;
pub(crate) mod device;
mod group;
mod iommufd;
pub(crate) mod space;

use std::sync::Arc;

use nvme_core::memory::MemoryKind;

use crate::backend::{Backend, BackendError, Open};
use crate::system::address::PciAddress;
use crate::system::pool::Pool;
use crate::system::unusable;
use crate::url::Location;
use device::{Device, Memory};
use group::Group;

/// Opens functions that are bound to `vfio-pci` (or a driver made from it).
///
/// The device of a URL is a PCI address, such as `0000:01:00.0`. One parameter is known: `iommu`,
/// with the value `type1` for a VFIO group and its container, `iommufd` for the function's own
/// character file (Linux 6.6 and later), or `auto`, the default: `iommufd` where the kernel has it,
/// else `type1`.
///
/// Where the kernel has VFIO's no-IOMMU mode on and the function is in such a group, the function
/// reaches physical memory: DMA memory then comes from huge pages, of the caller's memory only such
/// pages are reached directly, and nothing but the function's good behaviour protects the machine.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Vfio;

/// The way to the IOMMU, as the URL has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Iommu {
    Auto,
    Type1,
    Iommufd,
}

impl Vfio {
    /// The way to open functions by VFIO.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

fn parse(location: &Location) -> Result<(PciAddress, Iommu), String> {
    let pci = location.device.parse()?;
    let mut iommu = Iommu::Auto;
    for (key, value) in &location.parameters {
        iommu = match (key.as_str(), value.as_str()) {
            ("iommu", "auto") => Iommu::Auto,
            ("iommu", "type1") => Iommu::Type1,
            ("iommu", "iommufd") => Iommu::Iommufd,
            ("iommu", _) => {
                return Err(format!("iommu={value} is none of auto, type1 and iommufd"));
            }
            _ => return Err(format!("parameter {key:?} is not known")),
        };
    }
    Ok((pci, iommu))
}

/// Says `Y` where functions without an IOMMU may be opened.
const NO_IOMMU_MODE: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

impl Open for Vfio {
    fn scheme(&self) -> &'static str {
        "vfio"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        parse(location).map(|(pci, _)| pci.to_string())
    }

    fn memory_kind(&self) -> MemoryKind {
        let mode = std::fs::read(NO_IOMMU_MODE).unwrap_or_default();
        if mode.starts_with(b"Y") { MemoryKind::Huge } else { MemoryKind::Pages }
    }

    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        let (pci, iommu) = parse(location)
            .map_err(|reason| unusable(&format!("vfio://{}", location.device), reason))?;
        let address = format!("vfio://{pci}");
        pci.check_nvme(&address, "vfio-pci", |driver| driver.contains("vfio"))?;
        let file = if iommu == Iommu::Type1 { None } else { iommufd::device_file(pci) };
        let (fd, memory) = match file {
            Some(file) => {
                let (space, fd) = iommufd::open(&address, &file)?;
                (fd, Memory::Space(space))
            }
            None if iommu == Iommu::Iommufd => {
                return Err(unusable(&address, "the kernel has no iommufd for this function"));
            }
            None => {
                let (group, fd) = Group::open(&address, pci)?;
                let memory = if group.no_iommu() {
                    Memory::Physical { pool: Pool::default(), _group: group }
                } else {
                    Memory::Space(group)
                };
                (fd, memory)
            }
        };
        Ok(Arc::new(Device::new(&address, fd, memory)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> Result<String, String> {
        Vfio.check(&Location::parse("vfio", url)?)
    }

    #[test]
    fn addresses_and_parameters_are_checked() {
        assert_eq!(check("vfio://1:0.0?iommu=type1").unwrap(), "0000:01:00.0");
        assert!(check("vfio://1:0").unwrap_err().contains("PCI address"));
        assert!(check("vfio://1:0.0?iommu=no").unwrap_err().contains("iommu=no"));
        assert!(check("vfio://1:0.0?pool=1").unwrap_err().contains("\"pool\""));
    }
}
