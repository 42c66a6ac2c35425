//! Commands of the NVM command set.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CommandError, Sqe};
use crate::spec::opcode::NvmOpcode;

/// How many logical blocks a command covers: 1 to 65536, which the wire carries less one (NVM 1.1 §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCount(u16);

impl BlockCount {
    /// One block.
    pub const ONE: Self = Self(0);
    /// 65536 blocks, all that one command can cover.
    pub const MAX: Self = Self(u16::MAX);

    /// A count of 1 to 65536 blocks; `None` outside of that.
    #[must_use]
    #[inline]
    pub const fn new(blocks: u32) -> Option<Self> {
        match blocks {
            1..=0x1_0000 => Some(Self((blocks - 1) as u16)),
            _ => None,
        }
    }

    /// From the 0's based field of a command.
    #[must_use]
    pub const fn from_nlb(nlb: u16) -> Self {
        Self(nlb)
    }

    /// Blocks, 1 to 65536.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 as u32 + 1
    }

    /// The field of the command: blocks less one.
    #[must_use]
    pub const fn nlb(self) -> u16 {
        self.0
    }
}

/// Command dword 12 bits of the block commands (NVM 1.1 §3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IoFlags(u32);

bitflags::bitflags! {
    impl IoFlags: u32 {
        /// Write Zeroes: deallocate the blocks if that makes them read as zeroes.
        const DEALLOCATE = 1 << 25;
        /// Write: the data reaches non-volatile media before completion. Read: the data comes from there.
        const FORCE_UNIT_ACCESS = 1 << 30;
        /// The controller should limit its own retries.
        const LIMITED_RETRY = 1 << 31;
    }
}

/// Command dword 11 of Dataset Management (NVM 1.1 §3.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DsmAttributes(u32);

bitflags::bitflags! {
    impl DsmAttributes: u32 {
        /// The ranges are likely to be read as a whole.
        const INTEGRAL_READ = 1 << 0;
        /// The ranges are likely to be written as a whole.
        const INTEGRAL_WRITE = 1 << 1;
        /// Deallocate the ranges.
        const DEALLOCATE = 1 << 2;
    }
}

/// One range of the data of Dataset Management, 16 bytes (NVM 1.1 §3.3.3).
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
pub struct DsmRange {
    /// Context attributes: access hints.
    pub attributes: U32,
    /// Length in logical blocks.
    pub blocks: U32,
    /// First logical block.
    pub slba: U64,
}
layout!(DsmRange, 16, attributes @ 0, blocks @ 4, slba @ 8);

impl DsmRange {
    /// Most ranges that one command can carry.
    pub const MAX_PER_COMMAND: usize = 256;

    /// A range without hints.
    #[must_use]
    pub fn new(slba: u64, blocks: u32) -> Self {
        Self { attributes: 0.into(), blocks: blocks.into(), slba: slba.into() }
    }
}

/// What a command about logical blocks does, and to how many of which namespace: Read, Write, Compare,
/// Write Zeroes or Verify, which have these fields and flags in common (NVM 1.1 §3.3). Small enough to
/// be passed on in registers, until there is a place for the [`Sqe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOp {
    /// Dwords 0 and 1.
    head: u64,
    cdw12: u32,
}

impl BlockOp {
    /// `opcode` on `blocks` blocks of namespace `nsid`.
    #[must_use]
    #[inline]
    pub const fn new(opcode: NvmOpcode, nsid: u32, blocks: BlockCount, flags: IoFlags) -> Self {
        let head = opcode.0 as u64 | (nsid as u64) << 32;
        Self { head, cdw12: blocks.nlb() as u32 | flags.bits() }
    }

    /// The entry, about the blocks from `slba` on.
    #[must_use]
    #[inline]
    pub fn at(self, slba: u64) -> Sqe {
        zerocopy::transmute!(self.words(slba, 0, [0, 0]))
    }

    /// The entry in words as they are in memory, with its identifier and its data as PRP entries
    /// (NVMe 2.1 §4.1).
    #[must_use]
    #[inline]
    pub fn words(self, slba: u64, cid: u16, [prp1, prp2]: [u64; 2]) -> [u64; 8] {
        let first = self.head | u64::from(cid) << 16;
        [first, 0, 0, prp1, prp2, slba, self.cdw12.into(), 0].map(u64::to_le)
    }
}

impl Sqe {
    /// A command about `blocks` logical blocks from `slba`: Read, Write, Compare, Write Zeroes or
    /// Verify, which have these fields and flags in common (NVM 1.1 §3.3).
    #[must_use]
    #[inline]
    pub fn block_io(
        opcode: NvmOpcode,
        nsid: u32,
        slba: u64,
        blocks: BlockCount,
        flags: IoFlags,
    ) -> Self {
        BlockOp::new(opcode, nsid, blocks, flags).at(slba)
    }

    /// Read `blocks` logical blocks from `slba` (NVM 1.1 §3.3.4).
    #[must_use]
    pub fn read(nsid: u32, slba: u64, blocks: BlockCount) -> Self {
        Self::block_io(NvmOpcode::READ, nsid, slba, blocks, IoFlags::empty())
    }

    /// Write `blocks` logical blocks from `slba` (NVM 1.1 §3.3.6).
    #[must_use]
    pub fn write(nsid: u32, slba: u64, blocks: BlockCount) -> Self {
        Self::block_io(NvmOpcode::WRITE, nsid, slba, blocks, IoFlags::empty())
    }

    /// Compare `blocks` logical blocks from `slba` with the data sent (NVM 1.1 §3.3.1).
    #[must_use]
    pub fn compare(nsid: u32, slba: u64, blocks: BlockCount) -> Self {
        Self::block_io(NvmOpcode::COMPARE, nsid, slba, blocks, IoFlags::empty())
    }

    /// Set `blocks` logical blocks from `slba` to zero, no data sent (NVM 1.1 §3.3.8).
    #[must_use]
    pub fn write_zeroes(nsid: u32, slba: u64, blocks: BlockCount) -> Self {
        Self::block_io(NvmOpcode::WRITE_ZEROES, nsid, slba, blocks, IoFlags::empty())
    }

    /// Verify `blocks` logical blocks from `slba` without moving data (NVM 1.1 §3.3.5).
    #[must_use]
    pub fn verify(nsid: u32, slba: u64, blocks: BlockCount) -> Self {
        Self::block_io(NvmOpcode::VERIFY, nsid, slba, blocks, IoFlags::empty())
    }

    /// Commit the volatile write cache of a namespace (NVMe 2.1 §7.2).
    #[must_use]
    pub fn flush(nsid: u32) -> Self {
        Self::new(NvmOpcode::FLUSH.0, nsid)
    }

    /// Dataset Management over `ranges` ranges, whose [`DsmRange`] entries are the command's data (NVM 1.1 §3.3.3).
    ///
    /// # Errors
    /// [`CommandError::DsmRanges`] unless `ranges` is 1 to 256.
    pub fn dataset_management(
        nsid: u32,
        ranges: usize,
        attributes: DsmAttributes,
    ) -> Result<Self, CommandError> {
        if !(1..=DsmRange::MAX_PER_COMMAND).contains(&ranges) {
            return Err(CommandError::DsmRanges(ranges));
        }
        let mut sqe = Self::new(NvmOpcode::DATASET_MANAGEMENT.0, nsid);
        sqe.cdw10 = (ranges as u32 - 1).into();
        sqe.cdw11 = attributes.bits().into();
        Ok(sqe)
    }

    /// The same block command with dword 12 flags.
    #[must_use]
    pub fn with_io_flags(mut self, flags: IoFlags) -> Self {
        self.cdw12 = (self.cdw12.get() | flags.bits()).into();
        self
    }

    /// First logical block of a block command.
    #[must_use]
    pub const fn slba(&self) -> u64 {
        self.cdw10_11()
    }

    /// Logical blocks that a block command covers.
    #[must_use]
    pub const fn block_count(&self) -> BlockCount {
        BlockCount::from_nlb(self.cdw12.get() as u16)
    }

    /// Dword 12 flags of a block command; bits without a name are dropped.
    #[must_use]
    pub const fn io_flags(&self) -> IoFlags {
        IoFlags::from_bits_truncate(self.cdw12.get())
    }
}
