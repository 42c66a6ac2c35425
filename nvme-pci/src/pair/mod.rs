//! A queue pair: two rings, the commands in flight, and the memory that the controller uses for them.

mod place;

use nvme_core::spec::command::BlockOp;
use nvme_core::spec::identify::cns;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::{Cqe, Sqe};
use nvme_core::transport::{Data, RejectReason, Sink, Tag, TransportError};

use crate::backend::BackendError;
use crate::bounce::Pool;
use crate::counters::QueueCounters;
use crate::device::Device;
use crate::dma::{DmaMemory, PAGE};
use crate::metadata::Pieces;
use crate::prp;
use crate::region::{Near, RegionMap};
use crate::ring::{BadHead, CQE_BYTES, CompletionRing, SQE_BYTES, SubmissionRing};
use crate::slots::{BadCid, Odd, Place, SLOTS_MAX, Slots, Watch};

/// Memory of the admin queue for its commands' data, at least and at most: they are few and small.
const ADMIN_POOL: (usize, usize) = (64 << 10, 1 << 20);

/// Slots whose lists are allocated together. The lowest are used first, so that low depths need few.
const LIST_SLOTS: usize = 16;

/// Metadata beside the data may take this part of what data may.
const METADATA_SHARE: usize = 4;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pair {
    qid: u16,
    pub sq: SubmissionRing,
    pub cq: CompletionRing,
    slots: Slots,
    /// PRP lists and SGLs: `list_pages` pages for each slot, for [`LIST_SLOTS`] slots each.
    lists: Vec<DmaMemory>,
    list_pages: usize,
    pool: Pool,
    /// The pool is in the controller memory buffer.
    pool_in_cmb: bool,
    /// Memory for metadata beside the data.
    pieces: Pieces,
    /// All pieces together are not longer.
    pieces_most: usize,
    /// There was no memory to grow by; so many more requests are turned away before it is asked for
    /// again.
    outgrown: u32,
    max_transfer: usize,
    /// Transfers from this size on use SGLs.
    sgl_from: usize,
    /// Longest transfers that two entries may point to, without a list.
    direct_most: usize,
    /// Where data was found last: a region that is one piece on the bus, and one of any kind, by its
    /// place in the map.
    near: Near,
    region: usize,
    /// Event requests in flight.
    events: usize,
    /// Commands of the driver's own in flight.
    own: usize,
}

impl Pair {
    /// A pair of at most `entries` entries each.
    pub fn new(device: &Device, qid: u16, entries: u16) -> Result<Self, TransportError> {
        let error = |e: BackendError| device.connect_error(&e);
        let backend = device.backend();
        let limit = u32::from(SLOTS_MAX) + 1;
        let entries = u32::from(entries).min(device.cap().max_queue_entries()).min(limit);
        let entries = u16::try_from(entries).unwrap_or(u16::MAX).max(2);
        let own = device.cmb().filter(|_| qid != 0);
        let own = own.and_then(|cmb| cmb.queue(usize::from(entries) * SQE_BYTES));
        let sq_in_cmb = own.is_some();
        let (sq, entries) = match own {
            Some(memory) => (memory, entries),
            None => ring_memory(device, entries, SQE_BYTES)?,
        };
        let (cq, entries) = ring_memory(device, entries, CQE_BYTES)?;
        let slots = Slots::new(entries - 1);

        let most = device.max_transfer();
        let bounce = device.options().bounce_bytes;
        let (max_transfer, first, pool) = match qid {
            0 => {
                let pool = bounce.clamp(ADMIN_POOL.0, ADMIN_POOL.1);
                (most.min(pool), most.min(pool).min(ADMIN_POOL.0), pool)
            }
            _ => (most, most, bounce.max(most)),
        };
        let list_pages = prp::list_pages(max_transfer);
        let list_slots = slots.capacity().min(LIST_SLOTS);
        let lists = backend.alloc_dma(list_slots * list_pages * PAGE, PAGE);
        let first = first.next_power_of_two();
        let in_cmb = device.cmb().filter(|_| qid != 0).and_then(|cmb| cmb.data(first));
        let pool_in_cmb = in_cmb.is_some();
        let first = in_cmb.map_or_else(|| backend.alloc_dma(first, PAGE), Ok).map_err(error)?;
        device.ledger().queue_opened(sq_in_cmb, pool_in_cmb);
        let sgl_from = match device.options().sgl_threshold {
            Some(bytes) if qid != 0 && device.takes_sgl() => bytes,
            _ => usize::MAX,
        };
        Ok(Self {
            qid,
            sq: SubmissionRing::new(sq, sq_in_cmb, entries),
            cq: CompletionRing::new(cq, entries),
            slots,
            lists: vec![lists.map_err(error)?],
            list_pages,
            pool: Pool::new(first, pool.next_power_of_two() / PAGE),
            pool_in_cmb,
            pieces: Pieces::default(),
            pieces_most: pool / METADATA_SHARE,
            outgrown: 0,
            max_transfer,
            sgl_from,
            // Of admin commands more is to be noted than where the data is.
            direct_most: if qid == 0 { 0 } else { max_transfer.min(sgl_from.saturating_sub(1)) },
            near: Near::default(),
            region: 0,
            events: 0,
            own: 0,
        })
    }

    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Commands in flight that somebody waits for.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight().saturating_sub(self.own)
    }

    /// Commands in flight that will be answered soon: all but event requests.
    pub fn busy(&self) -> usize {
        self.slots.in_flight().saturating_sub(self.events)
    }

    /// The identifier of the command in flight with this tag.
    pub fn command_id(&self, tag: Tag) -> Option<u16> {
        self.slots.command_id(tag)
    }

    /// There is another map of regions.
    pub fn forget_regions(&mut self) {
        (self.near, self.region) = (Near::default(), 0);
    }

    /// Puts a command on the submission ring, and takes its data.
    ///
    /// Where there is a slot there is room in the ring: it holds as many commands as there are slots,
    /// and what the controller has not read yet has not been answered either.
    #[inline(never)]
    pub fn submit(
        &mut self,
        device: &Device,
        mut sqe: Sqe,
        data: &mut Data,
        tag: Tag,
        regions: &RegionMap,
        counters: &QueueCounters,
    ) -> Result<(), RejectReason> {
        let Some(slot) = self.slots.next_free() else { return Err(RejectReason::Full) };
        let elsewhere = if self.point_direct(&mut sqe, data, regions) {
            counters.direct();
            None
        } else {
            Some(self.place_any(device, &mut sqe, data, slot, regions, counters)?)
        };
        let Some(cid) = self.slots.put(tag, data, self.sq.next_spot()) else {
            return Err(RejectReason::Full);
        };
        if let Some(place) = elsewhere {
            self.note(self.slots.number(cid), place, &sqe);
        }
        sqe.cid = cid.into();
        self.sq.write(&sqe);
        counters.command();
        Ok(())
    }

    /// The same for a command about blocks, if the device reaches its data as it reached the last one's
    /// and there is a slot: it is made where it goes to. False, and nothing was done, if not.
    // Nothing in here is a call, so that nothing need be saved for one.
    #[inline]
    pub fn submit_near(&mut self, op: BlockOp, slba: u64, data: &mut Data, tag: Tag) -> bool {
        let Some(prp) = self.reach(data) else { return false };
        let Some(cid) = self.slots.put(tag, data, self.sq.next_spot()) else { return false };
        // The ring is in the process, since something was near, and has room, as there was a slot.
        self.sq.write_near(&op.words(slba, cid, prp));
        true
    }

    /// Notes of a command where its data is, and of an admin command what is to be known of its end.
    #[cold]
    fn note(&mut self, slot: u16, place: Place, sqe: &Sqe) {
        let watch = if self.qid == 0 { watch(sqe) } else { Watch::No };
        self.events += usize::from(watch == Watch::Event);
        self.slots.note(slot, place, watch);
    }

    /// Puts a command of the driver's own on the submission ring; nobody is told of its end. Whether
    /// there was room for it and for one more.
    pub fn submit_own(&mut self, mut sqe: Sqe) -> bool {
        if self.slots.in_flight() + 1 >= self.slots.capacity() {
            return false;
        }
        let Some(slot) = self.slots.next_free() else { return false };
        let Some(cid) = self.slots.put(0, &mut Data::None, self.sq.next_spot()) else {
            return false;
        };
        self.slots.note(slot, Place::None, Watch::Doorbells);
        self.own += 1;
        sqe.cid = cid.into();
        self.sq.write(&sqe)
    }

    /// Ends the plain command that a completion entry is for. False, and nothing was done, if it is not
    /// for one, or cannot be.
    #[inline]
    pub fn end_plain(&mut self, cqe: &Cqe, sink: &mut dyn Sink) -> bool {
        if cqe.sqid.get() != self.qid {
            return false;
        }
        let Self { slots, sq, cq, .. } = self;
        let can_be = |spot, in_flight| {
            let can_be = sq.completed(spot, cqe.sqhd.get(), in_flight).is_ok();
            if can_be {
                cq.advance();
            }
            can_be
        };
        slots.end_plain(cqe.cid.get(), can_be, |tag, data| sink.complete_from(tag, cqe, data))
    }

    /// The slot of the command that a completion entry is for, whatever it is.
    ///
    /// # Errors
    /// The entry cannot be; names the field.
    #[cold]
    pub fn completed(&mut self, cqe: &Cqe) -> Result<u16, Box<str>> {
        let (sqid, cid) = (cqe.sqid.get(), cqe.cid.get());
        if sqid != self.qid {
            return Err(bad_queue(sqid, self.qid));
        }
        let (slot, spot) = self.slots.find(cid).map_err(|bad| bad_cid(sqid, cid, bad))?;
        let in_flight = self.slots.in_flight();
        let completed = self.sq.completed(spot, cqe.sqhd.get(), in_flight);
        completed.map(|()| slot).map_err(|bad| bad_head(sqid, bad))
    }

    /// Ends a command; what it had.
    #[cold]
    pub fn end(&mut self, slot: u16) -> Option<(Tag, Data)> {
        self.slots.free(slot)
    }

    /// Does what else is to be done about a command that has ended, `arrived` with success, before it
    /// is [freed](Self::end). Tells what the driver wants to know of it.
    #[cold]
    pub fn settle(&mut self, slot: u16, arrived: bool) -> Watch {
        let Odd { place, watch } = self.slots.take_odd(slot);
        let (chain, piece) = match place {
            Place::None | Place::Direct => (None, None),
            Place::Bounce(chain) => (Some(chain), None),
            Place::Metadata { piece, data } => (Some(data), Some(piece)),
        };
        // What a failed command has transferred is of no use to anyone (NVMe 2.1 §4.2.3).
        if arrived && let Some(Data::Read(buffer)) = self.slots.data_mut(slot) {
            if let (Some(memory), Some(metadata)) =
                (piece.and_then(|piece| self.pieces.get(piece)), buffer.metadata_mut())
            {
                let _ = memory.copy_out(0, metadata);
            }
            if let Some(chain) = &chain {
                self.pool.drain(chain, buffer.as_mut_slice());
            }
        }
        if let Some(piece) = piece {
            self.pieces.give(piece);
        }
        if let Some(chain) = &chain {
            self.pool.give(chain);
        }
        match watch {
            Watch::Event => self.events -= 1,
            Watch::Doorbells => self.own -= 1,
            _ => {}
        }
        watch
    }

    /// The data of a command.
    pub fn data(&self, slot: u16) -> Option<&Data> {
        self.slots.data(slot)
    }

    /// Ends any command, without an answer. The controller must have been stopped.
    pub fn abandon(&mut self, mut sink: impl FnMut(Tag, Data)) {
        for slot in self.slots.used() {
            let watch = self.settle(slot, false);
            if let Some((tag, data)) = self.end(slot)
                && watch != Watch::Doorbells
            {
                sink(tag, data);
            }
        }
    }
}

#[cold]
fn bad_queue(sqid: u16, qid: u16) -> Box<str> {
    format!("completion with SQID {sqid} on queue {qid}").into()
}

#[cold]
fn bad_cid(qid: u16, cid: u16, bad: BadCid) -> Box<str> {
    let why = match bad {
        BadCid::Unknown => "no command in flight has it",
        BadCid::Stale => "its command has been answered already",
    };
    format!("completion on queue {qid} with CID {cid:#06x}: {why}").into()
}

#[cold]
fn bad_head(qid: u16, BadHead { said, least, most }: BadHead) -> Box<str> {
    format!("completion on queue {qid} with SQHD {said}: it must be from {least} to {most}").into()
}

/// Memory for a ring of `entries` of `size` bytes in one piece, or for as many as fit into one page
/// where the backend has no larger pieces.
fn ring_memory(
    device: &Device,
    entries: u16,
    size: usize,
) -> Result<(DmaMemory, u16), TransportError> {
    let error = |e| device.connect_error(&e);
    let backend = device.backend();
    let memory = backend.alloc_dma(usize::from(entries) * size, PAGE).map_err(error)?;
    if memory.is_contiguous() && memory.len() >= usize::from(entries) * size {
        return Ok((memory, entries));
    }
    let memory = backend.alloc_dma(PAGE, PAGE).map_err(error)?;
    if memory.len() < PAGE {
        let reason = "the backend gave less memory than a page for a ring".into();
        return Err(TransportError::Connect { address: device.address(), reason });
    }
    Ok((memory, entries.min((PAGE / size) as u16)))
}

/// What of an admin command's end concerns the driver.
fn watch(sqe: &Sqe) -> Watch {
    let cdw10 = sqe.cdw10.get();
    match AdminOpcode(sqe.opcode) {
        AdminOpcode::IDENTIFY if cdw10 as u8 == cns::CONTROLLER => Watch::Identify,
        AdminOpcode::DELETE_IO_CQ => Watch::DeleteCq(cdw10 as u16),
        AdminOpcode::ASYNC_EVENT_REQUEST => Watch::Event,
        _ => Watch::No,
    }
}
