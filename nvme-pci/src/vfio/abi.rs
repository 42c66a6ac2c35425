//! Structures of `linux/vfio.h` and `linux/iommufd.h`, and the ioctls that take them.
//!
//! vfio-user uses those of them that describe a device, too.
#![expect(unsafe_code, reason = "ioctls")]

use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `VFIO_TYPE` and `IOMMUFD_TYPE`.
const TYPE: u8 = b';';
/// `VFIO_BASE`.
const VFIO: u8 = 100;

/// An argument of one ioctl.
///
/// # Safety
/// The type is laid out as the kernel's structure for the ioctl `NUMBER`, which writes inside of it
/// only, and any bytes are a value of it.
pub(crate) unsafe trait Argument: FromBytes + IntoBytes {
    const NUMBER: u8;
}

/// Makes the ioctl of an argument. Gives the value that it returns, which is not negative.
pub(crate) fn call<T: Argument>(file: impl AsFd, argument: &mut T) -> rustix::io::Result<i32> {
    let call = Call { number: T::NUMBER, argument: std::ptr::from_mut(argument).cast() };
    // SAFETY: by the contract of `Argument` the pointer is what this ioctl takes.
    unsafe { rustix::ioctl::ioctl(file, call) }
}

/// Ioctls whose argument is a number or nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Simple {
    GetApiVersion,
    CheckExtension(u32),
    SetIommu(u32),
    DeviceReset,
}

/// Makes an ioctl whose argument is a number or nothing.
pub(crate) fn simple(file: impl AsFd, what: Simple) -> rustix::io::Result<i32> {
    let (number, argument) = match what {
        Simple::GetApiVersion => (VFIO, 0),
        Simple::CheckExtension(extension) => (VFIO + 1, extension),
        Simple::SetIommu(kind) => (VFIO + 2, kind),
        Simple::DeviceReset => (VFIO + 11, 0),
    };
    let argument = std::ptr::without_provenance_mut(argument as usize);
    // SAFETY: these ioctls take the argument as a number and touch no memory of the process.
    unsafe { rustix::ioctl::ioctl(file, Call { number, argument }) }
}

struct Call {
    number: u8,
    argument: *mut c_void,
}

// SAFETY: the pointer goes to the kernel as it is; what it has to point to is for the two functions
// above, which alone make such values, to see to.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::none(TYPE, self.number)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Declares structures with their size and, where they are an ioctl's argument, its number.
macro_rules! structures {
    ($(
        $(#[$doc:meta])*
        $name:ident[$size:literal] $(ioctl($number:expr))? {
            $($field:ident: $type:ty),* $(,)?
        }
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        const _: () = assert!(size_of::<$name>() == $size);
        $(
            // SAFETY: laid out by the header; the size is asserted above, and the kernel honours
            // `argsz` (or has a fixed size) for this number.
            unsafe impl Argument for $name { const NUMBER: u8 = $number; }
        )?
    )* };
}

structures! {
    /// `vfio_group_status`.
    GroupStatus[8] ioctl(VFIO + 3) { argsz: u32, flags: u32 }
    /// The argument of `VFIO_GROUP_SET_CONTAINER`: a descriptor.
    GroupSetContainer[4] ioctl(VFIO + 4) { container: i32 }
    /// The argument of `VFIO_GROUP_GET_DEVICE_FD`: a name that ends with a zero byte.
    GroupGetDevice[32] ioctl(VFIO + 6) { name: [u8; 32] }
    /// `vfio_device_info`.
    DeviceInfo[24] ioctl(VFIO + 7) {
        argsz: u32, flags: u32, num_regions: u32, num_irqs: u32, cap_offset: u32, pad: u32,
    }
    /// `vfio_region_info` with room for capabilities.
    RegionInfo[4096] ioctl(VFIO + 8) {
        argsz: u32, flags: u32, index: u32, cap_offset: u32, size: u64, offset: u64,
        capabilities: [u8; 4064],
    }
    /// `vfio_irq_info`.
    IrqInfo[16] ioctl(VFIO + 9) { argsz: u32, flags: u32, index: u32, count: u32 }
    /// `vfio_irq_set` with one descriptor.
    IrqSet[24] ioctl(VFIO + 10) {
        argsz: u32, flags: u32, index: u32, start: u32, count: u32, eventfd: i32,
    }
    /// `vfio_irq_set` with room for many descriptors.
    IrqSetMany[276] ioctl(VFIO + 10) {
        argsz: u32, flags: u32, index: u32, start: u32, count: u32, eventfds: [i32; 64],
    }
    /// `vfio_iommu_type1_info` with room for capabilities.
    IommuInfo[4096] ioctl(VFIO + 12) {
        argsz: u32, flags: u32, page_sizes: u64, cap_offset: u32, pad: u32,
        capabilities: [u8; 4072],
    }
    /// `vfio_iommu_type1_dma_map`.
    DmaMap[32] ioctl(VFIO + 13) { argsz: u32, flags: u32, vaddr: u64, iova: u64, size: u64 }
    /// `vfio_iommu_type1_dma_unmap`.
    DmaUnmap[24] ioctl(VFIO + 14) { argsz: u32, flags: u32, iova: u64, size: u64 }
    /// `vfio_device_bind_iommufd`.
    BindIommufd[16] ioctl(VFIO + 18) { argsz: u32, flags: u32, iommufd: i32, out_devid: u32 }
    /// `vfio_device_attach_iommufd_pt`, without the fields for PASID.
    AttachIommufd[12] ioctl(VFIO + 19) { argsz: u32, flags: u32, pt_id: u32 }
    /// `iommu_ioas_alloc`.
    IoasAlloc[12] ioctl(0x81) { size: u32, flags: u32, out_ioas_id: u32 }
    /// `iommu_ioas_map`.
    IoasMap[40] ioctl(0x85) {
        size: u32, flags: u32, ioas_id: u32, reserved: u32, user_va: u64, length: u64, iova: u64,
    }
    /// `iommu_ioas_unmap`.
    IoasUnmap[24] ioctl(0x86) { size: u32, ioas_id: u32, iova: u64, length: u64 }
    /// `vfio_info_cap_header`.
    CapabilityHeader[8] { id: u16, version: u16, next: u32 }
    /// `vfio_region_sparse_mmap_area`, and `vfio_iova_range` with its last address.
    Area[16] { offset: u64, size: u64 }
}

const _: () = assert!(offset_of!(DeviceInfo, cap_offset) == 16);
const _: () = assert!(offset_of!(RegionInfo, size) == 16 && offset_of!(RegionInfo, offset) == 24);
const _: () = assert!(offset_of!(IrqSet, eventfd) == 20);
const _: () = assert!(offset_of!(IommuInfo, page_sizes) == 8);
const _: () = assert!(offset_of!(IommuInfo, cap_offset) == 16);
const _: () = assert!(offset_of!(DmaMap, vaddr) == 8 && offset_of!(DmaMap, size) == 24);
const _: () = assert!(offset_of!(DmaUnmap, iova) == 8);
const _: () = assert!(offset_of!(BindIommufd, iommufd) == 8);
const _: () = assert!(offset_of!(AttachIommufd, pt_id) == 8);
const _: () = assert!(offset_of!(IoasMap, user_va) == 16 && offset_of!(IoasMap, iova) == 32);
const _: () = assert!(offset_of!(IoasUnmap, iova) == 8);

/// `VFIO_API_VERSION`.
pub(crate) const API_VERSION: i32 = 0;
/// `VFIO_TYPE1v2_IOMMU`.
pub(crate) const TYPE1V2: u32 = 3;
/// `VFIO_NOIOMMU_IOMMU`.
pub(crate) const NO_IOMMU: u32 = 8;
/// `VFIO_GROUP_FLAGS_VIABLE`.
pub(crate) const GROUP_VIABLE: u32 = 1 << 0;
/// `VFIO_DEVICE_FLAGS_RESET`.
pub(crate) const DEVICE_CAN_RESET: u32 = 1 << 0;
/// `VFIO_DEVICE_FLAGS_PCI`.
pub(crate) const DEVICE_IS_PCI: u32 = 1 << 1;
/// `VFIO_REGION_INFO_FLAG_READ` and `_WRITE`.
pub(crate) const REGION_READ_WRITE: u32 = 1 << 0 | 1 << 1;
/// `VFIO_REGION_INFO_FLAG_MMAP`.
pub(crate) const REGION_MMAP: u32 = 1 << 2;
/// `VFIO_REGION_INFO_FLAG_CAPS`.
pub(crate) const REGION_CAPABILITIES: u32 = 1 << 3;
/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
pub(crate) const CAPABILITY_SPARSE_MMAP: u16 = 1;
/// `VFIO_IOMMU_INFO_CAPS`.
pub(crate) const IOMMU_CAPABILITIES: u32 = 1 << 1;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`.
pub(crate) const CAPABILITY_IOVA_RANGE: u16 = 1;
/// `VFIO_DMA_MAP_FLAG_READ` and `_WRITE`.
pub(crate) const MAP_READ_WRITE: u32 = 1 << 0 | 1 << 1;
/// `IOMMU_IOAS_MAP_WRITEABLE` and `_READABLE`.
pub(crate) const IOAS_READ_WRITE: u32 = 1 << 1 | 1 << 2;
/// `VFIO_IRQ_INFO_EVENTFD`.
pub(crate) const IRQ_EVENTFD: u32 = 1 << 0;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
pub(crate) const IRQ_SET_EVENTFD: u32 = 1 << 2 | 1 << 5;

/// `VFIO_PCI_BAR0_REGION_INDEX`.
pub(crate) const REGION_BAR0: u32 = 0;
/// `VFIO_PCI_CONFIG_REGION_INDEX`.
pub(crate) const REGION_CONFIG: u32 = 7;
/// `VFIO_PCI_MSI_IRQ_INDEX`.
pub(crate) const IRQ_MSI: u32 = 1;
/// `VFIO_PCI_MSIX_IRQ_INDEX`.
pub(crate) const IRQ_MSIX: u32 = 2;
/// `VFIO_PCI_REQ_IRQ_INDEX`.
pub(crate) const IRQ_REQUEST: u32 = 4;

/// The size of a structure, as its first field tells it.
pub(crate) const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// What follows the header of the capability `id` in `info`, whose first capability is at `first`.
pub(crate) fn capability(info: &[u8], first: u32, id: u16) -> Option<&[u8]> {
    let mut at = first as usize;
    // Each header takes 8 bytes, so that there cannot be more of them: a circle ends, too.
    for _ in 0..info.len() / size_of::<CapabilityHeader>() {
        if at == 0 {
            return None;
        }
        let (header, rest) = CapabilityHeader::read_from_prefix(info.get(at..)?).ok()?;
        if header.id == id {
            return Some(rest);
        }
        at = header.next as usize;
    }
    None
}

/// The pairs of a capability that holds a count, a reserved word, and that many pairs.
pub(crate) fn areas(capability: &[u8]) -> io::Result<Vec<Area>> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "a capability is cut short");
    let (count, rest) = u32::read_from_prefix(capability).map_err(|_| cut())?;
    let end = (count as usize).checked_mul(size_of::<Area>()).and_then(|n| n.checked_add(4));
    let bytes = end.and_then(|end| rest.get(4..end)).ok_or_else(cut)?;
    bytes
        .chunks_exact(size_of::<Area>())
        .map(|chunk| Area::read_from_bytes(chunk).map_err(|_| cut()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Vec<u8> {
        let mut info = vec![0; 32];
        // Capability 9 at 32, then sparse mmap at 40 with one area.
        info.extend(CapabilityHeader { id: 9, version: 1, next: 40 }.as_bytes());
        info.extend(CapabilityHeader { id: 1, version: 1, next: 0 }.as_bytes());
        info.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        info.extend(Area { offset: 0x1000, size: 0x2000 }.as_bytes());
        info
    }

    #[test]
    fn a_capability_is_found_in_the_chain() {
        let info = info();
        let areas = areas(capability(&info, 32, 1).unwrap()).unwrap();
        assert_eq!(
            areas.iter().map(|a| (a.offset, a.size)).collect::<Vec<_>>(),
            [(0x1000, 0x2000)]
        );
        assert!(capability(&info, 32, 2).is_none());
        assert!(capability(&info, 0, 1).is_none());
        assert!(capability(&info, 4000, 1).is_none());
    }

    #[test]
    fn a_chain_that_is_a_circle_or_is_cut_ends() {
        let mut info = info();
        info[36] = 32;
        assert!(capability(&info, 32, 1).is_none());
        let info = self::info();
        for end in 0..info.len() {
            let cut = capability(&info[..end], 32, 1).map(areas);
            assert!(cut.is_none_or(|a| a.is_err()), "{end}");
        }
        assert!(areas(&[0xff; 64]).is_err());
    }
}
