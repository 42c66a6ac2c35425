//! Guests for user-space drivers: an IOMMU, controllers of QEMU's, and programs to drive them.

use std::path::Path;

use crate::{Config, Error, Guest, Result, tool};

impl Config {
    /// A guest without a target, with these QEMU arguments, option and value in turn; with an IOMMU
    /// that remaps interrupts, or does not, or without one.
    #[must_use]
    pub fn for_drivers(iommu: Option<bool>, arguments: &[&str]) -> Self {
        let device = iommu.map(|remap| match remap {
            true => ["-device", "intel-iommu,intremap=on,caching-mode=on"],
            false => ["-device", "intel-iommu,intremap=off"],
        });
        let parameters = if iommu.is_some() { "intel_iommu=on iommu=pt" } else { "" };
        let all = device.iter().flatten().chain(arguments);
        Self {
            kernel_parameters: parameters.to_owned(),
            qemu_arguments: all.map(|&a| a.to_owned()).collect(),
            ports: 0,
            namespaces: Vec::new(),
            ..Self::default()
        }
    }
}

impl Guest {
    /// Brings a program of the host into the guest, to `path`, with the libraries that it is linked
    /// to.
    ///
    /// # Errors
    /// [`Error::Tool`] when `ldd` fails, [`Error::Io`] for a file that cannot be read, and as
    /// [`Guest::sh`].
    pub fn upload_program(&self, path: &str, program: &Path) -> Result<()> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(Error::io(format!("reading {}", file.display())))
        };
        for library in tool::libraries(program)? {
            if !self.run(&format!("test -e {library}"))?.success() {
                self.upload(&library, &read(Path::new(&library))?)?;
            }
        }
        self.upload(path, &read(program)?)
    }

    /// Loads the drivers that hand functions to user space, and sets huge pages of 2 MiB aside.
    ///
    /// # Errors
    /// As [`Guest::sh`].
    pub fn prepare_for_drivers(&self) -> Result<()> {
        self.sh("modprobe -a vfio-pci vfio_iommu_type1 uio_pci_generic")?;
        self.set_huge_pages_aside()
    }

    /// Sets 64 huge pages of 2 MiB aside.
    ///
    /// # Errors
    /// As [`Guest::sh`].
    pub fn set_huge_pages_aside(&self) -> Result<()> {
        self.sh("echo 64 > /proc/sys/vm/nr_hugepages").map(drop)
    }

    /// Takes a function, such as `0000:01:00.0`, from its driver and gives it to another; to none,
    /// if that is empty.
    ///
    /// # Errors
    /// As [`Guest::sh`].
    pub fn bind_function(&self, pci: &str, driver: &str) -> Result<()> {
        self.sh(&format!(
            "d=/sys/bus/pci/devices/{pci}
             [ ! -e $d/driver ] || echo {pci} > $d/driver/unbind
             echo {driver} > $d/driver_override
             [ -z '{driver}' ] || echo {pci} > /sys/bus/pci/drivers_probe"
        ))
        .map(drop)
    }
}
