//! Requests on their way in: from the program into the slab, and down a path if one is known at once.

use std::sync::Arc;

use nvme_core::spec::BlockCount;
use nvme_core::spec::command::BlockOp;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::Data;

use super::Channel;
use super::check::check;
use super::policy::quick;
use super::request::{Asked, IoRequest, refused};
use super::route::{Unsent, io_flags, opcode};
use super::slab::Place;
use crate::error::{SubmitError, SubmitReason};
use crate::head::Head;
use crate::view::Geometry;

impl Channel {
    /// Hands in a request. It may stay in a batch until [`flush`](Self::flush) or
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`SubmitError`] with the buffer: the request cannot be right, or the channel is full. What
    /// goes wrong later, a path that is missing included, is told by the completion.
    pub fn submit(&mut self, head: &Arc<Head>, mut request: IoRequest) -> Result<(), SubmitError> {
        let IoRequest { asked, data } = &mut request;
        match self.fresh(head) {
            Some(place) => self.take(place, asked, data),
            None => self.submit_stale(head, asked, data),
        }
    }

    /// Hands in requests to one head, as long as there are some and the channel has room; how many.
    /// The same as [`submit`](Self::submit) for each, with less to be done for it: what is known of the
    /// head is looked up once, and requests that the iterator makes are made where they are used.
    ///
    /// Nothing is taken out of the iterator that is not handed in, so that one that is lent
    /// ([`Iterator::by_ref`]) goes on where the channel was full.
    ///
    /// # Errors
    /// [`SubmitError`] with the buffer of the first request that cannot be right. Those before it were
    /// handed in; those after it are still in the iterator.
    #[inline]
    pub fn submit_all(
        &mut self,
        head: &Arc<Head>,
        requests: impl IntoIterator<Item = IoRequest>,
    ) -> Result<usize, SubmitError> {
        let place = match self.fresh(head) {
            None => self.renew(head),
            place => place,
        };
        let mut requests = requests.into_iter();
        let mut count = 0;
        while self.slab.has_room()
            && let Some(IoRequest { asked, mut data }) = requests.next()
        {
            let Some(place) = place else {
                return Err(refused(&mut data, SubmitReason::ForeignHead));
            };
            self.take(place, &asked, &mut data)?;
            count += 1;
        }
        Ok(count)
    }

    /// Hands in a request that `make` makes from the head's geometry, which is the one that it is then
    /// checked by and sent for. Of bytes that became blocks by
    /// [`Head::geometry`](crate::Head::geometry), a format with another block size in between would make
    /// other ones.
    ///
    /// # Errors
    /// What `make` says, and then nothing was done; else those of [`submit`](Self::submit).
    pub fn submit_with<E: From<SubmitError>>(
        &mut self,
        head: &Arc<Head>,
        make: impl FnOnce(&Geometry) -> Result<IoRequest, E>,
    ) -> Result<(), E> {
        let place = match self.fresh(head) {
            None => self.renew(head),
            place => place,
        };
        let Some(place) = place else {
            return Err(refused(&mut Data::None, SubmitReason::ForeignHead).into());
        };
        let IoRequest { asked, mut data } = make(&self.heads[place].view.geometry)?;
        Ok(self.take(place, &asked, &mut data)?)
    }

    /// The place of a head of which what is known is fresh.
    #[inline]
    fn fresh(&self, head: &Arc<Head>) -> Option<u32> {
        // First, for what is loaded before this would have to be loaded once more after it.
        let generation = head.view.generation();
        let (place, known) = self.heads.recent(head)?;
        known.is_fresh(generation, &self.queues).then_some(place)
    }

    /// The place of a head of this host, of which what is known is made fresh.
    #[cold]
    fn renew(&mut self, head: &Arc<Head>) -> Option<u32> {
        let (place, known) = self.heads.look_up(head, &self.shared)?;
        known.refresh(&self.queues);
        Some(place)
    }

    /// [`submit`](Self::submit) where something about the head has changed.
    #[cold]
    fn submit_stale(
        &mut self,
        head: &Arc<Head>,
        asked: &Asked,
        data: &mut Data,
    ) -> Result<(), SubmitError> {
        match self.renew(head) {
            Some(place) => self.take(place, asked, data),
            None => Err(refused(data, SubmitReason::ForeignHead)),
        }
    }

    /// Takes a request in for the head at this place, which is fresh.
    // All that is usual, and for the rest calls that are not made. Inlined where requests are made, so
    // that what is known of them there need not be looked at.
    #[inline(always)]
    fn take(&mut self, place: u32, asked: &Asked, data: &mut Data) -> Result<(), SubmitError> {
        let known = &mut self.heads[place];
        let Some(blocks) = known.limits.blocks(asked, data) else {
            return self.submit_any(place, None, *asked, data);
        };
        if self.crowded.is_empty()
            && self.held.is_empty()
            && let Some((lane, q)) =
                quick(&mut known.lanes, &mut self.queues, asked.op, blocks, known.layout)
            && let Some((at, entry)) = self.slab.insert(asked, place, blocks.get(), known.layout)
        {
            let op = BlockOp::new(opcode(asked.op), lane.nsid, blocks, io_flags(asked.flags));
            match q.submit_block(op, asked.slba, data, entry.tag) {
                Ok(()) => {
                    entry.place = Place::InFlight;
                    entry.sent_on = q.association;
                }
                Err(reason) => {
                    let unsent = Unsent::Rejected(q.association, reason);
                    self.send_later(at, data, &unsent);
                }
            }
            self.admitted(at, asked.timeout);
            return Ok(());
        }
        self.submit_any(place, Some(blocks), *asked, data)
    }

    /// The same for any request to the head at this place, which is fresh; `blocks` if it is known to
    /// be of the usual kind.
    #[inline(never)]
    fn submit_any(
        &mut self,
        place: u32,
        blocks: Option<BlockCount>,
        asked: Asked,
        data: &mut Data,
    ) -> Result<(), SubmitError> {
        let known = &mut self.heads[place];
        let blocks = match blocks {
            Some(blocks) => blocks.get(),
            None => match check(&known.view.geometry, &asked, data) {
                Ok(blocks) => blocks,
                Err(reason) => return Err(refused(data, reason)),
            },
        };
        let Some((at, entry)) = self.slab.insert(&asked, place, blocks, known.layout) else {
            return Err(refused(data, SubmitReason::Full { depth: self.slab.depth() }));
        };
        if !known.waiting.is_empty() || !self.held.is_empty() {
            entry.data = std::mem::take(data);
            self.stand_in_line(at);
        } else {
            self.send_new(at, data);
        }
        self.admitted(at, asked.timeout);
        Ok(())
    }

    /// A request was taken into the slab.
    #[inline]
    pub(super) fn admitted(&mut self, at: u32, timeout: Option<Duration>) {
        if self.check_at == Instant::NEVER {
            self.check_at = Instant::ZERO;
        }
        if let Some(limit) = timeout {
            self.expire_after(at, limit);
        }
    }

    /// Sends a new request unless others are ahead of it, or a write is held that it must not
    /// overtake.
    #[inline(never)]
    fn stand_in_line(&mut self, at: u32) {
        if !self.held.is_empty() && self.hold_behind(at) {
            return;
        }
        if self.heads[self.slab[at].head].waiting.is_empty() {
            self.send(at);
        } else {
            self.wait_for_room(at);
        }
    }
}
