//! Doorbells in shared memory: looked at instead of being written to.

use std::sync::Arc;

use super::engine::Engine;
use super::memory::Doorbells;

impl Engine {
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
