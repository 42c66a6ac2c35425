//! Writes that are held until a lost controller is fenced, and the order in which they go.
//!
//! What was in flight on a lost path may still be executed there. A held write is sent again when
//! the controller of that path is fenced, and not before. Of writes that overlap, a later one waits
//! until the earlier one has ended: were it sent at once, it could be executed, be seen, and be
//! undone by the earlier one's second copy.
//!
//! All of this is empty in good times, and looked at once per poll and per submission.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use nvme_core::transport::Tag;

use super::Channel;
use super::parked::Hopeless;
use super::slab::Place;
use crate::ids::AssociationId;
use crate::mailbox::Command;
use crate::view::NoPath;

/// What a write on the list waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// That the controller of this association is fenced.
    Fence(AssociationId),
    /// That earlier writes to the same blocks have ended.
    Turn,
    /// Nothing: it was sent, with this tag, and those behind it wait for its end.
    End(Tag),
}

/// A write on the list.
#[derive(Debug)]
struct Item {
    at: u32,
    waits: Waits,
}

/// The list, in the order in which writes came to it.
#[derive(Debug, Default)]
pub(super) struct Held {
    items: Vec<Item>,
    /// Associations whose fence was asked for.
    asked: BTreeSet<u64>,
    /// Something changed: writes may have their turn.
    stirred: bool,
}

impl Held {
    pub(super) const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether there is something to do even if nothing happens.
    pub(super) const fn is_stirred(&self) -> bool {
        self.stirred && !self.items.is_empty()
    }

    /// Writes that are held back.
    pub(super) fn len(&self) -> usize {
        self.items.iter().filter(|i| !matches!(i.waits, Waits::End(_))).count()
    }
}

/// Blocks of heads that writes have come for, to find those that overlap.
#[derive(Default)]
struct Ranges {
    ends: BTreeMap<(u32, u64, usize), u64>,
    longest: u64,
}

impl Ranges {
    fn touches(&self, head: u32, slba: u64, end: u64) -> bool {
        let from = (head, slba.saturating_sub(self.longest), 0);
        self.ends.range(from..(head, end, 0)).any(|(_, other)| *other > slba)
    }

    fn add(&mut self, head: u32, slba: u64, end: u64) {
        self.longest = self.longest.max(end - slba);
        self.ends.insert((head, slba, self.ends.len()), end);
    }
}

impl Channel {
    /// Writes that are held: until a lost controller is fenced, or until a held write to the same
    /// blocks has ended. See [`Fence`](crate::Fence).
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn blocks_of(&self, at: u32) -> (u32, u64, u64) {
        let entry = &self.slab[at];
        (entry.head, entry.slba, entry.slba.saturating_add(entry.blocks.into()))
    }

    fn count_held(&self, head: u32, association: Option<AssociationId>, more: bool) {
        let counters = &self.heads[head].head.counters;
        let mut by_slot = counters.held_by_slot.lock();
        let slot = association.map_or(u32::MAX, |a| a.slot);
        if more {
            counters.held.fetch_add(1, Ordering::Relaxed);
            *by_slot.entry(slot).or_insert(0) += 1;
        } else if let Some(count) = by_slot.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                by_slot.remove(&slot);
            }
        }
    }

    /// The write was in flight on an association that is lost.
    pub(super) fn hold(&mut self, at: u32, association: AssociationId) {
        let waits = Waits::Fence(association);
        self.slab[at].place = Place::Held;
        // One that had been sent after it was held keeps its place in the order.
        match self.held.items.iter_mut().find(|i| i.at == at) {
            Some(item) => item.waits = waits,
            None => self.held.items.push(Item { at, waits }),
        }
        self.count_held(self.slab[at].head, Some(association), true);
        if self.held.asked.insert(association.epoch) {
            let channel = self.letters.id;
            self.shared.commands.send(Command::Fence { association, channel });
        }
    }

    /// Writes are in flight on an association whose queue is dead, and may still be carried out, or are sent
    /// again later: those that come meanwhile to the same blocks wait for their end.
    pub(super) fn hold_behind_those_of(&mut self, association: AssociationId) {
        let Self { slab, held, .. } = self;
        for (at, entry) in slab.iter_mut() {
            let has = entry.place == Place::InFlight && entry.sent_on == association;
            if has && entry.op.modifies() && !held.items.iter().any(|i| i.at == at) {
                held.items.push(Item { at, waits: Waits::End(entry.tag) });
            }
        }
    }

    /// A new write must wait if it overlaps one that is held. Returns whether it does.
    pub(super) fn hold_behind(&mut self, at: u32) -> bool {
        if !self.slab[at].op.modifies() {
            return false;
        }
        let (head, slba, end) = self.blocks_of(at);
        let touches = self.held.items.iter().any(|item| {
            let (other, from, to) = self.blocks_of(item.at);
            other == head && from < end && slba < to
        });
        if touches {
            self.slab[at].place = Place::Held;
            self.held.items.push(Item { at, waits: Waits::Turn });
            self.count_held(head, None, true);
        }
        touches
    }

    /// The controller of an association is fenced.
    pub(super) fn fenced(&mut self, association: AssociationId) {
        self.held.asked.remove(&association.epoch);
        for i in 0..self.held.items.len() {
            if self.held.items[i].waits == Waits::Fence(association) {
                self.held.items[i].waits = Waits::Turn;
                let head = self.slab[self.held.items[i].at].head;
                self.count_held(head, Some(association), false);
                self.count_held_again(head);
            }
        }
        self.held.stirred = true;
    }

    /// It now waits for its turn alone: no time that a write was held, but one that it is.
    fn count_held_again(&self, head: u32) {
        let counters = &self.heads[head].head.counters;
        *counters.held_by_slot.lock().entry(u32::MAX).or_insert(0) += 1;
    }

    /// Takes a write off the list, whatever it waits for.
    pub(super) fn let_go(&mut self, at: u32) {
        let Some(place) = self.held.items.iter().position(|i| i.at == at) else { return };
        let item = self.held.items.remove(place);
        self.uncount(&item);
        self.held.stirred = true;
        if let Waits::Fence(association) = item.waits {
            self.fence_needless(association);
        }
    }

    /// If it was the last write that waited for this fence, the control plane need not wait for it.
    fn fence_needless(&mut self, association: AssociationId) {
        let waits = |item: &Item| item.waits == Waits::Fence(association);
        if !self.held.items.iter().any(waits) && self.held.asked.remove(&association.epoch) {
            let channel = self.letters.id;
            self.shared.commands.send(Command::FenceNeedless { association, channel });
        }
    }

    fn uncount(&self, item: &Item) {
        let head = self.slab[item.at].head;
        match item.waits {
            Waits::Fence(association) => self.count_held(head, Some(association), false),
            Waits::Turn => self.count_held(head, None, false),
            Waits::End(_) => {}
        }
    }

    /// Sends the writes whose turn has come. Called by each poll while there are any.
    pub(super) fn look_at_held(&mut self) {
        let before = self.held.items.len();
        let slab = &self.slab;
        self.held.items.retain(|item| match item.waits {
            Waits::End(tag) => slab.tag(item.at) == tag,
            _ => true,
        });
        self.held.stirred |= self.held.items.len() != before;
        if !std::mem::take(&mut self.held.stirred) {
            return;
        }
        let mut earlier = Ranges::default();
        for i in 0..self.held.items.len() {
            let Item { at, waits } = self.held.items[i];
            let (head, slba, end) = self.blocks_of(at);
            if waits == Waits::Turn && !earlier.touches(head, slba, end) {
                self.count_held(head, None, false);
                self.held.items[i].waits = Waits::End(self.slab.tag(at));
                self.slab[at].place = Place::Waiting;
                self.wait_for_room(at);
            }
            earlier.add(head, slba, end);
        }
    }

    /// The views of heads may have changed: held writes fail where those that wait for a path do.
    pub(super) fn give_up_held(&mut self) {
        let mut place = 0;
        while let Some(item) = self.held.items.get(place) {
            let at = item.at;
            let view = &self.heads[self.slab[at].head].view;
            let why = match view.no_path {
                _ if matches!(item.waits, Waits::End(_)) => None,
                _ if self.closed => Some(Hopeless::Shutdown),
                NoPath::Removed(cause) => Some(Hopeless::Removed(cause)),
                NoPath::Fail if view.paths.is_empty() => Some(Hopeless::NoPath),
                _ => None,
            };
            match why {
                Some(why) => {
                    self.let_go(at);
                    self.slab[at].place = Place::Waiting;
                    self.parked.hopeless.push((at, why));
                }
                None => place += 1,
            }
        }
    }

    /// The channel ends, and what it holds with it.
    pub(super) fn forget_held(&mut self) {
        for item in std::mem::take(&mut self.held.items) {
            self.uncount(&item);
        }
    }
}
