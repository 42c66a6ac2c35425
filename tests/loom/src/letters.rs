//! Letters to a channel whose thread may sleep: requests stay in the channel's slab, and these are all
//! that reaches it from elsewhere.

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::letterbox::{Bell, LetterBox};

/// An event descriptor: rings are remembered until they are taken.
#[derive(Default)]
struct Descriptor {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Descriptor {
    /// Sleeps until there was a ring. One that never comes is a deadlock, which loom reports.
    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
    }
}

impl Bell for Descriptor {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn clear(&self) {
        *self.rung.lock().unwrap() = false;
    }
}

type Letters = LetterBox<u32, Descriptor>;

/// Reads until `count` letters have come, sleeping whenever nothing is pending.
fn read(letters: &Letters, count: usize) -> Vec<u32> {
    let mut got = Vec::new();
    while got.len() < count {
        if letters.pending() {
            got.extend(letters.take());
        } else {
            letters.bell().sleep();
            // What `Channel::poll` does after it was woken: it looks again.
            if !letters.pending() {
                letters.bell().clear();
            }
        }
    }
    got
}

#[test]
fn no_letter_is_lost_doubled_or_slept_through() {
    loom::model(|| {
        let letters = Arc::new(Letters::new(Descriptor::default()));
        let writer = Arc::clone(&letters);
        let writing = thread::spawn(move || {
            writer.send(1);
            writer.send(2);
        });
        assert_eq!(read(&letters, 2), [1, 2]);
        writing.join().unwrap();
        assert!(letters.take().is_empty());
    });
}

/// What was changed before a notice is seen by whoever the notice reaches: the order on which the
/// tables of paths and the letters rely. Also before a second notice that comes while the first is being
/// read: there is no third.
#[test]
fn what_came_before_a_notice_is_seen_after_it() {
    loom::model(|| {
        let letters = Arc::new(Letters::new(Descriptor::default()));
        let changed = Arc::new(AtomicUsize::new(0));
        let (writer, change) = (Arc::clone(&letters), Arc::clone(&changed));
        let writing = thread::spawn(move || {
            for step in 1..=2 {
                change.store(step, Ordering::Relaxed);
                writer.notify();
            }
        });
        let mut seen = 0;
        for _ in 0..2 {
            if letters.pending() {
                let _ = letters.take();
                seen = changed.load(Ordering::Relaxed);
                assert!(seen > 0, "told, and nothing there");
            }
        }
        let told = letters.pending();
        writing.join().unwrap();
        assert!(seen == 2 || told || letters.pending(), "never told of the last change");
    });
}

/// The control plane takes a queue back that the channel may be reading about: one of them has it.
#[test]
fn a_letter_that_is_taken_back_is_read_by_nobody() {
    loom::model(|| {
        let letters = Arc::new(Letters::new(Descriptor::default()));
        letters.send(7);
        let other = Arc::clone(&letters);
        let reading = thread::spawn(move || other.take());
        let back = letters.sort(|l| l.iter().position(|x| *x == 7).map(|at| l.remove(at)));
        let read = reading.join().unwrap();
        assert_eq!(back.is_some(), read.is_empty(), "{back:?} {read:?}");
    });
}
