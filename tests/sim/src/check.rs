//! Whether what was read can be: a check of each block's history, as of a register that is written and
//! read at single moments between a request's submission and its completion.
//!
//! Every write has a value of its own, so the check is exact and quick (P. Gibbons and E. Korach,
//! *Testing Shared Memories*, 1997): a value's *zone* reaches from the first moment at which it must
//! have been there to the last moment at which it was still asked for. Two values cannot both have to
//! be there at one time.

use std::collections::BTreeMap;

use crate::dice::Dice;
use crate::load::BLOCKS;

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

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was carried out.
    Done,
    /// It may have been carried out, or not.
    Open,
    /// It was not, and will not be.
    NotDone,
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
    /// It was not.
    not_done: bool,
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
            not_done: false,
        };
        self.blocks.entry(block).or_default().insert(value, written);
    }

    /// A write has ended. What is carried out is so until `until`.
    pub fn write_ends(&mut self, block: Block, value: u64, end: End, until: u64) {
        let Some(v) = self.blocks.get_mut(&block).and_then(|b| b.get_mut(&value)) else { return };
        v.written.1 = until;
        v.doubtful = end != End::Done;
        v.not_done = end == End::NotDone;
        if end == End::Done {
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
                not_done: false,
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

    /// A value that was written to the block, or may have been, or the one before all.
    pub fn some_value(&self, block: Block, dice: &mut Dice) -> u64 {
        // The last one is the one that is likely to be there.
        let recent = self.blocks.get(&block).into_iter().flat_map(|v| v.keys().rev());
        recent.copied().nth(dice.roll(3) as usize).unwrap_or(NEVER_WRITTEN)
    }

    /// Looks for values that must have been there at the same time.
    ///
    /// # Errors
    /// The block and the two values.
    pub fn verify(&self) -> Result<(), String> {
        for (block, values) in &self.blocks {
            if let Some((value, v)) = values.iter().find(|(_, v)| v.not_done && v.seen) {
                let text = "was said not to be done, and was read";
                return Err(format!("{block:?}: the write of {value} {text}: {v:?}"));
            }
            if block.lba < BLOCKS {
                verify(*block, values)?;
            }
        }
        Ok(())
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
            h.write_ends(B, *value, if *done { End::Done } else { End::Open }, *end);
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
        let mut not_done = history(&[(1, 10, 20, false)], &[(1, 11, 12)]);
        not_done.write_ends(B, 1, End::NotDone, 20);
        assert!(not_done.verify().unwrap_err().contains("said not to be done"));
        assert!(history(&two, &[]).read(B, 3, 1, 2).is_err());
    }
}
