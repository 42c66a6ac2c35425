//! VFIO groups with the type 1 IOMMU, or with none.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

use nvme_core::memory::Ranges;

use crate::backend::BackendError;
use crate::system::address::{PciAddress, driver};
use crate::system::{io_error, limits, unusable};
use crate::vfio::abi;
use crate::vfio::space::Space;

/// A group and its container. A process can open a group once, so that functions of one group share
/// it.
#[derive(Debug)]
pub(super) struct Group {
    id: u32,
    group: OwnedFd,
    container: OwnedFd,
    no_iommu: bool,
    /// Bus addresses that are free.
    free: Mutex<Ranges>,
}

/// The groups that are open in this process.
static OPEN: Mutex<Vec<Weak<Group>>> = Mutex::new(Vec::new());

/// Bus addresses for kernels that do not tell which can be used (before 5.4): below the window of
/// message signalled interrupts on x86.
const OLD_KERNELS: (u64, u64) = (0, 0xfee0_0000 - 1);
/// Never given out: address 0 and its surroundings make faults of a device hard to tell.
const LOWEST: u64 = 1 << 20;
/// Mappings at least this long begin at a multiple of it, so that the IOMMU can use large pages.
const LARGE: usize = 2 << 20;

impl Group {
    /// The group of a function, and the function in it.
    pub(super) fn open(
        address: &str,
        pci: PciAddress,
    ) -> Result<(Arc<Self>, OwnedFd), BackendError> {
        let id = pci.iommu_group().ok_or_else(|| {
            unusable(
                address,
                "in no IOMMU group: the machine has no IOMMU, or it is off (intel_iommu=on, \
                 amd_iommu=on), and vfio's no-IOMMU mode is off too",
            )
        })?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.iter().filter_map(Weak::upgrade).find(|group| group.id == id);
        if let Some(group) = known {
            if let Ok(device) = group.device(pci) {
                return Ok((group, device));
            }
            // What it was opened for has been removed since, and the kernel has let go of it.
            open.retain(|g| !std::ptr::eq(g.as_ptr(), Arc::as_ptr(&group)));
        }
        open.retain(|g| g.strong_count() > 0);
        let group = Arc::new(Self::new(address, id)?);
        let device = group
            .device(pci)
            .map_err(io_error(address, format!("opening the function in IOMMU group {id}")))?;
        open.push(Arc::downgrade(&group));
        Ok((group, device))
    }

    fn new(address: &str, id: u32) -> Result<Self, BackendError> {
        let path = PathBuf::from(format!("/dev/vfio/{id}"));
        let unsafe_path = PathBuf::from(format!("/dev/vfio/noiommu-{id}"));
        let no_iommu = !path.exists() && unsafe_path.exists();
        let path = if no_iommu { unsafe_path } else { path };
        let container = open_device(address, Path::new("/dev/vfio/vfio"))?;
        match abi::simple(&container, abi::Simple::GetApiVersion) {
            Ok(abi::API_VERSION) => {}
            Ok(other) => {
                let reason = format!("VFIO has version {other} here, not {}", abi::API_VERSION);
                return Err(unusable(address, reason));
            }
            Err(errno) => return Err(io_error(address, "asking for VFIO's version")(errno)),
        }
        let group = open_device(address, &path)?;
        check_viable(address, id, &group)?;
        let mut argument = abi::GroupSetContainer { container: container.as_raw_fd() };
        abi::call(&group, &mut argument)
            .map_err(io_error(address, format!("putting IOMMU group {id} into a container")))?;
        let kind = if no_iommu { abi::NO_IOMMU } else { abi::TYPE1V2 };
        if !matches!(abi::simple(&container, abi::Simple::CheckExtension(kind)), Ok(1)) {
            return Err(unusable(address, format!("VFIO has no IOMMU driver of type {kind} here")));
        }
        abi::simple(&container, abi::Simple::SetIommu(kind)).map_err(|errno| match errno {
            Errno::PERM => unusable(address, unsafe_interrupts("vfio_iommu_type1")),
            _ => io_error(address, "setting up VFIO's IOMMU driver")(errno),
        })?;
        let free = if no_iommu { Ranges::default() } else { free_addresses(address, &container)? };
        Ok(Self { id, group, container, no_iommu, free: Mutex::new(free) })
    }

    /// Whether functions of this group use physical addresses.
    pub(super) const fn no_iommu(&self) -> bool {
        self.no_iommu
    }

    fn device(&self, pci: PciAddress) -> Result<OwnedFd, Errno> {
        let name = pci.to_string();
        let mut argument = abi::GroupGetDevice { name: [0; 32] };
        // The longest address has 16 characters; the rest stays zero.
        for (to, from) in argument.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let fd = abi::call(&self.group, &mut argument)?;
        Ok(own(fd))
    }

    fn free(&self) -> MutexGuard<'_, Ranges> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it means that the kernel refuses although the files could be opened.
pub(super) fn unsafe_interrupts(module: &str) -> String {
    format!(
        "the kernel refuses: this machine does not remap interrupts, and the parameter \
         allow_unsafe_interrupts of the module {module} is off"
    )
}

/// Takes ownership of a descriptor that an ioctl has made.
#[expect(unsafe_code, reason = "a descriptor comes as a number")]
fn own(fd: i32) -> OwnedFd {
    // SAFETY: VFIO_GROUP_GET_DEVICE_FD has just made this descriptor for the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Space for Group {
    fn map(&self, address: &str, ptr: NonNull<u8>, len: usize) -> Result<u64, BackendError> {
        let align = if len >= LARGE { LARGE } else { 4096 };
        let iova = self.free().allocate(len as u64, align as u64).ok_or_else(|| {
            unusable(
                address,
                format!("no {len} bytes of bus addresses are left in its IOMMU group"),
            )
        })?;
        let mut argument = abi::DmaMap {
            argsz: abi::size::<abi::DmaMap>(),
            flags: abi::MAP_READ_WRITE,
            vaddr: ptr.addr().get() as u64,
            iova,
            size: len as u64,
        };
        match abi::call(&self.container, &mut argument) {
            Ok(_) => Ok(iova),
            Err(errno) => {
                self.free().release(iova, len as u64);
                Err(limits::map_error(address, len as u64, errno))
            }
        }
    }

    fn unmap(&self, bus: u64, len: usize) {
        let mut argument = abi::DmaUnmap {
            argsz: abi::size::<abi::DmaUnmap>(),
            flags: 0,
            iova: bus,
            size: len as u64,
        };
        // Fails once the last function of the group has been removed, when nothing is mapped. If it
        // fails otherwise the addresses must not be used again: the device may still reach them.
        if abi::call(&self.container, &mut argument).is_ok() {
            self.free().release(bus, len as u64);
        }
    }
}

fn open_device(address: &str, path: &Path) -> Result<OwnedFd, BackendError> {
    let what = format!("opening {}", path.display());
    let file = File::options().read(true).write(true).open(path).map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::BUSY) => unusable(
                address,
                format!("{what}: in use, by another process or not let go of yet by this one"),
            ),
            _ => io_error(address, what)(error),
        }
    })?;
    Ok(file.into())
}

/// Checks that every device of a group belongs to VFIO or to nobody.
fn check_viable(address: &str, id: u32, group: &OwnedFd) -> Result<(), BackendError> {
    let mut status = abi::GroupStatus { argsz: abi::size::<abi::GroupStatus>(), flags: 0 };
    abi::call(group, &mut status)
        .map_err(io_error(address, format!("asking for the state of IOMMU group {id}")))?;
    if status.flags & abi::GROUP_VIABLE != 0 {
        return Ok(());
    }
    let devices = PathBuf::from(format!("/sys/kernel/iommu_groups/{id}/devices"));
    let mut others: Vec<String> = fs::read_dir(devices)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let driver = driver(&entry.path())?;
            // Bridges do not forward on their own behalf; VFIO accepts their driver.
            let accepted = driver.contains("vfio") || driver == "pci-stub" || driver == "pcieport";
            (!accepted).then(|| format!("{} ({driver})", entry.file_name().to_string_lossy()))
        })
        .collect();
    others.sort();
    let reason = format!(
        "IOMMU group {id} also has {}; each of them must be bound to vfio-pci or to no driver",
        others.join(", ")
    );
    Err(unusable(address, reason))
}

/// Asks which bus addresses can be used.
fn free_addresses(address: &str, container: &OwnedFd) -> Result<Ranges, BackendError> {
    let mut info = abi::IommuInfo::new_zeroed();
    info.argsz = abi::size::<abi::IommuInfo>();
    let failed = || io_error::<io::Error>(address, "asking for the IOMMU's addresses");
    abi::call(container.as_fd(), &mut info).map_err(|errno| failed()(errno.into()))?;
    let has = info.flags & abi::IOMMU_CAPABILITIES != 0;
    let found = if has {
        abi::capability(info.as_bytes(), info.cap_offset, abi::CAPABILITY_IOVA_RANGE)
    } else {
        None
    };
    let ranges = match found {
        // In these pairs the second number is the last address.
        Some(bytes) => {
            abi::areas(bytes).map_err(failed())?.iter().map(|a| (a.offset, a.size)).collect()
        }
        None => vec![OLD_KERNELS],
    };
    let mut free = Ranges::default();
    for (first, last) in ranges {
        let first = first.max(LOWEST);
        if let Some(len) = last.checked_sub(first) {
            // One byte short of the end when that is the end of all addresses.
            free.release(first, len.saturating_add(1));
        }
    }
    Ok(free)
}
