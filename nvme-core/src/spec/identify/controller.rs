//! Identify Controller, CNS 01h.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nqn::{NQN_FIELD_LEN, Nguid, Nqn, NqnError};
use crate::spec::text;

/// CMIC, multi-path and sharing capabilities.
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
pub struct MultiPathCapabilities(u8);

bitflags::bitflags! {
    impl MultiPathCapabilities: u8 {
        /// The subsystem may have several ports.
        const MULTIPLE_PORTS = 1 << 0;
        /// The subsystem may have several controllers.
        const MULTIPLE_CONTROLLERS = 1 << 1;
        /// The controller belongs to an SR-IOV virtual function.
        const VIRTUAL_FUNCTION = 1 << 2;
        /// Asymmetric namespace access is reported.
        const ANA = 1 << 3;
        const _ = !0;
    }
}

/// ANACAP, asymmetric namespace access capabilities.
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
pub struct AnaCapabilities(u8);

bitflags::bitflags! {
    impl AnaCapabilities: u8 {
        /// Reports optimized state.
        const OPTIMIZED = 1 << 0;
        /// Reports non-optimized state.
        const NON_OPTIMIZED = 1 << 1;
        /// Reports inaccessible state.
        const INACCESSIBLE = 1 << 2;
        /// Reports persistent loss state.
        const PERSISTENT_LOSS = 1 << 3;
        /// Reports change state.
        const CHANGE = 1 << 4;
        /// A namespace's group does not change while it is attached.
        const GROUP_STABLE = 1 << 6;
        /// Namespace Management takes a group.
        const GROUP_MANAGEMENT = 1 << 7;
        const _ = !0;
    }
}

open_enum! {
    /// CNTRLTYPE, controller type.
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct ControllerType(u8) {
        NOT_REPORTED = 0x00, "Not Reported";
        IO = 0x01, "I/O Controller";
        DISCOVERY = 0x02, "Discovery Controller";
        ADMINISTRATIVE = 0x03, "Administrative Controller";
    }
}

/// CTRATT, controller attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ControllerAttributes(u32);

bitflags::bitflags! {
    impl ControllerAttributes: u32 {
        /// Host identifiers of 128 bits.
        const HOST_ID_128 = 1 << 0;
        /// NVM sets.
        const NVM_SETS = 1 << 2;
        /// Endurance groups.
        const ENDURANCE_GROUPS = 1 << 4;
        /// Traffic based keep alive: any command keeps the association alive (NVMe 2.1 §3.9).
        const TRAFFIC_BASED_KEEP_ALIVE = 1 << 6;
        /// UUID list.
        const UUID_LIST = 1 << 9;
        /// Extended LBA formats.
        const EXTENDED_LBA_FORMATS = 1 << 15;
        /// MDTS and size limits exclude metadata.
        const MDTS_EXCLUDES_METADATA = 1 << 16;
        const _ = !0;
    }
}

/// ONCS, optional commands of the NVM command set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OptionalCommands(u16);

bitflags::bitflags! {
    impl OptionalCommands: u16 {
        /// Compare.
        const COMPARE = 1 << 0;
        /// Write Uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Dataset Management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Saving features.
        const SAVE_FEATURES = 1 << 4;
        /// Reservations.
        const RESERVATIONS = 1 << 5;
        /// Timestamp feature.
        const TIMESTAMP = 1 << 6;
        /// Verify.
        const VERIFY = 1 << 7;
        /// Copy.
        const COPY = 1 << 8;
        const _ = !0;
    }
}

/// SGLS, SGL support; bits 1:0 are read by [`IdentifyController::supports_sgl`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SglSupport(u32);

bitflags::bitflags! {
    impl SglSupport: u32 {
        /// SGLs with alignment and granularity of one byte.
        const BYTE_ALIGNED = 1 << 0;
        /// SGLs with alignment and granularity of a dword.
        const DWORD_ALIGNED = 1 << 1;
        /// Keyed data blocks.
        const KEYED = 1 << 2;
        /// Bit buckets.
        const BIT_BUCKET = 1 << 16;
        /// SGLs longer than the data.
        const OVERSIZE = 1 << 18;
        /// Data blocks addressed by offset, that is in-capsule data.
        const OFFSET = 1 << 20;
        /// Transport data blocks.
        const TRANSPORT = 1 << 21;
        const _ = !0;
    }
}

/// A power state descriptor, 32 bytes (NVMe 2.1 §5.1.13.2.1).
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
pub struct PowerStateDescriptor {
    /// Maximum power, in 0.01 W, or 0.0001 W with bit 0 of `flags`.
    pub mp: U16,
    reserved2: u8,
    /// Bit 0 scale of `mp`, bit 1 non-operational.
    pub flags: u8,
    /// Entry latency in microseconds.
    pub enlat: U32,
    /// Exit latency in microseconds.
    pub exlat: U32,
    /// Relative performance and the power figures that follow it, uninterpreted.
    pub rest: [u8; 20],
}
layout!(PowerStateDescriptor, 32, mp @ 0, flags @ 3, enlat @ 4, exlat @ 8, rest @ 12);

/// Identify Controller, 4096 bytes (NVMe 2.1 §5.1.13.2.1; NVM 1.1 §4.1.5.2 for the NVM command set's fields).
/// Counts called 0's based are less one.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI vendor identifier.
    pub vid: U16,
    /// PCI subsystem vendor identifier.
    pub ssvid: U16,
    /// Serial number, ASCII padded with spaces.
    pub sn: [u8; 20],
    /// Model number, ASCII padded with spaces.
    pub mn: [u8; 40],
    /// Firmware revision, ASCII padded with spaces.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, a power of two.
    pub rab: u8,
    /// IEEE organization identifier.
    pub ieee: [u8; 3],
    /// Multi-path capabilities.
    pub cmic: MultiPathCapabilities,
    /// Maximum data transfer size, see [`IdentifyController::max_transfer`].
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: U16,
    /// Version, as the register VS.
    pub ver: U32,
    /// Resume latency in microseconds.
    pub rtd3r: U32,
    /// Entry latency in microseconds: how long a shutdown may take.
    pub rtd3e: U32,
    /// Optional asynchronous events, the bits of `AsyncEventConfig`.
    pub oaes: U32,
    /// Attributes, see [`IdentifyController::attributes`].
    pub ctratt: U32,
    /// Read recovery levels.
    pub rrls: U16,
    /// Boot partition capabilities.
    pub bpcap: u8,
    reserved103: u8,
    /// NVM subsystem shutdown latency in microseconds.
    pub nssl: U32,
    reserved108: [u8; 2],
    /// Power loss signaling.
    pub plsi: u8,
    /// Controller type.
    pub cntrltype: ControllerType,
    /// FRU globally unique identifier.
    pub fguid: Nguid,
    /// Command retry delays 1 to 3, in units of 100 ms.
    pub crdt: [U16; 3],
    /// Reachability capabilities.
    pub crcap: u8,
    /// Controller instance uniquifier: with `cntlid`, names this instance to Cross-Controller Reset (TP8028).
    pub ciu: u8,
    /// Controller instance random number, made anew when the controller becomes ready (TP8028).
    pub cirn: U64,
    reserved144: [u8; 109],
    /// NVM subsystem report.
    pub nvmsr: u8,
    /// VPD write cycles.
    pub vwci: u8,
    /// Management endpoint capabilities.
    pub mec: u8,
    /// Optional admin commands.
    pub oacs: U16,
    /// Abort commands that may be outstanding, 0's based.
    pub acl: u8,
    /// Asynchronous Event Requests that may be outstanding, 0's based.
    pub aerl: u8,
    /// Firmware updates.
    pub frmw: u8,
    /// Log page attributes; bit 1 commands supported and effects, bit 2 offsets and extended data.
    pub lpa: u8,
    /// Error log entries, 0's based.
    pub elpe: u8,
    /// Power states, 0's based.
    pub npss: u8,
    /// Vendor specific admin command configuration.
    pub avscc: u8,
    /// Autonomous power state transitions.
    pub apsta: u8,
    /// Warning temperature in kelvin.
    pub wctemp: U16,
    /// Critical temperature in kelvin.
    pub cctemp: U16,
    /// Maximum time for firmware activation, in units of 100 ms.
    pub mtfa: U16,
    /// Host memory buffer preferred, in 4 KiB.
    pub hmpre: U32,
    /// Host memory buffer minimum, in 4 KiB.
    pub hmmin: U32,
    /// Total capacity in bytes.
    pub tnvmcap: U128,
    /// Unallocated capacity in bytes.
    pub unvmcap: U128,
    /// Replay protected memory block.
    pub rpmbs: U32,
    /// Extended self-test time in minutes.
    pub edstt: U16,
    /// Self-test options.
    pub dsto: u8,
    /// Firmware update granularity in 4 KiB.
    pub fwug: u8,
    /// Granularity of the keep alive timer in units of 100 ms; 0: no keep alive.
    pub kas: U16,
    /// Host controlled thermal management.
    pub hctma: U16,
    /// Lowest thermal management temperature in kelvin.
    pub mntmt: U16,
    /// Highest thermal management temperature in kelvin.
    pub mxtmt: U16,
    /// Sanitize capabilities.
    pub sanicap: U32,
    /// Host memory buffer minimum descriptor entry, in 4 KiB.
    pub hmminds: U32,
    /// Host memory buffer maximum descriptor entries.
    pub hmmaxd: U16,
    /// Highest NVM set.
    pub nsetidmax: U16,
    /// Highest endurance group.
    pub endgidmax: U16,
    /// ANA transition time in seconds: how long the change state may last.
    pub anatt: u8,
    /// ANA capabilities.
    pub anacap: AnaCapabilities,
    /// Highest ANA group identifier.
    pub anagrpmax: U32,
    /// Number of ANA groups.
    pub nanagrpid: U32,
    /// Persistent event log size in 64 KiB.
    pub pels: U32,
    /// Domain.
    pub domainid: U16,
    /// Key per I/O capabilities.
    pub kpioc: u8,
    reserved359: u8,
    /// Maximum time for firmware activation without reset, in units of 100 ms.
    pub mptfawr: U16,
    reserved362: [u8; 6],
    /// Maximum endurance group capacity in bytes.
    pub megcap: U128,
    /// Temperature threshold hysteresis.
    pub tmpthha: u8,
    reserved385: u8,
    /// Command quiesce time in milliseconds: after the loss of communication and the keep alive timeout, how long until
    /// no command of the host can have an effect any more (NVMe 2.1 §3.9; TP4129). 0: not reported.
    pub cqt: U16,
    reserved388: [u8; 124],
    /// Submission entry size: bits 3:0 required, 7:4 maximum, as powers of two.
    pub sqes: u8,
    /// Completion entry size: bits 3:0 required, 7:4 maximum, as powers of two.
    pub cqes: u8,
    /// Commands that a queue should have outstanding at most; 0 unknown (fabrics).
    pub maxcmd: U16,
    /// Highest namespace identifier.
    pub nn: U32,
    /// Optional NVM commands, see [`IdentifyController::optional_commands`].
    pub oncs: U16,
    /// Fused operations; bit 0 compare and write.
    pub fuses: U16,
    /// Format NVM attributes.
    pub fna: u8,
    /// Volatile write cache: bit 0 there is one; bits 2:1 Flush to all namespaces (10b no, 11b yes).
    pub vwc: u8,
    /// Atomic write unit normal, blocks, 0's based.
    pub awun: U16,
    /// Atomic write unit power fail, blocks, 0's based.
    pub awupf: U16,
    /// Vendor specific I/O command configuration.
    pub icsvscc: u8,
    /// Namespace write protection.
    pub nwpc: u8,
    /// Atomic compare and write unit, blocks, 0's based.
    pub acwu: U16,
    /// Copy descriptor formats.
    pub cdfs: U16,
    /// SGL support, see [`IdentifyController::sgl_support`].
    pub sgls: U32,
    /// Most namespaces; 0: `nn` holds.
    pub mnan: U32,
    /// Maximum domain namespace attachments.
    pub maxdna: U128,
    /// Maximum I/O controller namespace attachments.
    pub maxcna: U32,
    /// Optimal aggregated queue depth.
    pub oaqd: U32,
    /// Recommended host-initiated refresh interval in days.
    pub rhiri: u8,
    /// Host-initiated refresh time in minutes.
    pub hirt: u8,
    reserved570: [u8; 198],
    /// NQN of the subsystem, see [`IdentifyController::subsystem_nqn`].
    pub subnqn: [u8; NQN_FIELD_LEN],
    reserved1024: [u8; 768],
    /// Fabrics: size of an I/O command capsule in 16 bytes, see [`IdentifyController::in_capsule_len`].
    pub ioccsz: U32,
    /// Fabrics: size of an I/O response capsule in 16 bytes.
    pub iorcsz: U32,
    /// Fabrics: where in-capsule data begins after the command, in 16 bytes.
    pub icdoff: U16,
    /// Fabrics: attributes; bit 0: 1 static, 0 dynamic controller model.
    pub fcatt: u8,
    /// Fabrics: most SGL data block descriptors; 0 no limit.
    pub msdbd: u8,
    /// Fabrics: optional commands; bit 0 Disconnect.
    pub ofcs: U16,
    /// Discovery controller type.
    pub dctype: u8,
    /// Cross-controller resets that may be under way at once; 0: the command is not supported (TP8028).
    pub ccrl: u8,
    reserved1808: [u8; 240],
    /// Power states.
    pub psd: [PowerStateDescriptor; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}
layout!(
    IdentifyController, 4096, vid @ 0, ssvid @ 2, sn @ 4, mn @ 24, fr @ 64, rab @ 72, ieee @ 73, cmic @ 76, mdts @ 77,
    cntlid @ 78, ver @ 80, rtd3r @ 84, rtd3e @ 88, oaes @ 92, ctratt @ 96, rrls @ 100, bpcap @ 102, nssl @ 104,
    plsi @ 110, cntrltype @ 111, fguid @ 112, crdt @ 128, crcap @ 134, ciu @ 135, cirn @ 136, nvmsr @ 253, vwci @ 254,
    mec @ 255, oacs @ 256, acl @ 258, aerl @ 259, frmw @ 260, lpa @ 261, elpe @ 262, npss @ 263, avscc @ 264,
    apsta @ 265, wctemp @ 266, cctemp @ 268, mtfa @ 270, hmpre @ 272, hmmin @ 276, tnvmcap @ 280, unvmcap @ 296,
    rpmbs @ 312, edstt @ 316, dsto @ 318, fwug @ 319, kas @ 320, hctma @ 322, mntmt @ 324, mxtmt @ 326, sanicap @ 328,
    hmminds @ 332, hmmaxd @ 336, nsetidmax @ 338, endgidmax @ 340, anatt @ 342, anacap @ 343, anagrpmax @ 344,
    nanagrpid @ 348, pels @ 352, domainid @ 356, kpioc @ 358, mptfawr @ 360, megcap @ 368, tmpthha @ 384, cqt @ 386,
    sqes @ 512, cqes @ 513, maxcmd @ 514, nn @ 516, oncs @ 520, fuses @ 522, fna @ 524, vwc @ 525, awun @ 526,
    awupf @ 528, icsvscc @ 530, nwpc @ 531, acwu @ 532, cdfs @ 534, sgls @ 536, mnan @ 540, maxdna @ 544, maxcna @ 560,
    oaqd @ 564, rhiri @ 568, hirt @ 569, subnqn @ 768, ioccsz @ 1792, iorcsz @ 1796, icdoff @ 1800, fcatt @ 1802,
    msdbd @ 1803, ofcs @ 1804, dctype @ 1806, ccrl @ 1807, psd @ 2048, vs @ 3072,
);

impl IdentifyController {
    /// Serial number, padding removed, `?` for what is not printable.
    #[must_use]
    pub fn serial(&self) -> String {
        text::ascii_lossy(&self.sn)
    }

    /// Model number, padding removed, `?` for what is not printable.
    #[must_use]
    pub fn model(&self) -> String {
        text::ascii_lossy(&self.mn)
    }

    /// Firmware revision, padding removed, `?` for what is not printable.
    #[must_use]
    pub fn firmware(&self) -> String {
        text::ascii_lossy(&self.fr)
    }

    /// Stores serial number, model number and firmware revision, each cut to its field's length.
    pub fn set_names(&mut self, serial: &str, model: &str, firmware: &str) {
        text::fill(&mut self.sn, serial);
        text::fill(&mut self.mn, model);
        text::fill(&mut self.fr, firmware);
    }

    /// NQN of the subsystem.
    ///
    /// # Errors
    /// [`NqnError`] if the field holds none, as in controllers before NVMe 1.2.1.
    pub fn subsystem_nqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Most bytes that a command may transfer, `page_size` being that of CAP.MPSMIN; `None`: no limit.
    #[must_use]
    pub fn max_transfer(&self, page_size: u64) -> Option<u64> {
        match self.mdts {
            0 => None,
            mdts => 1u64.checked_shl(mdts.into()).and_then(|pages| pages.checked_mul(page_size)),
        }
    }

    /// Controller attributes.
    #[must_use]
    pub const fn attributes(&self) -> ControllerAttributes {
        ControllerAttributes::from_bits_retain(self.ctratt.get())
    }

    /// Optional NVM commands.
    #[must_use]
    pub const fn optional_commands(&self) -> OptionalCommands {
        OptionalCommands::from_bits_retain(self.oncs.get())
    }

    /// SGL support.
    #[must_use]
    pub const fn sgl_support(&self) -> SglSupport {
        SglSupport::from_bits_retain(self.sgls.get())
    }

    /// Whether NVM commands may use SGLs at all.
    #[must_use]
    pub const fn supports_sgl(&self) -> bool {
        self.sgls.get() & 0x3 != 0
    }

    /// Whether ANA is reported, so that its log page is worth reading.
    #[must_use]
    pub const fn reports_ana(&self) -> bool {
        self.cmic.contains(MultiPathCapabilities::ANA)
    }

    /// Whether there is a volatile write cache, so that Flush is worth sending.
    #[must_use]
    pub const fn has_volatile_write_cache(&self) -> bool {
        self.vwc & 1 != 0
    }

    /// Command retry delay in milliseconds for a status's CRD of 1 to 3; 0 for any other.
    #[must_use]
    pub fn retry_delay_ms(&self, crd: u8) -> u32 {
        let index = usize::from(crd).checked_sub(1);
        index.and_then(|index| self.crdt.get(index)).map_or(0, |units| u32::from(units.get()) * 100)
    }

    /// Fabrics: bytes of data that an I/O command capsule can carry, `ioccsz` less the command itself; `None` if the
    /// capsule could not even hold the command, which no controller may say.
    #[must_use]
    pub const fn in_capsule_len(&self) -> Option<u64> {
        (self.ioccsz.get() as u64 * 16).checked_sub(64)
    }
}
