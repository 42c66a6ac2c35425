//! Messages of vfio-user (libvfio-user's specification, version 0.1), in the machine's byte order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares wire structures with their size.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident[$size:literal] { $($field:ident: $type:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name { $(pub $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $size);
    )* };
}

structures! {
    /// What every message begins with. `size` counts it, too.
    Header[16] { id: u16, command: u16, size: u32, flags: u32, error: u32 }
    /// The fixed part of VFIO_USER_VERSION.
    Version[4] { major: u16, minor: u16 }
    /// VFIO_USER_DMA_MAP; the file comes along.
    DmaMap[32] { argsz: u32, flags: u32, offset: u64, address: u64, size: u64 }
    /// VFIO_USER_DMA_UNMAP.
    DmaUnmap[24] { argsz: u32, flags: u32, address: u64, size: u64 }
    /// VFIO_USER_DEVICE_GET_INFO.
    DeviceInfo[16] { argsz: u32, flags: u32, regions: u32, irqs: u32 }
    /// VFIO_USER_DEVICE_GET_REGION_INFO.
    RegionInfo[32] {
        argsz: u32, flags: u32, index: u32, cap_offset: u32, size: u64, offset: u64,
    }
    /// The capability that tells which part of a region can be mapped, with one part.
    SparseMmap[32] {
        id: u16, version: u16, next: u32, areas: u32, reserved: u32, offset: u64, size: u64,
    }
    /// VFIO_USER_DEVICE_GET_IRQ_INFO.
    IrqInfo[16] { argsz: u32, flags: u32, index: u32, count: u32 }
    /// VFIO_USER_DEVICE_SET_IRQS; the eventfds come along.
    SetIrqs[20] { argsz: u32, flags: u32, index: u32, start: u32, count: u32 }
    /// VFIO_USER_REGION_READ and _WRITE; data follow where they are sent.
    Access[16] { offset: u64, region: u32, count: u32 }
}

/// VFIO_USER_VERSION.
pub(super) const VERSION: u16 = 1;
/// VFIO_USER_DMA_MAP.
pub(super) const DMA_MAP: u16 = 2;
/// VFIO_USER_DMA_UNMAP.
pub(super) const DMA_UNMAP: u16 = 3;
/// VFIO_USER_DEVICE_GET_INFO.
pub(super) const DEVICE_INFO: u16 = 4;
/// VFIO_USER_DEVICE_GET_REGION_INFO.
pub(super) const REGION_INFO: u16 = 5;
/// VFIO_USER_DEVICE_GET_IRQ_INFO.
pub(super) const IRQ_INFO: u16 = 7;
/// VFIO_USER_DEVICE_SET_IRQS.
pub(super) const SET_IRQS: u16 = 8;
/// VFIO_USER_REGION_READ.
pub(super) const REGION_READ: u16 = 9;
/// VFIO_USER_REGION_WRITE.
pub(super) const REGION_WRITE: u16 = 10;
/// VFIO_USER_DEVICE_RESET.
pub(super) const RESET: u16 = 13;

/// Type of a message: bits 0 to 3 of the flags.
pub(super) const TYPE: u32 = 0xf;
/// Type: an answer.
pub(super) const REPLY: u32 = 1;
/// No answer is wanted.
pub(super) const NO_REPLY: u32 = 1 << 4;
/// The answer is an error.
pub(super) const ERROR: u32 = 1 << 5;

/// VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI.
pub(super) const RESETTABLE_PCI: u32 = 1 << 0 | 1 << 1;
/// VFIO_REGION_INFO_FLAG_READ | _WRITE.
pub(super) const READ_WRITE: u32 = 1 << 0 | 1 << 1;
/// VFIO_REGION_INFO_FLAG_MMAP.
pub(super) const MMAP: u32 = 1 << 2;
/// VFIO_REGION_INFO_FLAG_MMAP | _CAPS.
pub(super) const MMAP_CAPS: u32 = 1 << 2 | 1 << 3;
/// VFIO_REGION_INFO_CAP_SPARSE_MMAP.
pub(super) const SPARSE_MMAP: u16 = 1;
/// VFIO_IRQ_INFO_EVENTFD.
pub(super) const IRQ_EVENTFD: u32 = 1;
/// VFIO_IRQ_SET_DATA_NONE, _DATA_EVENTFD, and _ACTION_TRIGGER.
pub(super) const IRQ_NONE: u32 = 1 << 0;
pub(super) const IRQ_EVENTFDS: u32 = 1 << 2;
pub(super) const IRQ_TRIGGER: u32 = 1 << 5;
/// VFIO_DMA_UNMAP_FLAG_ALL.
pub(super) const UNMAP_ALL: u32 = 1 << 1;

/// Regions and interrupt kinds of a PCI function, and those that there is something in.
pub(super) const REGIONS: u32 = 9;
pub(super) const IRQS: u32 = 5;
pub(super) const BAR0: u32 = 0;
/// The controller memory buffer.
pub(super) const BAR2: u32 = 2;
pub(super) const CONFIG: u32 = 7;
pub(super) const MSIX: u32 = 2;

/// The longest message that is taken, and the most data of one access.
pub(super) const MESSAGE_MAX: usize = 8192;
/// Descriptors that are taken with a message.
pub(super) const FDS_MAX: usize = 64;
