//! Free ranges of an address space: given out first fit, taken back, joined.

use std::collections::BTreeMap;

/// Free ranges, by their first address.
#[derive(Debug, Default)]
pub struct Ranges {
    free: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Whether nothing has been given out, if `len` addresses in one piece were released at first.
    #[must_use]
    pub fn is_whole(&self, len: u64) -> bool {
        self.free.len() == 1 && self.free.values().all(|free| *free == len)
    }

    /// Adds `len` free addresses from `start`, joined with their free neighbours. They must not be
    /// free already.
    pub fn release(&mut self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (mut start, mut len) = (start, len);
        if let Some((&before, &size)) = self.free.range(..start).next_back()
            && before.checked_add(size) == Some(start)
        {
            self.free.remove(&before);
            start = before;
            len += size;
        }
        if let Some(size) = start.checked_add(len).and_then(|after| self.free.remove(&after)) {
            len += size;
        }
        self.free.insert(start, len);
    }

    /// Takes `len` addresses that begin at a multiple of `align`, a power of two; the first of them.
    pub fn allocate(&mut self, len: u64, align: u64) -> Option<u64> {
        if len == 0 {
            return None;
        }
        let (start, size, begin) = self.free.iter().find_map(|(&start, &size)| {
            let begin = start.checked_next_multiple_of(align)?;
            let end = begin.checked_add(len)?;
            (end - start <= size).then_some((start, size, begin))
        })?;
        self.free.remove(&start);
        if begin > start {
            self.free.insert(start, begin - start);
        }
        let rest = start + size - (begin + len);
        if rest > 0 {
            self.free.insert(begin + len, rest);
        }
        Some(begin)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_comes_back_joins_its_neighbours() {
        let mut r = Ranges::default();
        r.release(0x1000, 0x3000);
        let all: Vec<_> = (0..3).map(|_| r.allocate(0x1000, 0x1000).unwrap()).collect();
        assert_eq!(all, [0x1000, 0x2000, 0x3000]);
        assert_eq!(r.allocate(1, 1), None);
        for start in [0x1000, 0x3000, 0x2000] {
            r.release(start, 0x1000);
        }
        assert_eq!(r.allocate(0x3000, 0x1000), Some(0x1000));
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let mut r = Ranges::default();
        r.release(u64::MAX - 0xfff, 0xfff);
        assert_eq!(r.allocate(0x1000, 0x1000), None);
        assert_eq!(r.allocate(0x800, 0x1000), Some(u64::MAX - 0xfff));
        assert_eq!(r.allocate(u64::MAX, 1 << 63), None);
    }

    proptest! {
        #[test]
        fn nothing_is_given_out_twice(
            ops in prop::collection::vec((1_u64..200, 0_u32..7, any::<bool>()), 1..200),
        ) {
            let mut r = Ranges::default();
            r.release(10, 1000);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (len, align, give_back) in ops {
                if give_back && !held.is_empty() {
                    let (start, len) = held.swap_remove(len as usize % held.len());
                    r.release(start, len);
                } else if let Some(start) = r.allocate(len, 1 << align) {
                    prop_assert!(start % (1 << align) == 0);
                    prop_assert!(start >= 10 && start + len <= 1010);
                    prop_assert!(held.iter().all(|&(s, l)| start + len <= s || s + l <= start));
                    held.push((start, len));
                }
            }
            for (start, len) in held {
                r.release(start, len);
            }
            prop_assert_eq!(r.allocate(1000, 1), Some(10));
        }
    }
}
