//! Doorbells in memory (NVMe 2.1 §5.2.5, §B.5): the controller says up to where it looks there by
//! itself, and the register is written only for what lies beyond.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use nvme_core::spec::Sqe;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::registers::{Cap, offset};

use crate::dma::{DmaMemory, PAGE};

/// The two pages that all queues of a controller share: doorbells, and the controller's event
/// indices, both laid out like the registers.
#[derive(Debug)]
pub(crate) struct Shadow {
    memory: DmaMemory,
    /// The controller has taken the pages.
    active: AtomicBool,
}

impl Shadow {
    /// Pages in zeroed memory of two pages.
    pub fn new(memory: DmaMemory) -> Self {
        Self { memory, active: AtomicBool::new(false) }
    }

    /// The command that tells the controller of the pages.
    pub fn command(&self) -> Option<Sqe> {
        let mut sqe = Sqe::new(AdminOpcode::DOORBELL_BUFFER_CONFIG.0, 0);
        sqe.set_prp(self.memory.bus(0)?, self.memory.bus(PAGE)?);
        Some(sqe)
    }

    /// The controller has taken the pages.
    pub fn activate(&self) {
        self.active.store(true, Ordering::Release);
    }

    /// Whether queue `qid` has doorbells in the page. The admin queue uses its registers.
    pub fn covers(&self, cap: Cap, qid: u16) -> bool {
        qid != 0 && cap.cq_doorbell(qid) - offset::DOORBELLS + 4 <= PAGE
    }

    /// Sets the doorbell whose register is at `register` to where a new queue begins, and forgets
    /// what the controller asked for while another one had the identifier.
    pub fn clear(&self, register: usize) {
        let at = register.wrapping_sub(offset::DOORBELLS);
        for word in [self.memory.half(at), self.memory.half(PAGE + at)].into_iter().flatten() {
            word.store(0, Ordering::Release);
        }
    }

    /// Moves the doorbell whose register is at `register` from `old` to `new`; whether the register
    /// has to be written as well.
    pub fn ring(&self, register: usize, old: u16, new: u16) -> bool {
        let at = register.wrapping_sub(offset::DOORBELLS);
        let (Some(doorbell), Some(event)) = (self.memory.half(at), self.memory.half(PAGE + at))
        else {
            return true;
        };
        // The controller sees the entries that it is told of, and either it sees the doorbell before
        // it goes to sleep, or we see the event index that it has left.
        doorbell.store(u32::from(new).to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
        let event = u32::from_le(event.load(Ordering::Relaxed)) as u16;
        !self.active.load(Ordering::Relaxed) || passes(event, old, new)
    }
}

/// Whether a doorbell that moves from `old` to `new` passes `event`.
const fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn the_register_is_written_when_the_event_is_passed() {
        assert!(passes(3, 3, 4) && passes(3, 2, 5) && passes(4, 3, 5));
        assert!(!passes(9, 3, 4) && !passes(2, 3, 4) && !passes(4, 3, 4));
        assert!(passes(30, 30, 1), "around the end of the ring");
    }

    #[test]
    fn the_register_is_written_until_the_controller_looks_into_memory() {
        let shadow = Shadow::new(heap::alloc(2 * PAGE, 0x10000));
        let register = Cap(0).sq_doorbell(1);
        assert!(shadow.ring(register, 5, 6));
        shadow.activate();
        assert!(!shadow.ring(register, 6, 7));
        assert_eq!(shadow.memory.half(8).unwrap().load(Ordering::Relaxed), 7);
        shadow.memory.half(PAGE + 8).unwrap().store(7, Ordering::Relaxed);
        assert!(shadow.ring(register, 7, 8));
        assert!(!shadow.covers(Cap(0), 0) && shadow.covers(Cap(0), 511));
        assert!(!shadow.covers(Cap(0), 512));
    }
}
