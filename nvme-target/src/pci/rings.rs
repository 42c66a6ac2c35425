//! The controller's ends of its queues.

use std::collections::VecDeque;

use nvme_core::spec::{Cqe, Sqe};
use zerocopy::IntoBytes;

use super::memory::HostMemory;

/// A submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    pub base: u64,
    pub entries: u32,
    pub head: u32,
    pub tail: u32,
    /// The completion queue that answers go to.
    pub cqid: u16,
}

impl SubmissionQueue {
    pub fn new(base: u64, entries: u32, cqid: u16) -> Self {
        Self { base, entries, head: 0, tail: 0, cqid }
    }

    /// The next entry, if there is one. `Err`: it cannot be read.
    pub fn fetch(&mut self, memory: &dyn HostMemory) -> Result<Option<Sqe>, ()> {
        if self.head == self.tail {
            return Ok(None);
        }
        let mut sqe = Sqe::default();
        if !memory.read(self.base + u64::from(self.head) * 64, sqe.as_mut_bytes()) {
            return Err(());
        }
        self.head = (self.head + 1) % self.entries;
        Ok(Some(sqe))
    }
}

/// An answer on its way to a completion queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub cqe: Cqe,
    /// With the phase tag of the pass before.
    pub stale_phase: bool,
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    pub base: u64,
    pub entries: u32,
    pub head: u32,
    tail: u32,
    phase: bool,
    /// The interrupt, if it is to be raised.
    pub vector: Option<u16>,
    /// Answers that there was no room for.
    waiting: VecDeque<Answer>,
}

impl CompletionQueue {
    pub fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        let waiting = VecDeque::new();
        Self { base, entries, head: 0, tail: 0, phase: true, vector, waiting }
    }

    /// Whether there are answers that wait for room.
    pub fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn push(&mut self, answer: Answer) {
        self.waiting.push_back(answer);
    }

    /// Writes what there is room for; whether anything was. `Err`: it cannot be written.
    pub fn post(&mut self, memory: &dyn HostMemory) -> Result<bool, ()> {
        let mut posted = false;
        while (self.tail + 1) % self.entries != self.head {
            let Some(answer) = self.waiting.pop_front() else { break };
            let mut cqe = answer.cqe;
            cqe.set_status(cqe.status(), self.phase != answer.stale_phase);
            let [low, high]: [u64; 2] = zerocopy::transmute!(cqe);
            let at = self.base + u64::from(self.tail) * 16;
            // The half with the phase tag comes last: it makes the other one valid.
            if !memory.store(at, low) || !memory.store(at + 8, high) {
                return Err(());
            }
            self.tail += 1;
            if self.tail == self.entries {
                self.tail = 0;
                self.phase = !self.phase;
            }
            posted = true;
        }
        Ok(posted)
    }
}
