//! The controller memory buffer (NVMe 2.1 §8.2.1): memory of the controller's in one of its BARs, for
//! submission queues and data.

use std::sync::Arc;

use nvme_core::memory::Ranges;
use nvme_core::spec::registers::{Cap, CmbLoc, CmbMsc, CmbSz, offset};
use parking_lot::Mutex;

use crate::backend::{Backend, BackendError};
use crate::dma::{DmaMemory, PAGE};
use crate::options::CmbUse;

/// Where the controller is told to take addresses for the buffer's. No IOMMU that there is translates
/// as many bits, and no machine has memory there, so that it hides none.
const BASE: u64 = 1 << 60;
/// Not more of a buffer is used.
const LEN_MAX: u64 = 256 << 20;
/// CMBSTS.CBAI: the controller cannot be reached at the base address (NVMe 2.1 §3.1.4.18).
const BASE_INVALID: u32 = 1;

/// The buffer of one controller.
#[derive(Debug)]
pub(crate) struct Cmb {
    memory: Arc<DmaMemory>,
    free: Arc<Mutex<Ranges>>,
    /// Submission queues may be there.
    queues: bool,
    /// So may data, of both directions.
    data: bool,
}

/// What CMBLOC and CMBSZ say, checked.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    bar: u8,
    offset: u64,
    len: u64,
}

/// Finds the buffer; `None` if there is none.
///
/// # Errors
/// Which field cannot be.
fn place(loc: CmbLoc, sz: CmbSz) -> Result<Option<Place>, String> {
    if sz.sz() == 0 {
        return Ok(None);
    }
    let unit = sz.unit().ok_or_else(|| format!("CMBSZ.SZU is {}, which is reserved", sz.szu()))?;
    let bar = loc.bir() as u8;
    // BAR 0 is 64 bits wide and takes the place of BAR 1 (NVMe over PCIe Transport 1.1 §3.8.1).
    if bar == 1 || bar > 5 {
        return Err(format!("CMBLOC.BIR is {bar}; it must be 0 or 2 to 5"));
    }
    let too_far = || format!("CMBLOC {:#x} and CMBSZ {:#x} are past all addresses", loc.0, sz.0);
    let offset = unit.checked_mul(loc.ofst().into()).ok_or_else(too_far)?;
    let len = sz.bytes().ok_or_else(too_far)?;
    offset.checked_add(len).ok_or_else(too_far)?;
    Ok(Some(Place { bar, offset, len }))
}

impl Cmb {
    /// Sets the buffer up as far as `wanted`; `None` if the controller has none, or none that can be
    /// used so. The controller must be disabled.
    ///
    /// # Errors
    /// `Unusable` if what the registers say cannot be; what the backend says of the BAR.
    pub fn open(
        backend: &dyn Backend,
        cap: Cap,
        wanted: CmbUse,
    ) -> Result<Option<Self>, BackendError> {
        // Controllers of before NVMe 1.4 have theirs at addresses of the bus.
        if wanted == CmbUse::Off || cap.cmbs() == 0 {
            return Ok(None);
        }
        let bar = backend.bar0();
        bar.write64(offset::CMBMSC, CmbMsc(0).with_cre(1).0);
        let (loc, sz) = (CmbLoc(bar.read32(offset::CMBLOC)), CmbSz(bar.read32(offset::CMBSZ)));
        let unusable =
            |reason| BackendError::Unusable { address: backend.address().to_owned(), reason };
        let found = place(loc, sz).map_err(unusable)?;
        let data = wanted == CmbUse::QueuesAndData && sz.rds() == 1 && sz.wds() == 1;
        let queues = sz.sqs() == 1;
        let Some(place) = found.filter(|_| data || queues) else { return Ok(None) };
        let len = place.len.min(LEN_MAX) as usize;
        let memory = backend.controller_memory(place.bar, place.offset, place.len, len, BASE)?;
        let control = CmbMsc(0).with_cre(1).with_cmse(1).with_cba(BASE >> 12);
        bar.write64(offset::CMBMSC, control.0);
        if bar.read32(offset::CMBSTS) & BASE_INVALID != 0 {
            bar.write64(offset::CMBMSC, 0);
            return Ok(None);
        }
        let mut free = Ranges::default();
        free.release(0, memory.len() as u64);
        let (memory, free) = (Arc::new(memory), Arc::new(Mutex::new(free)));
        Ok(Some(Self { memory, free, queues, data }))
    }

    /// Room for a submission queue, zeroed.
    pub fn queue(&self, len: usize) -> Option<DmaMemory> {
        self.take(len).filter(|_| self.queues).filter(DmaMemory::clear)
    }

    /// Room for data.
    pub fn data(&self, len: usize) -> Option<DmaMemory> {
        if self.data { self.take(len) } else { None }
    }

    fn take(&self, len: usize) -> Option<DmaMemory> {
        let len = len.max(1).checked_next_multiple_of(PAGE)?;
        let at = self.free.lock().allocate(len as u64, PAGE as u64)?;
        let piece =
            Piece { memory: Arc::clone(&self.memory), free: Arc::clone(&self.free), at, len };
        // Inside: that is where the range was taken from.
        DmaMemory::part(&self.memory, at as usize, len, Box::new(piece))
    }
}

/// A piece of the buffer; goes back to it when dropped.
struct Piece {
    memory: Arc<DmaMemory>,
    free: Arc<Mutex<Ranges>>,
    at: u64,
    len: usize,
}

impl Drop for Piece {
    fn drop(&mut self) {
        debug_assert!(self.at + self.len as u64 <= self.memory.len() as u64);
        self.free.lock().release(self.at, self.len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_that_cannot_be_are_refused_by_name() {
        let loc = |bir, ofst| CmbLoc(0).with_bir(bir).with_ofst(ofst);
        let sz = |szu, sz| CmbSz(0).with_szu(szu).with_sz(sz);
        assert_eq!(place(loc(1, 9), sz(15, 0)), Ok(None), "nothing is there");
        assert_eq!(
            place(loc(2, 3), sz(1, 4)),
            Ok(Some(Place { bar: 2, offset: 3 << 16, len: 4 << 16 }))
        );
        assert!(place(loc(2, 0), sz(7, 1)).unwrap_err().contains("SZU"));
        assert!(place(loc(1, 0), sz(0, 1)).unwrap_err().contains("BIR is 1"));
        assert!(place(loc(6, 0), sz(0, 1)).unwrap_err().contains("BIR is 6"));
        // The largest that the fields can say: 64 GiB units, a million of them.
        let most = place(loc(5, 0xf_ffff), sz(6, 0xf_ffff)).unwrap().unwrap();
        assert_eq!(most.offset, most.len);
    }
}
