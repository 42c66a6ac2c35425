//! Which path a request takes.

use nvme_core::spec::command::{DsmAttributes, IoFlags};
use nvme_core::spec::{BlockCount, Sqe};
use nvme_core::time::Instant;
use nvme_core::transport::{Data, RejectReason};

use super::Channel;
use super::pace::Kind;
use super::parked::Hopeless;
use super::policy::{Route, choose, elsewhere};
use super::request::{Entry, Place};
use crate::error::IoOp;
use crate::ids::AssociationId;

/// The command of a request; `None` for passthrough.
pub(super) fn command(entry: &Entry, nsid: u32) -> Option<Sqe> {
    let blocks = BlockCount::new(entry.blocks);
    let sqe = match entry.op {
        IoOp::Read => Sqe::read(nsid, entry.slba, blocks?),
        IoOp::Write => Sqe::write(nsid, entry.slba, blocks?),
        IoOp::WriteZeroes => Sqe::write_zeroes(nsid, entry.slba, blocks?),
        IoOp::Flush => Sqe::flush(nsid),
        IoOp::Compare => Sqe::compare(nsid, entry.slba, blocks?),
        IoOp::Passthrough => return None,
        // No dword 12 there to carry a flag.
        IoOp::Discard => {
            return Sqe::dataset_management(nsid, 1, DsmAttributes::DEALLOCATE).ok();
        }
    };
    Some(if entry.fua { sqe.with_io_flags(IoFlags::FORCE_UNIT_ACCESS) } else { sqe })
}

impl Channel {
    /// Sends a request down a path; or lets it wait, or parks it.
    pub(super) fn send(&mut self, at: u32) {
        if matches!(self.try_send(at), Sent::Full) {
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

    fn try_send(&mut self, at: u32) -> Sent {
        match self.send_but(at, &[]) {
            Sent::Unfit(association, why) => self.send_where_it_fits(at, association, why),
            sent => sent,
        }
    }

    /// A queue can never take the request. Another path's may; if none does, the request fails.
    #[cold]
    fn send_where_it_fits(&mut self, at: u32, first: AssociationId, why: Hopeless) -> Sent {
        let mut unfit = vec![first];
        loop {
            match self.send_but(at, &unfit) {
                Sent::Unfit(association, _) => unfit.push(association),
                Sent::Nowhere => {
                    self.parked.hopeless.push((at, why));
                    return Sent::Yes;
                }
                sent => return sent,
            }
        }
    }

    /// Sends a request on any association but those that are known not to fit; mostly that is none,
    /// of which nothing is left when it is compiled.
    #[inline(always)]
    fn send_but(&mut self, at: u32, unfit: &[AssociationId]) -> Sent {
        loop {
            let place = self.slab[at].head;
            let known = &mut self.heads[place];
            known.refresh();
            let entry = &mut self.slab[at];
            if known.view.layout != entry.layout && entry.op != IoOp::Flush {
                self.parked.hopeless.push((at, Hopeless::Formatted));
                return Sent::Yes;
            }
            let (mut started, mut kind) = (Instant::ZERO, Kind::default());
            if known.view.timed || self.options.latency_histograms {
                // One look at the clock for all that is sent until the next poll or flush.
                if self.batch_at == Instant::ZERO {
                    self.batch_at = self.shared.clock.now();
                    self.timed = true;
                }
                (started, kind) = (self.batch_at, Kind::new(entry.op, entry.data.len()));
            }
            let route = match entry.shunned {
                also if !unfit.is_empty() => {
                    elsewhere(known, &self.queues, |a| unfit.contains(&a) || also == Some(a))
                }
                None => choose(known, &mut self.queues, kind, started),
                Some(shunned) => elsewhere(known, &self.queues, |a| a == shunned),
            };
            let (path, queue) = match route {
                Route::Path { path, queue } => (path, queue),
                Route::Full => return Sent::Full,
                Route::None | Route::Refused { .. } if entry.shunned.take().is_some() => continue,
                Route::None if !unfit.is_empty() => return Sent::Nowhere,
                Route::None => {
                    self.park(at);
                    return Sent::Yes;
                }
                Route::Refused { granted } => {
                    self.parked.hopeless.push((at, Hopeless::NoQueue { granted }));
                    return Sent::Yes;
                }
            };
            let path = &known.view.paths[path];
            let (association, nsid) = (path.association, path.nsid);
            let tag = self.slab.tag(at);
            let entry = &mut self.slab[at];
            let sqe = command(entry, nsid);
            let Some(sqe) = sqe.or_else(|| self.passthrough.command(at, nsid)) else {
                // It was checked when it was submitted.
                self.parked.hopeless.push((at, Hopeless::Formatted));
                return Sent::Yes;
            };
            let data = std::mem::take(&mut entry.data);
            let q = self.queues.at(queue);
            let load = q.load() + q.others;
            // Where reads are hedged, only those whose buffer can be exchanged for another one.
            let hedge = known
                .hedge
                .as_mut()
                .filter(|_| entry.op == IoOp::Read && matches!(&data, Data::Read(b) if b.is_vec()));
            match q.submit(sqe, data, tag) {
                Ok(()) => {
                    if started != Instant::ZERO && q.load() == 1 {
                        q.meter.pace.begins(started);
                    }
                    if let Some(due) = hedge.and_then(|h| h.sent(kind, tag, started)) {
                        self.hedges.due_at = self.hedges.due_at.min(due);
                    }
                    (entry.started, entry.kind, entry.load) = (started, kind, load);
                    entry.place = Place::InFlight(association);
                    entry.sent_on = association;
                    entry.shunned = None;
                    entry.sent_at = Instant::ZERO;
                    return Sent::Yes;
                }
                Err(rejected) => {
                    entry.data = rejected.data;
                    match rejected.reason {
                        RejectReason::Full => return Sent::Full,
                        RejectReason::TooLarge => {
                            return Sent::Unfit(association, Hopeless::TooLarge);
                        }
                        RejectReason::Metadata => {
                            return Sent::Unfit(association, Hopeless::Metadata);
                        }
                        _ => {}
                    }
                    // It died and does not know yet that we know: poll it, and do without it until
                    // the control plane has replaced it.
                    q.woken = true;
                    known.avoid(association);
                }
            }
        }
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
            if matches!(self.try_send(at), Sent::Full) {
                self.heads[place].waiting.push_front(at);
                turn += 1;
            }
        }
    }
}

enum Sent {
    /// It is taken care of.
    Yes,
    /// The queues are full.
    Full,
    /// The queue of this association can never take it; the reason to give if no other one can.
    Unfit(AssociationId, Hopeless),
    /// There is no other path than those that cannot take it.
    Nowhere,
}
