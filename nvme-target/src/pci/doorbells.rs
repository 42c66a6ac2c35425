//! Doorbells: registers that are written to, or words in shared memory that are looked at instead.

use std::sync::Arc;

use super::engine::Engine;
use super::memory::Doorbells;
use crate::aer::AsyncEvent;

impl Engine {
    pub fn doorbell(&mut self, at: usize, value: u32) {
        self.follow_subsystem();
        let stride = 4usize << self.config.dstrd;
        let (number, rest) = (at / stride, at % stride);
        let qid = u16::try_from(number / 2).unwrap_or(u16::MAX);
        let sq = number.is_multiple_of(2);
        let known = if rest != 0 || !self.running {
            None
        } else if sq {
            self.stats.sq_doorbells += 1;
            let queue = self.sqs.get_mut(&qid).filter(|q| value < q.entries);
            queue.map(|q| q.tail = value)
        } else {
            self.stats.cq_doorbells += 1;
            let queue = self.cqs.get_mut(&qid).filter(|q| value < q.entries);
            queue.map(|q| q.head = value)
        };
        if known.is_none() {
            self.stats.bad_doorbells += 1;
            if self.running {
                // Error, Write to Invalid Doorbell Register (NVMe 2.1 §5.1.2.1).
                let event = AsyncEvent { event_type: 0, info: 0, log: 1 };
                self.subsystem.lock().raise(event, |c| c.cntlid == self.binding.cntlid);
            }
        }
    }

    pub fn attach_doorbells(&mut self, doorbells: Option<Arc<dyn Doorbells>>) {
        self.doorbells = doorbells;
    }

    /// Offset of a queue's doorbell: of the head, or of the tail.
    fn doorbell_offset(&self, qid: u16, head: bool) -> usize {
        (2 * usize::from(qid) + usize::from(head)) * (4 << self.config.dstrd)
    }

    /// A queue is new: its doorbell begins at 0.
    pub(super) fn clear_doorbell(&self, qid: u16, head: bool) {
        if let Some(doorbells) = &self.doorbells {
            doorbells.store(self.doorbell_offset(qid, head), 0);
        }
    }

    /// Does what has been asked for in memory.
    pub(super) fn look_at_doorbells(&mut self) {
        let Some(doorbells) = self.doorbells.clone().filter(|_| self.running) else { return };
        let tails = self.sqs.iter().map(|(&qid, q)| (qid, false, q.tail));
        let heads = self.cqs.iter().map(|(&qid, q)| (qid, true, q.head));
        let known: Vec<(u16, bool, u32)> = tails.chain(heads).collect();
        for (qid, head, value) in known {
            let at = self.doorbell_offset(qid, head);
            let new = doorbells.load(at);
            if new == value {
                continue;
            }
            let bad = self.stats.bad_doorbells;
            self.doorbell(at, new);
            if self.stats.bad_doorbells != bad {
                doorbells.store(at, value);
            }
        }
    }
}
