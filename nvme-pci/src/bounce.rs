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

/// A bounded pool of pages. Taking and giving back allocate nothing.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: DmaMemory,
    /// The page after each page, in a chain or in the free list.
    next: Box<[u32]>,
    free: u32,
    free_count: usize,
}

impl Pool {
    pub fn new(memory: DmaMemory) -> Self {
        let count = memory.pages().len().min(END as usize);
        let next = (1..=count).map(|i| if i == count { END } else { i as u32 }).collect();
        Self { memory, next, free: if count == 0 { END } else { 0 }, free_count: count }
    }

    /// Pages in all.
    pub fn pages(&self) -> usize {
        self.next.len()
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
        self.walk(chain).filter_map(|at| self.memory.pages().get(at).copied())
    }

    /// Copies data into a chain.
    pub fn fill(&self, chain: &Chain, from: &[u8]) {
        for (page, piece) in self.walk(chain).zip(from.chunks(PAGE)) {
            // In bounds: a piece is a page at most.
            let _ = self.memory.copy_in(page * PAGE, piece);
        }
    }

    /// Copies data out of a chain.
    pub fn drain(&self, chain: &Chain, to: &mut [u8]) {
        for (page, piece) in self.walk(chain).zip(to.chunks_mut(PAGE)) {
            let _ = self.memory.copy_out(page * PAGE, piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    #[test]
    fn pages_come_back_in_any_order_and_hold_what_was_put_there() {
        let mut pool = Pool::new(heap::alloc(8 * PAGE, 0x10_0000));
        let a = pool.take(PAGE * 3).unwrap();
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
