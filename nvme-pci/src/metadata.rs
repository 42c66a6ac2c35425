//! Memory for metadata that is transferred beside the data.
//!
//! A device finds it by one address, so it must be one piece (NVMe 2.1 §4.1, MPTR). Metadata that is
//! not, or is no memory of the device's, goes through pieces that are kept from one command to the
//! next.

use crate::dma::{DmaMemory, PAGE};

/// A bounded set of pieces, each of which one command uses at a time.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    all: Vec<Option<DmaMemory>>,
    free: Vec<u16>,
    bytes: usize,
    /// How often it was asked for more than there can be since memory was last refused.
    pause: u32,
}

/// After a refusal so many askers are turned away before memory is asked for again.
pub(crate) const PAUSE: u32 = 1024;

/// Why there is no piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPiece {
    /// Others have it all: after one of them has ended, there is some.
    Now,
    /// There is no memory of that length in one piece.
    Ever,
}

impl Pieces {
    /// A piece of `len` bytes at least, from what there is, or from what `allocate` gives: as long as
    /// all pieces together have `most` bytes, or there is no other.
    pub fn take(
        &mut self,
        len: usize,
        most: usize,
        mut allocate: impl FnMut(usize) -> Option<DmaMemory>,
    ) -> Result<u16, NoPiece> {
        let long_enough = |all: &[Option<DmaMemory>], at: u16| {
            all.get(usize::from(at)).and_then(Option::as_ref).is_some_and(|m| m.len() >= len)
        };
        // The one that was given back last is likely to be right.
        if let Some(place) = self.free.iter().rposition(|at| long_enough(&self.all, *at)) {
            return Ok(self.free.swap_remove(place));
        }
        let idle = self.free.len() == self.all.iter().flatten().count();
        let refused = if idle { NoPiece::Ever } else { NoPiece::Now };
        if let Some(left) = self.pause.checked_sub(1) {
            self.pause = left;
            return Err(refused);
        }
        let bytes = len.max(1).checked_next_power_of_two().ok_or(NoPiece::Ever)?.max(PAGE);
        // Shorter pieces that nobody uses make room.
        while self.bytes + bytes > most && self.drop_one() {}
        if self.bytes + bytes > most && self.bytes > 0 {
            return Err(NoPiece::Now);
        }
        let memory = loop {
            match allocate(bytes).filter(|m| m.is_contiguous() && m.len() >= len) {
                Some(memory) => break memory,
                None if self.drop_one() => {}
                None => {
                    self.pause = PAUSE;
                    return Err(if self.bytes > 0 { NoPiece::Now } else { NoPiece::Ever });
                }
            }
        };
        let place = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        let at = u16::try_from(place).map_err(|_| NoPiece::Now)?;
        self.bytes += memory.len();
        match self.all.get_mut(place) {
            Some(empty) => *empty = Some(memory),
            None => self.all.push(Some(memory)),
        }
        // Giving back allocates nothing.
        self.free.reserve(self.all.len() - self.free.len());
        Ok(at)
    }

    /// Frees the memory of a piece that nobody uses. Whether there was one.
    fn drop_one(&mut self) -> bool {
        let Some(at) = self.free.pop() else { return false };
        let gone = self.all.get_mut(usize::from(at)).and_then(Option::take);
        self.bytes -= gone.map_or(0, |m| m.len());
        true
    }

    /// The memory of a piece that is taken.
    pub fn get(&self, at: u16) -> Option<&DmaMemory> {
        self.all.get(usize::from(at))?.as_ref()
    }

    /// Gives a piece back.
    pub fn give(&mut self, at: u16) {
        self.free.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn pieces_are_used_again_and_bounded() {
        let mut pieces = Pieces::default();
        let mut made = 0;
        let mut take = |pieces: &mut Pieces, len: usize| {
            pieces.take(len, 4 * PAGE, |bytes| {
                made += 1;
                Some(heap::alloc(bytes, made << 32))
            })
        };
        let a = take(&mut pieces, 8).unwrap();
        let b = take(&mut pieces, PAGE + 1).unwrap();
        assert_eq!((pieces.get(a).unwrap().len(), pieces.get(b).unwrap().len()), (PAGE, 2 * PAGE));
        assert_eq!(take(&mut pieces, PAGE + 1), Err(NoPiece::Now), "a page is left");
        pieces.give(b);
        assert_eq!(take(&mut pieces, 2 * PAGE), Ok(b), "the same again");
        pieces.give(b);
        pieces.give(a);
        let all = take(&mut pieces, 4 * PAGE).unwrap();
        assert_eq!(pieces.bytes, 4 * PAGE, "the shorter ones are gone");
        pieces.give(all);
        assert!(take(&mut pieces, 5 * PAGE).is_ok(), "one command always gets what it needs");
        assert_eq!(made, 4);
    }

    #[test]
    fn memory_that_was_refused_is_asked_for_again() {
        let mut pieces = Pieces::default();
        let mut asked = 0;
        for _ in 0..=PAUSE {
            let got = pieces.take(8, PAGE, |_| {
                asked += 1;
                None
            });
            assert_eq!(got, Err(NoPiece::Ever));
        }
        assert_eq!(asked, 1);
        assert!(pieces.take(8, PAGE, |bytes| Some(heap::alloc(bytes, 1 << 32))).is_ok());
    }
}
