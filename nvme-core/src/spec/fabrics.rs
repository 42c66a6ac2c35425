//! Fabrics commands: Connect, Disconnect, and access to controller properties (NVMe 2.1 §6).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::Sqe;
use super::completion::Cqe;
use super::opcode::{AdminOpcode, FabricsType};
use crate::nqn::{NQN_FIELD_LEN, Nqn, Uuid};

/// The opcode that all fabrics commands share.
pub const FABRICS_OPCODE: u8 = AdminOpcode::FABRICS.0;

/// The controller identifier that asks for any controller of a dynamic subsystem (NVMe 2.1 §6.3).
pub const CNTLID_DYNAMIC: u16 = 0xffff;

/// Offsets of the controller properties, the registers' offsets of a memory based controller (NVMe 2.1 §3.1.4).
pub mod property {
    use crate::spec::registers::offset;

    /// Controller Capabilities, 8 bytes.
    pub const CAP: u32 = offset::CAP as u32;
    /// Version, 4 bytes.
    pub const VS: u32 = offset::VS as u32;
    /// Controller Configuration, 4 bytes.
    pub const CC: u32 = offset::CC as u32;
    /// Controller Status, 4 bytes.
    pub const CSTS: u32 = offset::CSTS as u32;
    /// NVM Subsystem Reset, 4 bytes.
    pub const NSSR: u32 = offset::NSSR as u32;
    /// Controller Ready Timeouts, 4 bytes.
    pub const CRTO: u32 = offset::CRTO as u32;
}

/// Size of a property: the ATTRIB field of Property Get and Set (NVMe 2.1 §6.6, §6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PropertySize {
    /// 4 bytes.
    Four = 0,
    /// 8 bytes.
    Eight = 1,
}

/// Connect attributes, the CATTR field (NVMe 2.1 §6.3).
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
pub struct ConnectAttributes(u8);

bitflags::bitflags! {
    impl ConnectAttributes: u8 {
        /// Low bit of the priority class of an I/O queue.
        const PRIORITY_LOW = 1 << 0;
        /// High bit of the priority class of an I/O queue.
        const PRIORITY_HIGH = 1 << 1;
        /// Disable submission queue flow control: SQHD is reserved and the queue may be filled to the last entry.
        const DISABLE_SQ_FLOW_CONTROL = 1 << 2;
        /// The host can delete I/O queues one by one with Disconnect.
        const IO_QUEUE_DELETION = 1 << 3;
        const _ = !0;
    }
}

/// Connect command (NVMe 2.1 §6.3); its data is a [`ConnectData`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ConnectCommand {
    /// [`FABRICS_OPCODE`].
    pub opcode: u8,
    /// As in [`Sqe::flags`].
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// [`FabricsType::CONNECT`].
    pub fctype: FabricsType,
    reserved5: [u8; 19],
    /// SGL descriptor of the data.
    pub sgl1: [u8; 16],
    /// Record format, 0.
    pub recfmt: U16,
    /// The queue to create: 0 the admin queue, and with it the association.
    pub qid: U16,
    /// Entries of the submission queue less one.
    pub sqsize: U16,
    /// Attributes.
    pub cattr: ConnectAttributes,
    reserved47: u8,
    /// Keep alive timeout in milliseconds, 0 none; admin queue only.
    pub kato: U32,
    reserved52: [u8; 12],
}
layout!(
    ConnectCommand, 64, opcode @ 0, flags @ 1, cid @ 2, fctype @ 4, sgl1 @ 24, recfmt @ 40, qid @ 42,
    sqsize @ 44, cattr @ 46, kato @ 48, reserved52 @ 52,
);

impl ConnectCommand {
    /// A Connect for queue `qid` with a submission queue of `sqsize` + 1 entries.
    #[must_use]
    pub fn new(qid: u16, sqsize: u16, cattr: ConnectAttributes, kato_ms: u32) -> Self {
        let mut this = Self::new_zeroed();
        this.opcode = FABRICS_OPCODE;
        this.fctype = FabricsType::CONNECT;
        this.qid = qid.into();
        this.sqsize = sqsize.into();
        this.cattr = cattr;
        this.kato = kato_ms.into();
        this
    }
}

/// Data of Connect, 1024 bytes (NVMe 2.1 §6.3).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// Host identifier.
    pub hostid: Uuid,
    /// Controller identifier: [`CNTLID_DYNAMIC`] or a static one for the admin queue, that of the association for
    /// I/O queues.
    pub cntlid: U16,
    reserved18: [u8; 238],
    /// Subsystem NQN, ended by NUL.
    pub subnqn: [u8; NQN_FIELD_LEN],
    /// Host NQN, ended by NUL.
    pub hostnqn: [u8; NQN_FIELD_LEN],
    reserved768: [u8; 256],
}
layout!(
    ConnectData, 1024, hostid @ 0, cntlid @ 16, reserved18 @ 18, subnqn @ 256, hostnqn @ 512, reserved768 @ 768,
);

impl ConnectData {
    /// The data of a Connect from `hostnqn` with identifier `hostid` to controller `cntlid` of `subnqn`.
    #[must_use]
    pub fn new(hostid: Uuid, cntlid: u16, subnqn: &Nqn, hostnqn: &Nqn) -> Self {
        Self {
            hostid,
            cntlid: cntlid.into(),
            reserved18: [0; 238],
            subnqn: subnqn.to_field(),
            hostnqn: hostnqn.to_field(),
            reserved768: [0; 256],
        }
    }
}

impl core::fmt::Debug for ConnectData {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ConnectData")
            .field("hostid", &self.hostid)
            .field("cntlid", &self.cntlid.get())
            .field("subnqn", &Nqn::from_field(&self.subnqn))
            .field("hostnqn", &Nqn::from_field(&self.hostnqn))
            .finish_non_exhaustive()
    }
}

/// What a successful Connect returns (NVMe 2.1 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The controller that the host is now associated with.
    pub cntlid: u16,
    /// The controller demands in-band authentication with a secure channel (ASCR).
    pub secure_channel_required: bool,
    /// The controller demands in-band authentication (ATR).
    pub authentication_required: bool,
}

impl ConnectResponse {
    const ATR: u32 = 1 << 17;
    const ASCR: u32 = 1 << 18;

    /// Reads the result of a Connect whose status is success.
    #[must_use]
    pub const fn from_cqe(cqe: &Cqe) -> Self {
        let dw0 = cqe.dw0.get();
        Self {
            cntlid: dw0 as u16,
            secure_channel_required: dw0 & Self::ASCR != 0,
            authentication_required: dw0 & Self::ATR != 0,
        }
    }

    /// The completion result to send.
    #[must_use]
    pub const fn to_result(self) -> u64 {
        let mut dw0 = self.cntlid as u32;
        if self.authentication_required {
            dw0 |= Self::ATR;
        }
        if self.secure_channel_required {
            dw0 |= Self::ASCR;
        }
        dw0 as u64
    }
}

/// What a Connect returns with status Connect Invalid Parameters: where the bad parameter is (NVMe 2.1 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectInvalidParameter {
    /// Byte offset of the parameter.
    pub offset: u16,
    /// The offset is into the data, not the command.
    pub in_data: bool,
}

impl ConnectInvalidParameter {
    /// Reads the result of a Connect that failed with Connect Invalid Parameters.
    #[must_use]
    pub const fn from_cqe(cqe: &Cqe) -> Self {
        let dw0 = cqe.dw0.get();
        Self { offset: dw0 as u16, in_data: dw0 & 1 << 16 != 0 }
    }

    /// The completion result to send.
    #[must_use]
    pub const fn to_result(self) -> u64 {
        self.offset as u64 | (self.in_data as u64) << 16
    }
}

/// Property Set and Property Get commands (NVMe 2.1 §6.7, §6.6). They have no data: a value read is the completion's
/// result.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PropertyCommand {
    /// [`FABRICS_OPCODE`].
    pub opcode: u8,
    /// As in [`Sqe::flags`].
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// [`FabricsType::PROPERTY_SET`] or [`FabricsType::PROPERTY_GET`].
    pub fctype: FabricsType,
    reserved5: [u8; 35],
    /// Bits 2:0 are a [`PropertySize`].
    pub attrib: u8,
    reserved41: [u8; 3],
    /// Offset of the property, one of [`property`].
    pub ofst: U32,
    /// Value to set; reserved in Property Get.
    pub value: U64,
    reserved56: [u8; 8],
}
layout!(
    PropertyCommand, 64, opcode @ 0, flags @ 1, cid @ 2, fctype @ 4, reserved5 @ 5, attrib @ 40, ofst @ 44,
    value @ 48, reserved56 @ 56,
);

impl PropertyCommand {
    /// Reads the property at `ofst`.
    #[must_use]
    pub fn get(ofst: u32, size: PropertySize) -> Self {
        let mut this = Self::new_zeroed();
        this.opcode = FABRICS_OPCODE;
        this.fctype = FabricsType::PROPERTY_GET;
        this.attrib = size as u8;
        this.ofst = ofst.into();
        this
    }

    /// Writes `value` to the property at `ofst`.
    #[must_use]
    pub fn set(ofst: u32, size: PropertySize, value: u64) -> Self {
        let mut this = Self::get(ofst, size);
        this.fctype = FabricsType::PROPERTY_SET;
        this.value = value.into();
        this
    }

    /// The property's size, `None` for a reserved value.
    #[must_use]
    pub const fn size(&self) -> Option<PropertySize> {
        match self.attrib & 0x7 {
            0 => Some(PropertySize::Four),
            1 => Some(PropertySize::Eight),
            _ => None,
        }
    }
}

/// Disconnect command: deletes the I/O queue that it is sent on (NVMe 2.1 §6.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DisconnectCommand {
    /// [`FABRICS_OPCODE`].
    pub opcode: u8,
    /// As in [`Sqe::flags`].
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// [`FabricsType::DISCONNECT`].
    pub fctype: FabricsType,
    reserved5: [u8; 35],
    /// Record format, 0.
    pub recfmt: U16,
    reserved42: [u8; 22],
}
layout!(
    DisconnectCommand, 64, opcode @ 0, flags @ 1, cid @ 2, fctype @ 4, reserved5 @ 5, recfmt @ 40, reserved42 @ 42,
);

impl DisconnectCommand {
    /// The command.
    #[must_use]
    pub fn new() -> Self {
        let mut this = Self::new_zeroed();
        this.opcode = FABRICS_OPCODE;
        this.fctype = FabricsType::DISCONNECT;
        this
    }
}

impl Default for DisconnectCommand {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! as_sqe {
    ($($t:ty),*) => {$(
        impl From<$t> for Sqe {
            fn from(command: $t) -> Self {
                zerocopy::transmute!(command)
            }
        }

        impl From<Sqe> for $t {
            /// The same 64 bytes under this command's field names; the caller has checked opcode and type.
            fn from(sqe: Sqe) -> Self {
                zerocopy::transmute!(sqe)
            }
        }
    )*};
}
as_sqe!(ConnectCommand, PropertyCommand, DisconnectCommand);

impl Sqe {
    /// Property Get of the property at `ofst`; the value is the completion's result.
    #[must_use]
    pub fn property_get(ofst: u32, size: PropertySize) -> Self {
        PropertyCommand::get(ofst, size).into()
    }

    /// Property Set of the property at `ofst`.
    #[must_use]
    pub fn property_set(ofst: u32, size: PropertySize, value: u64) -> Self {
        PropertyCommand::set(ofst, size, value).into()
    }

    /// Connect queue `qid`, submission queue of `sqsize` + 1 entries; the data is a [`ConnectData`].
    #[must_use]
    pub fn connect(qid: u16, sqsize: u16, cattr: ConnectAttributes, kato_ms: u32) -> Self {
        ConnectCommand::new(qid, sqsize, cattr, kato_ms).into()
    }

    /// Disconnect the I/O queue that the command is sent on.
    #[must_use]
    pub fn disconnect() -> Self {
        DisconnectCommand::new().into()
    }
}
