//! Guests for user-space drivers: an IOMMU, controllers of QEMU's, and programs to drive them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Config, Error, Guest, Result, tool};

/// How long QEMU may take until the name of a device that was unplugged is free again.
const FREE: Duration = Duration::from_secs(100);

/// Files for disks, of 64 MiB each and empty, removed in the end.
#[derive(Debug)]
pub struct Disks(Vec<PathBuf>);

impl Disks {
    /// So many, with names that have `test` in them.
    ///
    /// # Errors
    /// [`Error::Io`] when one cannot be made.
    pub fn new(test: &str, count: usize) -> Result<Self> {
        let mut disks = Self(Vec::new());
        for n in 0..count {
            let name = format!("nvme-disk-{}-{test}-{n}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let file = File::create(&path).and_then(|file| file.set_len(64 << 20));
            file.map_err(Error::io(format!("making {}", path.display())))?;
            disks.0.push(path);
        }
        Ok(disks)
    }

    /// The value of QEMU's `-drive` for one of them, which is then known as `disk0`, `disk1`, ...
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn drive(&self, n: usize) -> String {
        let path = self.0[n].display();
        format!("file={path},if=none,id=disk{n},format=raw,cache=unsafe,file.locking=off")
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

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

    /// [`Config::for_drivers`] with an IOMMU and two controllers of one subsystem,
    /// [`SHARED_NQN`]: `first` in `port0` and `second` in `port1`, serial `SHARED`, which is
    /// `0000:01:00.0` and `0000:02:00.0`. Both have namespace 1 on the first disk, with blocks of 512
    /// bytes, and namespace 2 on the second disk, with blocks of 4096. One transfer may be 4 MiB.
    #[must_use]
    pub fn for_two_controllers(disks: &Disks) -> Self {
        let (first, second) = (disks.drive(0), disks.drive(1));
        #[rustfmt::skip]
        let arguments = [
            "-drive", &first,
            "-drive", &second,
            "-device", "nvme-subsys,id=both,nqn=shared",
            "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
            "-device", "pcie-root-port,id=port1,chassis=2,slot=2,addr=11.0",
            "-device", "nvme,id=first,serial=SHARED,subsys=both,bus=port0,mdts=10",
            "-device", "nvme,id=second,serial=SHARED,subsys=both,bus=port1,mdts=10",
            "-device", "nvme-ns,drive=disk0,nsid=1,shared=on,bus=first,logical_block_size=512",
            "-device", "nvme-ns,drive=disk1,nsid=2,shared=on,bus=first,logical_block_size=4096,physical_block_size=4096",
        ];
        Self::for_drivers(Some(true), &arguments)
    }
}

/// Name of the subsystem of [`Config::for_two_controllers`].
pub const SHARED_NQN: &str = "nqn.2019-08.org.qemu:shared";

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

    /// Plugs a device in: QEMU's `device_add` with these arguments. QEMU frees the name of one that
    /// was there before a moment after the guest has let go of it, so that it is tried again.
    ///
    /// # Errors
    /// As [`Guest::monitor`], in the end.
    pub fn plug(&self, device: &Value) -> Result<()> {
        let end = Instant::now() + FREE;
        loop {
            match self.monitor("device_add", device) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Asks the guest to let go of a device: QEMU's `device_del`.
    ///
    /// # Errors
    /// As [`Guest::monitor`].
    pub fn unplug(&self, id: &str) -> Result<()> {
        self.monitor("device_del", &serde_json::json!({ "id": id })).map(drop)
    }

    /// Plugs the controller `second` of [`Config::for_two_controllers`] in again, and gives it to
    /// `driver`.
    ///
    /// # Errors
    /// As [`Guest::plug`] and [`Guest::wait_for`].
    pub fn plug_second(&self, driver: &str) -> Result<()> {
        self.plug(&serde_json::json!({
            "driver": "nvme", "id": "second", "serial": "SHARED", "subsys": "both",
            "bus": "port1", "mdts": 10,
        }))?;
        self.wait_for("[ -e /sys/bus/pci/devices/0000:02:00.0 ]", FREE)?;
        self.bind_function("0000:02:00.0", driver)
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
