//! Which path a request takes.

use nvme_core::spec::command::{BlockOp, DsmAttributes, IoFlags};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::{BlockCount, Sqe};
use nvme_core::time::Instant;
use nvme_core::transport::{Data, RejectReason};

use super::Channel;
use super::heads::{Known, Timed};
use super::pace::Kind;
use super::parked::Hopeless;
use super::passthrough::PassthroughTable;
use super::policy::{NoLane, choose, elsewhere};
use super::queues::Queues;
use super::slab::{Entry, Flags, Place, Timing};
use crate::error::IoOp;
use crate::ids::AssociationId;
use crate::view::{HeadView, NoPath};

/// The opcodes of requests about a number of blocks, by their operations; 0 for others. A table, for
/// it is quicker than jumps.
const OPCODES: [u8; 7] = {
    let mut opcodes = [0; 7];
    opcodes[IoOp::Read as usize] = NvmOpcode::READ.0;
    opcodes[IoOp::Write as usize] = NvmOpcode::WRITE.0;
    opcodes[IoOp::WriteZeroes as usize] = NvmOpcode::WRITE_ZEROES.0;
    opcodes[IoOp::Compare as usize] = NvmOpcode::COMPARE.0;
    opcodes
};

/// The opcode of requests about a number of blocks; 0 for others.
#[inline]
pub(super) const fn opcode(op: IoOp) -> NvmOpcode {
    NvmOpcode(OPCODES[op as usize])
}

/// The bits of dword 12 that a request asks for.
#[inline]
pub(super) const fn io_flags(flags: Flags) -> IoFlags {
    match flags.has(Flags::FUA) {
        true => IoFlags::FORCE_UNIT_ACCESS,
        false => IoFlags::empty(),
    }
}

/// What a request does that is about a number of blocks; `None` for others.
#[inline]
pub(super) fn block_op(entry: &Entry, nsid: u32) -> Option<BlockOp> {
    let opcode = opcode(entry.op);
    if opcode.0 == 0 {
        return None;
    }
    Some(BlockOp::new(opcode, nsid, BlockCount::new(entry.blocks)?, io_flags(entry.flags)))
}

/// The command of a request that is about no number of blocks.
#[cold]
fn other_command(entry: &Entry, nsid: u32, at: u32, passthrough: &PassthroughTable) -> Option<Sqe> {
    match entry.op {
        IoOp::Flush => Some(Sqe::flush(nsid)),
        // No dword 12 there to carry a flag.
        IoOp::Discard => Sqe::dataset_management(nsid, 1, DsmAttributes::DEALLOCATE).ok(),
        IoOp::Passthrough => passthrough.command(at, nsid),
        IoOp::Read | IoOp::Write | IoOp::WriteZeroes | IoOp::Compare => None,
    }
}

/// A request on its way, and what it moves.
pub(super) struct Sending<'a> {
    pub(super) entry: &'a mut Entry,
    pub(super) at: u32,
    /// Taken out when the request is sent.
    pub(super) data: &'a mut Data,
    /// It takes a path on other associations than these.
    pub(super) shunned: &'a [AssociationId],
    pub(super) timed: Option<Timed>,
}

/// Why a request could not be put into a queue.
pub(super) enum Unsent {
    /// There is no path for it.
    NoLane(NoLane),
    /// The queue of this association did not take it.
    Rejected(AssociationId, RejectReason),
    /// There is no such command.
    NoCommand,
}

impl Sending<'_> {
    /// Puts the request into the queue of a path of its head; what is known of that must be fresh.
    /// Returns what was in flight on the path's controller before, if its time is to be taken.
    pub(super) fn put(
        self,
        known: &mut Known,
        queues: &mut Queues,
        passthrough: &PassthroughTable,
    ) -> Result<Option<u32>, Unsent> {
        let Self { entry, at, data, shunned, timed } = self;
        let lane = match shunned {
            [] => choose(known, queues, timed).copied().ok_or_else(|| known.lanes.why_none()),
            shunned => elsewhere(known, queues, shunned),
        };
        let lane = lane.map_err(Unsent::NoLane)?;
        let (op, tag) = (block_op(entry, lane.nsid), entry.tag);
        let q = queues.at(lane.queue as usize);
        let taken = match op {
            Some(op) => q.submit_block(op, entry.slba, data, tag),
            None => match other_command(entry, lane.nsid, at, passthrough) {
                Some(sqe) => q.submit(sqe, data, tag),
                None => return Err(Unsent::NoCommand),
            },
        };
        if let Err(reason) = taken {
            return Err(Unsent::Rejected(q.association, reason));
        }
        entry.place = Place::InFlight;
        entry.sent_on = q.association;
        let Some(Timed { at: now, kind, counted, .. }) = timed else { return Ok(None) };
        let load = q.load() - 1 + q.others;
        Ok((q.meter.pace.wants(kind, now, load) || counted).then_some(load))
    }
}

enum Sent {
    /// It is taken care of.
    Yes,
    /// The queues are full.
    Full,
    /// The path that it took is none any more: there may be another one.
    Again,
    /// The queue of this association can never take it; the reason to give if no other one can.
    Unfit(AssociationId, Hopeless),
}

/// What is known of a request that some queues can never take: the associations that they are on, and
/// the first one's reason.
#[derive(Default)]
struct Unfit {
    associations: Vec<AssociationId>,
    why: Option<Hopeless>,
}

impl Unfit {
    fn add(&mut self, association: AssociationId, why: Hopeless) {
        self.associations.push(association);
        self.why.get_or_insert(why);
    }

    /// Adds the paths that move less than `len` bytes at once: a request that is larger than the head
    /// allows now was accepted when it allowed more. Their controllers would refuse it for good, and
    /// not all transports look before they send.
    #[cold]
    fn add_small_paths(&mut self, view: &HeadView, len: usize) {
        for path in view.paths.iter().filter(|p| p.max_transfer < len) {
            if !self.associations.contains(&path.association) {
                self.add(path.association, Hopeless::TooLarge);
            }
        }
    }
}

impl Channel {
    /// Sends a request down a path; or lets it wait, or parks it.
    pub(super) fn send(&mut self, at: u32) {
        if matches!(self.try_send(at, Unfit::default()), Sent::Full) {
            self.wait_for_room(at);
        }
    }

    /// The request waits until a queue has room.
    pub(super) fn wait_for_room(&mut self, at: u32) {
        let place = self.slab[at].head;
        let waiting = &mut self.heads[place].waiting;
        waiting.push_back(at);
        if waiting.len() == 1 {
            self.crowded.push(place);
        }
    }

    /// Tries to send a request whose data is in its entry.
    fn try_send(&mut self, at: u32, mut unfit: Unfit) -> Sent {
        loop {
            let known = &mut self.heads[self.slab[at].head];
            known.refresh(&self.queues);
            let len = self.slab[at].data.len();
            if len > known.view.geometry.max_transfer {
                unfit.add_small_paths(&known.view, len);
            }
            let shunned = self.slab.past(at).shunned;
            let around = match (shunned, &*unfit.associations) {
                (None, []) => Vec::new(),
                (_, unfit) => unfit.iter().copied().chain(shunned).collect(),
            };
            let entry = &mut self.slab[at];
            if known.layout != entry.layout && entry.op != IoOp::Flush {
                self.parked.hopeless.push((at, Hopeless::Formatted));
                return Sent::Yes;
            }
            entry.sent_at = Instant::ZERO;
            entry.flags.clear(Flags::TIMED);
            let mut data = std::mem::take(&mut entry.data);
            let timed = known.time(&mut self.batch, &self.shared.clock, entry.op, &data);
            let sending = Sending { entry, at, data: &mut data, shunned: &around, timed };
            match sending.put(known, &mut self.queues, &self.passthrough) {
                Ok(load) => {
                    if shunned.is_some() {
                        self.slab.history(at).shunned = None;
                    }
                    self.sent(at, timed, load);
                    return Sent::Yes;
                }
                Err(unsent) => match self.put_back(at, data, &unsent, &unfit) {
                    Sent::Again => {}
                    // Another path's may.
                    Sent::Unfit(association, why) => unfit.add(association, why),
                    sent => return sent,
                },
            }
        }
    }

    /// Sends a new request for which no path is known at once, or of which times are taken.
    #[inline]
    pub(super) fn send_new(&mut self, at: u32, data: &mut Data) {
        let entry = &mut self.slab[at];
        let known = &mut self.heads[entry.head];
        let timed = known.time(&mut self.batch, &self.shared.clock, entry.op, data);
        let sending = Sending { entry, at, data, shunned: &[], timed };
        match sending.put(known, &mut self.queues, &self.passthrough) {
            Ok(load) => self.sent(at, timed, load),
            Err(unsent) => self.send_later(at, data, &unsent),
        }
    }

    /// A request was sent, when so much was in flight on the controller, if its time is taken.
    #[inline]
    pub(super) fn sent(&mut self, at: u32, timed: Option<Timed>, load: Option<u32>) {
        let (Some(load), Some(Timed { at: started, kind, hedged, .. })) = (load, timed) else {
            return;
        };
        self.slab.time(at, Timing { started, kind, load });
        if hedged {
            self.watch_for_hedge(at, kind, started);
        }
    }

    /// A read was sent that may be sent a second time, if it takes too long.
    #[cold]
    fn watch_for_hedge(&mut self, at: u32, kind: Kind, started: Instant) {
        let entry = &self.slab[at];
        if let Some(hedge) = &mut self.heads[entry.head].hedge
            && let Some(due) = hedge.sent(kind, entry.tag, started)
        {
            self.hedges.due_at = self.hedges.due_at.min(due);
        }
    }

    /// A new request could not be sent at once.
    #[cold]
    pub(super) fn send_later(&mut self, at: u32, data: &mut Data, unsent: &Unsent) {
        let mut unfit = Unfit::default();
        let sent = match self.put_back(at, std::mem::take(data), unsent, &unfit) {
            Sent::Unfit(association, why) => {
                unfit.add(association, why);
                self.try_send(at, unfit)
            }
            Sent::Again => self.try_send(at, unfit),
            sent => sent,
        };
        if matches!(sent, Sent::Full) {
            self.wait_for_room(at);
        }
    }

    /// Whether a path takes a request that is too large for those on `unfit`, or will, once what is in
    /// its way is over: it is away, or inaccessible, or its queue is not there yet. Where the program
    /// does not want to wait for paths, only the last is waited for.
    #[cold]
    fn will_fit(&self, at: u32, unfit: &Unfit) -> bool {
        let entry = &self.slab[at];
        let (view, len) = (&self.heads[entry.head].view, entry.data.len());
        if !matches!(unfit.why, Some(Hopeless::TooLarge)) || self.passthrough.once(entry, at) {
            return false;
        }
        let soon = view.paths.iter().any(|path| {
            let able = path.max_transfer >= len && !unfit.associations.contains(&path.association);
            able && self.queues.refused(path.association).is_none()
        });
        soon || (view.no_path == NoPath::Park && view.later_transfer >= len)
    }

    /// A request could not be put into a queue. `unfit`: others could never take it, for a reason.
    #[cold]
    fn put_back(&mut self, at: u32, data: Data, why: &Unsent, unfit: &Unfit) -> Sent {
        self.slab[at].data = data;
        let hopeless = match *why {
            Unsent::NoLane(NoLane::Full) | Unsent::Rejected(_, RejectReason::Full) => {
                return Sent::Full;
            }
            Unsent::Rejected(association, RejectReason::TooLarge) => {
                return Sent::Unfit(association, Hopeless::TooLarge);
            }
            Unsent::Rejected(association, RejectReason::Metadata) => {
                return Sent::Unfit(association, Hopeless::Metadata);
            }
            Unsent::Rejected(association, _) => {
                // It died and does not know yet that we know: poll it, and do without it until the
                // control plane has replaced it.
                self.queues.wake(association.epoch);
                self.heads[self.slab[at].head].avoid(association);
                return Sent::Again;
            }
            Unsent::NoLane(_) if self.slab.past(at).shunned.is_some() => {
                self.slab.history(at).shunned = None;
                return Sent::Again;
            }
            Unsent::NoLane(NoLane::Refused { granted }) => Hopeless::NoQueue { granted },
            Unsent::NoLane(NoLane::None) => match unfit.why {
                Some(why) if !self.will_fit(at, unfit) => why,
                _ => {
                    self.park(at);
                    return Sent::Yes;
                }
            },
            // It was checked when it was submitted.
            Unsent::NoCommand => Hopeless::Formatted,
        };
        self.parked.hopeless.push((at, hopeless));
        Sent::Yes
    }

    /// Sends the requests that waited for room, each head's in their order, as far as there is room.
    /// A head whose queues stay full holds up no other.
    pub(super) fn send_waiting(&mut self) {
        let mut turn = 0;
        while let Some(&place) = self.crowded.get(turn) {
            let Some(at) = self.heads[place].waiting.pop_front() else {
                self.crowded.swap_remove(turn);
                continue;
            };
            if matches!(self.try_send(at, Unfit::default()), Sent::Full) {
                self.heads[place].waiting.push_front(at);
                turn += 1;
            }
        }
    }
}
