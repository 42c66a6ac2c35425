//! A queue pair: two rings, the commands in flight, and the memory that the controller uses for them.

use nvme_core::spec::identify::cns;
use nvme_core::spec::opcode::AdminOpcode;
use nvme_core::spec::{Cqe, Sqe};
use nvme_core::transport::{Data, RejectReason, Rejected, Tag, TransportError};

use crate::backend::BackendError;
use crate::bounce::{Chain, Pool};
use crate::counters::QueueCounters;
use crate::device::Device;
use crate::dma::{DmaMemory, PAGE};
use crate::metadata::{NoPiece, PAUSE, Pieces};
use crate::prp::{self, ListPages};
use crate::region::RegionMap;
use crate::ring::{BadHead, CQE_BYTES, CompletionRing, SQE_BYTES, SubmissionRing};
use crate::sgl;
use crate::slots::{BadCid, InFlight, Place, SLOTS_MAX, Slots, Watch};

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

    /// Puts a command on the submission ring.
    #[inline]
    pub fn submit(
        &mut self,
        device: &Device,
        mut sqe: Sqe,
        data: Data,
        tag: Tag,
        regions: &RegionMap,
        counters: &QueueCounters,
    ) -> Result<(), Rejected> {
        let reject = |reason, data| Err(Rejected { reason, data });
        let Some(slot) = self.slots.next_free().filter(|_| !self.sq.is_full()) else {
            return reject(RejectReason::Full, data);
        };
        let place = match data.has_metadata() {
            false => self.place(device, &mut sqe, &data, slot, regions, counters, false),
            true => self.place_both(device, &mut sqe, &data, slot, regions, counters),
        };
        let place = match place {
            Ok(place) => place,
            Err(reason) => return reject(reason, data),
        };
        let watch = if self.qid == 0 { watch(&sqe) } else { Watch::No };
        self.events += usize::from(watch == Watch::Event);
        let number = self.sq.next_number();
        let Some(cid) = self.slots.put(InFlight { tag, data, place, watch, number }) else {
            return reject(RejectReason::Full, Data::None);
        };
        sqe.cid = cid.into();
        // There is room: that was looked at first.
        let _ = self.sq.push(&sqe);
        counters.command();
        Ok(())
    }

    /// Puts a command of the driver's own on the submission ring; nobody is told of its end. Whether
    /// there was room for it and for one more.
    pub fn submit_own(&mut self, mut sqe: Sqe) -> bool {
        if self.slots.in_flight() + 1 >= self.slots.capacity() || self.sq.is_full() {
            return false;
        }
        let (number, watch) = (self.sq.next_number(), Watch::Doorbells);
        let (data, place) = (Data::None, Place::None);
        let Some(cid) = self.slots.put(InFlight { tag: 0, data, place, watch, number }) else {
            return false;
        };
        self.own += 1;
        sqe.cid = cid.into();
        self.sq.push(&sqe)
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
    #[inline]
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
        let (group, slot) = (usize::from(slot) / LIST_SLOTS, usize::from(slot) % LIST_SLOTS);
        if group >= self.lists.len() && !self.grow_lists(device) {
            return Err(RejectReason::Full);
        }
        let as_sgl = bytes.len() >= self.sgl_from;
        // Data pointers begin at a multiple of 4 (NVMe 2.1 §4.3.1).
        let at = bytes.as_ptr() as usize;
        let reached = if copied { None } else { regions.find(bytes) };
        if let Some(pages) = reached.filter(|_| at.is_multiple_of(4)) {
            if let &[page] = pages
                && !as_sgl
            {
                sqe.set_prp(page + (at % PAGE) as u64, 0);
                counters.direct();
                return Ok(Place::Direct);
            }
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

    /// Adds memory for lists of more slots. If there is none, commands wait for those in flight.
    #[cold]
    fn grow_lists(&mut self, device: &Device) -> bool {
        if !self.may_grow() {
            return false;
        }
        let len = LIST_SLOTS * self.list_pages * PAGE;
        match device.backend().alloc_dma(len, PAGE) {
            Ok(memory) => self.lists.push(memory),
            Err(_) => self.outgrown = PAUSE,
        }
        self.outgrown == 0
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
        match memory {
            Some(memory) => self.pool.grow(memory),
            None => self.outgrown = PAUSE,
        }
        self.outgrown == 0
    }

    /// Ends the command that a completion entry is for. An entry that cannot be is an error, which
    /// names the field.
    #[inline]
    pub fn complete(&mut self, cqe: &Cqe) -> Result<InFlight, Box<str>> {
        let (sqid, cid) = (cqe.sqid.get(), cqe.cid.get());
        if sqid != self.qid {
            return Err(bad_queue(sqid, self.qid));
        }
        let number = match self.slots.find(cid) {
            Ok(command) => command.number,
            Err(bad) => return Err(bad_cid(sqid, cid, bad)),
        };
        let in_flight = self.slots.in_flight();
        if let Err(bad) = self.sq.completed(number, cqe.sqhd.get(), in_flight) {
            return Err(bad_head(sqid, bad));
        }
        let mut command = match self.slots.take(cid) {
            Ok(command) => command,
            Err(bad) => return Err(bad_cid(sqid, cid, bad)),
        };
        if command.watch != Watch::No {
            self.events -= usize::from(command.watch == Watch::Event);
            self.own -= usize::from(command.watch == Watch::Doorbells);
        }
        // What a failed command has transferred is of no use to anyone (NVMe 2.1 §4.2.3).
        let arrived = cqe.status().is_success();
        if let Place::Bounce(_) | Place::Metadata { .. } = command.place {
            self.take_back(&mut command, arrived);
        }
        Ok(command)
    }

    /// Ends any command, without an answer. The controller must have been stopped.
    pub fn abandon(&mut self, mut sink: impl FnMut(InFlight)) {
        (self.events, self.own) = (0, 0);
        let (pool, pieces) = (&mut self.pool, &mut self.pieces);
        for mut command in self.slots.drain() {
            match std::mem::replace(&mut command.place, Place::None) {
                Place::Bounce(chain) => pool.give(&chain),
                Place::Metadata { piece, data } => {
                    pieces.give(piece);
                    pool.give(&data);
                }
                Place::None | Place::Direct => {}
            }
            if command.watch != Watch::Doorbells {
                sink(command);
            }
        }
    }

    /// The same for the metadata beside it.
    #[cold]
    fn take_metadata_back(&mut self, command: &mut InFlight, piece: u16, arrived: bool) {
        if let Data::Read(buffer) = &mut command.data
            && arrived
            && let (Some(memory), Some(metadata)) = (self.pieces.get(piece), buffer.metadata_mut())
        {
            let _ = memory.copy_out(0, metadata);
        }
        self.pieces.give(piece);
    }

    /// The device is done with a command's data: what it read goes into the caller's buffer.
    fn take_back(&mut self, command: &mut InFlight, arrived: bool) {
        let chain = match std::mem::replace(&mut command.place, Place::None) {
            Place::Bounce(chain) => chain,
            Place::Metadata { piece, data } => {
                self.take_metadata_back(command, piece, arrived);
                data
            }
            Place::None | Place::Direct => return,
        };
        if let Data::Read(buffer) = &mut command.data
            && arrived
        {
            self.pool.drain(&chain, buffer.as_mut_slice());
        }
        self.pool.give(&chain);
    }
}

/// The bus address of metadata at these pages, if one address is enough.
fn one_piece(pages: &[u64], metadata: &[u8]) -> Option<u64> {
    let at = metadata.as_ptr() as usize;
    let together = pages.windows(2).all(|w| w[0].checked_add(PAGE as u64) == Some(w[1]));
    let first = pages.first().filter(|_| together && at.is_multiple_of(4))?;
    first.checked_add((at % PAGE) as u64)
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
