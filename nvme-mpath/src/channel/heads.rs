//! The heads that a channel uses: its own copies of their views.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nvme_core::time::{Clock, Instant};
use nvme_core::transport::Data;

use super::Batch;
use super::check::Limits;
use super::hedge::HeadHedge;
use super::pace::Kind;
use super::policy::Lanes;
use super::queues::Queues;
use crate::error::IoOp;
use crate::head::Head;
use crate::host::Shared;
use crate::ids::AssociationId;
use crate::view::{HeadView, Layout};

/// One head in the channel's table.
pub(super) struct Known {
    pub(super) head: Arc<Head>,
    pub(super) view: Arc<HeadView>,
    pub(super) generation: u64,
    /// The generation of the queues' table of which `lanes` are.
    queues: u64,
    /// The paths among which the policy chooses.
    pub(super) lanes: Lanes,
    /// Of the view's geometry.
    pub(super) limits: Limits,
    pub(super) layout: Layout,
    /// Times are taken of all of its requests, whatever the policy is.
    counted: bool,
    /// Where reads are hedged.
    pub(super) hedge: Option<Box<HeadHedge>>,
    /// Associations that answered with an ANA error, and the generation of the view in which they
    /// are left alone on account of it. Empty in good times.
    pub(super) avoided: Vec<(AssociationId, u64)>,
    /// Requests on the way to a queue, when queues were full; in their order.
    pub(super) waiting: VecDeque<u32>,
}

/// A request that is sent, to those who take times.
#[derive(Clone, Copy)]
pub(super) struct Timed {
    pub(super) at: Instant,
    pub(super) kind: Kind,
    /// It may be sent a second time.
    pub(super) hedged: bool,
    /// Its time is taken in any case, and not only now and then.
    pub(super) counted: bool,
}

/// No generation of a view or of a table, which count from 0: to be made anew.
const NEVER: u64 = u64::MAX;

impl Known {
    fn new(head: &Arc<Head>) -> Self {
        Self {
            head: Arc::clone(head),
            view: head.view.load().1,
            generation: NEVER,
            queues: NEVER,
            lanes: Lanes::default(),
            limits: Limits::default(),
            layout: Layout::default(),
            counted: false,
            hedge: None,
            avoided: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Whether neither the view has changed, whose generation this is now, nor the queues that there are
    /// for its paths.
    #[inline]
    pub(super) const fn is_fresh(&self, generation: u64, queues: &Queues) -> bool {
        generation == self.generation && queues.generation() == self.queues
    }

    /// Looks whether that is so, and at what there is now if not.
    #[inline]
    pub(super) fn refresh(&mut self, queues: &Queues) {
        if !self.is_fresh(self.head.view.generation(), queues) {
            self.renew(queues);
        }
    }

    #[cold]
    fn renew(&mut self, queues: &Queues) {
        self.refresh_view(queues);
        self.queues = queues.generation();
        self.lanes.make(&self.view, &self.avoided, queues, self.counted);
    }

    /// The same for the view alone.
    pub(super) fn refresh_view(&mut self, queues: &Queues) {
        if self.head.view.generation() == self.generation {
            return;
        }
        (self.generation, self.view) = self.head.view.load();
        match (self.view.hedge, &mut self.hedge) {
            (Some(options), Some(hedge)) => hedge.set(options),
            (options, hedge) => *hedge = options.map(HeadHedge::new).map(Box::new),
        }
        (self.limits, self.layout) = (Limits::new(&self.view.geometry), self.view.layout);
        self.counted = self.hedge.is_some() || queues.timed();
        let generation = self.generation;
        self.avoided.retain(|(_, g)| *g == generation);
        self.queues = NEVER;
    }

    /// What is to be known of a request that is sent now, if times are taken.
    pub(super) fn time(
        &self,
        batch: &mut Batch,
        clock: &Arc<dyn Clock>,
        op: IoOp,
        data: &Data,
    ) -> Option<Timed> {
        if !self.lanes.is_timed() {
            return None;
        }
        // Where reads are hedged, only those whose buffer can be exchanged for another one.
        let hedged = self.hedge.is_some() && matches!(data, Data::Read(b) if b.is_vec());
        let (at, kind) = (batch.now(clock), Kind::new(op, data.len()));
        Some(Timed { at, kind, hedged, counted: self.counted })
    }

    /// Leaves an association alone until the view changes. Returns whether it was not already.
    pub(super) fn avoid(&mut self, association: AssociationId) -> bool {
        let new = !self.avoids(association);
        if new {
            self.avoided.push((association, self.generation));
            self.queues = NEVER;
        }
        new
    }

    pub(super) fn avoids(&self, association: AssociationId) -> bool {
        !self.avoided.is_empty() && self.avoided.iter().any(|(a, _)| *a == association)
    }
}

/// Heads whose places are found without a search, by the last digits of their numbers.
const RECENT: usize = 64;

/// The table.
pub(super) struct Heads {
    known: Vec<Known>,
    by_instance: HashMap<u32, u32>,
    /// Places of heads that were looked up.
    recent: [u32; RECENT],
}

impl Default for Heads {
    fn default() -> Self {
        Self { known: Vec::new(), by_instance: HashMap::new(), recent: [0; RECENT] }
    }
}

impl Heads {
    /// A head and its place in the table, if that is known without a search.
    #[inline]
    pub(super) fn recent(&self, head: &Arc<Head>) -> Option<(u32, &Known)> {
        let place = self.recent[head.index as usize % RECENT];
        let known = self.known.get(place as usize)?;
        Arc::ptr_eq(&known.head, head).then_some((place, known))
    }

    /// A head of `host` and its place in the table, to which it is added if need be; `None`: it is
    /// another host's.
    pub(super) fn look_up(
        &mut self,
        head: &Arc<Head>,
        host: &Arc<Shared>,
    ) -> Option<(u32, &mut Known)> {
        let place = match self.recent(head) {
            Some((place, _)) => place,
            None => self.search(head, host)?,
        };
        self.known.get_mut(place as usize).map(|known| (place, known))
    }

    #[cold]
    fn search(&mut self, head: &Arc<Head>, host: &Arc<Shared>) -> Option<u32> {
        if !std::ptr::eq(head.host.as_ptr(), Arc::as_ptr(host)) {
            return None;
        }
        let place = *self.by_instance.entry(head.index).or_insert_with(|| {
            self.known.push(Known::new(head));
            self.known.len() as u32 - 1
        });
        self.recent[head.index as usize % RECENT] = place;
        Some(place)
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
    }
}

impl std::ops::Index<u32> for Heads {
    type Output = Known;

    #[inline]
    fn index(&self, at: u32) -> &Known {
        &self.known[at as usize]
    }
}

impl std::ops::IndexMut<u32> for Heads {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Known {
        &mut self.known[at as usize]
    }
}
