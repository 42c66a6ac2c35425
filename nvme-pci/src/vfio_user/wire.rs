//! Messages of vfio-user (libvfio-user's specification, version 0.1), in the machine's byte order.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a message begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub id: u16,
    pub command: u16,
    /// Bytes of the message with this header.
    pub size: u32,
    pub flags: u32,
    /// An error number, with [`FLAG_ERROR`].
    pub error: u32,
}

/// The fixed part of a version message; text follows that ends with a zero byte.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Version {
    pub major: u16,
    pub minor: u16,
}

/// Maps memory; its file comes along.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    /// Where the memory begins in the file.
    pub offset: u64,
    pub address: u64,
    pub size: u64,
}

/// Unmaps memory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub address: u64,
    pub size: u64,
}

/// What the device is: `vfio_device_info` without capabilities.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DeviceInfo {
    pub argsz: u32,
    pub flags: u32,
    pub regions: u32,
    pub irqs: u32,
}

/// Sets interrupts up; their eventfds come along.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SetIrqs {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub start: u32,
    pub count: u32,
}

/// Reads or writes a region; data follow where they are sent.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Access {
    pub offset: u64,
    pub region: u32,
    pub count: u32,
}

const _: () = assert!(size_of::<Header>() == 16 && offset_of!(Header, error) == 12);
const _: () = assert!(size_of::<Version>() == 4);
const _: () = assert!(size_of::<DmaMap>() == 32 && offset_of!(DmaMap, address) == 16);
const _: () = assert!(size_of::<DmaUnmap>() == 24 && offset_of!(DmaUnmap, address) == 8);
const _: () = assert!(size_of::<DeviceInfo>() == 16);
const _: () = assert!(size_of::<SetIrqs>() == 20);
const _: () = assert!(size_of::<Access>() == 16 && offset_of!(Access, count) == 12);

/// The commands that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    DeviceInfo = 4,
    RegionInfo = 5,
    IrqInfo = 7,
    SetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    Reset = 13,
}

/// Bits 0 to 3 of the flags: the type of the message.
pub(super) const FLAG_TYPE: u32 = 0xf;
/// The type of an answer.
pub(super) const TYPE_REPLY: u32 = 1;
/// No answer is wanted.
pub(super) const FLAG_NO_REPLY: u32 = 1 << 4;
/// The answer is an error.
pub(super) const FLAG_ERROR: u32 = 1 << 5;

/// The version that is spoken.
pub(super) const VERSION: Version = Version { major: 0, minor: 1 };
/// What this client can do. One descriptor a message is all that it is sent.
pub(super) const CAPABILITIES: &[u8] =
    b"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576}}\0";
/// The longest answer that is taken: a region with many capabilities.
pub(super) const REPLY_MAX: usize = 64 << 10;
/// Descriptors that are taken with one answer.
pub(super) const FDS_MAX: usize = 8;
/// `VFIO_USER_F_DMA_REGION_READ` and `_WRITE`.
pub(super) const DMA_READ_WRITE: u32 = 1 << 0 | 1 << 1;
