//! NVMe/TCP protocol data units: the fixed headers and their codes (TCP 1.1 §3.6).
//!
//! A PDU is a header (`hlen` bytes), an optional header digest, padding up to `pdo`, data, an optional data
//! digest. The structures here are the headers; each starts with a [`CommonHeader`].

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::Sqe;
use super::completion::Cqe;

/// Bytes of a header or data digest (CRC32C) where enabled (TCP 1.1 §3.3.1.1).
pub const DIGEST_LEN: usize = 4;

/// Longest PDU that a termination request may be, header and copy of the offending header (TCP 1.1 §3.6.2.4).
pub const TERM_REQ_MAX_LEN: usize = 152;

/// The only PDU format version that exists (TCP 1.1 §3.6.2.2).
pub const PFV_1_0: u16 = 0;

/// Largest data alignment: HPDA and CPDA are dwords less one, 0 to 31 (TCP 1.1 §3.6.2.2).
pub const PDA_MAX: u8 = 31;

/// Smallest MAXH2CDATA that a controller may report, in bytes (TCP 1.1 §3.6.2.3).
pub const MAXH2CDATA_MIN: u32 = 4096;

open_enum! {
    /// PDU type (TCP 1.1 §3.6.1).
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct PduType(u8) {
        IC_REQ = 0x00, "ICReq";
        IC_RESP = 0x01, "ICResp";
        H2C_TERM_REQ = 0x02, "H2CTermReq";
        C2H_TERM_REQ = 0x03, "C2HTermReq";
        CAPSULE_CMD = 0x04, "CapsuleCmd";
        CAPSULE_RESP = 0x05, "CapsuleResp";
        H2C_DATA = 0x06, "H2CData";
        C2H_DATA = 0x07, "C2HData";
        R2T = 0x09, "R2T";
    }
}

impl PduType {
    /// The header length that the type must announce in `hlen`, `None` for an unknown type.
    #[must_use]
    pub const fn header_len(self) -> Option<u8> {
        match self {
            Self::IC_REQ | Self::IC_RESP => Some(128),
            Self::CAPSULE_CMD => Some(72),
            Self::H2C_TERM_REQ
            | Self::C2H_TERM_REQ
            | Self::CAPSULE_RESP
            | Self::H2C_DATA
            | Self::C2H_DATA
            | Self::R2T => Some(24),
            _ => None,
        }
    }
}

/// The FLAGS byte of a PDU (TCP 1.1 §3.6.2); which bits mean something depends on the type.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct PduFlags(u8);

bitflags::bitflags! {
    impl PduFlags: u8 {
        /// A header digest follows the header.
        const HDGSTF = 1 << 0;
        /// A data digest follows the data.
        const DDGSTF = 1 << 1;
        /// Last data PDU of this transfer (H2CData) or of this command (C2HData).
        const LAST_PDU = 1 << 2;
        /// C2HData only, with `LAST_PDU`: the command succeeded and no response capsule follows.
        const SUCCESS = 1 << 3;
        const _ = !0;
    }
}

/// Digests asked for in ICReq and granted in ICResp (TCP 1.1 §3.6.2.2, §3.6.2.3).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct DigestFlags(u8);

bitflags::bitflags! {
    impl DigestFlags: u8 {
        /// CRC32C over each header.
        const HEADER = 1 << 0;
        /// CRC32C over each PDU's data.
        const DATA = 1 << 1;
        const _ = !0;
    }
}

/// The first eight bytes of every PDU (TCP 1.1 §3.6.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CommonHeader {
    /// What follows.
    pub pdu_type: PduType,
    /// Digests present, last PDU, success.
    pub flags: PduFlags,
    /// Header length in bytes, digest not counted.
    pub hlen: u8,
    /// Offset of the data from the start of the PDU in bytes; 0 or reserved where the PDU has no data.
    pub pdo: u8,
    /// Length of the whole PDU in bytes, digests and padding included.
    pub plen: U32,
}
layout!(CommonHeader, 8, pdu_type @ 0, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4);

impl CommonHeader {
    /// A header without flags or data whose PDU ends with the header.
    #[must_use]
    pub fn new(pdu_type: PduType) -> Self {
        let hlen = pdu_type.header_len().unwrap_or(size_of::<Self>() as u8);
        Self { pdu_type, flags: PduFlags::empty(), hlen, pdo: 0, plen: u32::from(hlen).into() }
    }
}

/// Initialize Connection Request, host to controller (TCP 1.1 §3.6.2.2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// Type ICReq, length 128.
    pub header: CommonHeader,
    /// PDU format version, [`PFV_1_0`].
    pub pfv: U16,
    /// Alignment of the data in PDUs that the controller sends, in dwords less one, 0 to 31.
    pub hpda: u8,
    /// Digests the host asks for.
    pub dgst: DigestFlags,
    /// R2Ts that the host takes per command at a time, less one.
    pub maxr2t: U32,
    reserved: [u8; 112],
}
layout!(IcReq, 128, header @ 0, pfv @ 8, hpda @ 10, dgst @ 11, maxr2t @ 12, reserved @ 16);

impl IcReq {
    /// A request; `hpda` in dwords less one (0 to 31), `max_r2t` less one.
    #[must_use]
    pub fn new(hpda: u8, dgst: DigestFlags, max_r2t: u32) -> Self {
        Self {
            header: CommonHeader::new(PduType::IC_REQ),
            pfv: PFV_1_0.into(),
            hpda,
            dgst,
            maxr2t: max_r2t.into(),
            reserved: [0; 112],
        }
    }
}

/// Initialize Connection Response, controller to host (TCP 1.1 §3.6.2.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// Type ICResp, length 128.
    pub header: CommonHeader,
    /// PDU format version, [`PFV_1_0`].
    pub pfv: U16,
    /// Alignment of the data in PDUs that the host sends, in dwords less one, 0 to 31.
    pub cpda: u8,
    /// Digests granted, a subset of those asked for.
    pub dgst: DigestFlags,
    /// Most data bytes that one H2CData PDU may carry; at least [`MAXH2CDATA_MIN`], a multiple of 4.
    pub maxh2cdata: U32,
    reserved: [u8; 112],
}
layout!(IcResp, 128, header @ 0, pfv @ 8, cpda @ 10, dgst @ 11, maxh2cdata @ 12, reserved @ 16);

impl IcResp {
    /// A response; `cpda` in dwords less one (0 to 31), `maxh2cdata` in bytes.
    #[must_use]
    pub fn new(cpda: u8, dgst: DigestFlags, maxh2cdata: u32) -> Self {
        Self {
            header: CommonHeader::new(PduType::IC_RESP),
            pfv: PFV_1_0.into(),
            cpda,
            dgst,
            maxh2cdata: maxh2cdata.into(),
            reserved: [0; 112],
        }
    }
}

/// Command capsule header: the submission entry; in-capsule data follows at `pdo` (TCP 1.1 §3.6.2.6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CapsuleCmd {
    /// Type CapsuleCmd, header length 72.
    pub header: CommonHeader,
    /// The command.
    pub sqe: Sqe,
}
layout!(CapsuleCmd, 72, header @ 0, sqe @ 8);

impl CapsuleCmd {
    /// A capsule without in-capsule data or digests.
    #[must_use]
    pub fn new(sqe: Sqe) -> Self {
        Self { header: CommonHeader::new(PduType::CAPSULE_CMD), sqe }
    }
}

/// Response capsule (TCP 1.1 §3.6.2.7).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// Type CapsuleResp, length 24.
    pub header: CommonHeader,
    /// The completion.
    pub cqe: Cqe,
}
layout!(CapsuleResp, 24, header @ 0, cqe @ 8);

impl CapsuleResp {
    /// A response without digest.
    #[must_use]
    pub fn new(cqe: Cqe) -> Self {
        Self { header: CommonHeader::new(PduType::CAPSULE_RESP), cqe }
    }
}

/// Header of a data PDU, H2CData (TCP 1.1 §3.6.2.8) and C2HData (§3.6.2.9) alike.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataHeader {
    /// Type H2CData or C2HData, header length 24.
    pub header: CommonHeader,
    /// The command that the data belongs to.
    pub cccid: U16,
    /// H2CData: transfer tag of the R2T that asked for the data. C2HData: reserved.
    pub ttag: U16,
    /// Offset in bytes of this data within the command's whole data.
    pub datao: U32,
    /// Bytes of data in this PDU.
    pub datal: U32,
    reserved: [u8; 4],
}
layout!(DataHeader, 24, header @ 0, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16, reserved @ 20);

impl DataHeader {
    /// Header of an H2CData PDU; the caller completes flags, `pdo` and `plen` once it knows digests and padding.
    #[must_use]
    pub fn h2c(cccid: u16, ttag: u16, datao: u32, datal: u32) -> Self {
        Self {
            header: CommonHeader::new(PduType::H2C_DATA),
            cccid: cccid.into(),
            ttag: ttag.into(),
            datao: datao.into(),
            datal: datal.into(),
            reserved: [0; 4],
        }
    }

    /// Header of a C2HData PDU; the caller completes flags, `pdo` and `plen` once it knows digests and padding.
    #[must_use]
    pub fn c2h(cccid: u16, datao: u32, datal: u32) -> Self {
        let mut this = Self::h2c(cccid, 0, datao, datal);
        this.header.pdu_type = PduType::C2H_DATA;
        this
    }
}

/// Ready to Transfer: the controller asks for a range of a command's data (TCP 1.1 §3.6.2.10).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct R2t {
    /// Type R2T, length 24.
    pub header: CommonHeader,
    /// The command whose data is wanted.
    pub cccid: U16,
    /// Tag that the H2CData PDUs must carry.
    pub ttag: U16,
    /// Offset in bytes of the wanted range within the command's data.
    pub r2to: U32,
    /// Length in bytes of the wanted range.
    pub r2tl: U32,
    reserved: [u8; 4],
}
layout!(R2t, 24, header @ 0, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16, reserved @ 20);

impl R2t {
    /// A request for `r2tl` bytes from offset `r2to`.
    #[must_use]
    pub fn new(cccid: u16, ttag: u16, r2to: u32, r2tl: u32) -> Self {
        Self {
            header: CommonHeader::new(PduType::R2T),
            cccid: cccid.into(),
            ttag: ttag.into(),
            r2to: r2to.into(),
            r2tl: r2tl.into(),
            reserved: [0; 4],
        }
    }
}

open_enum! {
    /// Fatal Error Status of a termination request (TCP 1.1 §3.6.2.4, §3.6.2.5).
    pub struct FatalError(u16) {
        INVALID_HEADER_FIELD = 0x01, "Invalid PDU Header Field";
        PDU_SEQUENCE = 0x02, "PDU Sequence Error";
        HEADER_DIGEST = 0x03, "Header Digest Error";
        DATA_OUT_OF_RANGE = 0x04, "Data Transfer Out of Range";
        LIMIT_EXCEEDED = 0x05, "R2T or Data Transfer Limit Exceeded";
        UNSUPPORTED_PARAMETER = 0x06, "Unsupported Parameter";
    }
}

/// Termination request of either side; a copy of the offending PDU's header follows (TCP 1.1 §3.6.2.4, §3.6.2.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// Type H2CTermReq or C2HTermReq, header length 24, whole length at most [`TERM_REQ_MAX_LEN`].
    pub header: CommonHeader,
    /// Fatal error status, a [`FatalError`].
    pub fes: U16,
    /// What in particular: offset of the bad header field in bytes, the digest received, or the parameter's offset.
    pub fei: U32,
    reserved: [u8; 10],
}
layout!(TermReq, 24, header @ 0, fes @ 8, fei @ 10, reserved @ 14);

impl TermReq {
    /// A termination request that carries `copied` bytes of the offending header, at most 128.
    #[must_use]
    pub fn new(pdu_type: PduType, fes: FatalError, fei: u32, copied: u8) -> Self {
        let mut header = CommonHeader::new(pdu_type);
        header.plen = (u32::from(header.hlen) + u32::from(copied)).into();
        Self { header, fes: fes.0.into(), fei: fei.into(), reserved: [0; 10] }
    }

    /// The fatal error status as a code.
    #[must_use]
    pub const fn fatal_error(&self) -> FatalError {
        FatalError(self.fes.get())
    }
}
