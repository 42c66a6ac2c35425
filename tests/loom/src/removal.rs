//! Schedule, cancel, fire, re-arm and shut down, in every order.
//!
//! In each interleaving: the head is removed at most once; the pins that are out are as many as
//! the heads that wait for their removal or are in it; and at the end none is out that nobody holds.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use nvme_core::time::{Duration, Instant};

use crate::lifecycle::{Attached, Detached, Fired, Lifecycle, Phase, Timer, WindowSet};
use crate::pin::PinLedger;
use crate::window::{DelayedRemoval, LossCause, Window};

const LOST: Instant = Instant::from_nanos(1_000);
const LATE: Instant = Instant::from_nanos(u64::MAX / 2);

/// A head with one path, and the account of what happened to it.
struct Model {
    life: Lifecycle<u32>,
    ledger: Arc<PinLedger>,
    removed: AtomicUsize,
}

impl Model {
    fn new(windows: DelayedRemoval) -> Arc<Self> {
        let ledger = PinLedger::new(None);
        let life = Lifecycle::new("head".into(), Arc::clone(&ledger), windows, 1);
        Arc::new(Self { life, ledger, removed: AtomicUsize::new(0) })
    }

    fn lose(&self, path: u32) -> Option<Timer> {
        match self.life.detach(|p| *p == path, LossCause::LinkLost, LOST) {
            Detached::Scheduled(timer) => Some(timer),
            Detached::Remove => {
                self.remove();
                None
            }
            Detached::Unknown | Detached::Remaining => None,
        }
    }

    /// Returns whether the path got in.
    fn come_back(&self, path: u32) -> bool {
        match self.life.attach(path) {
            Attached::Added => true,
            Attached::Cancelled { pin, lost_at } => {
                assert_eq!(lost_at, LOST);
                drop(pin);
                true
            }
            Attached::Refused => false,
        }
    }

    fn fire(&self, timer: Timer) {
        if self.life.fire(timer.generation, LATE) == Fired::Remove {
            self.remove();
        }
    }

    fn set(&self, windows: DelayedRemoval) -> Option<Timer> {
        match self.life.set_windows(windows, LOST) {
            WindowSet::Stored => None,
            WindowSet::Rearmed(timer) => Some(timer),
            WindowSet::Remove => {
                self.remove();
                None
            }
        }
    }

    fn remove(&self) {
        self.removed.fetch_add(1, Ordering::Relaxed);
        drop(self.life.finish());
    }

    /// The rules that hold whenever nobody is in the middle of something.
    fn check(&self) {
        let removed = self.removed.load(Ordering::Relaxed);
        self.life.with(|inner| {
            let (gone, pinned) = match &inner.phase {
                Phase::Live => (false, 0),
                Phase::Pending(_) => (false, 1),
                Phase::Removing { pin, .. } => (true, usize::from(pin.is_some())),
                Phase::Gone { .. } => (true, 0),
            };
            assert_eq!(removed, usize::from(gone), "removed exactly once");
            assert_eq!(self.ledger.count(), pinned, "pins out: {:?}", self.ledger.holders());
            let empty = inner.paths.is_empty();
            assert_eq!(empty, !matches!(inner.phase, Phase::Live), "live means paths");
        });
    }
}

const WINDOW: DelayedRemoval = DelayedRemoval::after(Window::For(Duration::from_secs(5)));

#[test]
fn cancel_against_fire() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let timer = model.lose(1).expect("a window is set");
        assert_eq!(model.ledger.count(), 1);
        let other = Arc::clone(&model);
        let returning = thread::spawn(move || other.come_back(2));
        model.fire(timer);
        let back = returning.join().unwrap();
        // Either the path came first and the timer was stale, or the removal went through.
        assert_eq!(back, model.removed.load(Ordering::Relaxed) == 0);
        model.check();
    });
}

#[test]
fn two_last_paths_leave_at_once() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        assert!(model.come_back(2));
        let other = Arc::clone(&model);
        let first = thread::spawn(move || other.lose(1));
        let second = model.lose(2);
        let first = first.join().unwrap();
        assert!(first.is_some() != second.is_some(), "one of them is the last");
        assert_eq!(model.ledger.count(), 1);
        model.check();
    });
}

#[test]
fn a_path_comes_while_the_last_one_leaves() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let other = Arc::clone(&model);
        let leaving = thread::spawn(move || other.lose(1));
        assert!(model.come_back(2), "nothing was removed");
        leaving.join().unwrap();
        // Whichever was first: there is a path, and no pin.
        model.check();
        assert_eq!(model.ledger.count(), 0);
    });
}

#[test]
fn a_second_loss_is_not_ended_by_the_first_timer() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let first = model.lose(1).expect("scheduled");
        let other = Arc::clone(&model);
        // The path returns and leaves again while the first timer fires.
        let flapping = thread::spawn(move || other.come_back(2).then(|| other.lose(2)).flatten());
        model.fire(first);
        let second = flapping.join().unwrap();
        model.check();
        if let Some(second) = second {
            assert_eq!(model.removed.load(Ordering::Relaxed), 0, "the first timer was stale");
            model.fire(second);
            assert_eq!(model.removed.load(Ordering::Relaxed), 1);
            model.check();
        }
    });
}

#[test]
fn a_window_set_while_the_timer_fires_and_a_path_returns() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let timer = model.lose(1).expect("scheduled");
        let (setter, returner) = (Arc::clone(&model), Arc::clone(&model));
        let setting = thread::spawn(move || setter.set(DelayedRemoval::OFF));
        let returning = thread::spawn(move || returner.come_back(2));
        model.fire(timer);
        assert_eq!(setting.join().unwrap(), None);
        returning.join().unwrap();
        model.check();
    });
}

#[test]
fn a_longer_window_outlives_the_old_timer() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let timer = model.lose(1).expect("scheduled");
        let setter = Arc::clone(&model);
        let setting = thread::spawn(move || {
            setter.set(DelayedRemoval::after(Window::For(Duration::from_secs(50))))
        });
        model.fire(timer);
        let rearmed = setting.join().unwrap();
        let removed = model.removed.load(Ordering::Relaxed);
        assert_eq!(removed, usize::from(rearmed.is_none()), "one or the other");
        model.check();
    });
}

#[test]
fn shutdown_against_loss_and_return() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let (loser, closer) = (Arc::clone(&model), Arc::clone(&model));
        let losing = thread::spawn(move || loser.lose(1));
        let closing = thread::spawn(move || {
            // What a forced shutdown does: no pin from now on, and no wait that is under way.
            closer.ledger.close();
            if closer.life.remove_now() {
                closer.remove();
            }
        });
        losing.join().unwrap();
        closing.join().unwrap();
        model.check();
        // Whoever comes now must not be able to arm anything any more.
        if model.come_back(2) {
            assert_eq!(model.lose(2), None);
        }
        assert!(model.ledger.close_if_unpinned().is_ok() || model.ledger.count() == 1);
    });
}

#[test]
fn an_orderly_shutdown_sees_a_pin_or_gives_none() {
    loom::model(|| {
        let model = Model::new(WINDOW);
        let loser = Arc::clone(&model);
        let losing = thread::spawn(move || loser.lose(1));
        let closed = model.ledger.close_if_unpinned();
        let scheduled = losing.join().unwrap();
        match closed {
            Ok(()) => assert_eq!(scheduled, None, "no pin after the ledger was closed"),
            Err(holders) => assert_eq!(holders.len(), 1),
        }
        model.check();
    });
}
