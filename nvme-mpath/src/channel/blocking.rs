//! Blocking calls, for programs that do one thing at a time.

use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::time::Duration;

use super::slab::Flags;
use super::{Channel, IoCompletion, IoRequest, PassthroughCommand};
use crate::error::{IoError, SubmitError};
use crate::head::Head;
use crate::host::STOP_LIMIT;
use crate::view::Geometry;

/// Why a blocking call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// The request was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The request failed.
    #[error("{error}")]
    Io {
        /// Why.
        error: Box<IoError>,
        /// Its buffer.
        buffer: Buffer,
        /// See [`IoCompletion::uncertain`](crate::IoCompletion::uncertain).
        uncertain: bool,
    },
}

impl Channel {
    /// Reads as many blocks as fit into `buffer`, and gives it back.
    ///
    /// # Errors
    /// See [`BlockingError`].
    pub fn read(
        &mut self,
        head: &Arc<Head>,
        slba: u64,
        buffer: Buffer,
    ) -> Result<Buffer, BlockingError> {
        self.execute(head, IoRequest::read(slba, buffer, 0))
    }

    /// Writes the blocks in `buffer`, and gives it back.
    ///
    /// # Errors
    /// See [`BlockingError`].
    pub fn write(
        &mut self,
        head: &Arc<Head>,
        slba: u64,
        buffer: Buffer,
    ) -> Result<Buffer, BlockingError> {
        self.execute(head, IoRequest::write(slba, buffer, 0))
    }

    /// Makes what was written before durable.
    ///
    /// # Errors
    /// See [`BlockingError`].
    pub fn sync(&mut self, head: &Arc<Head>) -> Result<(), BlockingError> {
        self.execute(head, IoRequest::flush(0)).map(drop)
    }

    /// Submits one request and waits for it. Other completions are kept for the next
    /// [`poll`](Self::poll). The request's `user_data` is not used.
    ///
    /// # Errors
    /// See [`BlockingError`].
    pub fn execute(
        &mut self,
        head: &Arc<Head>,
        request: IoRequest,
    ) -> Result<Buffer, BlockingError> {
        self.execute_with(head, |_| Ok(request))
    }

    /// The same of a request that `make` makes from the head's geometry, as for
    /// [`submit_with`](Self::submit_with).
    ///
    /// # Errors
    /// What `make` says, and then nothing was done; else see [`BlockingError`].
    pub fn execute_with<E: From<BlockingError>>(
        &mut self,
        head: &Arc<Head>,
        make: impl FnOnce(&Geometry) -> Result<IoRequest, E>,
    ) -> Result<Buffer, E> {
        /// What is in the way of the submission.
        enum Refused<E> {
            Made(E),
            Submitted(SubmitError),
        }
        impl<E> From<SubmitError> for Refused<E> {
            fn from(error: SubmitError) -> Self {
                Self::Submitted(error)
            }
        }
        let make = |geometry: &_| {
            let mut request = make(geometry).map_err(Refused::Made)?;
            request.asked.flags.set(Flags::BLOCKING);
            Ok(request)
        };
        self.submit_with(head, make).map_err(|refused| match refused {
            Refused::Made(error) => error,
            Refused::Submitted(error) => BlockingError::Submit(error).into(),
        })?;
        let found = self.wait_for_blocking();
        match found.result {
            Ok(()) => Ok(found.buffer),
            Err(error) => Err(failed(error, found.buffer, found.uncertain).into()),
        }
    }

    /// Hands in an I/O command as it is, as [`submit_passthrough`](Self::submit_passthrough) does, and
    /// waits for it. Gives the buffer back, and what Dwords 0 and 1 of the answer carry.
    ///
    /// # Errors
    /// See [`BlockingError`].
    pub fn execute_passthrough(
        &mut self,
        head: &Arc<Head>,
        command: PassthroughCommand,
        buffer: Buffer,
    ) -> Result<(Buffer, u64), BlockingError> {
        self.admit_passthrough(head, command, buffer, 0, true)?;
        let found = self.wait_for_blocking();
        match found.result {
            Ok(()) => Ok((found.buffer, found.value)),
            Err(error) => Err(failed(error, found.buffer, found.uncertain)),
        }
    }

    /// Waits until no device on a bus has a request of this channel any more, having cancelled all of the
    /// channel's ([`cancel_all`](Self::cancel_all)); what has ended meanwhile is appended to `done`. To be
    /// called before a channel is dropped whose requests use memory by raw pointers: a device goes on
    /// with what it has until its queue has been deleted, which is later than the drop. Returns at once
    /// where there is no such request: what travels over fabrics is cut off by the drop.
    ///
    /// It takes as long as an Abort does, or
    /// [`io_timeout`](crate::ChannelOptions::io_timeout) and the reset of the controller. A device that
    /// does not stop then ([`Event::DeviceUnstopped`](crate::Event::DeviceUnstopped)) is waited for no
    /// longer than five seconds.
    ///
    /// Returns how many requests such a device still has, mostly none. It may write to their buffers for
    /// as long as the process lives: what they have by raw pointers must be neither used nor freed.
    pub fn quiesce(&mut self, done: &mut Vec<IoCompletion>) -> usize {
        if self.queues.kept().0 == 0 {
            return 0;
        }
        self.cancel_all();
        let mut stuck_since = None;
        loop {
            self.poll(done);
            let (kept, all_stuck) = self.queues.kept();
            if kept == 0 {
                return 0;
            }
            let now = self.shared.clock.now();
            match stuck_since {
                Some(since) if all_stuck && now >= since + STOP_LIMIT => return kept,
                _ if !all_stuck => stuck_since = None,
                _ => _ = stuck_since.get_or_insert(now),
            }
            self.wait_and_drive();
        }
    }

    /// Sleeps until something may have happened.
    fn wait_and_drive(&mut self) {
        if self.shared.options.control_thread {
            self.wait(Duration::from_secs(1));
        } else {
            // Nobody else may be there to drive the host meanwhile.
            self.shared.drive(Duration::ZERO);
            self.wait(Duration::from_millis(10));
        }
    }

    /// Waits for the request that somebody waits for.
    fn wait_for_blocking(&mut self) -> IoCompletion {
        let mut done = Vec::new();
        let mut others = std::mem::take(&mut self.backlog);
        let found = loop {
            self.poll(&mut done);
            if let Some(place) = done.iter().position(|c| c.blocking) {
                let found = done.swap_remove(place);
                others.append(&mut done);
                break found;
            }
            others.append(&mut done);
            self.wait_and_drive();
        };
        self.backlog = others;
        found
    }
}

fn failed(error: Box<IoError>, buffer: Buffer, uncertain: bool) -> BlockingError {
    BlockingError::Io { error, buffer, uncertain }
}
