//! Addresses of PCI functions, and what sysfs tells of them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::backend::BackendError;
use crate::system::unusable;

/// Base class 01h, sub-class 08h, programming interface 02h: an NVMe I/O controller (NVMe over PCIe
/// Transport 1.1 §3.8.1.1).
const CLASS_NVME: u32 = 0x01_08_02;

/// Domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    /// Parses `0000:01:00.0`; without the domain, that is 0.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a PCI address such as 0000:01:00.0");
        let (rest, function) = text.rsplit_once('.').ok_or_else(wrong)?;
        let (rest, device) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let hex = |part: &str, digits: usize, max: u32| {
            let plain = part.bytes().all(|b| b.is_ascii_hexdigit());
            let value = u32::from_str_radix(part, 16).ok().filter(|&v| plain && v <= max);
            value.filter(|_| part.len() <= digits).ok_or_else(wrong)
        };
        Ok(Self {
            domain: hex(domain, 8, u32::MAX)?,
            bus: hex(bus, 2, 0xff)? as u8,
            device: hex(device, 2, 0x1f)? as u8,
            function: hex(function, 1, 7)? as u8,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl PciAddress {
    /// The function's directory in sysfs.
    pub(crate) fn sysfs(self) -> PathBuf {
        Path::new("/sys/bus/pci/devices").join(self.to_string())
    }

    /// The number of the function's IOMMU group.
    pub(crate) fn iommu_group(self) -> Option<u32> {
        link_name(&self.sysfs().join("iommu_group"))?.parse().ok()
    }

    /// Checks that there is an NVMe controller, and that `right` accepts the driver that it is bound
    /// to; `wanted` names that in the error.
    pub(crate) fn check_nvme(
        self,
        address: &str,
        wanted: &str,
        right: impl FnOnce(&str) -> bool,
    ) -> Result<(), BackendError> {
        let dir = self.sysfs();
        if !dir.exists() {
            let function = self.to_string();
            return Err(BackendError::Missing { address: address.into(), function });
        }
        let class = fs::read_to_string(dir.join("class")).unwrap_or_default();
        let class = u32::from_str_radix(class.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        if class != CLASS_NVME {
            let reason = format!(
                "not an NVMe controller: its class code is {class:06x}h, that would be {CLASS_NVME:06x}h"
            );
            return Err(unusable(address, reason));
        }
        match driver(&dir) {
            Some(driver) if right(&driver) => Ok(()),
            Some(driver) => {
                let reason = format!("bound to the driver {driver}; it must be bound to {wanted}");
                Err(unusable(address, reason))
            }
            None => {
                let reason = format!("bound to no driver; it must be bound to {wanted}");
                Err(unusable(address, reason))
            }
        }
    }
}

/// The name of the driver that a device, given by its sysfs directory, is bound to.
pub(crate) fn driver(dir: &Path) -> Option<String> {
    link_name(&dir.join("driver"))
}

/// The last part of what a link points to.
fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_brought_into_normal_form() {
        let normal = |text: &str| text.parse::<PciAddress>().map(|a| a.to_string());
        assert_eq!(normal("0000:01:00.0").unwrap(), "0000:01:00.0");
        assert_eq!(normal("1:2.3").unwrap(), "0000:01:02.3");
        assert_eq!(normal("10000:FF:1f.7").unwrap(), "10000:ff:1f.7");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "0000:01:00",
            "01.0",
            "0000:01:20.0",
            "0:0:0.8",
            "+1:0.0",
            "../../x:0.0",
            "0:100:0.0",
        ] {
            assert!(text.parse::<PciAddress>().unwrap_err().contains("PCI address"), "{text}");
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_named() {
        let address: PciAddress = "fffe:00:00.0".parse().unwrap();
        let error = address.check_nvme("vfio://fffe:00:00.0", "vfio-pci", |_| true).unwrap_err();
        assert!(error.to_string().contains("no PCI function fffe:00:00.0"), "{error}");
    }
}
