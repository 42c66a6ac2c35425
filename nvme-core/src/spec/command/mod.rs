//! The submission queue entry, its data pointer, and constructors for the commands a host sends.

mod admin;
mod io;
mod sgl;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use admin::{FeatureSelect, GetLogPage, Identify};
pub use io::{BlockCount, BlockOp, DsmAttributes, DsmRange, IoFlags};
pub use sgl::{SUBTYPE_ADDRESS, SUBTYPE_OFFSET, SUBTYPE_TRANSPORT, SglDescriptor, SglType};

use super::fabrics::FABRICS_OPCODE;
use super::opcode::{DataDirection, FabricsType};

/// A submission queue entry, 64 bytes, aligned to 8 so that it can be written to a queue in words
/// (NVMe 2.1 §4.1, "Common Command Format").
///
/// The constructors leave `cid` and the data pointer zero: a transport fills them in when it submits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C, align(8))]
pub struct Sqe {
    /// Opcode, of the command set that the queue belongs to.
    pub opcode: u8,
    /// Bits 1:0 fused operation, bits 7:6 [`Psdt`].
    pub flags: u8,
    /// Command identifier, unique among the queue's outstanding commands; FFFFh should not be used.
    pub cid: U16,
    /// Namespace identifier.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer: two PRP entries or one SGL descriptor.
    pub dptr: [u8; 16],
    /// Command dword 10.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}
layout!(
    Sqe, 64, opcode @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16, dptr @ 24,
    cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, cdw14 @ 56, cdw15 @ 60,
);

/// PRP or SGL for Data Transfer, bits 7:6 of the flags byte (NVMe 2.1 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Psdt {
    /// The data pointer holds PRP entries.
    Prp = 0,
    /// The data pointer is an SGL descriptor, the metadata pointer a plain address. Required over fabrics.
    Sgl = 1,
    /// Both pointers are SGLs.
    SglBoth = 2,
    /// Reserved value.
    Reserved = 3,
}

/// Why a command cannot be built from the arguments given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A log page is read in dwords.
    #[error(
        "Get Log Page for log {lid:#04x}: length {len} is zero, not a multiple of 4, or over 16 GiB"
    )]
    LogLength {
        /// Log page identifier.
        lid: u8,
        /// The length in bytes that was asked for.
        len: u64,
    },
    /// A log page offset is a multiple of 4.
    #[error("Get Log Page for log {lid:#04x}: offset {offset} is not a multiple of 4")]
    LogOffset {
        /// Log page identifier.
        lid: u8,
        /// The offset in bytes that was asked for.
        offset: u64,
    },
    /// Dataset Management takes 1 to 256 ranges.
    #[error("Dataset Management with {0} ranges: 1 to 256 are possible")]
    DsmRanges(usize),
    /// A queue has 2 to 65536 entries.
    #[error("queue of {0} entries: 2 to 65536 are possible")]
    QueueSize(u32),
}

impl Sqe {
    /// An entry with this opcode and namespace, everything else zero.
    #[must_use]
    #[inline]
    pub fn new(opcode: u8, nsid: u32) -> Self {
        Self { opcode, nsid: nsid.into(), ..Self::default() }
    }

    /// The same command under another command identifier.
    #[must_use]
    pub fn with_cid(mut self, cid: u16) -> Self {
        self.cid = cid.into();
        self
    }

    /// Makes the data pointer two PRP entries (NVMe 2.1 §4.3.1).
    #[inline]
    pub fn set_prp(&mut self, prp1: u64, prp2: u64) {
        self.flags = self.flags & 0x3f | (Psdt::Prp as u8) << 6;
        let (low, high) = self.dptr.split_at_mut(8);
        low.copy_from_slice(&prp1.to_le_bytes());
        high.copy_from_slice(&prp2.to_le_bytes());
    }

    /// Makes the data pointer an SGL descriptor (NVMe 2.1 §4.3.2).
    pub fn set_sgl(&mut self, sgl: SglDescriptor) {
        self.flags = self.flags & 0x3f | (Psdt::Sgl as u8) << 6;
        self.dptr = zerocopy::transmute!(sgl);
    }

    /// Points to metadata that is transferred beside the data: one piece of memory, which begins at a
    /// multiple of 4 (NVMe 2.1 §4.1, MPTR).
    pub fn set_metadata(&mut self, address: u64) {
        self.mptr = address.into();
    }

    /// What the data pointer holds.
    #[must_use]
    pub const fn psdt(&self) -> Psdt {
        match self.flags >> 6 {
            0 => Psdt::Prp,
            1 => Psdt::Sgl,
            2 => Psdt::SglBoth,
            _ => Psdt::Reserved,
        }
    }

    /// The data pointer read as two PRP entries.
    #[must_use]
    pub fn prp(&self) -> (u64, u64) {
        let [prp1, prp2]: [U64; 2] = zerocopy::transmute!(self.dptr);
        (prp1.get(), prp2.get())
    }

    /// The data pointer read as an SGL descriptor.
    #[must_use]
    pub fn sgl(&self) -> SglDescriptor {
        zerocopy::transmute!(self.dptr)
    }

    /// Command dwords 10 and 11 as one number, the starting LBA of the block commands.
    #[must_use]
    pub const fn cdw10_11(&self) -> u64 {
        self.cdw10.get() as u64 | (self.cdw11.get() as u64) << 32
    }

    /// Stores a number of 64 bits in command dwords 10 and 11.
    pub fn set_cdw10_11(&mut self, value: u64) {
        self.cdw10 = (value as u32).into();
        self.cdw11 = ((value >> 32) as u32).into();
    }

    /// Fabrics command type, `None` unless this is a fabrics command (NVMe 2.1 §6).
    #[must_use]
    pub const fn fabrics_type(&self) -> Option<FabricsType> {
        if self.opcode == FABRICS_OPCODE { Some(FabricsType(self.nsid.get() as u8)) } else { None }
    }

    /// Which way the command's data moves.
    #[must_use]
    pub const fn data_direction(&self) -> DataDirection {
        match self.fabrics_type() {
            Some(fctype) => DataDirection::of(fctype.0),
            None => DataDirection::of(self.opcode),
        }
    }
}
