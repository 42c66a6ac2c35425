//! What can go wrong.

use std::time::{Duration, Instant};

use nvme_core::spec::Status;
use nvme_core::spec::tcp::PduType;

/// What a rule does.
///
/// The first three act on connections, before any command; only the listener and the counting conditions apply to
/// them. All others act on one command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultAction {
    /// The connection is accepted, and nothing is ever said on it.
    SilentListener,
    /// The connection is closed as soon as it is accepted.
    CloseOnAccept,
    /// The connection's ICResp is malformed.
    BadIcResp(BadIcResp),
    /// The command is never executed and never answered, as if it had been lost on its way: data for it is not asked
    /// for, and it does not count as a sign of life for the keep alive timer.
    Drop,
    /// The command is executed and never answered.
    DropAnswer,
    /// The command is executed, and answered, so much later. It can be aborted until then, and is lost if the
    /// connection ends before.
    Delay(Duration),
    /// The path stands still for `length`, first at `from` and then every `every` again: commands that arrive
    /// meanwhile are executed and answered when it is over, `delay` later. At other times this is
    /// [`Delay`](Self::Delay).
    Stall {
        /// When it stands still for the first time.
        from: Instant,
        /// From the beginning of one stall to the next; not zero.
        every: Duration,
        /// How long each lasts.
        length: Duration,
        /// Delay of all commands.
        delay: Duration,
    },
    /// The command is not executed and completes with this status.
    Fail(Status),
    /// The first C2HData PDU of the command carries a wrong data digest (where data digests are on).
    CorruptDataDigest,
    /// The first PDU that answers the command carries a wrong header digest (where header digests are on).
    CorruptHeaderDigest,
    /// The connection is closed when the command has arrived whole, without executing it.
    CloseBefore,
    /// The command is executed, then the connection is closed without an answer.
    CloseAfter,
    /// The command's response capsule is sent twice.
    AnswerTwice,
    /// A malformed or unexpected PDU is sent in place of the answer.
    BadPdu(BadPdu),
    /// The first PDU of that type that belongs to the command is cut after so many bytes, and the connection closed.
    /// With [`PduType::IC_RESP`] the rule acts on the connection's ICResp, whatever the command.
    TruncateAt {
        /// Which PDU.
        pdu: PduType,
        /// Bytes of it that are still sent; the PDU is sent whole if that is more than it has.
        bytes: usize,
    },
    /// The command is executed, and its completion's result (dwords 0 and 1) is this whatever it came to: properties,
    /// queue counts and controller identifiers that lie.
    Result(u64),
    /// The response carries the command identifier with these bits flipped.
    StaleCommandId(u16),
    /// The command's data ends so many bytes early, and success is reported all the same.
    ShortRead(u32),
    /// Bytes of the data that the command returns are overwritten: for pages that lie.
    PatchData {
        /// Where, from the start of the page or structure (not of the transfer, for a log read at an offset).
        offset: u64,
        /// What is put there.
        bytes: Vec<u8>,
    },
    /// The command is not answered, and executed so long after its connection has died: a write that outlives its path.
    /// Not so if that is longer than the [quiesce time](crate::SubsystemConfig::quiesce_time) that is reported, or if
    /// the controller is reset by another one before.
    LateWrite(Duration),
}

impl FaultAction {
    /// How long a command that arrives now has to wait before it is executed, if that is the fault.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Delay(delay) => Some(*delay),
            Self::Stall { from, every, length, delay } => {
                let since = now.checked_duration_since(*from);
                let into = since
                    .map(|t| Duration::from_nanos((t.as_nanos() % every.as_nanos().max(1)) as u64));
                let rest = into.map_or(Duration::ZERO, |into| length.saturating_sub(into));
                Some(rest + *delay)
            }
            _ => None,
        }
    }
}

/// What is wrong with an ICResp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadIcResp {
    /// PDU format version 1.
    Version,
    /// The digests granted are the opposite of those asked for.
    Digests,
    /// CPDA is 32, one more than possible.
    Alignment,
    /// MAXH2CDATA is below 4096.
    MaxDataTooSmall,
    /// MAXH2CDATA is no multiple of 4.
    MaxDataUnaligned,
    /// The PDU's length field says 132.
    Length,
    /// The PDU's header length says 24.
    HeaderLength,
    /// A response capsule comes in its place.
    Type,
}

/// What is wrong with a PDU that is sent in place of a command's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadPdu {
    /// A PDU type that does not exist.
    UnknownType,
    /// A CapsuleCmd, which only a host may send.
    WrongDirection,
    /// A second ICResp.
    SecondIcResp,
    /// A response capsule whose header length is 16.
    HeaderLength,
    /// A response capsule whose length field is smaller than its header.
    LengthTooShort,
    /// A response capsule whose length field is `u32::MAX`.
    LengthTooLong,
    /// A response capsule whose header digest flag is the opposite of what was agreed on.
    HeaderDigestFlag,
    /// C2HData whose data digest flag is the opposite of what was agreed on.
    DataDigestFlag,
    /// C2HData whose data offset lies inside the header.
    DataOffset,
    /// C2HData for a command identifier that is not outstanding.
    DataUnknownCommand,
    /// C2HData that goes one block past the end of the command's buffer; for a command without data, data at all.
    DataPastEnd,
    /// C2HData whose offset skips the first 4 bytes of the buffer.
    DataOffsetSkips,
    /// C2HData of length zero.
    DataEmpty,
    /// C2HData with the SUCCESS flag and without LAST_PDU.
    SuccessWithoutLast,
    /// A response capsule for a command identifier that is not outstanding.
    UnknownCommand,
    /// R2T for this command even if it is a read or moves no data.
    R2tUnexpected,
    /// R2T of length zero.
    R2tEmpty,
    /// R2T for a range past the end of the command's data.
    R2tPastEnd,
    /// R2T for a command identifier that is not outstanding.
    R2tUnknownCommand,
    /// A C2HTermReq, after which the connection is closed.
    TermReq,
}
