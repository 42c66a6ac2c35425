//! Where the data of a command is for the device: where the program has it, or in memory of the
//! driver's that it is copied to.

use nvme_core::spec::Sqe;
use nvme_core::transport::{Data, RejectReason};

use super::{LIST_SLOTS, Pair};
use crate::bounce::Chain;
use crate::counters::QueueCounters;
use crate::device::Device;
use crate::dma::PAGE;
use crate::metadata::{NoPiece, PAUSE};
use crate::prp::{self, ListPages};
use crate::region::RegionMap;
use crate::sgl;
use crate::slots::Place;

impl Pair {
    /// The bytes of data that may do without a list, if they begin where data may and nothing is beside
    /// them.
    #[inline]
    fn short<'a>(&self, data: &'a Data) -> Option<&'a [u8]> {
        let bytes = data.buffer()?.plain()?;
        // Zero is more than all. Data pointers begin at a multiple of 4 (NVMe 2.1 §4.3.1).
        if bytes.len().wrapping_sub(1) >= self.direct_most {
            return None;
        }
        if bytes.as_ptr().addr().is_multiple_of(4) { Some(bytes) } else { None }
    }

    /// The PRP entries of data that the device reaches where it is, in the region that was used last,
    /// if it needs no list for that: the usual case, in as few steps as will do.
    #[inline]
    pub(super) fn reach(&self, data: &Data) -> Option<[u64; 2]> {
        let bytes = self.short(data)?;
        let first = self.near.bus(bytes.as_ptr().addr(), bytes.len())?;
        // A region begins on a page, for the process and on the bus.
        two_entries(bytes, first, || Some((first | (PAGE as u64 - 1)).wrapping_add(1)))
    }

    /// Points the command to data that the device reaches where it is, if it needs no list for that.
    /// Whether it does.
    pub(super) fn point_direct(&mut self, sqe: &mut Sqe, data: &Data, regions: &RegionMap) -> bool {
        let Some(bytes) = self.short(data) else { return false };
        let Some(pages) = regions.find_from(bytes, &mut self.region) else { return false };
        // Of a ring in the controller's memory entries are not written where they are made.
        if let Some(near) = regions.near(self.region).filter(|_| !self.sq.is_remote()) {
            self.near = near;
        }
        let Some(first) = pages.first() else { return false };
        let first = first + (bytes.as_ptr().addr() % PAGE) as u64;
        let prp = two_entries(bytes, first, || pages.get(1).copied());
        prp.map(|[first, second]| sqe.set_prp(first, second)).is_some()
    }

    /// Makes any data reachable, and points the command to it.
    #[cold]
    pub(super) fn place_any(
        &mut self,
        device: &Device,
        sqe: &mut Sqe,
        data: &Data,
        slot: u16,
        regions: &RegionMap,
        counters: &QueueCounters,
    ) -> Result<Place, RejectReason> {
        match data.has_metadata() {
            false => self.place(device, sqe, data, slot, regions, counters, false),
            true => self.place_both(device, sqe, data, slot, regions, counters),
        }
    }

    /// Makes data and the metadata beside it reachable, and points the command to both.
    #[cold]
    fn place_both(
        &mut self,
        device: &Device,
        sqe: &mut Sqe,
        data: &Data,
        slot: u16,
        regions: &RegionMap,
        counters: &QueueCounters,
    ) -> Result<Place, RejectReason> {
        let (Data::Read(buffer) | Data::Write(buffer)) = data else { return Ok(Place::None) };
        let metadata = buffer.metadata().unwrap_or_default();
        // Either all of a command is in the controller's memory, or nothing (NVMe 2.1 §3.1.4.11,
        // CDMMMS).
        let in_cmb = self.pool_in_cmb;
        let reached = match in_cmb {
            true => None,
            false => regions.find(metadata).and_then(|pages| one_piece(pages, metadata)),
        };
        let (address, piece) = match reached {
            Some(address) => (address, None),
            None => {
                let most = self.pieces_most;
                let piece = self.pieces.take(metadata.len(), most, |bytes| match in_cmb {
                    true => device.cmb().and_then(|cmb| cmb.data(bytes)),
                    false => device.backend().alloc_dma(bytes, PAGE).ok(),
                });
                let piece = piece.map_err(|why| match why {
                    NoPiece::Now => RejectReason::Full,
                    NoPiece::Ever => RejectReason::Metadata,
                })?;
                let Some(address) = self.pieces.get(piece).and_then(|m| m.bus(0)) else {
                    self.pieces.give(piece);
                    return Err(RejectReason::Metadata);
                };
                (address, Some(piece))
            }
        };
        let placed = self.place(device, sqe, data, slot, regions, counters, in_cmb);
        sqe.set_metadata(address);
        let Some(piece) = piece else { return placed };
        let data_at = match placed {
            Ok(Place::Bounce(chain)) => chain,
            Ok(_) => Chain::NONE,
            Err(reason) => {
                self.pieces.give(piece);
                return Err(reason);
            }
        };
        if let (Data::Write(_), Some(memory)) = (data, self.pieces.get(piece)) {
            // It fits: the piece is as long at least.
            let _ = memory.copy_in(0, metadata);
        }
        counters.bounced(metadata.len());
        Ok(Place::Metadata { piece, data: data_at })
    }

    /// Makes the data reachable, and points the command to it. `copied`: not where it is, but through
    /// the pool.
    #[expect(clippy::too_many_arguments, reason = "one command, and all that it needs")]
    fn place(
        &mut self,
        device: &Device,
        sqe: &mut Sqe,
        data: &Data,
        slot: u16,
        regions: &RegionMap,
        counters: &QueueCounters,
        copied: bool,
    ) -> Result<Place, RejectReason> {
        let (buffer, host_sends) = match data {
            // The commands that create queues bring the queue's address themselves.
            Data::None => return Ok(Place::None),
            Data::Read(buffer) => (buffer, false),
            Data::Write(buffer) => (buffer, true),
        };
        let bytes = buffer.as_slice();
        if bytes.is_empty() {
            sqe.set_prp(0, 0);
            return Ok(Place::None);
        }
        if bytes.len() > self.max_transfer {
            return Err(RejectReason::TooLarge);
        }
        // Copies need pages, and so may lists, of which there are few at first.
        let slot = self.with_lists(device, slot).ok_or(RejectReason::Full)?;
        let (group, slot) = (usize::from(slot) / LIST_SLOTS, usize::from(slot) % LIST_SLOTS);
        let as_sgl = bytes.len() >= self.sgl_from;
        // Data pointers begin at a multiple of 4 (NVMe 2.1 §4.3.1).
        let at = bytes.as_ptr() as usize;
        let reached = if copied { None } else { regions.find(bytes) };
        if let Some(pages) = reached.filter(|_| at.is_multiple_of(4)) {
            let pages = || pages.iter().copied();
            let lists = self.lists.get(group).ok_or(RejectReason::Full)?;
            let list = ListPages::new(lists, slot * self.list_pages, self.list_pages);
            point(sqe, pages, at % PAGE, bytes.len(), list, as_sgl, counters)
                .ok_or(RejectReason::TooLarge)?;
            counters.direct();
            return Ok(Place::Direct);
        }
        let chain = loop {
            match self.pool.take(bytes.len()) {
                Some(chain) => break chain,
                None if self.grow_pool(device) => {}
                None if self.pool.pages() * PAGE < bytes.len() => {
                    return Err(RejectReason::TooLarge);
                }
                None => return Err(RejectReason::Full),
            }
        };
        let lists = self.lists.get(group).ok_or(RejectReason::Full)?;
        let list = ListPages::new(lists, slot * self.list_pages, self.list_pages);
        let pages = || self.pool.bus(&chain);
        if point(sqe, pages, 0, bytes.len(), list, as_sgl, counters).is_none() {
            self.pool.give(&chain);
            return Err(RejectReason::TooLarge);
        }
        if host_sends {
            self.pool.fill(&chain, bytes);
        }
        counters.bounced(bytes.len());
        Ok(Place::Bounce(chain))
    }

    /// The slot that is used next, which was to be `slot`: one that has memory for lists. Where there is
    /// no more, commands wait for those in flight that have some.
    #[inline]
    fn with_lists(&mut self, device: &Device, slot: u16) -> Option<u16> {
        let have = self.lists.len() * LIST_SLOTS;
        if usize::from(slot) < have { Some(slot) } else { self.grow_lists(device) }
    }

    /// Adds memory for lists of more slots, if there is some; the slot that is used next.
    #[cold]
    fn grow_lists(&mut self, device: &Device) -> Option<u16> {
        if self.may_grow() {
            let len = LIST_SLOTS * self.list_pages * PAGE;
            match device.backend().alloc_dma(len, PAGE) {
                Ok(memory) => self.lists.push(memory),
                Err(_) => self.outgrown = PAUSE,
            }
        }
        self.slots.prefer_below(self.lists.len() * LIST_SLOTS)
    }

    /// Whether memory is asked for: not while that was refused a short time ago, since it takes a
    /// system call.
    fn may_grow(&mut self) -> bool {
        let paused = self.outgrown > 0;
        self.outgrown = self.outgrown.saturating_sub(1);
        !paused
    }

    /// Adds memory for data. Whether there was some.
    #[cold]
    fn grow_pool(&mut self, device: &Device) -> bool {
        let Some(len) = self.pool.wants() else { return false };
        if !self.may_grow() {
            return false;
        }
        // A command's data must not be in both memories (NVMe 2.1 §3.1.4.11, CDPMLS).
        let memory = match self.pool_in_cmb {
            true => device.cmb().and_then(|cmb| cmb.data(len)),
            false => device.backend().alloc_dma(len, PAGE).ok(),
        };
        match memory.filter(|memory| memory.len() >= len) {
            Some(memory) => self.pool.grow(memory),
            None => self.outgrown = PAUSE,
        }
        self.outgrown == 0
    }
}

/// The PRP entries of data at bus address `first`, if it ends on the page after that at most, which
/// `next` tells.
#[inline]
fn two_entries(bytes: &[u8], first: u64, next: impl FnOnce() -> Option<u64>) -> Option<[u64; 2]> {
    match bytes.as_ptr().addr() % PAGE + bytes.len() {
        end if end <= PAGE => Some([first, 0]),
        end if end <= 2 * PAGE => next().map(|next| [first, next]),
        _ => None,
    }
}

/// The bus address of metadata at these pages, if one address is enough.
fn one_piece(pages: &[u64], metadata: &[u8]) -> Option<u64> {
    let at = metadata.as_ptr() as usize;
    let together = pages.windows(2).all(|w| w[0].checked_add(PAGE as u64) == Some(w[1]));
    let first = pages.first().filter(|_| together && at.is_multiple_of(4))?;
    first.checked_add((at % PAGE) as u64)
}

/// Points a command to its data, by SGL if that is wanted and there is room, else by PRPs.
fn point<I: Iterator<Item = u64>>(
    sqe: &mut Sqe,
    pages: impl Fn() -> I,
    offset: usize,
    len: usize,
    list: ListPages<'_>,
    as_sgl: bool,
    counters: &QueueCounters,
) -> Option<()> {
    if as_sgl && sgl::build(sqe, pages(), offset, len, list).is_some() {
        counters.sgl();
        return Some(());
    }
    prp::build(sqe, pages(), offset, len, list)
}
