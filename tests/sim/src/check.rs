//! Whether what was read can be: a check of each block's history, as of a register that is written and
//! read at single moments between a request's submission and its completion.
//!
//! Every write has a value of its own, so the check is exact and quick (P. Gibbons and E. Korach,
//! *Testing Shared Memories*, 1997): a value's *zone* reaches from the first moment at which it must
//! have been there to the last moment at which it was still asked for. Two values cannot both have to
//! be there at one time.

use std::collections::BTreeMap;

/// The value of a block that was never written.
pub const NEVER_WRITTEN: u64 = 0;

/// One namespace's block, whatever controller and namespace identifier it is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The namespace's identity.
    pub namespace: u64,
    /// The logical block.
    pub lba: u64,
}

/// What is known of a value of one block.
#[derive(Clone, Copy, Debug)]
struct Value {
    /// The write's submission and completion; `u64::MAX` while it is not over.
    written: (u64, u64),
    /// The first completion, and the last submission, of anything that saw or made it.
    first_end: u64,
    last_begin: u64,
    seen: bool,
    /// The write may not have been carried out.
    doubtful: bool,
}

/// The history of all blocks.
#[derive(Debug, Default)]
pub struct History {
    blocks: BTreeMap<Block, BTreeMap<u64, Value>>,
}

impl History {
    /// A write is submitted. Values are not used twice, and are not [`NEVER_WRITTEN`].
    pub fn write_begins(&mut self, block: Block, value: u64, now: u64) {
        let written = Value {
            written: (now, u64::MAX),
            first_end: u64::MAX,
            last_begin: now,
            seen: false,
            doubtful: true,
        };
        self.blocks.entry(block).or_default().insert(value, written);
    }

    /// A write has ended. `done` tells whether it surely was carried out; if not, it may have been, or
    /// be, until `until`.
    pub fn write_ends(&mut self, block: Block, value: u64, done: bool, until: u64) {
        let Some(v) = self.blocks.get_mut(&block).and_then(|b| b.get_mut(&value)) else { return };
        v.written.1 = until;
        v.doubtful = !done;
        if done {
            v.first_end = v.first_end.min(until);
        }
    }

    /// A read that was submitted at `begin` has returned a value.
    ///
    /// # Errors
    /// The value was not written to this block, or not yet.
    pub fn read(&mut self, block: Block, value: u64, begin: u64, end: u64) -> Result<(), String> {
        let values = self.blocks.entry(block).or_default();
        let v = if value == NEVER_WRITTEN {
            values.entry(value).or_insert(Value {
                written: (0, 0),
                first_end: 0,
                last_begin: 0,
                seen: true,
                doubtful: false,
            })
        } else {
            let Some(v) = values.get_mut(&value) else {
                return Err(format!("{block:?} read as {value}, which was never written there"));
            };
            v
        };
        v.seen = true;
        v.first_end = v.first_end.min(end);
        v.last_begin = v.last_begin.max(begin);
        Ok(())
    }

    /// Looks for values that must have been there at the same time.
    ///
    /// # Errors
    /// The block and the two values.
    pub fn verify(&self) -> Result<(), String> {
        self.blocks.iter().try_for_each(|(block, values)| verify(*block, values))
    }
}

/// Where a value was: from, to, and whether it must have been there throughout.
fn zone(v: &Value) -> (u64, u64, bool) {
    let first_end = v.first_end.min(v.written.1);
    let forward = first_end < v.last_begin;
    (first_end.min(v.last_begin), first_end.max(v.last_begin), forward)
}

fn verify(block: Block, values: &BTreeMap<u64, Value>) -> Result<(), String> {
    let real = values.iter().filter(|(_, v)| v.seen || !v.doubtful);
    let mut forward: Vec<(u64, u64, u64)> = Vec::new();
    let mut backward: Vec<(u64, u64, u64)> = Vec::new();
    for (value, v) in real {
        let (from, to, must) = zone(v);
        if must { &mut forward } else { &mut backward }.push((from, to, *value));
    }
    forward.sort_unstable();
    let tell = |value: u64| {
        let v = values.get(&value);
        format!("{value} {:?}", v.map(|v| (v.written, v.first_end, v.last_begin)))
    };
    for pair in forward.windows(2) {
        let ((_, end, a), (begin, _, b)) = (pair[0], pair[1]);
        if begin < end {
            return Err(format!("{block:?}: {} and {} at once", tell(a), tell(b)));
        }
    }
    for (from, to, value) in backward {
        let inside = |f: &&(u64, u64, u64)| f.0 < from && to < f.1;
        if let Some((_, _, other)) = forward.iter().find(inside) {
            return Err(format!("{block:?}: {} in the midst of {}", tell(value), tell(*other)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Block = Block { namespace: 1, lba: 7 };

    fn history(writes: &[(u64, u64, u64, bool)], reads: &[(u64, u64, u64)]) -> History {
        let mut h = History::default();
        for (value, begin, end, done) in writes {
            h.write_begins(B, *value, *begin);
            h.write_ends(B, *value, *done, *end);
        }
        for (value, begin, end) in reads {
            h.read(B, *value, *begin, *end).unwrap();
        }
        h
    }

    #[test]
    fn what_can_be_is_accepted() {
        let fine = [(1, 10, 20, true), (2, 30, 40, true)];
        history(&fine, &[(0, 1, 11), (1, 12, 21), (1, 21, 31), (2, 39, 50)]).verify().unwrap();
        // Which of two writes at once comes first is for the reads to say.
        history(&[(1, 10, 20, true), (2, 11, 19, true)], &[(1, 30, 31)]).verify().unwrap();
        // A failed write may have been done, or not.
        history(&[(1, 10, 20, true), (2, 30, 40, false)], &[(1, 50, 60)]).verify().unwrap();
        history(&[(1, 10, 20, true), (2, 30, u64::MAX, false)], &[(1, 50, 60), (2, 70, 80)])
            .verify()
            .unwrap();
    }

    #[test]
    fn lost_stale_resurrected_and_unknown_values_are_found() {
        let two = [(1, 10, 20, true), (2, 30, 40, true)];
        let lost = history(&two, &[(1, 50, 60)]);
        assert!(lost.verify().unwrap_err().contains("in the midst of"));
        let never = history(&[(1, 10, 20, true)], &[(0, 50, 60)]);
        assert!(never.verify().is_err());
        let resurrected = history(&two, &[(2, 50, 60), (1, 70, 80)]);
        assert!(resurrected.verify().unwrap_err().contains("at once"));
        let failed = history(&[(1, 10, 20, false), (2, 30, 40, true)], &[(2, 50, 60), (1, 70, 80)]);
        assert!(failed.verify().is_err());
        assert!(history(&two, &[]).read(B, 3, 1, 2).is_err());
    }
}
