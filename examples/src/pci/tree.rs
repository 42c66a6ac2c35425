//! The kernel's files, below a root that tests choose.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nvme_pci::{Location, Open, Vfio};

use super::{Function, PciError};

/// Base class 01h, sub-class 08h, programming interface 02h: an NVMe I/O controller (NVMe over PCIe
/// Transport 1.1 §3.8.1.1).
const CLASS_NVME: u32 = 0x01_08_02;

/// Writes attributes of the kernel's, each of which does something.
pub trait Attributes: fmt::Debug {
    /// Writes one.
    ///
    /// # Errors
    /// What the kernel thinks of the value, or of the writer.
    fn write(&self, path: &Path, value: &str) -> io::Result<()>;
}

/// The running kernel's.
#[derive(Debug)]
struct System;

impl Attributes for System {
    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        // One call, and no file is made where there is none.
        let mut file = fs::File::options().write(true).open(path)?;
        io::Write::write_all(&mut file, value.as_bytes())
    }
}

/// `/sys`, `/proc`, `/dev` and `/run` of a machine.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    pub(super) attributes: Box<dyn Attributes>,
}

impl Tree {
    /// This machine's.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/", System)
    }

    /// The tree below `root`, whose attributes are written by `attributes`.
    pub fn at(root: impl Into<PathBuf>, attributes: impl Attributes + 'static) -> Self {
        Self { root: root.into(), attributes: Box::new(attributes) }
    }

    /// The place of an absolute path.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// The directory of a function.
    pub(super) fn directory(&self, address: &str) -> PathBuf {
        self.path("/sys/bus/pci/devices").join(address)
    }

    /// The address of a function, such as `0000:01:00.0`, from an address with or without the domain,
    /// or from a URL with one; and the scheme of the URL.
    ///
    /// # Errors
    /// [`PciError::Address`] for anything else.
    pub fn address(text: &str) -> Result<(String, Option<&str>), PciError> {
        let (scheme, device) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest.split('?').next().unwrap_or(rest)),
            None => (None, text),
        };
        if let Some(scheme) = scheme.filter(|s| !super::DRIVERS.iter().any(|d| d.1 == *s)) {
            let why = format!("{text}: {scheme}:// is not on this machine's PCI bus");
            return Err(PciError::Address(why));
        }
        let way = Vfio::new();
        let location = Location::parse(way.scheme(), &format!("{}://{device}", way.scheme()));
        match location.and_then(|l| way.check(&l)) {
            Ok(address) => Ok((address, scheme)),
            Err(why) => Err(PciError::Address(why)),
        }
    }

    /// All NVMe controllers, by address.
    ///
    /// # Errors
    /// If the bus or one of them cannot be looked at.
    pub fn functions(&self) -> Result<Vec<Function>, PciError> {
        let bus = self.path("/sys/bus/pci/devices");
        let mut all = Vec::new();
        for address in names(&bus).map_err(PciError::io("listing", &bus))? {
            match self.function(&address) {
                Ok(function) => all.push(function),
                // Another kind of device, or one that has just gone.
                Err(PciError::Class { .. } | PciError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The NVMe controller at this address.
    ///
    /// # Errors
    /// [`PciError::Missing`] and [`PciError::Class`] if there is none.
    pub fn function(&self, address: &str) -> Result<Function, PciError> {
        let directory = self.directory(address);
        if !directory.exists() {
            return Err(PciError::Missing { address: address.into() });
        }
        let class = hex(&directory.join("class"));
        if class != CLASS_NVME {
            return Err(PciError::Class { address: address.into(), class });
        }
        Ok(Function::read(self, address, &directory))
    }
}

/// The names in a directory, in order.
pub(super) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The last part of what a link points to; `None` if there is no link.
pub(super) fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The text of an attribute without the line's end; empty if there is none.
pub(super) fn text(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

/// A number such as `0x010802`; 0 if there is none.
pub(super) fn hex(path: &Path) -> u32 {
    u32::from_str_radix(text(path).trim_start_matches("0x"), 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_short_or_in_a_url() {
        let address = |text| Tree::address(text).unwrap();
        assert_eq!(address("1:0.0"), ("0000:01:00.0".into(), None));
        assert_eq!(address("uio://0000:01:00.0?poll=1"), ("0000:01:00.0".into(), Some("uio")));
        assert_eq!(address("vfio://0001:01:00.0"), ("0001:01:00.0".into(), Some("vfio")));
        for (wrong, why) in [("nvme0", "PCI address"), ("tcp://1:0.0", "tcp://"), ("", "no device")]
        {
            let error = Tree::address(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
