//! What a controller can do wrong on a connection, and how it is told.

use nvme_core::spec::tcp::{FatalError, PduType};

/// A breach of the protocol by the controller. Ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A PDU type that does not exist, or that only a host sends.
    #[error("received a PDU of type {0} that no controller sends")]
    UnknownPdu(PduType),
    /// A PDU type that does not fit the state of the connection.
    #[error("received {pdu} while {state}")]
    UnexpectedPdu {
        /// The PDU.
        pdu: PduType,
        /// What the connection was doing.
        state: &'static str,
    },
    /// A field of a PDU header has a value that it must not have.
    #[error("{pdu}: {field} (byte {offset}) is {value}: {rule}")]
    Field {
        /// The PDU.
        pdu: PduType,
        /// The field's name in the specification.
        field: &'static str,
        /// Offset of the field in the PDU, in bytes.
        offset: u8,
        /// What was received.
        value: u32,
        /// What would have been right.
        rule: &'static str,
    },
    /// The response to the connection request grants something that this host cannot work with.
    #[error("ICResp: {field} (byte {offset}) is {value}: {rule}")]
    Parameter {
        /// The field's name in the specification.
        field: &'static str,
        /// Offset of the field in the PDU, in bytes.
        offset: u8,
        /// What was received.
        value: u32,
        /// What would have been right.
        rule: &'static str,
    },
    /// The digest of a header does not match the header.
    #[error("{pdu}: header digest is {received:#010x}, computed {computed:#010x}")]
    HeaderDigest {
        /// The PDU.
        pdu: PduType,
        /// The digest in the PDU.
        received: u32,
        /// The digest of the bytes received.
        computed: u32,
    },
    /// A command identifier that names no command in flight.
    #[error("{pdu} for command {cid:#06x}: {why}")]
    UnknownCommand {
        /// The PDU.
        pdu: PduType,
        /// The command identifier received.
        cid: u16,
        /// Why it names none.
        why: &'static str,
    },
    /// A PDU that does not fit the command it names.
    #[error("{pdu} for command {cid:#06x}: {why}")]
    WrongCommand {
        /// The PDU.
        pdu: PduType,
        /// The command identifier.
        cid: u16,
        /// What does not fit.
        why: &'static str,
    },
    /// Data or a request for data that comes at the wrong time.
    #[error("{pdu} for command {cid:#06x}: {why}")]
    Sequence {
        /// The PDU.
        pdu: PduType,
        /// The command identifier.
        cid: u16,
        /// What is out of sequence.
        why: &'static str,
    },
    /// Data outside of the command's data.
    #[error(
        "{pdu} for command {cid:#06x}: bytes {offset}+{len} are outside of its {limit} bytes of data"
    )]
    OutOfRange {
        /// The PDU.
        pdu: PduType,
        /// The command identifier.
        cid: u16,
        /// Offset received.
        offset: u32,
        /// Length received.
        len: u32,
        /// Length of the command's data.
        limit: u32,
    },
    /// Data that does not continue where the data before it ended.
    #[error("{pdu} for command {cid:#06x}: offset {offset} is out of order, expected {expected}")]
    OutOfOrder {
        /// The PDU.
        pdu: PduType,
        /// The command identifier.
        cid: u16,
        /// Offset received.
        offset: u32,
        /// Where the next data begins.
        expected: u32,
    },
    /// More requests for data at once than the host allowed.
    #[error("R2T for command {cid:#06x}: more than {limit} outstanding")]
    R2tLimit {
        /// The command identifier.
        cid: u16,
        /// The host's limit.
        limit: u16,
    },
    /// A read is said to have succeeded though not all of its data came.
    #[error("{pdu} for command {cid:#06x}: success after {moved} of {expected} bytes read")]
    ShortRead {
        /// The PDU that said so.
        pdu: PduType,
        /// The command identifier.
        cid: u16,
        /// Bytes received.
        moved: u32,
        /// Bytes of the command's data.
        expected: u32,
    },
    /// A write is said to have succeeded though not all of its data was asked for.
    #[error(
        "CapsuleResp for command {cid:#06x}: success after {moved} of {expected} bytes written"
    )]
    ShortWrite {
        /// The command identifier.
        cid: u16,
        /// Bytes sent.
        moved: u32,
        /// Bytes of the command's data.
        expected: u32,
    },
    /// The controller ended the connection because of something this host is said to have done.
    #[error("controller terminated the connection: {fes}, information {fei:#x}")]
    Terminated {
        /// Its reason.
        fes: FatalError,
        /// What in particular: a byte offset or a digest.
        fei: u32,
    },
}

impl ProtocolError {
    /// The Fatal Error Status and Information that tell the controller (TCP 1.1 §3.6.2.4); `None`
    /// when it was the controller that ended the connection.
    #[must_use]
    pub fn fatal_error(&self) -> Option<(FatalError, u32)> {
        Some(match *self {
            Self::UnknownPdu(_) => (FatalError::INVALID_HEADER_FIELD, 0),
            Self::UnexpectedPdu { .. }
            | Self::Sequence { .. }
            | Self::ShortRead { .. }
            | Self::ShortWrite { .. } => (FatalError::PDU_SEQUENCE, 0),
            Self::Field { offset, .. } => (FatalError::INVALID_HEADER_FIELD, u32::from(offset)),
            Self::Parameter { offset, .. } => {
                (FatalError::UNSUPPORTED_PARAMETER, u32::from(offset))
            }
            Self::HeaderDigest { received, .. } => (FatalError::HEADER_DIGEST, received),
            Self::UnknownCommand { pdu, .. } | Self::WrongCommand { pdu, .. } => {
                (FatalError::INVALID_HEADER_FIELD, cid_offset(pdu))
            }
            Self::OutOfRange { .. } | Self::OutOfOrder { .. } => (FatalError::DATA_OUT_OF_RANGE, 0),
            Self::R2tLimit { .. } => (FatalError::LIMIT_EXCEEDED, 0),
            Self::Terminated { .. } => return None,
        })
    }
}

/// Where a PDU has the command identifier: in the completion entry, or first after the common header.
const fn cid_offset(pdu: PduType) -> u32 {
    if pdu.0 == PduType::CAPSULE_RESP.0 { 20 } else { 8 }
}
