//! Requests that wait for a path, within limits; and those for which none will come.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use nvme_core::time::Instant;

use super::Channel;
use super::request::IoCompletion;
use super::slab::Place;
use crate::error::{IoError, ParkLimit};
use crate::view::NoPath;
use crate::window::LossCause;

/// Why a request fails without having been sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hopeless {
    NoPath,
    Removed(LossCause),
    Limit(ParkLimit),
    NoQueue { granted: u16 },
    Formatted,
    Metadata,
    TooLarge,
    Shutdown,
    Cancelled,
    Expired,
}

/// The parking place.
pub(super) struct Parked {
    /// In the order of their coming.
    list: VecDeque<u32>,
    bytes: usize,
    /// Requests to be failed by the next poll.
    pub(super) hopeless: Vec<(u32, Hopeless)>,
}

impl Parked {
    pub(super) fn with_capacity(depth: usize) -> Self {
        Self { list: VecDeque::with_capacity(depth), bytes: 0, hopeless: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

impl Channel {
    /// No path can be used: the request waits, or its failure is noted.
    pub(super) fn park(&mut self, at: u32) {
        let head = &self.heads[self.slab[at].head];
        let bytes = self.slab[at].data.len();
        let once = self.passthrough.once(&self.slab[at], at);
        let (requests, most) = (self.options.max_parked_requests, self.options.max_parked_bytes);
        let why = if self.closed {
            Some(Hopeless::Shutdown)
        } else {
            match head.view.no_path {
                NoPath::Removed(cause) => Some(Hopeless::Removed(cause)),
                // Paths that are there but left alone for a moment are not "no path".
                _ if once && head.view.paths.is_empty() => Some(Hopeless::NoPath),
                NoPath::Fail if head.view.paths.is_empty() => Some(Hopeless::NoPath),
                _ if self.parked.len() >= requests => {
                    Some(Hopeless::Limit(ParkLimit::Requests(requests)))
                }
                _ if self.parked.bytes.saturating_add(bytes) > most => {
                    Some(Hopeless::Limit(ParkLimit::Bytes(most)))
                }
                _ => None,
            }
        };
        if let Some(why) = why {
            self.slab[at].place = Place::Waiting;
            self.parked.hopeless.push((at, why));
            return;
        }
        let now = self.shared.clock.now();
        let parked_at = &mut self.slab.history(at).parked_at;
        if parked_at.is_none() {
            head.head.counters.parked.fetch_add(1, Ordering::Relaxed);
        }
        let since = *parked_at.get_or_insert(now);
        self.slab[at].place = Place::Parked;
        head.head.counters.parked_now.fetch_add(1, Ordering::Relaxed);
        self.parked.list.push_back(at);
        self.parked.bytes += bytes;
        if let Some(age) = self.options.max_parked_age {
            self.check_at = self.check_at.min(since + age);
        }
    }

    fn uncount_parked(&self, at: u32) {
        let counters = &self.heads[self.slab[at].head].head.counters;
        counters.parked_now.fetch_sub(1, Ordering::Relaxed);
    }

    /// The channel ends, and what waits in it.
    pub(super) fn forget_parked(&mut self) {
        for at in std::mem::take(&mut self.parked.list) {
            self.uncount_parked(at);
        }
    }

    /// Takes one request out of the parking place.
    pub(super) fn unpark(&mut self, at: u32) {
        if let Some(place) = self.parked.list.iter().position(|parked| *parked == at) {
            self.parked.list.remove(place);
            self.uncount_parked(at);
            self.parked.bytes -= self.slab[at].data.len();
        }
    }

    /// Something changed: every parked request tries again.
    pub(super) fn unpark_all(&mut self) {
        let list = std::mem::take(&mut self.parked.list);
        self.parked.bytes = 0;
        for at in list {
            self.uncount_parked(at);
            self.slab[at].place = Place::Waiting;
            self.wait_for_room(at);
        }
    }

    /// Fails parked requests that waited too long. Returns when the next one will have.
    pub(super) fn check_parked(&mut self, now: Instant) -> Option<Instant> {
        let age = self.options.max_parked_age?;
        let mut next = None;
        let mut kept = VecDeque::with_capacity(self.parked.list.capacity());
        for at in std::mem::take(&mut self.parked.list) {
            let since = self.slab.past(at).parked_at.unwrap_or(now);
            if since + age <= now {
                self.uncount_parked(at);
                self.parked.bytes -= self.slab[at].data.len();
                self.slab[at].place = Place::Waiting;
                self.parked.hopeless.push((at, Hopeless::Limit(ParkLimit::Age(age))));
            } else {
                next = nvme_core::time::earlier(next, Some(since + age));
                kept.push_back(at);
            }
        }
        self.parked.list = kept;
        next
    }

    /// Completes the requests for which there is no hope.
    #[cold]
    pub(super) fn finish_hopeless(&mut self, done: &mut Vec<IoCompletion>) {
        while let Some((at, why)) = self.parked.hopeless.pop() {
            let head = &self.heads[self.slab[at].head].head;
            let name = head.name().to_owned();
            if matches!(
                why,
                Hopeless::NoPath
                    | Hopeless::Removed(_)
                    | Hopeless::Limit(_)
                    | Hopeless::NoQueue { .. }
            ) {
                head.counters.failed_no_path.fetch_add(1, Ordering::Relaxed);
            }
            let error = match why {
                Hopeless::NoPath => IoError::NoPath { head: name },
                Hopeless::Removed(cause) => IoError::HeadRemoved { head: name, cause },
                Hopeless::Limit(limit) => IoError::ParkLimit { head: name, limit },
                Hopeless::NoQueue { granted } => IoError::NoQueue { head: name, granted },
                Hopeless::Formatted => IoError::Formatted { head: name },
                Hopeless::Metadata => IoError::Metadata { head: name },
                Hopeless::TooLarge => {
                    IoError::TooLarge { head: name, len: self.slab[at].data.len() }
                }
                Hopeless::Shutdown => IoError::Shutdown { head: name },
                Hopeless::Cancelled => IoError::Cancelled { head: name },
                Hopeless::Expired => IoError::Expired { head: name },
            };
            self.fail(at, error, done);
        }
    }

    pub(super) fn fail(&mut self, at: u32, error: IoError, done: &mut Vec<IoCompletion>) {
        self.let_go(at);
        done.push(self.slab.fail(at, error));
    }
}
