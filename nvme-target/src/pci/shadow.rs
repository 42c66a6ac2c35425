//! Doorbells in host memory (NVMe 2.1 §5.2.5, §B.5), as the controller reads them.

use super::memory::HostMemory;

/// Where the host keeps doorbells, and we the values up to which we look there by ourselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadow {
    doorbells: u64,
    events: u64,
    /// Bytes from one doorbell to the next.
    stride: u64,
}

impl Shadow {
    pub fn new(doorbells: u64, events: u64, dstrd: u8) -> Self {
        Self { doorbells, events, stride: 4 << dstrd }
    }

    fn offset(self, qid: u16, completion: bool) -> u64 {
        (2 * u64::from(qid) + u64::from(completion)) * self.stride
    }

    /// A doorbell. The admin queue has none here, nor has a queue beyond the page.
    pub fn doorbell(self, memory: &dyn HostMemory, qid: u16, completion: bool) -> Option<u32> {
        let at = self.offset(qid, completion);
        if qid == 0 || at + 4 > 4096 {
            return None;
        }
        memory.load32(self.doorbells + at).map(u32::from_le)
    }

    /// Asks for a write to the register when the doorbell moves past `value`.
    pub fn ask(self, memory: &dyn HostMemory, qid: u16, completion: bool, value: u32) {
        let at = self.offset(qid, completion);
        if qid != 0 && at + 4 <= 4096 {
            let _ = memory.store32(self.events + at, value.to_le());
        }
    }
}
