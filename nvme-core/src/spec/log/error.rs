//! Error information log page (NVMe 2.1 §5.1.12.1.2).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::spec::Status;

/// An entry of the error log, 64 bytes; newest first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Number of this error since the beginning; 0: the entry is empty.
    pub error_count: U64,
    /// Submission queue of the command.
    pub sqid: U16,
    /// Command identifier.
    pub cid: U16,
    /// Status field in bits 15:1, see [`ErrorLogEntry::status`]; bit 0 may be the phase tag.
    pub status: U16,
    /// Where in the command the bad parameter is: bits 7:0 byte, bits 10:8 bit.
    pub parameter_location: U16,
    /// First logical block affected.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// Vendor specific information available.
    pub vsia: u8,
    /// Transport type.
    pub trtype: u8,
    /// Command set.
    pub csi: u8,
    /// Opcode.
    pub opcode: u8,
    /// Command specific information.
    pub command_specific: U64,
    /// Transport type specific information.
    pub transport_specific: U16,
    reserved42: [u8; 21],
    /// Log page version.
    pub lpver: u8,
}
layout!(
    ErrorLogEntry, 64, error_count @ 0, sqid @ 8, cid @ 10, status @ 12, parameter_location @ 14, lba @ 16, nsid @ 24,
    vsia @ 28, trtype @ 29, csi @ 30, opcode @ 31, command_specific @ 32, transport_specific @ 40, reserved42 @ 42,
    lpver @ 63,
);

impl ErrorLogEntry {
    /// Status of the command that failed.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_raw(self.status.get() >> 1)
    }

    /// Whether the entry, and with it all that follow, holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.error_count.get() == 0
    }
}
