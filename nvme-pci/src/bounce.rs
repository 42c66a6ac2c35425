//! Pages through which data goes that the device cannot reach where it is.

use crate::dma::{DmaMemory, PAGE};

/// No page: the end of a chain.
const END: u32 = u32::MAX;

/// A chain of pages that holds one command's data, from the beginning of its first page on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    /// No pages.
    pub const NONE: Self = Self { first: END, last: END };
}

/// A bounded pool of pages, in segments of one length. Taking and giving back allocate nothing.
#[derive(Debug)]
pub(crate) struct Pool {
    segments: Vec<DmaMemory>,
    /// Pages of a segment, as a power of two.
    shift: u32,
    /// The page after each page, in a chain or in the free list; room for those that may come.
    next: Vec<u32>,
    most: usize,
    free: u32,
    free_count: usize,
}

impl Pool {
    /// A pool of `first`, whose pages are counted down to a power of two, which may grow to `most`
    /// pages.
    pub fn new(first: DmaMemory, most: usize) -> Self {
        let shift = first.pages().len().checked_ilog2().unwrap_or(0);
        let most = most.max(1 << shift).min(END as usize);
        let mut pool = Self {
            segments: Vec::new(),
            shift,
            next: Vec::with_capacity(most),
            most,
            free: END,
            free_count: 0,
        };
        pool.grow(first);
        pool
    }

    /// Adds a segment, which is as long as the first one at least.
    pub fn grow(&mut self, memory: DmaMemory) {
        let (first, count) = (self.next.len(), 1usize << self.shift);
        if memory.pages().len() < count {
            return;
        }
        for page in first..first + count {
            let last = page + 1 == first + count;
            self.next.push(if last { self.free } else { page as u32 + 1 });
        }
        self.free = first as u32;
        self.free_count += count;
        self.segments.push(memory);
    }

    /// Bytes of a segment that may yet be added.
    pub fn wants(&self) -> Option<usize> {
        let segment = 1usize << self.shift;
        (self.next.len() + segment <= self.most).then_some(segment * PAGE)
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.next.len()
    }

    /// The memory that has a page, and where in it.
    fn at(&self, page: usize) -> Option<(&DmaMemory, usize)> {
        let memory = self.segments.get(page >> self.shift)?;
        Some((memory, (page & ((1 << self.shift) - 1)) * PAGE))
    }

    /// Takes room for `len` bytes, at least one page; `None` if there is not as much now.
    pub fn take(&mut self, len: usize) -> Option<Chain> {
        let count = len.div_ceil(PAGE).max(1);
        if count > self.free_count {
            return None;
        }
        let first = self.free;
        let mut last = first;
        for _ in 1..count {
            last = *self.next.get(last as usize)?;
        }
        let after = self.next.get_mut(last as usize)?;
        self.free = std::mem::replace(after, END);
        self.free_count -= count;
        Some(Chain { first, last })
    }

    /// Gives pages back.
    pub fn give(&mut self, chain: &Chain) {
        self.free_count += self.walk(chain).count();
        if let Some(after) = self.next.get_mut(chain.last as usize) {
            *after = self.free;
            self.free = chain.first;
        }
    }

    /// The pages of a chain, by number.
    fn walk(&self, chain: &Chain) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(chain.first), |at| self.next.get(*at as usize).copied())
            .take_while(|at| *at != END)
            .map(|at| at as usize)
    }

    /// Bus addresses of a chain's pages.
    pub fn bus(&self, chain: &Chain) -> impl Iterator<Item = u64> {
        self.walk(chain).filter_map(|page| self.at(page).and_then(|(memory, at)| memory.bus(at)))
    }

    /// Copies data into a chain.
    pub fn fill(&self, chain: &Chain, from: &[u8]) {
        for (page, piece) in self.walk(chain).zip(from.chunks(PAGE)) {
            // In bounds: a piece is a page at most.
            let _ = self.at(page).map(|(memory, at)| memory.copy_in(at, piece));
        }
    }

    /// Copies data out of a chain.
    pub fn drain(&self, chain: &Chain, to: &mut [u8]) {
        for (page, piece) in self.walk(chain).zip(to.chunks_mut(PAGE)) {
            let _ = self.at(page).map(|(memory, at)| memory.copy_out(at, piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn pages_come_back_in_any_order_and_hold_what_was_put_there() {
        let mut pool = Pool::new(heap::alloc(4 * PAGE, 0x10_0000), 10);
        let a = pool.take(PAGE * 3).unwrap();
        assert!(pool.take(PAGE * 3).is_none(), "one is left");
        assert_eq!(pool.wants(), Some(4 * PAGE));
        pool.grow(heap::alloc(4 * PAGE, 0x20_0000));
        assert_eq!((pool.wants(), pool.pages()), (None, 8), "no room for a whole one more");
        let b = pool.take(PAGE * 2 + 1).unwrap();
        assert!(pool.take(PAGE * 3).is_none(), "two are left");
        pool.give(&a);
        let c = pool.take(PAGE * 5).unwrap();
        assert!(pool.take(1).is_none());
        let data: Vec<u8> = (0..PAGE * 5).map(|i| (i / 7) as u8).collect();
        pool.fill(&c, &data);
        let mut back = vec![0; data.len()];
        pool.drain(&c, &mut back);
        assert_eq!(back, data);
        let mut seen: Vec<u64> = pool.bus(&b).chain(pool.bus(&c)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 8, "no page is in two chains");
        pool.give(&b);
        pool.give(&c);
        let all = pool.take(8 * PAGE).unwrap();
        assert_eq!(pool.bus(&all).count(), 8);
    }
}
