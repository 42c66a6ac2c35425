//! The control plane: it drives the controllers, keeps the heads, and runs their removals.
//!
//! One thread at a time runs it, by [`Control::turn`]. It never waits for anything but its event
//! queue, so one dead path cannot hold up another.

mod actions;
mod channels;
mod commands;
mod fence;
mod heads;
mod removal;
mod slot;
mod slots;
mod timeouts;
mod unstopped;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use nvme_core::controller::{RemovedCause, State};
use nvme_core::nqn::Nqn;
use nvme_core::time::{Duration, Instant, earlier};

use crate::event::Event;
use crate::host::{STOP_LIMIT, Shared};
use crate::ids::{ChannelId, ControllerId};
use crate::lifecycle::Timer;
use crate::mailbox::{ChannelShared, Command};
use fence::Ended;
use heads::{HeadEntry, IdKey};
use slots::Slots;
use unstopped::Stuck;

/// The token of the letter box; queues have `slot << 16 | qid`, plus one.
const LETTERS: Token = Token(0);

/// How often a host that the program has dropped looks whether its last pin is back.
const ORPHAN_CHECK: Duration = Duration::from_millis(100);

/// See the module's text.
pub(crate) struct Control {
    shared: Arc<Shared>,
    poll: Poll,
    ready: mio::Events,
    slots: Slots,
    by_id: HashMap<ControllerId, usize>,
    heads: BTreeMap<u32, HeadEntry>,
    by_nsid: HashMap<(Nqn, u32), u32>,
    by_identity: HashMap<IdKey, u32>,
    /// A head went or lost its last path: namespaces that were refused are to be looked at again.
    offer: bool,
    /// Reports of namespaces so far.
    reports: u64,
    timers: BinaryHeap<Reverse<(Instant, u32, u64)>>,
    /// Associations that have ended and may live on at the target, by epoch.
    ended: BTreeMap<u64, Ended>,
    /// Associations whose device does not stop.
    unstopped: Vec<Stuck>,
    /// How long the end of the host waits for them.
    stop_until: Option<Instant>,
    channels: BTreeMap<ChannelId, Arc<ChannelShared>>,
    /// Queues to be polled before the next wait.
    repoll: Vec<(usize, u16)>,
    next_epoch: u64,
    next_head: u32,
    /// A view was published: the channels must be told.
    views_changed: bool,
    shutting_down: bool,
    orphaned: bool,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let letters = shared.commands.wake().as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&letters), LETTERS, Interest::READABLE)?;
        Ok(Self {
            shared,
            poll,
            ready: mio::Events::with_capacity(256),
            slots: Slots::default(),
            by_id: HashMap::new(),
            heads: BTreeMap::new(),
            by_nsid: HashMap::new(),
            by_identity: HashMap::new(),
            offer: false,
            reports: 0,
            timers: BinaryHeap::new(),
            ended: BTreeMap::new(),
            unstopped: Vec::new(),
            stop_until: None,
            channels: BTreeMap::new(),
            repoll: Vec::new(),
            next_epoch: 1,
            next_head: 0,
            views_changed: false,
            shutting_down: false,
            orphaned: false,
        })
    }

    /// Waits for something to do, at most `limit`, and does it. Returns `false` at the end of the
    /// host.
    pub(crate) fn turn(&mut self, limit: Duration) -> bool {
        let now = self.shared.clock.now();
        let deadline = self.deadline(now).map(|d| d.saturating_since(now));
        let wait = deadline.map_or(limit, |d| d.min(limit));
        let timeout = (wait != Duration::MAX).then_some(wait);
        if let Err(error) = self.poll.poll(&mut self.ready, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            // An event queue that does not work leaves only one way to go on: look at everything.
            self.repoll_all();
        }
        let tokens: Vec<Token> = self.ready.iter().map(mio::event::Event::token).collect();
        for Token(token) in tokens {
            if let Some(at) = token.checked_sub(1) {
                self.repoll.push((at >> 16, (at & 0xffff) as u16));
            }
        }
        self.step();
        !self.has_ended()
    }

    /// Does everything that can be done now.
    fn step(&mut self) {
        let now = self.shared.clock.now();
        for command in self.shared.commands.take() {
            self.carry_out(command, now);
        }
        self.poll_queues(now);
        self.slots.settle(now);
        for at in self.slots.due(now) {
            self.run_slot_timers(at, now);
        }
        self.run_removal_timers(now);
        self.run_fence_timers(now);
        self.run_unstopped(now);
        self.offer_refused(now);
        self.poll_queues(now);
        if std::mem::take(&mut self.views_changed) {
            self.channels.values().for_each(|c| c.notify());
        }
        self.slots.settle(now);
        self.shared.made_progress();
    }

    /// When [`step`](Self::step) must run even if nothing happens.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.offer || !self.repoll.is_empty() {
            return Some(now);
        }
        let slots = earlier(self.slots.deadline(now), self.fence_deadline());
        let slots = earlier(slots, self.unstopped_deadline());
        let timer = self.timers.peek().map(|Reverse((at, _, _))| *at);
        let orphan = self.orphaned.then(|| now + ORPHAN_CHECK);
        earlier(slots, earlier(timer, orphan)).filter(|d| *d != Instant::NEVER)
    }

    fn repoll_all(&mut self) {
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            self.repoll.extend(slot.queues.iter().map(|q| (at, q.qid)));
        }
    }

    fn emit(&self, now: Instant, event: &Event) {
        self.shared.events.publish(now, event);
    }

    fn arm(&mut self, head: u32, timer: Timer) {
        self.timers.push(Reverse((timer.deadline, head, timer.generation)));
        // Cancelled ones stay until their time; a path that flaps must not pile them up.
        if self.timers.len() > 64 + 2 * self.heads.len() {
            let heads = &self.heads;
            let pending = |index: u32, generation| {
                heads.get(&index).is_some_and(|e| e.head.life.is_pending(generation))
            };
            self.timers.retain(|Reverse((_, index, generation))| pending(*index, *generation));
        }
    }

    /// Ends at once, without telling the controllers: nobody is left who would drive this.
    pub(crate) fn abandon(&mut self) {
        let now = self.shared.clock.now();
        self.shared.ledger.close();
        // Nobody carries out what was asked for last; but a channel that nobody has heard of yet has to be
        // told, too.
        for command in self.shared.commands.take() {
            if let Command::ChannelOpened(channel) = command {
                self.channel_opened(channel, now);
            }
        }
        self.shut_down(Duration::ZERO);
        for at in 0..self.slots.len() {
            if self.slots[at].is_some() {
                self.tear_down(at, now);
                self.controller_removed(at, RemovedCause::Deleted, now);
            }
        }
        self.finish_all();
        self.abandon_unstopped(now);
        self.channels.values().for_each(|c| c.notify());
        self.shared.ended.store(true, Ordering::Release);
        self.shared.made_progress();
    }

    /// Whether the control plane has nothing left to live for; ends it if so.
    fn has_ended(&mut self) -> bool {
        let idle = self.shared.ledger.count() == 0 && self.channels.is_empty();
        if self.orphaned && idle && !self.shutting_down {
            self.shared.ledger.close();
            self.shut_down(STOP_LIMIT);
            self.step();
        }
        let now = self.shared.clock.now();
        let stopped =
            self.unstopped.is_empty() || self.stop_until.is_some_and(|until| until <= now);
        let over = self.shutting_down && stopped && self.slots.iter().all(Option::is_none);
        if over {
            self.abandon_unstopped(now);
            self.finish_all();
            self.shared.ended.store(true, Ordering::Release);
            self.shared.made_progress();
        }
        over
    }

    /// Tells everyone and begins to delete every controller. Devices have `limit` to stop.
    fn shut_down(&mut self, limit: Duration) {
        let now = self.shared.clock.now();
        self.stop_until = Some(now + limit);
        self.shutting_down = true;
        for at in 0..self.slots.len() {
            self.delete_slot(at, now);
            // Nothing follows for which channels would have to be waited for.
            if let Some(slot) = self.slots[at].as_mut() {
                slot.map.releasing.clear();
            }
            self.finish_teardown(at, now);
        }
        self.finish_all();
        self.channels.values().for_each(|c| c.send(crate::mailbox::Letter::Shutdown));
    }

    fn delete_slot(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots[at].as_mut() else { return };
        slot.options.reattach_delay = None;
        if slot.restart_at.take().is_some() {
            self.drop_slot(at);
            return;
        }
        if slot.machine.state() == State::New {
            self.drop_slot(at);
            return;
        }
        if slot.machine.state() == State::Live && !self.shutting_down {
            self.take_queues_back(at, now);
            return;
        }
        slot.machine.delete(now);
        self.drain(at, now);
    }
}
