//! Identify Namespace of the NVM command set, and its command set independent part.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nqn::{Eui64, Nguid};
use crate::spec::WireError;

/// NSFEAT of the NVM command set (NVM 1.1 §4.1.5.1).
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
#[repr(transparent)]
pub struct NamespaceFeatures(u8);

bitflags::bitflags! {
    impl NamespaceFeatures: u8 {
        /// Thin provisioned.
        const THIN_PROVISIONING = 1 << 0;
        /// NAWUN, NAWUPF and NACWU are the namespace's own.
        const ATOMIC_UNITS = 1 << 1;
        /// Reading a deallocated block can be made an error.
        const DEALLOCATED_ERROR = 1 << 2;
        /// NGUID and EUI64 are never used again.
        const UNIQUE_ID = 1 << 3;
        /// NPWG, NPWA, NPDG, NPDA and NOWS are filled in.
        const OPTIMAL_PERFORMANCE = 1 << 4;
        const _ = !0;
    }
}

/// NMIC, how a namespace may be shared (NVMe 2.1 §5.1.13.2.7).
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
#[repr(transparent)]
pub struct NamespaceSharing(u8);

bitflags::bitflags! {
    impl NamespaceSharing: u8 {
        /// May be attached to several controllers at a time.
        const SHARED = 1 << 0;
        /// Dispersed over several subsystems.
        const DISPERSED = 1 << 1;
        const _ = !0;
    }
}

/// A logical block format, 4 bytes (NVM 1.1 §4.1.5.1).
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
pub struct LbaFormat {
    /// Metadata bytes per block.
    pub ms: U16,
    /// Data bytes per block as a power of two, at least 9; 0: the format is not available.
    pub lbads: u8,
    /// Relative performance, 0 best to 3.
    pub rp: u8,
}
layout!(LbaFormat, 4, ms @ 0, lbads @ 2, rp @ 3);

/// Identify Namespace of the NVM command set, CNS 00h (NVM 1.1 §4.1.5.1). Sizes and counts are in logical blocks
/// unless said otherwise; counts called 0's based are less one.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Size.
    pub nsze: U64,
    /// Capacity.
    pub ncap: U64,
    /// Utilization.
    pub nuse: U64,
    /// Features.
    pub nsfeat: NamespaceFeatures,
    /// Number of LBA formats, 0's based.
    pub nlbaf: u8,
    /// The format in use, see [`IdentifyNamespace::format_index`]; bit 4: metadata follows each block's data.
    pub flbas: u8,
    /// Metadata capabilities.
    pub mc: u8,
    /// Protection information capabilities.
    pub dpc: u8,
    /// Protection information in use, bits 2:0 the type, 0 none.
    pub dps: u8,
    /// Sharing.
    pub nmic: NamespaceSharing,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress.
    pub fpi: u8,
    /// Deallocation: bits 2:0 what a deallocated block reads as, bit 3 Write Zeroes may deallocate.
    pub dlfeat: u8,
    /// Atomic write unit normal, 0's based.
    pub nawun: U16,
    /// Atomic write unit power fail, 0's based.
    pub nawupf: U16,
    /// Atomic compare and write unit, 0's based.
    pub nacwu: U16,
    /// Atomic boundary size normal, 0's based.
    pub nabsn: U16,
    /// Atomic boundary offset.
    pub nabo: U16,
    /// Atomic boundary size power fail, 0's based.
    pub nabspf: U16,
    /// Optimal I/O boundary, 0 none.
    pub noiob: U16,
    /// NVM capacity in bytes.
    pub nvmcap: U128,
    /// Preferred write granularity, 0's based.
    pub npwg: U16,
    /// Preferred write alignment, 0's based.
    pub npwa: U16,
    /// Preferred deallocate granularity, 0's based.
    pub npdg: U16,
    /// Preferred deallocate alignment, 0's based.
    pub npda: U16,
    /// Optimal write size, 0's based.
    pub nows: U16,
    /// Maximum single source range length of Copy.
    pub mssrl: U16,
    /// Maximum copy length.
    pub mcl: U32,
    /// Maximum source ranges of Copy, 0's based.
    pub msrc: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Number of unique attribute LBA formats.
    pub nulbaf: u8,
    reserved83: u8,
    /// Key per I/O data access alignment and granularity.
    pub kpiodaag: U32,
    reserved88: [u8; 4],
    /// ANA group, 0 where the controller does not report ANA.
    pub anagrpid: U32,
    reserved96: [u8; 3],
    /// Attributes; bit 0 write protected.
    pub nsattr: u8,
    /// NVM set.
    pub nvmsetid: U16,
    /// Endurance group.
    pub endgid: U16,
    /// NGUID, zero for none.
    pub nguid: Nguid,
    /// EUI-64, zero for none.
    pub eui64: Eui64,
    /// LBA formats.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}
layout!(
    IdentifyNamespace, 4096, nsze @ 0, ncap @ 8, nuse @ 16, nsfeat @ 24, nlbaf @ 25, flbas @ 26, mc @ 27, dpc @ 28,
    dps @ 29, nmic @ 30, rescap @ 31, fpi @ 32, dlfeat @ 33, nawun @ 34, nawupf @ 36, nacwu @ 38, nabsn @ 40,
    nabo @ 42, nabspf @ 44, noiob @ 46, nvmcap @ 48, npwg @ 64, npwa @ 66, npdg @ 68, npda @ 70, nows @ 72,
    mssrl @ 74, mcl @ 76, msrc @ 80, kpios @ 81, nulbaf @ 82, kpiodaag @ 84, anagrpid @ 92, nsattr @ 99,
    nvmsetid @ 100, endgid @ 102, nguid @ 104, eui64 @ 120, lbaf @ 128, vs @ 384,
);

impl IdentifyNamespace {
    /// Index of the format in use: bits 3:0 of FLBAS and, above them, bits 6:5.
    #[must_use]
    pub const fn format_index(&self) -> usize {
        let low = self.flbas & 0xf;
        // Bits 6:5 were reserved while there were at most 16 formats; they count only where there are more.
        if self.nlbaf as u16 + self.nulbaf as u16 + 1 > 16 {
            (low | (self.flbas >> 5 & 0x3) << 4) as usize
        } else {
            low as usize
        }
    }

    /// The format in use.
    ///
    /// # Errors
    /// [`WireError::Invalid`] if the index points past the formats that the namespace has.
    pub fn format(&self) -> Result<LbaFormat, WireError> {
        let index = self.format_index();
        let formats = usize::from(self.nlbaf) + usize::from(self.nulbaf) + 1;
        match self.lbaf.get(index) {
            Some(format) if index < formats => Ok(*format),
            _ => Err(WireError::Invalid {
                what: "Identify Namespace FLBAS",
                offset: core::mem::offset_of!(Self, flbas),
                value: self.flbas.into(),
                rule: "the index is below the number of formats",
            }),
        }
    }

    /// Data bytes of a logical block, 512 to 2^31, always a power of two.
    ///
    /// # Errors
    /// [`WireError::Invalid`] if there is no such format, or its block size is none that a host can use.
    pub fn block_size(&self) -> Result<u32, WireError> {
        match self.format()?.lbads {
            lbads @ 9..=31 => Ok(1 << lbads),
            lbads => Err(WireError::Invalid {
                what: "Identify Namespace LBADS",
                offset: core::mem::offset_of!(Self, lbaf)
                    + self.format_index() * size_of::<LbaFormat>()
                    + 2,
                value: lbads.into(),
                rule: "a block has 2^9 to 2^31 bytes",
            }),
        }
    }

    /// Whether metadata follows each block's data in one buffer, so that a block takes more than
    /// [`IdentifyNamespace::block_size`] bytes.
    #[must_use]
    pub const fn has_extended_metadata(&self) -> bool {
        self.flbas & 1 << 4 != 0
    }
}

/// Command set independent Identify Namespace, CNS 08h (NVMe 2.1 §5.1.13.2.7).
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IndependentNamespace {
    /// Features: bit 3 identifiers never used again, bit 4 rotational media, bit 5 no volatile write cache.
    pub nsfeat: u8,
    /// Sharing.
    pub nmic: NamespaceSharing,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress.
    pub fpi: u8,
    /// ANA group.
    pub anagrpid: U32,
    /// Attributes; bit 0 write protected.
    pub nsattr: u8,
    reserved9: u8,
    /// NVM set.
    pub nvmsetid: U16,
    /// Endurance group.
    pub endgid: U16,
    /// Status, see [`IndependentNamespace::is_ready`].
    pub nstat: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Maximum key tag.
    pub maxkt: U16,
    reserved18: [u8; 2],
    /// Reachability group.
    pub rgrpid: U32,
    reserved24: [u8; 4072],
}
layout!(
    IndependentNamespace, 4096, nsfeat @ 0, nmic @ 1, rescap @ 2, fpi @ 3, anagrpid @ 4, nsattr @ 8, nvmsetid @ 10,
    endgid @ 12, nstat @ 14, kpios @ 15, maxkt @ 16, rgrpid @ 20, reserved24 @ 24,
);

impl IndependentNamespace {
    /// The namespace is ready for I/O (NRDY): false while a controller that became ready without media starts it.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.nstat & 1 != 0
    }
}
