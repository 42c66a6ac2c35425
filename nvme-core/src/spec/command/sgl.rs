//! The scatter gather list descriptor.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

open_enum! {
    /// SGL descriptor type, the high nibble of the descriptor's last byte (NVMe 2.1 §4.3.2).
    pub struct SglType(u8) {
        DATA_BLOCK = 0x0, "Data Block";
        BIT_BUCKET = 0x1, "Bit Bucket";
        SEGMENT = 0x2, "Segment";
        LAST_SEGMENT = 0x3, "Last Segment";
        KEYED_DATA_BLOCK = 0x4, "Keyed Data Block";
        TRANSPORT_DATA_BLOCK = 0x5, "Transport Data Block";
        VENDOR = 0xf, "Vendor Specific";
    }
}

/// Sub type: the address field is a memory address.
pub const SUBTYPE_ADDRESS: u8 = 0x0;
/// Sub type: the address field is an offset into the capsule's data.
pub const SUBTYPE_OFFSET: u8 = 0x1;
/// Sub type that the TCP transport gives its data blocks (TCP 1.1 §3.4).
pub const SUBTYPE_TRANSPORT: u8 = 0xa;

/// An SGL descriptor, 16 bytes (NVMe 2.1 §4.3.2).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Memory address, or offset, or reserved, by type and sub type.
    pub address: U64,
    /// Length in bytes.
    pub length: U32,
    reserved: [u8; 3],
    /// Descriptor type in bits 7:4, sub type in bits 3:0.
    pub identifier: u8,
}
layout!(SglDescriptor, 16, address @ 0, length @ 8, reserved @ 12, identifier @ 15);

impl SglDescriptor {
    fn new(sgl_type: SglType, subtype: u8, address: u64, length: u32) -> Self {
        Self {
            address: address.into(),
            length: length.into(),
            reserved: [0; 3],
            identifier: sgl_type.0 << 4 | subtype,
        }
    }

    /// A block of memory that the controller reaches itself.
    #[must_use]
    pub fn data_block(address: u64, length: u32) -> Self {
        Self::new(SglType::DATA_BLOCK, SUBTYPE_ADDRESS, address, length)
    }

    /// A list of further descriptors, `length` bytes long, not the last of its chain.
    #[must_use]
    pub fn segment(address: u64, length: u32) -> Self {
        Self::new(SglType::SEGMENT, SUBTYPE_ADDRESS, address, length)
    }

    /// The last list of descriptors, `length` bytes long.
    #[must_use]
    pub fn last_segment(address: u64, length: u32) -> Self {
        Self::new(SglType::LAST_SEGMENT, SUBTYPE_ADDRESS, address, length)
    }

    /// Data that travels inside the command capsule, `offset` bytes from its start (TCP 1.1 §3.4).
    #[must_use]
    pub fn in_capsule(offset: u64, length: u32) -> Self {
        Self::new(SglType::DATA_BLOCK, SUBTYPE_OFFSET, offset, length)
    }

    /// Data that the transport moves in PDUs of its own; length 0 for commands without data (TCP 1.1 §3.4).
    #[must_use]
    pub fn transport(length: u32) -> Self {
        Self::new(SglType::TRANSPORT_DATA_BLOCK, SUBTYPE_TRANSPORT, 0, length)
    }

    /// Descriptor type.
    #[must_use]
    pub const fn sgl_type(&self) -> SglType {
        SglType(self.identifier >> 4)
    }

    /// Descriptor sub type.
    #[must_use]
    pub const fn subtype(&self) -> u8 {
        self.identifier & 0xf
    }
}
