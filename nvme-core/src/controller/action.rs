//! What a controller asks of its driver, and what it tells.

use std::fmt;
use std::sync::Arc;

use super::abort::AbortOutcome;
use crate::ana::AnaSnapshot;
use crate::controller::{ControllerInstance, CrossReset, PowerState, State};
use crate::nqn::Nqn;
use crate::quirk::{DeviceIds, Quirks};
use crate::spec::{Cqe, Sqe, Status};
use crate::time::{Duration, Instant};
use crate::transport::{Data, HostMemoryRequest, QueueParams, Tag, TransportError};

/// One thing for the driver to do, in the order given.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Make a new association with the endpoint, then call
    /// [`associated`](super::Controller::associated) or
    /// [`association_failed`](super::Controller::association_failed). Never comes while an earlier
    /// association waits to be torn down.
    Associate,
    /// Open a queue of the association; one that the driver still has under this identifier is
    /// dropped first. Answered by
    /// [`queue_ready`](super::Controller::queue_ready) or
    /// [`queue_failed`](super::Controller::queue_failed).
    OpenQueue(QueueParams),
    /// Submit a command on a queue that is still the driver's (the admin queue, or an I/O queue not
    /// yet handed over), and flush it. Answered by [`completion`](super::Controller::completion).
    ///
    /// No more are in flight than the admin queue was asked to hold. A queue that nevertheless
    /// rejects the command is the driver's to deal with: hold it, or report the queue as failed.
    Submit {
        /// The queue.
        qid: u16,
        /// The command.
        sqe: Sqe,
        /// Its data.
        data: Data,
        /// Comes back with the completion.
        tag: Tag,
    },
    /// A command that was submitted on the admin queue takes too long: find out its identifier
    /// ([`Queue::command_id`](crate::transport::Queue::command_id)) and call
    /// [`abort`](super::Controller::abort) with it; if there is none, do nothing.
    Abort {
        /// The tag of the command.
        target: Tag,
        /// For [`abort`](super::Controller::abort).
        limit: Duration,
    },
    /// Read a register in memory (memory-based transports only); answered by
    /// [`register_value`](super::Controller::register_value).
    ReadRegister {
        /// Byte offset.
        offset: u32,
        /// 4 or 8 bytes.
        size: u8,
    },
    /// Write a register in memory.
    WriteRegister {
        /// Byte offset.
        offset: u32,
        /// 4 or 8 bytes.
        size: u8,
        /// The value.
        value: u64,
    },
    /// Tell the association what the device must be spared
    /// ([`Association::set_quirks`](crate::transport::Association::set_quirks)): before the admin
    /// queue is opened, and once more before I/O queues are. Memory-based transports only.
    Quirks(Quirks),
    /// Get memory for the controller's own use
    /// ([`Association::host_memory`](crate::transport::Association::host_memory)), and pass what
    /// comes of it to [`host_memory`](super::Controller::host_memory).
    HostMemory(HostMemoryRequest),
    /// An I/O queue is connected: set its in-capsule data size and hand it to its owner.
    QueueLive {
        /// The queue.
        qid: u16,
        /// For `Queue::set_in_capsule_data`, in bytes.
        in_capsule: usize,
    },
    /// Kill the association, take all its queues apart wherever they are, and then call
    /// [`torn_down`](super::Controller::torn_down), which must come, also when there turns out to be
    /// nothing to take apart (making the association took too long, say). What was asked of the
    /// association and not yet taken from the queue of actions has been withdrawn.
    ///
    /// Until then completions may still be passed in: passthrough commands get their data back
    /// that way. All others do nothing any more.
    Teardown,
    /// Something to tell.
    Event(ControllerEvent),
}

/// What became known about a controller.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ControllerEvent {
    /// The state changed.
    StateChanged {
        /// Before.
        from: State,
        /// After.
        to: State,
    },
    /// Identify Controller was read on this association. Comes before `Live`.
    Identified(Arc<ControllerInfo>),
    /// A namespace is attached and was read and found good on this association. Repeated after
    /// each reconnect, and whenever what is told of the namespace changes.
    NamespaceReady(Arc<NamespaceInfo>),
    /// A namespace that had been told is not there any more, or is another one.
    NamespaceGone {
        /// Its NSID.
        nsid: u32,
        /// How that is known.
        reason: GoneReason,
    },
    /// A namespace is attached but cannot be used; it was left out.
    NamespaceRefused {
        /// Its NSID.
        nsid: u32,
        /// Why.
        reason: String,
    },
    /// All namespaces have been looked at; after [`ScanFailed`](Self::ScanFailed), as far as that
    /// went.
    ScanDone,
    /// Which namespaces there are could not be found out. What was told before stays as it is, and
    /// the scan is repeated after some seconds.
    ScanFailed {
        /// Why.
        error: ControllerError,
    },
    /// The ANA log could not be read, or says what cannot be. In the latter case an empty
    /// [`Ana`](Self::Ana) follows: no group is usable. It is read again after some seconds.
    AnaFailed {
        /// Why.
        error: ControllerError,
    },
    /// An I/O queue in memory could not be created, though the number of queues that the controller
    /// grants would allow it; or one could not be opened on several associations in a row.
    /// [`QueueUnavailable`](Self::QueueUnavailable) follows, and the queues with lower identifiers
    /// do.
    QueueRefused {
        /// The queue.
        qid: u16,
        /// Why.
        error: ControllerError,
    },
    /// The controller has a host memory buffer (`NVMe 2.1 §8.2.3`). Comes before `Live`.
    HostMemory {
        /// Its size.
        bytes: u64,
        /// It is the one that the controller had before it was reset, with what was in it.
        returned: bool,
    },
    /// The controller asks for a host memory buffer, and is used without one.
    HostMemoryRefused {
        /// Why.
        error: ControllerError,
    },
    /// An I/O queue is wanted that the controller does not grant on this association.
    QueueUnavailable {
        /// The queue.
        qid: u16,
        /// I/O queues that it grants; their identifiers are 1 to this number.
        granted: u16,
    },
    /// The controller layer wanted to move between two states that have no way between them, and
    /// did not. A fault of this library.
    IllegalMove {
        /// The state that it is in.
        from: State,
        /// The state that it wanted.
        to: State,
    },
    /// The ANA log was read (`NVMe 2.1 §5.1.12.1.13`). Comes before `Live`, and after each change.
    Ana(Arc<AnaSnapshot>),
    /// A discovery controller's log changed.
    DiscoveryChanged,
    /// An asynchronous event that the controller itself does not act on (SMART, vendor, error).
    AsyncEvent {
        /// Dword 0 of the completion.
        result: u32,
    },
    /// The association was lost, or an attempt to make one failed.
    Failed {
        /// Why.
        error: ControllerError,
        /// Failed attempts since the controller was last live; 0 when a live one was lost.
        attempt: u32,
        /// When the next attempt begins; `None`: there will be none.
        retry_at: Option<Instant>,
    },
    /// A reset of another controller, asked for by [`reset_other`](super::Controller::reset_other),
    /// has ended.
    CrossReset {
        /// The caller's number.
        user: u64,
        /// How.
        outcome: CrossReset,
    },
    /// An Abort command was answered.
    Abort {
        /// The queue of the command that was to be aborted.
        qid: u16,
        /// The identifier of that command.
        cid: u16,
        /// What the controller says.
        outcome: AbortOutcome,
    },
    /// `fast_io_fail_tmo` has passed since the loss.
    FastIoFail,
    /// The controller is gone for good; nothing follows.
    Removed(RemovedCause),
    /// A command given to [`submit_admin`](super::Controller::submit_admin) has ended.
    Admin(Arc<AdminResult>),
}

/// The end of a command given to [`submit_admin`](super::Controller::submit_admin).
#[derive(Debug)]
pub struct AdminResult {
    /// The caller's number.
    pub user: u64,
    /// The completion; Host Aborted Command when the association was lost.
    pub cqe: Cqe,
    /// The data as it came back; for a read, what the controller sent.
    pub data: Data,
}

/// How a namespace is known to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoneReason {
    /// It is not in the active list, or has no capacity.
    NotActive,
    /// Its identifiers are others than before: another namespace took its NSID.
    IdentityChanged,
    /// The controller refuses to identify it, for good (DNR), or it cannot be used any more.
    Refused,
}

/// Why a controller is gone for good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemovedCause {
    /// [`delete`](super::Controller::delete) was called.
    Deleted,
    /// It did not come back within `ctrl_loss_tmo`.
    LossTimeout,
    /// The transport says that the device has been taken away
    /// ([`TransportError::Gone`]): it is not waited for.
    Gone,
    /// It answered that it never will do what it was asked.
    Refused(ControllerError),
}

/// Why bringing a controller up, or keeping it, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A command was answered with an error.
    #[error("{address}: {command}: {}", answer(command, *status))]
    Command {
        /// The path.
        address: String,
        /// What was being done.
        command: &'static str,
        /// The answer.
        status: Status,
    },
    /// A command or a state was not answered in time.
    #[error("{address}: {what} took longer than {limit:?}")]
    Timeout {
        /// The path.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The controller says something that cannot be.
    #[error("{address}: {what}: {reason}")]
    Invalid {
        /// The path.
        address: String,
        /// The structure or register.
        what: &'static str,
        /// The field and its value.
        reason: String,
    },
    /// The controller reports a fatal condition (CSTS.CFS, or an error event).
    #[error("{address}: controller fatal status: {reason}")]
    Fatal {
        /// The path.
        address: String,
        /// Where it was seen.
        reason: String,
    },
    /// A reset was asked for.
    #[error("{address}: reset: {reason}")]
    Reset {
        /// The path.
        address: String,
        /// Who asked, and why.
        reason: String,
    },
}

/// The status as text. Fabrics commands share their status codes with others; the command tells which
/// of the two meanings it is.
fn answer(command: &str, status: Status) -> String {
    match status.fabrics_name() {
        Some(name) if command.starts_with("Connect") || command.starts_with("Property") => {
            format!("{name} (SCT {:X}h SC {:02X}h)", status.sct(), status.sc())
        }
        _ => status.to_string(),
    }
}

impl fmt::Display for RemovedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("disconnected"),
            Self::LossTimeout => f.write_str("it did not come back within ctrl_loss_tmo"),
            Self::Gone => f.write_str("the device was taken away"),
            Self::Refused(error) => write!(f, "it refuses: {error}"),
        }
    }
}

/// What Identify Controller and the registers say, as far as the layers above need it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControllerInfo {
    /// The subsystem's NQN as the controller reports it (or as was asked for).
    pub subnqn: Nqn,
    /// Controller ID.
    pub cntlid: u16,
    /// Serial number, trimmed.
    pub serial: String,
    /// Model number, trimmed.
    pub model: String,
    /// Firmware revision, trimmed.
    pub firmware: String,
    /// Version register, such as 0x0002_0100 for 2.1.
    pub version: u32,
    /// Largest data transfer of one command in bytes; `None`: no limit told (MDTS 0).
    pub max_transfer: Option<usize>,
    /// The subsystem may have more than one controller (CMIC bit 1).
    pub multi_controller: bool,
    /// The subsystem reports ANA (CMIC bit 3).
    pub ana: bool,
    /// Longest ANA transition (ANATT).
    pub ana_transition: Duration,
    /// A volatile write cache is present: Flush means something.
    pub volatile_write_cache: bool,
    /// Optional NVM commands supported (ONCS), raw.
    pub oncs: u16,
    /// I/O queues granted on this association.
    pub io_queues: u16,
    /// Entries of each I/O queue on this association.
    pub io_entries: u16,
    /// Units of the command retry delay times 1 to 3 (CRDT): entry `crd - 1` is the delay.
    pub retry_delays: [Duration; 3],
    /// Its power states, 1 to 32, by number.
    pub power_states: Vec<PowerState>,
    /// It can reset the whole subsystem (`CAP.NSSRS`, in memory only).
    pub subsystem_reset: bool,
    /// Command Quiesce Time: how long after the controller has noticed the loss of its host commands
    /// may still be executed (`CQT`, TP4129); zero: not reported.
    pub quiesce_time: Duration,
    /// This life of the controller, as Cross-Controller Reset names it; `None`: the controller has no
    /// names for its lives (`CIRN` 0), and cannot be reset by another.
    pub instance: Option<ControllerInstance>,
    /// Cross-controller resets that may be under way on it at once (`CCRL`); 0: it can reset no other.
    pub cross_resets: u8,
    /// Any command counts as a sign of life (`CTRATT.TBKAS`).
    pub traffic_based_keep_alive: bool,
    /// What the bus says that it is; `None` over fabrics.
    pub device: Option<DeviceIds>,
    /// What is known to be wrong with it, and is done without. Other fields tell what remains.
    pub quirks: Quirks,
}

/// One namespace as one controller reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceInfo {
    /// Namespace ID on this controller.
    pub nsid: u32,
    /// Who it is.
    pub ids: crate::identity::NamespaceIds,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Bytes of data in a logical block, a power of two, 512..=65,536.
    pub block_size: u32,
    /// Bytes of metadata with each block; transferred separately or as part of the block.
    pub metadata_size: u16,
    /// Metadata is part of each block's data (extended LBA).
    pub extended_lba: bool,
    /// More than one controller may attach it (NMIC bit 0).
    pub shared: bool,
    /// ANA group, 0 without ANA.
    pub ana_group: u32,
    /// The namespace must not be written.
    pub read_only: bool,
}
