//! Letters from one thread to another that may sleep, each woken for once.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, Mutex, Ordering};

/// What wakes the reader.
pub(crate) trait Bell {
    /// Wakes the reader, or keeps it from falling asleep.
    fn ring(&self);
    /// Takes back the rings so far.
    fn clear(&self);
}

/// The box. One reader, any number of writers.
pub(crate) struct LetterBox<L, B> {
    /// Something is in the box, or was told of by [`notify`](Self::notify). Read at each poll,
    /// written seldom.
    pending: CachePadded<AtomicBool>,
    letters: Mutex<Vec<L>>,
    bell: B,
}

impl<L, B: Bell> LetterBox<L, B> {
    pub(crate) fn new(bell: B) -> Self {
        let pending = CachePadded::new(AtomicBool::new(false));
        Self { pending, letters: Mutex::new(Vec::new()), bell }
    }

    pub(crate) fn send(&self, letter: L) {
        self.letters.lock().push(letter);
        self.notify();
    }

    /// Looks through the letters that have not been read.
    pub(crate) fn sort<R>(&self, f: impl FnOnce(&mut Vec<L>) -> R) -> R {
        f(&mut self.letters.lock())
    }

    /// Says that something changed. One ring until the reader has looked.
    pub(crate) fn notify(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.bell.ring();
        }
    }

    /// Whether there is something to look at.
    pub(crate) fn pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Takes the letters; what is sent after counts as pending again.
    pub(crate) fn take(&self) -> Vec<L> {
        self.bell.clear();
        // A swap, not a store: it reads what the last `notify` wrote, and so sees what came before.
        self.pending.swap(false, Ordering::AcqRel);
        std::mem::take(&mut self.letters.lock())
    }

    pub(crate) const fn bell(&self) -> &B {
        &self.bell
    }
}
