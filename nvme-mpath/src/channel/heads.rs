//! The heads that a channel uses: its own copies of their views.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::hedge::HeadHedge;
use super::policy::Lanes;
use crate::head::Head;
use crate::ids::AssociationId;
use crate::view::HeadView;

/// One head in the channel's table.
pub(super) struct Known {
    pub(super) head: Arc<Head>,
    pub(super) view: Arc<HeadView>,
    pub(super) generation: u64,
    /// The paths among which the policy chooses.
    pub(super) lanes: Lanes,
    /// Where reads are hedged.
    pub(super) hedge: Option<Box<HeadHedge>>,
    /// Associations that answered with an ANA error, and the generation of the view in which they
    /// are left alone on account of it. Empty in good times.
    pub(super) avoided: Vec<(AssociationId, u64)>,
    /// Requests on the way to a queue, when queues were full; in their order.
    pub(super) waiting: VecDeque<u32>,
}

impl Known {
    /// Looks whether the view has changed. Returns whether it has.
    pub(super) fn refresh(&mut self) -> bool {
        if self.head.view.generation() == self.generation {
            return false;
        }
        (self.generation, self.view) = self.head.view.load();
        match (self.view.hedge, &mut self.hedge) {
            (Some(options), Some(hedge)) => hedge.set(options),
            (options, hedge) => *hedge = options.map(HeadHedge::new).map(Box::new),
        }
        let generation = self.generation;
        self.avoided.retain(|(_, g)| *g == generation);
        true
    }

    /// Leaves an association alone until the view changes. Returns whether it was not already.
    pub(super) fn avoid(&mut self, association: AssociationId) -> bool {
        let new = !self.avoids(association);
        if new {
            self.avoided.push((association, self.generation));
            self.lanes.outdated();
        }
        new
    }

    pub(super) fn avoids(&self, association: AssociationId) -> bool {
        !self.avoided.is_empty() && self.avoided.iter().any(|(a, _)| *a == association)
    }
}

/// The table.
#[derive(Default)]
pub(super) struct Heads {
    known: Vec<Known>,
    by_instance: HashMap<u32, u32>,
    /// The head of the last lookup.
    last: u32,
}

impl Heads {
    /// The place of a head in the table; it is added if need be.
    pub(super) fn place(&mut self, head: &Arc<Head>) -> u32 {
        // Nearly always it is the one that was used last.
        if self.known.get(self.last as usize).is_some_and(|k| Arc::ptr_eq(&k.head, head)) {
            return self.last;
        }
        self.last = *self.by_instance.entry(head.index).or_insert_with(|| {
            let (generation, view) = head.view.load();
            let head = Arc::clone(head);
            let (avoided, waiting) = (Vec::new(), VecDeque::new());
            let lanes = Lanes::default();
            let hedge = view.hedge.map(HeadHedge::new).map(Box::new);
            self.known.push(Known { head, view, generation, lanes, hedge, avoided, waiting });
            self.known.len() as u32 - 1
        });
        self.last
    }

    pub(super) const fn len(&self) -> u32 {
        self.known.len() as u32
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.known.iter_mut()
    }

    /// Forgets everything, when no request is under way: heads that are gone go with it.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.by_instance.clear();
        self.last = 0;
    }
}

impl std::ops::Index<u32> for Heads {
    type Output = Known;

    fn index(&self, at: u32) -> &Known {
        &self.known[at as usize]
    }
}

impl std::ops::IndexMut<u32> for Heads {
    fn index_mut(&mut self, at: u32) -> &mut Known {
        &mut self.known[at as usize]
    }
}
