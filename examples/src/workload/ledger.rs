//! Which versions of each block a read may show.
//!
//! A block is a register that every write sets as a whole, at some moment between its submission
//! and its end. A read shows the version that is current at some moment between its own submission
//! and its completion. From the moments that a program can see follows which versions are possible:
//!
//! - a write that is under way, or whose outcome is unknown, may have happened or not;
//! - a version is *dead* from the moment at which a write is acknowledged that was submitted after
//!   the version's own write had ended: a read submitted later must not show it;
//! - two writes that were under way at the same time may have happened in either order, until a
//!   read shows which one came last: then the other one is dead, too, if it had ended before that
//!   read was submitted.
//!
//! A write that failed has ended: a controller that carries it out later, on top of newer data, is
//! the fault that a multipath host has to keep away, so that its version is dead like any other
//! once a later write is acknowledged.
//!
//! A block at which nothing is under way and that has one possible version costs eight bytes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use super::stamp::{Seen, Stamp, mix};

/// A moment, counted in submissions and ends.
type Tick = u64;

/// Later than everything.
const NEVER: Tick = Tick::MAX;

/// Sequence number of what was there before the run.
const BEFORE: u64 = 0;

/// What a read shows of one block, weighed against what it may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A version that is possible.
    Correct,
    /// An acknowledged write is not there: the block is as it was before the run.
    Lost,
    /// An acknowledged write is not there: the block shows an older one.
    Stale,
    /// No version at all: parts of several, or damaged.
    Torn,
    /// A version of another block.
    Misplaced,
}

/// One version of a block.
#[derive(Clone, Copy, Debug)]
struct Version {
    sequence: u64,
    /// When its write was submitted.
    begun: Tick,
    /// When its write ended, well or not; [`NEVER`] while it is under way.
    ended: Tick,
    /// From when on reads must not show it.
    dead: Tick,
}

impl Version {
    /// The only version of a block at which nothing is under way: whatever comes, comes later.
    const fn settled(sequence: u64) -> Self {
        Self { sequence, begun: 0, ended: 0, dead: NEVER }
    }
}

/// A block at which something is under way, or that has several possible versions.
#[derive(Debug, Default)]
struct Busy {
    versions: Vec<Version>,
    /// Reads under way.
    readers: u32,
}

/// The blocks of one region.
#[derive(Debug)]
pub struct Ledger {
    run: u64,
    first: u64,
    /// Sequence number of the only possible version, for blocks that are not in `busy`.
    settled: Vec<u64>,
    busy: HashMap<u64, Busy, BuildHasherDefault<LbaHasher>>,
    /// Emptied entries, kept for their memory.
    spare: Vec<Busy>,
    now: Tick,
}

impl Ledger {
    /// For the blocks `first..first + blocks`. `run` must not be used by anybody else who writes to
    /// them.
    #[must_use]
    pub fn new(run: u64, first: u64, blocks: usize) -> Self {
        let (busy, spare) = (HashMap::default(), Vec::new());
        Self { run, first, settled: vec![BEFORE; blocks], busy, spare, now: 0 }
    }

    /// The next moment. Everything that is told with the same moment happens at once.
    pub fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// A write with a sequence number that was never used before is submitted.
    pub fn write_begins(&mut self, lba: u64, sequence: u64, now: Tick) {
        let version = Version { sequence, begun: now, ended: NEVER, dead: NEVER };
        self.open(lba).versions.push(version);
    }

    /// A write ends; `acknowledged` if it succeeded.
    pub fn write_ends(&mut self, lba: u64, sequence: u64, acknowledged: bool, now: Tick) {
        let busy = self.open(lba);
        let Some(at) = busy.versions.iter().position(|v| v.sequence == sequence) else { return };
        busy.versions[at].ended = now;
        if acknowledged {
            let begun = busy.versions[at].begun;
            // It came last if all others had ended before it began.
            for other in busy.versions.iter_mut().filter(|v| v.ended < begun) {
                other.dead = other.dead.min(now);
            }
        }
        self.close(lba);
    }

    /// A write was not accepted: it never happened.
    pub fn write_withdrawn(&mut self, lba: u64, sequence: u64) {
        self.open(lba).versions.retain(|v| v.sequence != sequence);
        self.close(lba);
    }

    /// A read is submitted.
    pub fn read_begins(&mut self, lba: u64) {
        self.open(lba).readers += 1;
    }

    /// A read ends without data.
    pub fn read_withdrawn(&mut self, lba: u64) {
        let busy = self.open(lba);
        busy.readers = busy.readers.saturating_sub(1);
        self.close(lba);
    }

    /// A read that was submitted at `begun` shows this.
    pub fn read_ends(&mut self, lba: u64, begun: Tick, seen: Seen, now: Tick) -> Verdict {
        let run = self.run;
        let busy = self.open(lba);
        let verdict = judge(busy, run, lba, begun, seen, now);
        busy.readers = busy.readers.saturating_sub(1);
        self.close(lba);
        verdict
    }

    /// Whether anything was written to the block, or may have been.
    #[must_use]
    pub fn is_written(&self, lba: u64) -> bool {
        match self.busy.get(&lba) {
            Some(busy) => busy.versions.iter().any(|v| v.sequence != BEFORE),
            None => self.settled.get(self.index(lba)).is_some_and(|s| *s != BEFORE),
        }
    }

    fn index(&self, lba: u64) -> usize {
        usize::try_from(lba.wrapping_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// The entry of a block; made if there is none.
    fn open(&mut self, lba: u64) -> &mut Busy {
        let sequence = self.settled.get(self.index(lba)).copied().unwrap_or(BEFORE);
        match self.busy.entry(lba) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut busy = self.spare.pop().unwrap_or_default();
                busy.versions.push(Version::settled(sequence));
                entry.insert(busy)
            }
        }
    }

    /// Forgets what no read can show any more, and the whole entry if it says nothing more.
    fn close(&mut self, lba: u64) {
        let at = self.index(lba);
        let Entry::Occupied(mut entry) = self.busy.entry(lba) else { return };
        let busy = entry.get_mut();
        if busy.readers > 0 {
            return;
        }
        busy.versions.retain(|v| v.dead == NEVER);
        let [only] = busy.versions[..] else { return };
        if only.ended == NEVER {
            return;
        }
        if let Some(settled) = self.settled.get_mut(at) {
            *settled = only.sequence;
        }
        let mut busy = entry.remove();
        busy.versions.clear();
        self.spare.push(busy);
    }
}

fn judge(busy: &mut Busy, run: u64, lba: u64, begun: Tick, seen: Seen, now: Tick) -> Verdict {
    let sequence = match seen {
        Seen::Stamp(stamp) if stamp.run != run => BEFORE,
        Seen::Stamp(Stamp { lba: other, .. }) if other != lba => return Verdict::Misplaced,
        Seen::Stamp(stamp) => stamp.sequence,
        Seen::Zero => BEFORE,
        // Before anything was acknowledged, the block may hold anything; after that, bytes of
        // nobody's are damage.
        Seen::Foreign | Seen::Damaged => {
            let before = busy.versions.iter().find(|v| v.sequence == BEFORE);
            let possible = before.is_some_and(|v| begun < v.dead);
            return if possible && seen == Seen::Foreign {
                Verdict::Correct
            } else {
                Verdict::Torn
            };
        }
    };
    match busy.versions.iter().find(|v| v.sequence == sequence) {
        Some(shown) if begun < shown.dead => {
            // Every other write that had ended before this read began came before the one shown.
            for other in &mut busy.versions {
                if other.sequence != sequence && other.ended < begun {
                    other.dead = other.dead.min(now);
                }
            }
            Verdict::Correct
        }
        _ if sequence == BEFORE => Verdict::Lost,
        _ => Verdict::Stale,
    }
}

/// Spreads block addresses; they come from no enemy.
#[derive(Debug, Default)]
struct LbaHasher(u64);

impl Hasher for LbaHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ n);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 77;

    fn seen(lba: u64, sequence: u64) -> Seen {
        Seen::Stamp(Stamp { lba, sequence, run: RUN })
    }

    /// A ledger of block 5, told in the order of the calls.
    struct Story(Ledger);

    impl Story {
        fn new() -> Self {
            Self(Ledger::new(RUN, 5, 1))
        }
        fn submit(&mut self, sequence: u64) {
            let now = self.0.tick();
            self.0.write_begins(5, sequence, now);
        }
        fn end(&mut self, sequence: u64, ok: bool) {
            let now = self.0.tick();
            self.0.write_ends(5, sequence, ok, now);
        }
        fn written(&mut self, sequence: u64) {
            self.submit(sequence);
            self.end(sequence, true);
        }
        fn read_begins(&mut self) -> Tick {
            let now = self.0.tick();
            self.0.read_begins(5);
            now
        }
        fn shows(&mut self, begun: Tick, what: Seen) -> Verdict {
            let now = self.0.tick();
            self.0.read_ends(5, begun, what, now)
        }
        /// A read with nothing else in between.
        fn read(&mut self, what: Seen) -> Verdict {
            let begun = self.read_begins();
            self.shows(begun, what)
        }
    }

    #[test]
    fn before_the_first_write_anything_may_be_there() {
        let mut s = Story::new();
        for what in [Seen::Zero, Seen::Foreign] {
            assert_eq!(s.read(what), Verdict::Correct);
        }
        let other_run = Seen::Stamp(Stamp { lba: 1, sequence: 9, run: 1 });
        assert_eq!(s.read(other_run), Verdict::Correct);
        // A stamp that was never written is no version.
        assert_eq!(s.read(seen(5, 1)), Verdict::Stale);
        assert!(!s.0.is_written(5));
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut s = Story::new();
        s.written(1);
        s.written(2);
        assert!(s.0.is_written(5));
        assert_eq!(s.read(seen(5, 2)), Verdict::Correct);
        assert_eq!(s.read(seen(5, 1)), Verdict::Stale);
        assert_eq!(s.read(Seen::Zero), Verdict::Lost);
        assert_eq!(s.read(Seen::Foreign), Verdict::Torn);
        assert_eq!(s.read(Seen::Damaged), Verdict::Torn);
        assert_eq!(s.read(seen(6, 2)), Verdict::Misplaced);
        assert!(s.0.busy.is_empty(), "a quiet block costs no entry");
    }

    #[test]
    fn a_write_under_way_may_have_happened_or_not() {
        let mut s = Story::new();
        s.written(1);
        s.submit(2);
        assert_eq!(s.read(seen(5, 1)), Verdict::Correct);
        assert_eq!(s.read(seen(5, 2)), Verdict::Correct);
        s.end(2, true);
        assert_eq!(s.read(seen(5, 1)), Verdict::Stale);
    }

    #[test]
    fn once_shown_a_version_does_not_go_back() {
        let mut s = Story::new();
        s.written(1);
        s.submit(2);
        assert_eq!(s.read(seen(5, 2)), Verdict::Correct);
        assert_eq!(s.read(seen(5, 1)), Verdict::Stale, "2 was there already");
    }

    #[test]
    fn a_read_that_began_before_the_acknowledgement_may_show_the_older_version() {
        let mut s = Story::new();
        s.written(1);
        s.submit(2);
        let early = s.read_begins();
        s.end(2, true);
        let late = s.read_begins();
        assert_eq!(s.shows(late, seen(5, 1)), Verdict::Stale);
        assert_eq!(s.shows(early, seen(5, 1)), Verdict::Correct);
        assert!(s.0.busy.is_empty());
    }

    #[test]
    fn overlapping_writes_may_happen_in_either_order_and_then_stay() {
        for last in [2, 3] {
            let mut s = Story::new();
            s.written(1);
            s.submit(2);
            s.submit(3);
            s.end(3, true);
            s.end(2, true);
            assert_eq!(s.read(seen(5, last)), Verdict::Correct);
            assert_eq!(s.read(seen(5, 5 - last)), Verdict::Stale, "the order is known now");
            assert_eq!(s.read(seen(5, 1)), Verdict::Stale);
            assert_eq!(s.read(seen(5, last)), Verdict::Correct);
        }
    }

    #[test]
    fn a_write_that_began_after_another_had_ended_wins() {
        let mut s = Story::new();
        s.submit(1);
        s.submit(2);
        s.end(1, true);
        s.submit(3);
        s.end(3, true);
        // 2 may come last; 1 had ended before 3 began.
        assert_eq!(s.read(seen(5, 1)), Verdict::Stale);
        assert_eq!(s.read(seen(5, 2)), Verdict::Correct);
    }

    #[test]
    fn a_failed_write_may_have_happened_until_a_later_one_is_acknowledged() {
        let mut s = Story::new();
        s.written(1);
        s.submit(2);
        s.end(2, false);
        assert_eq!(s.read(seen(5, 1)), Verdict::Correct, "it did not happen");
        assert_eq!(s.read(seen(5, 2)), Verdict::Stale, "and does not happen afterwards");
        let mut s = Story::new();
        s.written(1);
        s.submit(2);
        s.end(2, false);
        assert_eq!(s.read(seen(5, 2)), Verdict::Correct, "it did happen");
        s.written(3);
        assert_eq!(s.read(seen(5, 2)), Verdict::Stale);
    }

    #[test]
    fn a_withdrawn_write_leaves_no_trace() {
        let mut s = Story::new();
        s.written(1);
        s.submit(2);
        s.0.write_withdrawn(5, 2);
        assert_eq!(s.read(seen(5, 2)), Verdict::Stale);
        assert_eq!(s.read(seen(5, 1)), Verdict::Correct);
    }
}
