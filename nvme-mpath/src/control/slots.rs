//! The controllers of a host, and which of them has something to do when.
//!
//! A turn of the control plane touches the controllers that are due and no others, so that a thousand
//! which are silent cost nothing. Nobody has to remember to say when a controller is due: whoever gets
//! at one in a way that may change it leaves a mark, and what is marked is looked at anew
//! ([`Slots::settle`]).

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

use nvme_core::time::{Instant, earlier};

use super::slot::Slot;

/// See the module's text.
#[derive(Default)]
pub(super) struct Slots {
    list: Vec<Place>,
    /// Places by the time at which they are due; those that are not due by themselves are not here.
    due: BTreeSet<(Instant, usize)>,
    /// Places of controllers with a queue that no descriptor speaks for: looked at in every turn.
    watched: BTreeSet<usize>,
    /// Places that may have changed, each once.
    marked: Vec<usize>,
}

struct Place {
    slot: Option<Slot>,
    /// When it is due, as `due` has it; `NEVER`: it is not there.
    due: Instant,
    marked: bool,
}

impl Slots {
    /// Places, free ones included.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The first free place; a new one if there is none.
    pub(super) fn vacancy(&mut self) -> usize {
        if let Some(at) = self.list.iter().position(|place| place.slot.is_none()) {
            return at;
        }
        self.list.push(Place { slot: None, due: Instant::NEVER, marked: false });
        self.list.len() - 1
    }

    pub(super) fn get(&self, at: usize) -> Option<&Option<Slot>> {
        self.list.get(at).map(|place| &place.slot)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Option<Slot>> {
        (at < self.list.len()).then(|| &mut self[at])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Option<Slot>> {
        self.list.iter().map(|place| &place.slot)
    }

    /// Works out anew when those that may have changed are due.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(at) = self.marked.pop() {
            let Some(place) = self.list.get_mut(at) else { continue };
            place.marked = false;
            let slot = place.slot.as_ref();
            let due = slot.and_then(|slot| slot.deadline(now)).unwrap_or(Instant::NEVER);
            let watched = slot.is_some_and(Slot::is_watched);
            let before = std::mem::replace(&mut place.due, due);
            if before != due {
                self.due.remove(&(before, at));
                if due != Instant::NEVER {
                    self.due.insert((due, at));
                }
            }
            if watched {
                self.watched.insert(at);
            } else {
                self.watched.remove(&at);
            }
        }
    }

    /// The places that have something to do, in their order. All must be [settled](Self::settle).
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        let due = self.due.range(..=(now, usize::MAX)).map(|(_, at)| *at);
        let mut due: Vec<usize> = due.chain(self.watched.iter().copied()).collect();
        due.sort_unstable();
        due.dedup();
        due
    }

    /// When the first one is due.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let settled = self.due.first().map(|(at, _)| *at);
        // What has been marked meanwhile may be due at any time, and what is watched says so itself.
        let others = self.marked.iter().chain(&self.watched);
        others.fold(settled, |next, at| {
            let slot = self.list.get(*at).and_then(|place| place.slot.as_ref());
            earlier(next, slot.and_then(|slot| slot.deadline(now)))
        })
    }
}

impl Index<usize> for Slots {
    type Output = Option<Slot>;

    fn index(&self, at: usize) -> &Option<Slot> {
        &self.list[at].slot
    }
}

impl IndexMut<usize> for Slots {
    fn index_mut(&mut self, at: usize) -> &mut Option<Slot> {
        let place = &mut self.list[at];
        if !std::mem::replace(&mut place.marked, true) {
            self.marked.push(at);
        }
        &mut place.slot
    }
}
