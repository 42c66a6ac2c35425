//! Sleeping on one descriptor until there is something to poll for.

use std::os::fd::{AsFd, OwnedFd};

use nvme_core::time::{Duration, Instant, earlier};
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::Channel;
use crate::mailbox::ChannelShared;

/// Event data of what is no queue; queues have their association's epoch, which begins at 1.
const NO_QUEUE: u64 = 0;

/// The longest sleep that has an end: `epoll_wait` takes no more than 2³¹ - 1 ms (24.8 days), and
/// `epoll_pwait2` is not everywhere.
const LONGEST: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// An epoll instance over the letter box, a timer, and every queue.
pub(super) struct Sleep {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// What the timer is set to.
    armed: Option<Instant>,
    patience: Patience,
    /// System calls made.
    calls: u64,
}

/// Longest time that may be spent looking for answers before each sleep.
const MOST_BUSY: Duration = Duration::from_millis(10);

/// Whether it is worth while to look for answers for a moment before sleeping, by how long it has
/// lately taken for one to come.
#[derive(Debug)]
struct Patience {
    /// How long to look.
    limit: Duration,
    /// A mean of the last waits; those that were in vain count for several times the limit.
    mean: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit: limit.min(MOST_BUSY), mean: Duration::ZERO }
    }

    /// How long to look this time. Twice the limit is let pass because a wait that was slept through
    /// includes the time that waking up takes.
    fn now(&self) -> Duration {
        if self.mean < self.limit * 2 { self.limit } else { Duration::ZERO }
    }

    /// An answer has come after so long, or none.
    fn note(&mut self, took: Option<Duration>) {
        let most = self.limit * 8;
        self.mean = (self.mean * 7 + took.map_or(most, |took| took.min(most))) / 8;
    }
}

impl Sleep {
    pub(super) fn new(letters: &ChannelShared, busy: Duration) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let data = epoll::EventData::new_u64(NO_QUEUE);
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, letters.wake().as_fd(), data, edge)?;
        epoll::add(&epoll, &timer, data, edge)?;
        Ok(Self { epoll, timer, armed: None, patience: Patience::new(busy), calls: 0 })
    }

    pub(super) const fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Sets the timer, if it is not set so already.
    fn arm(&mut self, at: Option<Instant>, now: Instant) {
        if self.armed == at {
            return;
        }
        self.armed = at;
        // A relative time of zero would switch the timer off.
        let left =
            at.map_or(Duration::ZERO, |at| at.saturating_since(now).max(Duration::from_nanos(1)));
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        self.calls += 1;
        // The time is a valid one, so that this cannot fail.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }
}

impl Channel {
    /// Gets ready to sleep on the descriptor ([`AsFd`]). Returns `false` if there is something to
    /// do already: then [`poll`](Self::poll) instead. After it returned `true`, the descriptor
    /// becomes readable when polling is worth while, for whatever reason.
    #[must_use]
    pub fn prepare_to_sleep(&mut self) -> bool {
        self.flush();
        let now = self.shared.clock.now();
        if self.harvest(Duration::ZERO) {
            return false;
        }
        let deadline = self.deadline();
        if deadline.is_some_and(|d| d <= now) {
            return false;
        }
        self.sleep.arm(deadline, now);
        true
    }

    /// System calls made so far to sleep, or to be able to: by [`wait`](Self::wait),
    /// [`prepare_to_sleep`](Self::prepare_to_sleep), and what calls these. Polling makes none of them.
    #[must_use]
    pub const fn sleeping_calls(&self) -> u64 {
        self.sleep.calls
    }

    /// When [`poll`](Self::poll) has something to do even if no peer says anything, on the host's
    /// clock; a time that has passed where there is something to do at once. `None`: not before a
    /// descriptor becomes readable. [`prepare_to_sleep`](Self::prepare_to_sleep) arms a timer for
    /// it; a program that keeps the time itself asks here.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.letters.pending()
            || !self.backlog.is_empty()
            || !self.parked.hopeless.is_empty()
            || !self.troubled.is_empty()
            || self.held.is_stirred()
            || self.queues.iter().any(|q| q.dirty || q.queue.has_pending_work())
        {
            return Some(Instant::ZERO);
        }
        if self.slab.used() + self.slab.owed() == 0
            && self.hedges.is_idle()
            && !self.queues.iter().any(|q| q.dying)
        {
            // Nothing has a time limit while nothing is under way.
            return None;
        }
        let queues = self.queues.iter().filter_map(|q| q.queue.deadline()).min();
        let own = (self.check_at != Instant::NEVER).then_some(self.check_at);
        let own = earlier(own, Some(self.hedges.due_at).filter(|at| *at != Instant::NEVER));
        earlier(own, queues)
    }

    /// Sleeps until polling is worth while, at most `limit`. While requests are under way it may look
    /// for answers for a moment first ([`ChannelOptions::busy_poll`](crate::ChannelOptions)).
    pub fn wait(&mut self, limit: Duration) {
        if !self.prepare_to_sleep() {
            return;
        }
        if self.slab.used() == 0 || self.sleep.patience.limit.is_zero() {
            self.harvest(limit);
            return;
        }
        let begun = self.shared.clock.now();
        let look = self.sleep.patience.now().min(limit);
        let mut took = Duration::ZERO;
        let mut answered = false;
        while !answered && took < look {
            answered = self.harvest(Duration::ZERO);
            took = self.shared.clock.now().saturating_since(begun);
        }
        if !answered {
            let forever = limit == Duration::MAX;
            answered = self.harvest(if forever { limit } else { limit.saturating_sub(took) });
            took = self.shared.clock.now().saturating_since(begun);
        }
        self.sleep.patience.note(answered.then_some(took));
    }

    /// Takes events off the descriptor. Returns whether there were any.
    fn harvest(&mut self, limit: Duration) -> bool {
        let forever = limit == Duration::MAX;
        let limit = limit.min(LONGEST);
        let timeout =
            Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        let event =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [event; 32];
        self.sleep.calls += 1;
        let wait = epoll::wait(&self.sleep.epoll, &mut events, (!forever).then_some(&timeout));
        let count = wait.unwrap_or(0);
        for event in &events[..count] {
            let data = event.data;
            match data.u64() {
                NO_QUEUE => self.timer_may_be_due(),
                epoch => self.queues.wake(epoch),
            }
        }
        count > 0
    }

    /// The timer ran out, or a letter came: times are looked at by the next poll, if they are due.
    fn timer_may_be_due(&mut self) {
        let mut ticks = [0; 8];
        self.sleep.calls += 1;
        if rustix::io::read(&self.sleep.timer, &mut ticks).is_ok() {
            self.sleep.armed = None;
        }
    }
}
