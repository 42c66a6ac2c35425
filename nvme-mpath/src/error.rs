//! What can go wrong, by who is told.

use nvme_core::buffer::Buffer;
use nvme_core::controller::{ControllerError, RemovedCause, State};
use nvme_core::spec::Status;
use nvme_core::time::Duration;
use nvme_core::transport::{TransportError, UrlError};

use crate::pin::PinHolder;
use crate::unstopped::Unstopped;
use crate::window::LossCause;

/// Why an I/O request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The controller answered with an error that is not worth a retry, or retries are used up.
    #[error("{op} of {blocks} blocks at {slba} on {head}: {status}")]
    Status {
        /// The head.
        head: String,
        /// What was asked.
        op: IoOp,
        /// First logical block.
        slba: u64,
        /// Number of logical blocks.
        blocks: u32,
        /// The last answer.
        status: Status,
    },
    /// There is no path and, as far as anyone knows, none is coming.
    #[error("{head}: no usable path")]
    NoPath {
        /// The head.
        head: String,
    },
    /// The request waited for a path longer, or in more company, than the limits allow.
    #[error("{head}: no usable path, and the limit of parked I/O is reached ({limit})")]
    ParkLimit {
        /// The head.
        head: String,
        /// Which limit.
        limit: ParkLimit,
    },
    /// The head was removed while the request waited, or before it was submitted.
    #[error("{head} was removed ({cause})")]
    HeadRemoved {
        /// The head.
        head: String,
        /// Why its last path had left.
        cause: LossCause,
    },
    /// The controllers grant fewer I/O queues than there are channels; this channel has none.
    #[error("{head}: no I/O queue for this channel on any usable path (granted: {granted})")]
    NoQueue {
        /// The head.
        head: String,
        /// I/O queues that the controllers grant.
        granted: u16,
    },
    /// The namespace got another format while the request waited: its blocks are others now.
    #[error("{head}: the namespace was given another format while the request waited")]
    Formatted {
        /// The head.
        head: String,
    },
    /// No usable path moves metadata beside the data: they go over fabrics, or there is no memory
    /// in one piece for it.
    #[error("{head}: metadata beside the data cannot be moved on any usable path")]
    Metadata {
        /// The head.
        head: String,
    },
    /// No path of the head moves so much with one command, although
    /// [`Geometry::max_transfer`](crate::Geometry::max_transfer) allowed it when it was submitted:
    /// the one that could has left, or I/O does not wait for it any more
    /// ([`fast_io_fail_tmo`](crate::ControllerOptions::fast_io_fail_tmo),
    /// [`Head::set_fail_if_no_path`](crate::Head::set_fail_if_no_path)), or there is less memory for
    /// copies than that. While such a path is only away, the request waits for it.
    #[error("{head}: {len} bytes are more than one command can move on any path that there is")]
    TooLarge {
        /// The head.
        head: String,
        /// Bytes of the request's buffer.
        len: usize,
    },
    /// The host was shut down.
    #[error("{head}: the host was shut down")]
    Shutdown {
        /// The head.
        head: String,
    },
    /// It was not done within its own time limit
    /// ([`IoRequest::timeout`](crate::IoRequest::timeout)).
    #[error("{head}: not done within the request's time limit")]
    Expired {
        /// The head.
        head: String,
    },
    /// The connection was lost before the answer to a passthrough command that may be executed once
    /// at most: it was not sent again, and may have been executed, or may be yet.
    #[error(
        "{head}: the connection was lost before the answer; whether it was executed is not known"
    )]
    OutcomeUnknown {
        /// The head.
        head: String,
    },
    /// The program cancelled it ([`Channel::cancel`](crate::Channel::cancel)).
    #[error("{head}: cancelled")]
    Cancelled {
        /// The head.
        head: String,
    },
}

/// The limit named in [`IoError::ParkLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParkLimit {
    /// Requests parked on the channel.
    Requests(usize),
    /// Bytes parked on the channel.
    Bytes(usize),
    /// Time parked.
    Age(Duration),
}

impl std::fmt::Display for ParkLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Requests(n) => write!(f, "{n} requests"),
            Self::Bytes(n) => write!(f, "{n} bytes"),
            Self::Age(d) => write!(f, "{d:?}"),
        }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoOp {
    /// Read blocks.
    Read,
    /// Write blocks.
    Write,
    /// Make completed writes durable.
    Flush,
    /// Write zeroes without sending them.
    WriteZeroes,
    /// Tell the controller that blocks are not needed any more.
    Discard,
    /// Compare blocks with data that is sent.
    Compare,
    /// A command as the program made it
    /// ([`Channel::submit_passthrough`](crate::Channel::submit_passthrough)).
    Passthrough,
}

impl IoOp {
    /// Whether it changes what the namespace holds. Of a passthrough command that is assumed.
    #[must_use]
    pub const fn modifies(self) -> bool {
        matches!(self, Self::Write | Self::WriteZeroes | Self::Discard | Self::Passthrough)
    }
}

impl std::fmt::Display for IoOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::WriteZeroes => "write zeroes",
            Self::Discard => "discard",
            Self::Compare => "compare",
            Self::Passthrough => "passthrough",
        })
    }
}

/// A request that was not accepted. Nothing was sent; the buffer comes back.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SubmitError {
    /// Why.
    pub reason: SubmitReason,
    /// The request's buffer.
    pub buffer: Buffer,
}

/// The reason in a [`SubmitError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitReason {
    /// As many requests as the channel's depth are under way; poll, then try again.
    #[error("the channel is full ({depth} requests)")]
    Full {
        /// The depth.
        depth: usize,
    },
    /// The buffer is empty or no multiple of the block size.
    #[error(
        "a buffer of {len} bytes is no positive multiple of the block size, {block_size} bytes"
    )]
    Unaligned {
        /// Length of the buffer.
        len: usize,
        /// Bytes of a block in the buffer, its metadata included if that belongs there.
        block_size: u32,
    },
    /// The range does not lie inside the namespace.
    #[error("{blocks} blocks at {slba} reach past the end of the namespace, {capacity} blocks")]
    OutOfRange {
        /// First logical block.
        slba: u64,
        /// Number of logical blocks.
        blocks: u64,
        /// Size of the namespace in logical blocks.
        capacity: u64,
    },
    /// More than one command can move.
    #[error("{len} bytes are more than one request can move, {max} bytes")]
    TooLarge {
        /// Bytes asked for.
        len: usize,
        /// Bytes possible.
        max: usize,
    },
    /// The namespace is write-protected.
    #[error("the namespace is read-only")]
    ReadOnly,
    /// The metadata beside the buffer is not as long as that of all the blocks together, or is there
    /// where none belongs.
    #[error("{given} bytes of metadata beside the buffer: the namespace asks for {wanted}")]
    Metadata {
        /// Bytes given.
        given: usize,
        /// Bytes that belong there: 0 unless the namespace's metadata is transferred separately.
        wanted: usize,
    },
    /// The opcode's lowest two bits say that it moves no data, or that it moves some, and the buffer
    /// is not in accordance (`NVMe 2.1 §3.3.3.1`); or that it moves data both ways, which is not
    /// supported; or it is the opcode of Fabrics commands, which are the library's.
    #[error("command {opcode:#04x} cannot be sent with a buffer of {len} bytes")]
    Command {
        /// The opcode.
        opcode: u8,
        /// Length of the buffer.
        len: usize,
    },
    /// The head belongs to another host than the channel.
    #[error("the head belongs to another host")]
    ForeignHead,
}

/// Why the host could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// No transport is registered for the URL's scheme.
    #[error("{url}: no transport for this scheme (there are: {known})")]
    UnknownScheme {
        /// The URL.
        url: String,
        /// Registered schemes.
        known: String,
    },
    /// The URL is not one.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Memory for devices could not be had, or could not be given to one that is connected.
    #[error(transparent)]
    Memory(TransportError),
    /// The controller could not be brought up.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The controller is gone for good.
    #[error("{address}: controller given up: {cause}")]
    Removed {
        /// The path.
        address: String,
        /// Why.
        cause: RemovedCause,
    },
    /// The controller takes no command: it is not live, or as many as it takes are under way.
    #[error("{address}: takes no admin command now ({state})")]
    NotLive {
        /// The path.
        address: String,
        /// The controller's state.
        state: State,
    },
    /// Something did not happen in the time given.
    #[error("{what} did not happen within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The time given.
        limit: Duration,
    },
    /// A discovery log cannot be used.
    #[error("{address}: discovery log: {reason}")]
    Discovery {
        /// The discovery controller.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Pins are out.
    #[error("{} pin(s) are held: {}", .0.len(), holders(.0))]
    Busy(Vec<PinHolder>),
    /// The host was shut down, and these devices have not stopped in the time that there was: what they
    /// reach is theirs for as long as the process lives, and its memory is leaked.
    #[error("{} device(s) do not stop, and keep the memory that they reach: {}", .0.len(), addresses(.0))]
    Unstopped(Vec<Unstopped>),
    /// The host is shut down.
    #[error("the host is shut down")]
    Shutdown,
    /// The operating system refused something.
    #[error("{what}: {reason}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The operating system's answer.
        reason: String,
    },
}

fn addresses(list: &[Unstopped]) -> String {
    let mut text: Vec<_> = list.iter().take(8).map(|u| u.address.to_string()).collect();
    if list.len() > 8 {
        text.push(format!("and {} more", list.len() - 8));
    }
    text.join("; ")
}

fn holders(list: &[PinHolder]) -> String {
    let mut text: Vec<_> = list.iter().take(8).map(|h| h.reason.to_string()).collect();
    if list.len() > 8 {
        text.push(format!("and {} more", list.len() - 8));
    }
    text.join("; ")
}
