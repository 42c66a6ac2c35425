//! One PCI function with an NVMe controller.

use std::fs;
use std::path::Path;

use super::tree::{hex, link_name, names, text};
use super::usage::{Disk, Process};
use super::{DRIVERS, Tree};

/// What there is to know of a function.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Function {
    /// Where it is, such as `0000:01:00.0`.
    pub address: String,
    /// Vendor ID.
    pub vendor: u32,
    /// Device ID.
    pub device: u32,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The only driver that may have it, if that was chosen.
    pub driver_override: Option<String>,
    /// Its IOMMU group; `None` without an IOMMU.
    pub group: Option<Group>,
    /// The kernel's controllers on it, such as `nvme0`.
    pub controllers: Vec<String>,
    /// The kernel's disks on it.
    pub disks: Vec<Disk>,
    /// Programs that have it or its disks open, as far as one may know.
    pub processes: Vec<Process>,
    /// The addresses of the virtual functions that were made of it (SR-IOV).
    pub virtual_functions: Vec<String>,
    /// What [`Tree::restore`] puts back: the driver (or none), if [`Tree::bind`] has noted one.
    pub noted: Option<Option<String>>,
}

/// Functions that the IOMMU cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub id: u32,
    /// The other functions in it.
    pub others: Vec<Member>,
}

/// Another function of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub address: String,
    /// The driver that has it.
    pub driver: Option<String>,
}

impl Member {
    /// Whether it keeps the group from a program: VFIO wants every function in a group to be its own,
    /// a bridge's, or nobody's.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        self.driver.as_deref().is_some_and(|d| !d.contains("vfio") && d != "pcieport")
    }
}

impl Function {
    pub(super) fn read(tree: &Tree, address: &str, directory: &Path) -> Self {
        let controllers = names(&directory.join("nvme")).unwrap_or_default();
        let disks = Disk::find(tree, directory, &controllers);
        let driver_override = text(&directory.join("driver_override"));
        let driver_override = Some(driver_override).filter(|d| !d.is_empty() && d != "(null)");
        let mut function = Self {
            address: address.to_owned(),
            vendor: hex(&directory.join("vendor")),
            device: hex(&directory.join("device")),
            driver: link_name(&directory.join("driver")),
            driver_override,
            group: Group::read(directory, address),
            controllers,
            disks,
            processes: Vec::new(),
            virtual_functions: virtual_functions(directory),
            noted: tree.note(address).map(|note| note.driver),
        };
        function.processes = Process::find(tree, &function.files(directory));
        function
    }

    /// The URL by which a program uses it with the driver that it has.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let driver = self.driver.as_deref()?;
        let (_, scheme) = DRIVERS.iter().find(|(name, _)| *name == driver)?;
        Some(format!("{scheme}://{}", self.address))
    }

    /// Who would lose something if the driver were changed, in words; empty if nobody.
    #[must_use]
    pub fn uses(&self) -> Vec<String> {
        let disks = self.disks.iter().flat_map(|disk| disk.uses.iter().map(ToString::to_string));
        let processes = self.processes.iter().map(ToString::to_string);
        // The driver takes them away when it goes, whoever has them.
        let others = match &*self.virtual_functions {
            [] => None,
            [one] => Some(format!("it has the virtual function {one}")),
            many => Some(format!("it has the virtual functions {}", many.join(", "))),
        };
        disks.chain(processes).chain(others).collect()
    }

    /// The files by which programs use it.
    fn files(&self, directory: &Path) -> Vec<String> {
        let mut files: Vec<String> = Vec::new();
        files.extend(self.controllers.iter().map(|name| format!("/dev/{name}")));
        for disk in &self.disks {
            files.extend(disk.nodes.iter().map(|name| format!("/dev/{name}")));
            files.extend(disk.name.strip_prefix("nvme").map(|rest| format!("/dev/ng{rest}")));
        }
        files.extend(self.group.iter().map(|group| format!("/dev/vfio/{}", group.id)));
        let named = |sub: &str, at: &str| {
            let found = names(&directory.join(sub)).unwrap_or_default();
            found.into_iter().map(|name| format!("{at}{name}")).collect::<Vec<_>>()
        };
        files.extend(named("vfio-dev", "/dev/vfio/devices/"));
        files.extend(named("uio", "/dev/"));
        // The registers, by the directory's one true name.
        if let Ok(real) = fs::canonicalize(directory) {
            files.push(real.join("resource0").display().to_string());
        }
        files
    }
}

/// The addresses of the virtual functions that were made of a function (SR-IOV).
fn virtual_functions(directory: &Path) -> Vec<String> {
    let entries = names(directory).unwrap_or_default();
    let links = entries.iter().filter(|entry| entry.starts_with("virtfn"));
    let mut found: Vec<_> = links.filter_map(|link| link_name(&directory.join(link))).collect();
    found.sort();
    found
}

impl Group {
    fn read(directory: &Path, address: &str) -> Option<Self> {
        let link = directory.join("iommu_group");
        let id = link_name(&link)?.parse().ok()?;
        let devices = link.join("devices");
        let others = names(&devices).unwrap_or_default().into_iter().filter(|a| a != address);
        let member = |address: String| {
            let driver = link_name(&devices.join(&address).join("driver"));
            Member { address, driver }
        };
        Some(Self { id, others: others.map(member).collect() })
    }
}
