//! Controller properties: the registers of a memory based controller, the properties of a fabrics one
//! (NVMe 2.1 §3.1.4).

/// Offsets in bytes from the start of the register space.
pub mod offset {
    /// Controller Capabilities, 8 bytes.
    pub const CAP: usize = 0x00;
    /// Version, 4 bytes.
    pub const VS: usize = 0x08;
    /// Interrupt Mask Set, 4 bytes.
    pub const INTMS: usize = 0x0c;
    /// Interrupt Mask Clear, 4 bytes.
    pub const INTMC: usize = 0x10;
    /// Controller Configuration, 4 bytes.
    pub const CC: usize = 0x14;
    /// Controller Status, 4 bytes.
    pub const CSTS: usize = 0x1c;
    /// NVM Subsystem Reset, 4 bytes.
    pub const NSSR: usize = 0x20;
    /// Admin Queue Attributes, 4 bytes.
    pub const AQA: usize = 0x24;
    /// Admin Submission Queue Base Address, 8 bytes.
    pub const ASQ: usize = 0x28;
    /// Admin Completion Queue Base Address, 8 bytes.
    pub const ACQ: usize = 0x30;
    /// Controller Memory Buffer Location, 4 bytes.
    pub const CMBLOC: usize = 0x38;
    /// Controller Memory Buffer Size, 4 bytes.
    pub const CMBSZ: usize = 0x3c;
    /// Controller Memory Buffer Memory Space Control, 8 bytes.
    pub const CMBMSC: usize = 0x50;
    /// Controller Memory Buffer Status, 4 bytes.
    pub const CMBSTS: usize = 0x58;
    /// NVM Subsystem Shutdown, 4 bytes.
    pub const NSSD: usize = 0x64;
    /// Controller Ready Timeouts, 4 bytes.
    pub const CRTO: usize = 0x68;
    /// Persistent Memory Region Capabilities, 4 bytes.
    pub const PMRCAP: usize = 0xe00;
    /// First doorbell (NVMe over PCIe Transport 1.1 §3.1.2).
    pub const DOORBELLS: usize = 0x1000;
}

/// What to write to NSSR to reset the NVM subsystem, "NVMe" (NVMe 2.1 §3.1.4.7).
pub const NSSR_RESET: u32 = 0x4e56_4d65;

bit_fields! {
    /// CAP, Controller Capabilities (NVMe 2.1 §3.1.4.1).
    pub struct Cap(u64) {
        /// Maximum entries of an I/O queue, less one.
        mqes / with_mqes: 0, 16;
        /// 1: queues must be physically contiguous.
        cqr / with_cqr: 16, 1;
        /// Arbitration mechanisms beyond round robin: bit 0 weighted with urgent class, bit 1 vendor specific.
        ams / with_ams: 17, 2;
        /// Time until ready in units of 500 ms, see [`Cap::timeout_ms`].
        to / with_to: 24, 8;
        /// Doorbell stride exponent, see [`Cap::doorbell_stride`].
        dstrd / with_dstrd: 32, 4;
        /// 1: NVM subsystem reset is supported.
        nssrs / with_nssrs: 36, 1;
        /// Command sets: bit 0 NVM, bit 6 one or more by CC.CSS = 110b, bit 7 none.
        css / with_css: 37, 8;
        /// 1: boot partitions are supported.
        bps / with_bps: 45, 1;
        /// Controller power scope.
        cps / with_cps: 46, 2;
        /// Smallest memory page, exponent over 4 KiB, see [`Cap::min_page_size`].
        mpsmin / with_mpsmin: 48, 4;
        /// Largest memory page, exponent over 4 KiB, see [`Cap::max_page_size`].
        mpsmax / with_mpsmax: 52, 4;
        /// 1: there is a persistent memory region.
        pmrs / with_pmrs: 56, 1;
        /// 1: there is a controller memory buffer, located by CMBLOC once CMBMSC.CRE is set.
        cmbs / with_cmbs: 57, 1;
        /// 1: NVM subsystem shutdown is supported.
        nsss / with_nsss: 58, 1;
        /// 1: the controller can be ready with media (CRTO.CRWMT holds the time).
        crwms / with_crwms: 59, 1;
        /// 1: the controller can be ready independent of media (CRTO.CRIMT holds the time).
        crims / with_crims: 60, 1;
    }
}

impl Cap {
    /// Bit 0 of [`Cap::css`]: the NVM command set.
    pub const CSS_NVM: u64 = 1 << 0;
    /// Bit 6 of [`Cap::css`]: command sets are selected by CC.CSS = 110b.
    pub const CSS_IOCS: u64 = 1 << 6;
    /// Bit 7 of [`Cap::css`]: no I/O command set.
    pub const CSS_NONE: u64 = 1 << 7;

    /// Most entries that an I/O queue may have, 2 to 65536.
    #[must_use]
    pub const fn max_queue_entries(self) -> u32 {
        self.mqes() as u32 + 1
    }

    /// How long CSTS.RDY may take to follow CC.EN, in milliseconds; CRTO may say more.
    #[must_use]
    pub const fn timeout_ms(self) -> u32 {
        self.to() as u32 * 500
    }

    /// Bytes from one doorbell to the next.
    #[must_use]
    pub const fn doorbell_stride(self) -> usize {
        4 << self.dstrd()
    }

    /// Offset of the submission tail doorbell of queue `qid` (NVMe over PCIe Transport 1.1 §3.1.2.1).
    #[must_use]
    pub const fn sq_doorbell(self, qid: u16) -> usize {
        offset::DOORBELLS + 2 * qid as usize * self.doorbell_stride()
    }

    /// Offset of the completion head doorbell of queue `qid` (NVMe over PCIe Transport 1.1 §3.1.2.2).
    #[must_use]
    pub const fn cq_doorbell(self, qid: u16) -> usize {
        offset::DOORBELLS + (2 * qid as usize + 1) * self.doorbell_stride()
    }

    /// Smallest memory page size in bytes.
    #[must_use]
    pub const fn min_page_size(self) -> u64 {
        1 << (12 + self.mpsmin())
    }

    /// Largest memory page size in bytes.
    #[must_use]
    pub const fn max_page_size(self) -> u64 {
        1 << (12 + self.mpsmax())
    }
}

bit_fields! {
    /// VS, Version (NVMe 2.1 §3.1.4.2).
    pub struct Version(u32) {
        /// Major version.
        major / with_major: 16, 16;
        /// Minor version.
        minor / with_minor: 8, 8;
        /// Tertiary version.
        tertiary / with_tertiary: 0, 8;
    }
}

impl Version {
    /// A version from its three parts.
    #[must_use]
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Self {
        Self((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }

    /// Whether this is version `major`.`minor` or a later one.
    #[must_use]
    pub const fn at_least(self, major: u16, minor: u8) -> bool {
        self.0 >= Self::new(major, minor, 0).0
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.minor(), self.tertiary())
    }
}

bit_fields! {
    /// CC, Controller Configuration (NVMe 2.1 §3.1.4.5).
    pub struct Cc(u32) {
        /// Enable.
        en / with_en: 0, 1;
        /// Command set selected: 000b NVM, 110b all that are supported, 111b admin only.
        css / with_css: 4, 3;
        /// Memory page size, exponent over 4 KiB.
        mps / with_mps: 7, 4;
        /// Arbitration mechanism: 0 round robin.
        ams / with_ams: 11, 3;
        /// Shutdown notification, one of the `SHN_` constants.
        shn / with_shn: 14, 2;
        /// Submission entry size as a power of two; 6.
        iosqes / with_iosqes: 16, 4;
        /// Completion entry size as a power of two; 4.
        iocqes / with_iocqes: 20, 4;
        /// 1: become ready independent of media.
        crime / with_crime: 24, 1;
    }
}

impl Cc {
    /// Value of [`Cc::shn`]: no shutdown.
    pub const SHN_NONE: u32 = 0;
    /// Value of [`Cc::shn`]: normal shutdown.
    pub const SHN_NORMAL: u32 = 1;
    /// Value of [`Cc::shn`]: abrupt shutdown.
    pub const SHN_ABRUPT: u32 = 2;
    /// Value of [`Cc::css`]: the NVM command set.
    pub const CSS_NVM: u32 = 0b000;
    /// Value of [`Cc::css`]: all command sets of the controller's current profile.
    pub const CSS_IOCS: u32 = 0b110;
    /// Value of [`Cc::css`]: admin commands only.
    pub const CSS_NONE: u32 = 0b111;

    /// Enabled, NVM command set, 64 and 16 byte entries, round robin; `mps` is the page size's exponent over 4 KiB.
    #[must_use]
    pub const fn enabled(mps: u32) -> Self {
        Self(0).with_en(1).with_mps(mps).with_iosqes(6).with_iocqes(4)
    }
}

bit_fields! {
    /// CSTS, Controller Status (NVMe 2.1 §3.1.4.6).
    pub struct Csts(u32) {
        /// Ready.
        rdy / with_rdy: 0, 1;
        /// Controller fatal status.
        cfs / with_cfs: 1, 1;
        /// Shutdown status, one of the `SHST_` constants.
        shst / with_shst: 2, 2;
        /// An NVM subsystem reset occurred; written 1 to clear.
        nssro / with_nssro: 4, 1;
        /// Command processing is paused.
        pp / with_pp: 5, 1;
        /// What [`Csts::shst`] is about: 0 the controller, 1 the NVM subsystem.
        st / with_st: 6, 1;
    }
}

impl Csts {
    /// Value of [`Csts::shst`]: no shutdown.
    pub const SHST_NORMAL: u32 = 0;
    /// Value of [`Csts::shst`]: shutdown goes on.
    pub const SHST_OCCURRING: u32 = 1;
    /// Value of [`Csts::shst`]: shutdown is complete.
    pub const SHST_COMPLETE: u32 = 2;

    /// Whether the read cannot be a register's value: all ones is what a removed or fallen PCIe device returns.
    #[must_use]
    pub const fn is_absent(self) -> bool {
        self.0 == u32::MAX
    }

    /// Ready.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        self.rdy() == 1
    }

    /// Fatal: only a reset helps.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        self.cfs() == 1
    }
}

bit_fields! {
    /// AQA, Admin Queue Attributes (NVMe 2.1 §3.1.4.8).
    pub struct Aqa(u32) {
        /// Entries of the admin submission queue, less one.
        asqs / with_asqs: 0, 12;
        /// Entries of the admin completion queue, less one.
        acqs / with_acqs: 16, 12;
    }
}

bit_fields! {
    /// CMBLOC, Controller Memory Buffer Location (NVMe 2.1 §3.1.4.11).
    pub struct CmbLoc(u32) {
        /// The BAR that holds the buffer.
        bir / with_bir: 0, 3;
        /// Queues and data may be mixed as bits 8:3 tell.
        capabilities / with_capabilities: 3, 6;
        /// Offset within the BAR in units of [`CmbSz::unit`].
        ofst / with_ofst: 12, 20;
    }
}

bit_fields! {
    /// CMBMSC, Controller Memory Buffer Memory Space Control (NVMe 2.1 §3.1.4.17).
    pub struct CmbMsc(u64) {
        /// 1: CMBLOC and CMBSZ tell what there is.
        cre / with_cre: 0, 1;
        /// 1: the controller takes accesses to the range from the base address on for the buffer's.
        cmse / with_cmse: 1, 1;
        /// Base address of the buffer for the controller, in units of 4 KiB.
        cba / with_cba: 12, 52;
    }
}

bit_fields! {
    /// CMBSZ, Controller Memory Buffer Size (NVMe 2.1 §3.1.4.12).
    pub struct CmbSz(u32) {
        /// Submission queues may be in the buffer.
        sqs / with_sqs: 0, 1;
        /// Completion queues may be in the buffer.
        cqs / with_cqs: 1, 1;
        /// PRP and SGL lists may be in the buffer.
        lists / with_lists: 2, 1;
        /// Data to read may be in the buffer.
        rds / with_rds: 3, 1;
        /// Data to write may be in the buffer.
        wds / with_wds: 4, 1;
        /// Unit exponent, see [`CmbSz::unit`].
        szu / with_szu: 8, 4;
        /// Size in units.
        sz / with_sz: 12, 20;
    }
}

impl CmbSz {
    /// Bytes of a unit: 4 KiB times 16 to the power of [`CmbSz::szu`]; `None` for a reserved exponent.
    #[must_use]
    pub const fn unit(self) -> Option<u64> {
        match self.szu() {
            szu @ 0..=6 => Some(1 << (12 + 4 * szu)),
            _ => None,
        }
    }

    /// Size of the buffer in bytes.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        match self.unit() {
            Some(unit) => unit.checked_mul(self.sz() as u64),
            None => None,
        }
    }
}

bit_fields! {
    /// CRTO, Controller Ready Timeouts (NVMe 2.1 §3.1.4.20), both in units of 500 ms.
    pub struct Crto(u32) {
        /// Controller ready with media timeout.
        crwmt / with_crwmt: 0, 16;
        /// Controller ready independent of media timeout.
        crimt / with_crimt: 16, 16;
    }
}
