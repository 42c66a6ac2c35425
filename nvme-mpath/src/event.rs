//! What happens, told to whoever subscribes.
//!
//! Each subscriber has a bounded queue of its own. When it is full the oldest event is dropped and
//! counted; the library never waits for a reader.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock, Weak};

use nvme_core::ana::AnaState;
use nvme_core::controller::{AbortOutcome, ControllerError, RemovedCause, State};
use nvme_core::time::{Duration, Instant};
use parking_lot::{Condvar, Mutex};

use crate::fence::FencedBy;
use crate::head::Head;
use crate::ids::ControllerId;
use crate::mailbox::Wake;
use crate::observe::{Observed, Observer};
use crate::window::LossCause;

/// An event and when it happened, on the host's clock.
#[derive(Clone, Debug)]
pub struct TimedEvent {
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}

/// A step of what is done about a command that was not answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeoutStep {
    /// The controller is asked to abort it.
    Aborting,
    /// The controller answered that. The command itself is waited for, whatever the answer.
    Answered(AbortOutcome),
    /// The controller is reset.
    Resetting,
}

/// Something that happened to a controller, a path or a head.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A controller changed its state.
    ControllerState {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Before.
        from: State,
        /// After.
        to: State,
    },
    /// A controller was lost, or failed to come up; told when the reason changes, not per attempt.
    ControllerFailed {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Why.
        error: ControllerError,
    },
    /// Something failed on a controller that goes on all the same: a scan of its namespaces, or a
    /// read of its ANA log, which is tried again; an I/O queue or a host memory buffer, without which
    /// it is used.
    ControllerTrouble {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Why.
        error: ControllerError,
    },
    /// A command was not answered in time. What is done about it, step by step
    /// ([`ControllerOptions::on_timeout`](crate::ControllerOptions::on_timeout)).
    CommandOverdue {
        /// Which controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// The queue of the command; 0 is the admin queue.
        queue: u16,
        /// The identifier of the command.
        command: u16,
        /// What was done.
        step: TimeoutStep,
    },
    /// A controller is gone for good.
    ControllerRemoved {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Why.
        cause: RemovedCause,
    },
    /// A controller was given up some seconds ago, and its device does not stop: it does not answer, or
    /// does not obey. What it has is kept, and is sent nowhere else, until it is known to have stopped;
    /// if the host ends before, the memory that the device reaches is leaked.
    DeviceUnstopped {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
    },
    /// A device of which [`DeviceUnstopped`](Self::DeviceUnstopped) was told has stopped: what it had
    /// ends, or is sent again.
    DeviceStopped {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Time since it was given up.
        after: Duration,
    },
    /// Writes were in flight on a controller that was lost, and are held until it is certain that it
    /// does not execute them any more; see [`Fence`](crate::Fence).
    Fencing {
        /// The lost controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// How long that will take at most.
        at_most: Duration,
    },
    /// A lost controller executes nothing any more: writes that were held are sent again.
    Fenced {
        /// The lost controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// How that is known.
        by: FencedBy,
        /// Time since its association was ended here.
        after: Duration,
    },
    /// A namespace was found for which there was no head.
    HeadAdded(Arc<Head>),
    /// The size of a namespace changed.
    HeadResized {
        /// The head.
        head: Arc<Head>,
        /// Logical blocks before.
        from: u64,
        /// Logical blocks now.
        to: u64,
    },
    /// A path can be used.
    PathUp {
        /// The head.
        head: Arc<Head>,
        /// The path's controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
    },
    /// A path cannot be used any more: its controller was lost, or the namespace went from it.
    PathDown {
        /// The head.
        head: Arc<Head>,
        /// The path's controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
    },
    /// The ANA state of a path changed.
    AnaChanged {
        /// The head.
        head: Arc<Head>,
        /// The path's controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Before.
        from: AnaState,
        /// After.
        to: AnaState,
    },
    /// No path of the head can be used; I/O waits or fails.
    HeadNoPath(Arc<Head>),
    /// The last path left; the head is removed after the window.
    RemovalScheduled {
        /// The head.
        head: Arc<Head>,
        /// Why the path left.
        cause: LossCause,
        /// Time left; `None`: for ever.
        after: Option<Duration>,
    },
    /// The window of a pending removal was changed.
    RemovalRearmed {
        /// The head.
        head: Arc<Head>,
        /// Time left; `None`: for ever.
        after: Option<Duration>,
    },
    /// A path returned; the head stays.
    RemovalCancelled {
        /// The head.
        head: Arc<Head>,
        /// How long there was no path.
        pending_for: Duration,
    },
    /// The head is gone. Its handles answer with errors.
    HeadRemoved {
        /// The head.
        head: Arc<Head>,
        /// Why its last path had left.
        cause: LossCause,
        /// Whether a window had been open (otherwise it went with its last path).
        delayed: bool,
    },
    /// A namespace was found that cannot be used.
    NamespaceRefused {
        /// The controller that reports it.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Namespace ID.
        nsid: u32,
        /// Why.
        reason: String,
    },
    /// The discovery log of a discovery controller changed.
    DiscoveryChanged {
        /// Which.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
    },
    /// An asynchronous event that the library itself does not act on, such as a SMART warning.
    AsyncEvent {
        /// Which controller.
        controller: ControllerId,
        /// Its address.
        address: Arc<str>,
        /// Dword 0 of the completion (`NVMe 2.1 §5.1.2`).
        result: u32,
    },
    /// This many events before the next one were dropped, because nobody read them.
    Lagged(u64),
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<TimedEvent>,
    dropped: u64,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Readable while events wait, if anybody asked for it.
    wake: OnceLock<Wake>,
    capacity: usize,
}

/// A subscription to a host's events. Dropping it ends it.
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
}

impl Events {
    /// A descriptor that is readable while events wait, for any event loop. It is made at the first
    /// call and lives as long as the subscription.
    ///
    /// # Errors
    /// When the operating system gives no descriptor.
    pub fn fd(&self) -> std::io::Result<BorrowedFd<'_>> {
        let queue = self.shared.queue.lock();
        if self.shared.wake.get().is_none() {
            let wake = Wake::new()?;
            if !queue.is_empty() {
                wake.wake();
            }
            // Nobody else sets it: the lock is held.
            let _ = self.shared.wake.set(wake);
        }
        drop(queue);
        self.shared.wake.get().map(AsFd::as_fd).ok_or_else(|| std::io::ErrorKind::Other.into())
    }

    /// The next event, if one is there. Never blocks.
    #[must_use]
    pub fn try_next(&self) -> Option<TimedEvent> {
        self.shared.take(&mut self.shared.queue.lock())
    }

    /// The next event, waited for at most `limit`.
    #[must_use]
    pub fn next_timeout(&self, limit: Duration) -> Option<TimedEvent> {
        // A time that the clock cannot name is never reached.
        let until = std::time::Instant::now().checked_add(limit);
        let mut queue = self.shared.queue.lock();
        loop {
            if let Some(event) = self.shared.take(&mut queue) {
                return Some(event);
            }
            match until {
                Some(until) if self.shared.arrived.wait_until(&mut queue, until).timed_out() => {
                    return self.shared.take(&mut queue);
                }
                Some(_) => {}
                None => self.shared.arrived.wait(&mut queue),
            }
        }
    }
}

impl Shared {
    /// Takes the oldest event; the descriptor follows.
    fn take(&self, queue: &mut Queue) -> Option<TimedEvent> {
        let event = take(queue);
        if queue.is_empty()
            && let Some(wake) = self.wake.get()
        {
            wake.clear();
        }
        event
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }
}

fn take(queue: &mut Queue) -> Option<TimedEvent> {
    if queue.dropped > 0 {
        let lagged = Event::Lagged(std::mem::take(&mut queue.dropped));
        let at = queue.events.front().map_or(Instant::ZERO, |e| e.at);
        return Some(TimedEvent { at, event: lagged });
    }
    queue.events.pop_front()
}

/// Where the library puts events.
#[derive(Debug, Default)]
pub(crate) struct EventBus {
    subscribers: Mutex<Vec<Weak<Shared>>>,
    observed: Option<Observed>,
}

impl EventBus {
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self { subscribers: Mutex::default(), observed: observer.map(Observed::new) }
    }

    /// Tells the observer what was published. For whoever drives the control plane, with no lock held.
    pub(crate) fn deliver(&self) {
        if let Some(observed) = &self.observed {
            observed.deliver();
        }
    }

    pub(crate) fn subscribe(&self, capacity: usize) -> Events {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            wake: OnceLock::new(),
            capacity: capacity.max(1),
        });
        self.subscribers.lock().push(Arc::downgrade(&shared));
        Events { shared }
    }

    pub(crate) fn publish(&self, at: Instant, event: &Event) {
        if let Some(observed) = &self.observed {
            observed.push(TimedEvent { at, event: event.clone() });
        }
        self.subscribers.lock().retain(|subscriber| {
            let Some(shared) = subscriber.upgrade() else { return false };
            let mut queue = shared.queue.lock();
            if queue.events.len() == shared.capacity {
                queue.events.pop_front();
                queue.dropped += 1;
            }
            queue.events.push_back(TimedEvent { at, event: event.clone() });
            if let Some(wake) = shared.wake.get() {
                wake.wake();
            }
            drop(queue);
            shared.arrived.notify_one();
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_loses_the_oldest_and_is_told_how_many() {
        let bus = EventBus::default();
        let events = bus.subscribe(2);
        for result in 0..5 {
            let (controller, address) = (ControllerId::from_raw(0), Arc::from("x"));
            let event = Event::AsyncEvent { controller, address, result };
            bus.publish(Instant::ZERO, &event);
        }
        let lagged = events.try_next().unwrap().event;
        assert!(matches!(lagged, Event::Lagged(3)), "{lagged:?}");
        let next = events.try_next().unwrap().event;
        assert!(matches!(next, Event::AsyncEvent { result: 3, .. }), "{next:?}");
        assert!(events.try_next().is_some());
        assert!(events.next_timeout(Duration::ZERO).is_none());
    }

    #[test]
    fn the_descriptor_is_readable_while_events_wait() {
        let readable = |events: &Events| {
            let fd = events.fd().unwrap();
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        let bus = EventBus::default();
        let events = bus.subscribe(2);
        let publish = || {
            let (controller, address) = (ControllerId::from_raw(0), Arc::from("x"));
            bus.publish(Instant::ZERO, &Event::AsyncEvent { controller, address, result: 1 });
        };
        publish();
        assert!(readable(&events), "an event came before the descriptor was asked for");
        assert!(events.try_next().is_some() && !readable(&events));
        (0..3).for_each(|_| publish());
        for left in [true, true, false] {
            assert!(readable(&events));
            assert!(events.try_next().is_some());
            assert_eq!(readable(&events), left);
        }
    }
}
