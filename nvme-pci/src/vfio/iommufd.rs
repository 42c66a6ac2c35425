//! The device character file and iommufd, in place of group and container (Linux 6.6 and later).
//!
//! Kernels of distributions that have iommufd are newer than the one of the tests, which build it as
//! a module. The layouts of what goes to the kernel are asserted when this is compiled.

use std::fs;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;

use crate::backend::BackendError;
use crate::system::address::PciAddress;
use crate::system::{io_error, limits, unusable};
use crate::vfio::abi;
use crate::vfio::group::unsafe_interrupts;
use crate::vfio::space::Space;

const IOMMUFD: &str = "/dev/iommu";

/// An I/O address space of an iommufd.
#[derive(Debug)]
pub(super) struct AddressSpace {
    iommufd: OwnedFd,
    ioas_id: u32,
}

/// The character file of a function, if the kernel has such files and iommufd.
pub(super) fn device_file(pci: PciAddress) -> Option<PathBuf> {
    let entry = fs::read_dir(pci.sysfs().join("vfio-dev")).ok()?.flatten().next()?;
    let file = Path::new("/dev/vfio/devices").join(entry.file_name());
    (Path::new(IOMMUFD).exists() && file.exists()).then_some(file)
}

/// Opens a function by its character file, with an address space of its own.
pub(super) fn open(
    address: &str,
    path: &Path,
) -> Result<(Arc<AddressSpace>, OwnedFd), BackendError> {
    let open = |path: &Path| {
        let file = File::options().read(true).write(true).open(path);
        file.map(OwnedFd::from).map_err(io_error(address, format!("opening {}", path.display())))
    };
    let device = open(path)?;
    let iommufd = open(Path::new(IOMMUFD))?;
    let mut bind = abi::BindIommufd {
        argsz: abi::size::<abi::BindIommufd>(),
        flags: 0,
        iommufd: iommufd.as_raw_fd(),
        out_devid: 0,
    };
    abi::call(&device, &mut bind).map_err(|errno| match errno {
        Errno::PERM => unusable(address, unsafe_interrupts("iommufd")),
        _ => io_error(address, "binding the function to iommufd")(errno),
    })?;
    let mut alloc =
        abi::IoasAlloc { size: abi::size::<abi::IoasAlloc>(), flags: 0, out_ioas_id: 0 };
    abi::call(&iommufd, &mut alloc).map_err(io_error(address, "making an I/O address space"))?;
    let mut attach = abi::AttachIommufd {
        argsz: abi::size::<abi::AttachIommufd>(),
        flags: 0,
        pt_id: alloc.out_ioas_id,
    };
    abi::call(&device, &mut attach)
        .map_err(io_error(address, "attaching the function to an I/O address space"))?;
    Ok((Arc::new(AddressSpace { iommufd, ioas_id: alloc.out_ioas_id }), device))
}

impl Space for AddressSpace {
    fn map(&self, address: &str, ptr: NonNull<u8>, len: usize) -> Result<u64, BackendError> {
        let mut argument = abi::IoasMap {
            size: abi::size::<abi::IoasMap>(),
            flags: abi::IOAS_READ_WRITE,
            ioas_id: self.ioas_id,
            reserved: 0,
            user_va: ptr.addr().get() as u64,
            length: len as u64,
            iova: 0,
        };
        // Without IOMMU_IOAS_MAP_FIXED_IOVA the kernel chooses the bus address.
        abi::call(&self.iommufd, &mut argument)
            .map_err(|errno| limits::map_error(address, len as u64, errno))?;
        Ok(argument.iova)
    }

    fn unmap(&self, bus: u64, len: usize) {
        let mut argument = abi::IoasUnmap {
            size: abi::size::<abi::IoasUnmap>(),
            ioas_id: self.ioas_id,
            iova: bus,
            length: len as u64,
        };
        // Cannot fail for what was mapped; the kernel keeps the books.
        let _ = abi::call(&self.iommufd, &mut argument);
    }
}
