//! A pair of queues: commands in, completions out.

use std::os::fd::BorrowedFd;

use super::{Data, TransportError};
use crate::spec::command::BlockOp;
use crate::spec::{Cqe, Sqe};
use crate::time::{Duration, Instant};

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
    /// The queue is dead for this reason and takes no command any more, but the device has not stopped
    /// yet: it may still write to the buffers of what is in flight, and still execute it. The queue
    /// goes on holding that, for as long as it takes, and is to be polled until it says `Failed`.
    /// Dropping it leaves the buffers with the device.
    Ending(TransportError),
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
