//! What happened, as one number; and in words for whoever asks.

use std::fmt;

/// The record of a run: a hash of all that was seen, and the lines if they are wanted.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    aloud: bool,
}

impl Trace {
    /// An empty record; `aloud` prints each line.
    #[must_use]
    pub const fn new(aloud: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, aloud }
    }

    /// The hash so far (FNV-1a over 64-bit words, folded).
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    fn word(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.hash ^= self.hash >> 29;
    }

    /// Notes numbers.
    pub fn note(&mut self, words: &[u64]) {
        words.iter().for_each(|w| self.word(*w));
    }

    /// Notes bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| self.word(u64::from_le_bytes(*w)));
        rest.iter().for_each(|b| self.word(u64::from(*b)));
    }

    /// Whether lines are printed.
    #[must_use]
    pub const fn is_aloud(&self) -> bool {
        self.aloud
    }

    /// Prints a line, if lines are wanted. Not part of the hash.
    pub fn say(&self, now: u64, line: fmt::Arguments<'_>) {
        if self.aloud {
            println!("{:>5}.{:06} {line}", now / 1_000_000_000, now % 1_000_000_000 / 1_000);
        }
    }
}
