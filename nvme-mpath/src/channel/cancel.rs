//! Taking requests back.

use nvme_core::time::{Duration, Instant, earlier};

use super::Channel;
use super::parked::Hopeless;
use super::slab::{Flags, Place};

impl Channel {
    /// Cancels the requests with this `user_data`. Returns how many there were.
    ///
    /// One that is not in a queue, because it waits for a path, for room or for its time, ends with
    /// [`IoError::Cancelled`](crate::IoError::Cancelled) in the next [`poll`](Self::poll). One that
    /// a controller has is not given back before its answer has come, or its connection is lost, and, on
    /// a bus, its device has stopped. The
    /// controller is asked to abort it (`NVMe 2.1 §5.1.1`), unless
    /// [`on_timeout`](crate::ControllerOptions::on_timeout) wants no Abort, or more than 64 wait for
    /// one. If it does, the request is cancelled; if it had done it, or does not care, the request ends
    /// as it did; in no case is it sent again. If the controller does not answer the Abort, nothing
    /// follows from that: requests of others on the same path go on. The end comes at the latest when
    /// the request itself is late, as for any other
    /// ([`io_timeout`](crate::ChannelOptions::io_timeout)). A write that
    /// was cancelled while its outcome was open, or aborted, which may be in the middle of it, says so:
    /// [`IoCompletion::uncertain`](crate::IoCompletion::uncertain).
    pub fn cancel(&mut self, user_data: u64) -> usize {
        self.cancel_where(|entry| entry == user_data)
    }

    /// Cancels everything; see [`cancel`](Self::cancel).
    pub fn cancel_all(&mut self) -> usize {
        self.cancel_where(|_| true)
    }

    fn cancel_where(&mut self, wanted: impl Fn(u64) -> bool) -> usize {
        let mut count = 0;
        for at in 0..self.slab.entries() as u32 {
            let entry = &mut self.slab[at];
            if entry.place == Place::Free
                || entry.flags.has(Flags::CANCELLED)
                || !wanted(entry.user_data)
            {
                continue;
            }
            entry.flags.set(Flags::CANCELLED);
            count += 1;
            self.take_out(at, Hopeless::Cancelled);
        }
        count
    }

    /// The request has so much time.
    pub(super) fn expire_after(&mut self, at: u32, limit: Duration) {
        let expires = self.shared.clock.now() + limit;
        self.slab.history(at).expires = expires;
        self.slab[at].flags.set(Flags::LIMITED);
        self.check_at = self.check_at.min(expires);
    }

    /// Gives up the requests whose own time is up. Returns when the next one's is.
    pub(super) fn check_expired(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for at in 0..self.slab.entries() as u32 {
            let entry = &self.slab[at];
            let limited = entry.flags.has(Flags::LIMITED) && !entry.flags.has(Flags::CANCELLED);
            if entry.place == Place::Free || !limited {
                continue;
            }
            let expires = self.slab.past(at).expires;
            if expires > now {
                next = earlier(next, Some(expires));
                continue;
            }
            let flags = &mut self.slab[at].flags;
            flags.set(Flags::CANCELLED);
            flags.set(Flags::EXPIRED);
            self.take_out(at, Hopeless::Expired);
        }
        next
    }

    /// Notes the end of a request that is not wanted any more; or asks for its end, where a queue has it.
    fn take_out(&mut self, at: u32, why: Hopeless) {
        let head = self.slab[at].head;
        match self.slab[at].place {
            Place::Free => return,
            Place::InFlight => return self.abort_unwanted(at, self.slab[at].sent_on),
            Place::Waiting => {
                // On the way to a queue; or its end is noted already.
                let waiting = &mut self.heads[head].waiting;
                let Some(place) = waiting.iter().position(|w| *w == at) else { return };
                waiting.remove(place);
            }
            Place::Parked => self.unpark(at),
            Place::Held => self.let_go(at),
            Place::Delayed => self.delayed.retain(|delayed| delayed.0.1 != at),
        }
        self.slab[at].place = Place::Waiting;
        self.parked.hopeless.push((at, why));
    }
}
