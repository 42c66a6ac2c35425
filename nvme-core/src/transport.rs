//! The seam between a controller and the wire that reaches it.
//!
//! A [`Transport`] turns a URL into an [`Endpoint`]: the address of one controller. Each attempt to
//! reach it is an [`Association`], which opens [`Queue`]s. Nothing here blocks: opening is an
//! event, seen by polling the queue.
//!
//! Two kinds of transport fit ([`TransportKind`]): *fabrics*, where registers are reached by
//! Property commands and a queue begins with a Connect command (`NVMe 2.1 §6.3`), and *memory*,
//! where registers are memory and I/O queues are created by admin commands (`NVMe 2.1 §5.2.1`).

use std::any::Any;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::memory::{Memory, MemoryKind};
use crate::quirk::{Hardware, Quirks};
use crate::spec::command::BlockOp;
use crate::spec::{Cqe, Sqe};
use crate::time::{Duration, Instant};

/// The data of one command, moved into the queue and back; metadata that is transferred separately
/// is part of the buffer ([`Buffer::with_metadata`]).
#[derive(Debug, Default)]
pub enum Data {
    /// No data phase.
    #[default]
    None,
    /// Controller to host: the queue fills the buffer.
    Read(Buffer),
    /// Host to controller: the queue sends the buffer.
    Write(Buffer),
}

impl Data {
    /// Bytes to be moved.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Read(b) | Self::Write(b) => b.len(),
        }
    }

    /// Whether nothing is to be moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether metadata travels beside the data.
    #[must_use]
    #[inline]
    pub const fn has_metadata(&self) -> bool {
        match self {
            Self::None => false,
            Self::Read(b) | Self::Write(b) => b.has_metadata(),
        }
    }

    /// The buffer, whatever the direction.
    #[must_use]
    #[inline]
    pub const fn buffer(&self) -> Option<&Buffer> {
        match self {
            Self::None => None,
            Self::Read(b) | Self::Write(b) => Some(b),
        }
    }

    /// Moves the data to `place`, and drops what is there; nothing is left here. The same as an
    /// assignment of what [`std::mem::take`] gives, without a detour over the stack.
    #[inline]
    #[expect(unsafe_code, reason = "a move between places that is not to be made twice")]
    pub fn move_to(&mut self, place: &mut Self) {
        *place = Self::None;
        // SAFETY: both are valid and, as they are borrowed mutably, not the same. What is overwritten
        // has nothing to be dropped: the place is `None`; and what was moved has one owner, the
        // place, since it is overwritten here.
        unsafe {
            std::ptr::copy_nonoverlapping(self, place, 1);
            std::ptr::write(self, Self::None);
        }
    }

    /// The buffer, whatever the direction; empty for [`Data::None`].
    #[must_use]
    #[inline]
    pub fn into_buffer(self) -> Buffer {
        match self {
            Self::None => Buffer::empty(),
            Self::Read(b) | Self::Write(b) => b,
        }
    }
}

/// A command as the owner of a queue names it; comes back in its [`Completion`].
///
/// The queue chooses the wire's command identifier itself, with a generation in it, so that a late
/// or doubled answer is noticed.
pub type Tag = u32;

/// The end of one command: exactly one for each accepted [`Queue::submit_from`].
#[derive(Debug)]
pub struct Completion {
    /// The tag given at submission.
    pub tag: Tag,
    /// The completion entry. For a command that the queue ended itself, because its association was
    /// lost, the status is Host Aborted Command (`NVMe 2.1 §4.2.3.4`, SCT 3h SC 71h).
    pub cqe: Cqe,
    /// The data given at submission.
    pub data: Data,
}

/// Takes completions out of [`Queue::poll`]. Must not call back into the queue.
pub trait Sink {
    /// Takes one completion.
    fn complete(&mut self, completion: Completion);

    /// The same, with the data taken from where the queue has it, which saves a copy or two. What is
    /// left there is dropped by the queue.
    fn complete_from(&mut self, tag: Tag, cqe: &Cqe, data: &mut Data) {
        self.complete(Completion { tag, cqe: *cqe, data: std::mem::take(data) });
    }
}

impl<F: FnMut(Completion)> Sink for F {
    fn complete(&mut self, completion: Completion) {
        self(completion);
    }
}

impl Sink for Vec<Completion> {
    fn complete(&mut self, completion: Completion) {
        self.push(completion);
    }
}

/// Why a queue did not take a command. The data comes back.
#[derive(Debug)]
pub struct Rejected {
    /// The reason.
    pub reason: RejectReason,
    /// The data given at submission, untouched.
    pub data: Data,
}

/// The reason in a [`Rejected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// As many commands as the queue holds are in flight; try again after a completion.
    Full,
    /// The queue is not open (yet, or any more).
    NotReady,
    /// The data is larger than the transport can move with one command.
    TooLarge,
    /// Metadata beside the data, which the transport does not move, or for which it has no memory of
    /// the kind that is needed.
    Metadata,
}

/// Where a queue is in its life; returned by [`Queue::poll`].
#[derive(Clone, Debug)]
pub enum QueueStatus {
    /// The transport is still connecting.
    Opening,
    /// Commands may be submitted.
    Ready,
    /// The queue is dead, every command has been completed, and no buffer is held any more.
    /// Nothing but dropping it makes sense.
    Failed(TransportError),
}

/// What the controller layer must do to bring an I/O or admin queue to life once the transport is
/// ready ([`QueueStatus::Ready`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueSetup {
    /// Send a Connect command on the queue itself (`NVMe 2.1 §6.3`).
    Connect,
    /// Send these on the admin queue, in this order (`NVMe 2.1 §5.2.1, §5.2.2`).
    Create {
        /// Create I/O Completion Queue.
        cq: Sqe,
        /// Create I/O Submission Queue.
        sq: Sqe,
    },
    /// Nothing: an admin queue in memory lives as soon as the controller is enabled.
    None,
}

/// One submission and completion queue pair.
///
/// Owned by one thread at a time (`Send`, not `Sync`).
pub trait Queue: Send {
    /// Takes one command, and what it moves out of `data`. It may stay in a batch until
    /// [`Queue::flush`] or [`Queue::poll`].
    ///
    /// The queue writes the command identifier, the data pointer, and, if the buffer has metadata,
    /// the metadata pointer of `sqe`; everything else is the caller's.
    ///
    /// # Errors
    /// The reason; nothing was sent, and `data` is as it was.
    fn submit_from(&mut self, sqe: Sqe, data: &mut Data, tag: Tag) -> Result<(), RejectReason>;

    /// The same for a command about logical blocks, from `slba` on, which a queue may write to where
    /// it goes at once.
    ///
    /// # Errors
    /// As [`submit_from`](Self::submit_from).
    fn submit_block(
        &mut self,
        op: BlockOp,
        slba: u64,
        data: &mut Data,
        tag: Tag,
    ) -> Result<(), RejectReason> {
        self.submit_from(op.at(slba), data, tag)
    }

    /// The same as [`submit_from`](Self::submit_from) with the data by value.
    ///
    /// # Errors
    /// [`Rejected`] with the data and the reason; nothing was sent.
    fn submit(&mut self, sqe: Sqe, mut data: Data, tag: Tag) -> Result<(), Rejected> {
        match self.submit_from(sqe, &mut data, tag) {
            Ok(()) => Ok(()),
            Err(reason) => Err(Rejected { reason, data }),
        }
    }

    /// Sends what was submitted: one doorbell, or as few system calls as the socket allows.
    /// Failures are reported by the next [`Queue::poll`].
    fn flush(&mut self);

    /// Makes progress: sends, receives, completes.
    ///
    /// When it returns [`QueueStatus::Failed`], `sink` has been given a completion for each command
    /// that was still in flight.
    fn poll(&mut self, now: Instant, sink: &mut dyn Sink) -> QueueStatus;

    /// Whether [`Queue::poll`] stopped with work left (its budget was used up), so that it must be
    /// called again without waiting for the file descriptor.
    fn has_pending_work(&self) -> bool;

    /// The descriptor to wait on, edge-triggered, for both directions. May change while the queue
    /// is opening; does not change after.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// When [`Queue::poll`] should be called even if the descriptor is silent.
    fn deadline(&self) -> Option<Instant>;

    /// How the controller layer brings the queue to life once it is [`QueueStatus::Ready`].
    fn setup(&self) -> QueueSetup;

    /// Commands that can be in flight at once.
    fn capacity(&self) -> usize;

    /// Commands in flight.
    fn in_flight(&self) -> usize;

    /// The identifier on the wire of the unanswered command that was submitted with `tag`: what
    /// Abort names it by (`NVMe 2.1 §5.1.1`). Looks through all commands in flight. `None` if there
    /// is none, or if the queue cannot tell; then the command cannot be aborted.
    fn command_id(&self, tag: Tag) -> Option<u16> {
        let _ = tag;
        None
    }

    /// Tells the queue how much write data may go inside the command capsule, once Identify
    /// Controller has said so (`IOCCSZ`, `NVMe 2.1 §5.1.13`). In bytes; no effect in memory.
    fn set_in_capsule_data(&mut self, bytes: usize);

    /// The queue that takes the place of this one, which is of no use any more then. Asked for when
    /// [`Queue::poll`] has first said [`QueueStatus::Ready`], before anything is submitted. For
    /// transports whose queues are set up elsewhere; `None`: this one goes on.
    fn successor(&mut self) -> Option<Box<dyn Queue>> {
        None
    }
}

/// How registers are reached and queues begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Property Get and Set, Connect (`NVMe 2.1 §6`).
    Fabrics,
    /// Registers in memory, queues created by admin commands.
    Memory,
}

/// Registers of a memory-based controller (`NVMe 2.1 §3.1.4`).
pub trait Registers {
    /// Reads 4 bytes at `offset`. All ones, or zero where that cannot be, mean a device that is gone.
    fn read32(&mut self, offset: u32) -> u32;
    /// Reads 8 bytes at `offset`.
    fn read64(&mut self, offset: u32) -> u64;
    /// Writes 4 bytes at `offset`.
    fn write32(&mut self, offset: u32, value: u32);
    /// Writes 8 bytes at `offset`.
    fn write64(&mut self, offset: u32, value: u64);
}

/// What a queue is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueParams {
    /// Queue identifier: 0 is the admin queue, 1..=65,535 are I/O queues.
    pub qid: u16,
    /// Entries in the queue, 2..=65,535; one fewer can be in flight (`NVMe 2.1 §3.3.1`).
    pub entries: u16,
    /// Longest time from opening to [`QueueStatus::Ready`].
    pub open_timeout: Duration,
}

/// The host memory buffer that a controller asks for (`NVMe 2.1 §8.2.3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemoryRequest {
    /// Bytes that are to be given, a multiple of 4 KiB.
    pub preferred: u64,
    /// Bytes below which the buffer is of no use, a multiple of 4 KiB, at most `preferred`.
    pub least: u64,
    /// Least bytes of each piece that is one on the bus; 0: any.
    pub least_piece: u64,
    /// Most pieces; `None`: any number.
    pub most_pieces: Option<u16>,
}

/// A host memory buffer, as the controller is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Bytes of all pieces.
    pub bytes: u64,
    /// Where the list of pieces is for the device, a multiple of 16.
    pub list: u64,
    /// Pieces.
    pub pieces: u32,
    /// It is the buffer that the controller had before: the same pieces at the same addresses, with
    /// what the controller left in them.
    pub returned: bool,
}

/// One attempt to reach one controller, and what became of it. Owned by the control plane.
///
/// Dropping it does what [`Association::kill`] does.
pub trait Association: Send {
    /// The kind of transport.
    fn kind(&self) -> TransportKind;

    /// The registers, where they are memory.
    fn registers(&mut self) -> Option<&mut dyn Registers>;

    /// Whether the way to the controller is still being opened, and if so when to ask again; nothing
    /// else may be asked for until `None` has come, but [`kill`](Self::kill). A transport for which
    /// that takes no time needs nothing here.
    ///
    /// # Errors
    /// Why it cannot be opened. The association is of no use then.
    fn opening(&mut self, now: Instant) -> Result<Option<Instant>, TransportError> {
        let _ = now;
        Ok(None)
    }

    /// Begins to open a queue.
    ///
    /// # Errors
    /// A failure that is known at once (no descriptor left, no such address).
    fn open_queue(
        &mut self,
        params: QueueParams,
        now: Instant,
    ) -> Result<Box<dyn Queue>, TransportError>;

    /// Begins to make every queue of this association harmless, wherever they are, and returns at
    /// once. No queue takes commands any more. As soon as no device writes to their buffers and no
    /// socket sends from them ([`Association::stopping`]), each queue's next [`Queue::poll`] says
    /// [`QueueStatus::Failed`]; until then a queue goes on holding the buffers of its commands. May
    /// be called from any thread, repeatedly.
    fn kill(&mut self);

    /// Whether what [`Association::kill`] began is still under way, and if so when to ask again;
    /// `None` once every queue is harmless. A transport for which that takes no time needs nothing
    /// here. What takes time ends by itself also after the association has been dropped.
    fn stopping(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }

    /// The largest data that one command can move, in bytes, if the transport has a limit.
    fn max_transfer(&self) -> Option<usize>;

    /// What is known of the device behind the association, for
    /// [`quirk::find`](crate::quirk::find).
    fn hardware(&self) -> Hardware {
        Hardware::default()
    }

    /// What the device must be spared: told before the admin queue is opened, as far as it follows
    /// from [`hardware`](Self::hardware), and completely when Identify Controller has been read,
    /// before any I/O queue is opened.
    fn set_quirks(&mut self, quirks: Quirks) {
        let _ = quirks;
    }

    /// Memory for the controller's own use, which the device reaches until it has been stopped
    /// ([`Association::stopping`]) and which nobody else touches meanwhile. At most once per
    /// association. `None` where the transport has no such memory, or none that is as asked for.
    ///
    /// # Errors
    /// [`TransportError::Memory`] if there is not enough of it.
    fn host_memory(
        &mut self,
        request: HostMemoryRequest,
    ) -> Result<Option<HostMemory>, TransportError> {
        let _ = request;
        Ok(None)
    }
}

/// The address of one controller. Cheap to clone by its `Arc`.
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// The address in normal form, such as `tcp://192.0.2.7:4420`. Names the path in messages.
    fn address(&self) -> &str;

    /// The subsystem that the URL asks for; `None` where the transport reaches one controller only
    /// and its subsystem is learnt by Identify.
    fn subsystem_nqn(&self) -> Option<&str>;

    /// The NUMA node that the controller is near, where that is known before anything is connected.
    fn numa_node(&self) -> Option<u32> {
        None
    }

    /// Begins a new association. Returns at once; [`Association::opening`] tells when it is there.
    ///
    /// # Errors
    /// A failure that is known at once.
    fn associate(&self, now: Instant) -> Result<Box<dyn Association>, TransportError>;
}

/// A kind of wire, registered by URL scheme.
pub trait Transport: Send + Sync + fmt::Debug {
    /// The scheme, such as `tcp`.
    fn scheme(&self) -> &'static str;

    /// Parses a URL of this scheme. No I/O.
    ///
    /// # Errors
    /// [`UrlError`] names the part of the URL that is wrong.
    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError>;

    /// What memory must be for all controllers of this transport to reach it without a copy, as far
    /// as that is known before they are connected.
    fn memory_kind(&self) -> MemoryKind {
        MemoryKind::Any
    }

    /// Allocates memory of `len` bytes, rounded up to what `kind` consists of, and zeroed. Of a
    /// lesser kind where the system has none of this one; that is correct, and slower. `None` where
    /// the transport has no memory of its own kind.
    ///
    /// # Errors
    /// [`TransportError::Memory`] if there is none at all.
    fn allocate_memory(
        &self,
        len: usize,
        kind: MemoryKind,
    ) -> Option<Result<Memory, TransportError>> {
        let _ = (len, kind);
        None
    }

    /// Makes memory reachable for all controllers of this transport, present and future, until what
    /// is returned is dropped; `None` where any memory does. A controller that cannot be given the
    /// memory for what it is reaches it through copies.
    ///
    /// # Errors
    /// [`TransportError::Memory`] if a limit of the process or a failure of the system is in the way
    /// of a controller that is connected.
    fn register_memory(
        &self,
        memory: &Arc<Memory>,
    ) -> Result<Option<Box<dyn Any + Send + Sync>>, TransportError> {
        let _ = memory;
        Ok(None)
    }
}

/// A URL that a transport cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct UrlError {
    /// The URL as given.
    pub url: String,
    /// What is wrong with which part.
    pub reason: String,
}

/// Why an association or a queue ended. The text says what was being done to what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address could not be reached.
    #[error("connecting to {address}: {reason}")]
    Connect {
        /// The peer.
        address: String,
        /// The operating system's or resolver's answer.
        reason: String,
    },
    /// Something took longer than allowed.
    #[error("{address}: {what} took longer than {limit:?}")]
    Timeout {
        /// The peer.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The peer closed the connection, or it broke.
    #[error("{address}: connection lost: {reason}")]
    Lost {
        /// The peer.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The device has been taken away. It will not answer under this address again unless somebody
    /// puts it back, so that trying again is of no use until then.
    #[error("{address}: the device is gone: {reason}")]
    Gone {
        /// The device.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Memory could not be had, or could not be made reachable.
    #[error("memory for {address}: {reason}")]
    Memory {
        /// The device, or the kind of device.
        address: String,
        /// What was tried and what is in the way.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("{address}: protocol error: {reason}")]
    Protocol {
        /// The peer.
        address: String,
        /// Which field of which unit was wrong.
        reason: String,
    },
    /// This side ended it: the association was killed.
    #[error("{address}: closed by this host")]
    Closed {
        /// The peer.
        address: String,
    },
}
