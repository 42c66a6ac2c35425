//! What is under way on a channel: the numbers of its requests, and their ends.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};

use nvme_mpath::core::buffer::Buffer;
use nvme_mpath::{Channel, IoCompletion, IoOp};

use crate::buffers::Pieces;
use crate::completion::{
    NVMEH_MEMORY_KEPT, NVMEH_OUTCOME_UNKNOWN, nvmeh_callback, nvmeh_completion,
};
use crate::error::{Error, Result, io_errno};

/// A request under way.
struct Request {
    generation: u32,
    free: bool,
    callback: nvmeh_callback,
    arg: *mut c_void,
    modifies: bool,
    pieces: Option<Pieces>,
}

/// A request that has ended and was not told of.
pub(crate) struct Finished {
    pub(crate) callback: nvmeh_callback,
    pub(crate) completion: nvmeh_completion,
}

/// How a request has ended.
struct End {
    result: c_int,
    flags: u32,
    nvme_status: u32,
    value: u64,
    buffer: Buffer,
}

/// What is only touched between callbacks.
pub(crate) struct State {
    /// `None`: closed.
    pub(crate) channel: Option<Channel>,
    requests: Vec<Request>,
    free: Vec<u32>,
    done: Vec<IoCompletion>,
    pub(crate) told: VecDeque<Finished>,
    /// Those without a callback.
    pub(crate) quiet: VecDeque<nvmeh_completion>,
    /// Memory for requests in several pieces.
    pub(crate) spare: Vec<Vec<u8>>,
    /// Counts for nvmeh_channel_stats().
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) copied: u64,
}

/// What a submission has to say.
pub(crate) struct Ticket {
    pub(crate) callback: nvmeh_callback,
    pub(crate) arg: *mut c_void,
    pub(crate) op: IoOp,
    pub(crate) pieces: Option<Pieces>,
}

fn closed() -> Error {
    Error::new(libc::ESHUTDOWN, "the channel is being closed")
}

impl State {
    pub(crate) fn new(channel: Channel) -> Self {
        let depth = channel.depth();
        Self {
            channel: Some(channel),
            requests: Vec::with_capacity(depth),
            free: Vec::with_capacity(depth),
            done: Vec::with_capacity(depth),
            told: VecDeque::with_capacity(depth),
            quiet: VecDeque::with_capacity(depth),
            spare: Vec::new(),
            submitted: 0,
            completed: 0,
            failed: 0,
            copied: 0,
        }
    }

    /// The channel, if it is not closed.
    pub(crate) fn channel(&mut self) -> Result<&mut Channel> {
        self.channel.as_mut().ok_or_else(closed)
    }

    /// Makes a number for a request.
    pub(crate) fn book(&mut self, ticket: Ticket) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.requests.push(Request {
                generation: 0,
                free: true,
                callback: None,
                arg: std::ptr::null_mut(),
                modifies: false,
                pieces: None,
            });
            self.requests.len() as u32 - 1
        });
        let request = &mut self.requests[at as usize];
        request.generation = request.generation.wrapping_add(1);
        request.free = false;
        request.callback = ticket.callback;
        request.arg = ticket.arg;
        request.modifies = ticket.op.modifies();
        request.pieces = ticket.pieces;
        // Never 0: the place is counted from 1.
        u64::from(request.generation) << 32 | u64::from(at + 1)
    }

    /// Whether a request of this number is under way.
    pub(crate) fn knows(&self, id: u64) -> bool {
        let at = (id as u32).wrapping_sub(1) as usize;
        let request = self.requests.get(at);
        request.is_some_and(|r| !r.free && r.generation == (id >> 32) as u32)
    }

    /// Takes a number back that was not used after all.
    pub(crate) fn unbook(&mut self, id: u64, buffer: Buffer) {
        let at = (id as u32).wrapping_sub(1);
        if let Some(request) = self.requests.get_mut(at as usize) {
            request.free = true;
            let pieces = request.pieces.take();
            self.free.push(at);
            self.keep_spare(pieces, buffer);
        }
    }

    fn keep_spare(&mut self, pieces: Option<Pieces>, buffer: Buffer) {
        if pieces.is_some()
            && self.spare.len() < 64
            && let Ok(memory) = buffer.into_vec()
        {
            self.spare.push(memory);
        }
    }

    /// A request has ended.
    fn finish(&mut self, id: u64, end: End) {
        let End { result, flags, nvme_status, value, buffer } = end;
        let at = (id as u32).wrapping_sub(1);
        let Some(request) = self.requests.get_mut(at as usize) else { return };
        let pieces = request.pieces.take();
        if result == 0
            && let Some(pieces) = &pieces
        {
            pieces.scatter(buffer.as_slice());
        }
        let (callback, arg) = (request.callback, request.arg);
        request.free = true;
        self.free.push(at);
        self.keep_spare(pieces, buffer);
        self.completed += 1;
        self.failed += u64::from(result != 0);
        let size = size_of::<nvmeh_completion>();
        let completion =
            nvmeh_completion { size, id, arg, result, flags, nvme_status, reserved: 0, value };
        if callback.is_some() {
            self.told.push_back(Finished { callback, completion });
        } else {
            self.quiet.push_back(completion);
        }
    }

    /// Takes in what the channel has done.
    pub(crate) fn take_done(&mut self) -> Result<()> {
        let mut done = std::mem::take(&mut self.done);
        self.channel()?.poll(&mut done);
        self.take_in(done);
        Ok(())
    }

    fn take_in(&mut self, mut done: Vec<IoCompletion>) {
        for c in done.drain(..) {
            let flags = if c.uncertain { NVMEH_OUTCOME_UNKNOWN } else { 0 };
            let (errno, status) = c.result.as_ref().map_or_else(|e| io_errno(e), |()| (0, 0));
            if let Err(error) = &c.result {
                crate::error::set_last(&error.to_string());
            }
            let (result, nvme_status, value) = (-errno, u32::from(status), c.value);
            self.finish(c.user_data, End { result, flags, nvme_status, value, buffer: c.buffer });
        }
        self.done = done;
    }

    /// Closes the channel. Nothing touches a buffer any more, but those that are said to be kept; what was
    /// under way ends as cancelled.
    pub(crate) fn close(&mut self) {
        let Some(mut channel) = self.channel.take() else { return };
        let mut done = std::mem::take(&mut self.done);
        let kept = if channel.quiesce(&mut done) > 0 { NVMEH_MEMORY_KEPT } else { 0 };
        drop(channel);
        self.take_in(done);
        for at in 0..self.requests.len() {
            let request = &self.requests[at];
            if !request.free {
                let flags = kept | if request.modifies { NVMEH_OUTCOME_UNKNOWN } else { 0 };
                let id = u64::from(request.generation) << 32 | (at as u64 + 1);
                let (result, buffer) = (-libc::ECANCELED, Buffer::empty());
                self.finish(id, End { result, flags, nvme_status: 0, value: 0, buffer });
            }
        }
    }
}
