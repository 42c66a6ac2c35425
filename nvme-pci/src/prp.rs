//! Data pointers as physical region pages (NVMe 2.1 §4.3.1).

use std::sync::atomic::Ordering;

use nvme_core::spec::Sqe;

use crate::dma::{DmaMemory, PAGE};

/// Entries of a page of a PRP list.
const PER_PAGE: usize = PAGE / 8;

/// The pages of one command slot that hold its PRP list or SGL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListPages<'a> {
    memory: &'a DmaMemory,
    first: usize,
    count: usize,
}

impl<'a> ListPages<'a> {
    /// `count` pages of `memory` from page `first` on.
    pub fn new(memory: &'a DmaMemory, first: usize, count: usize) -> Self {
        Self { memory, first, count }
    }

    /// Bus address of list page `page`; `None` past the last.
    pub fn bus(&self, page: usize) -> Option<u64> {
        if page >= self.count {
            return None;
        }
        self.memory.pages().get(self.first + page).copied()
    }

    /// Stores 8 bytes, number `word` of list page `page`.
    pub fn store(&self, page: usize, word: usize, value: u64) -> Option<()> {
        if page >= self.count || word >= PER_PAGE {
            return None;
        }
        let word = self.memory.word((self.first + page) * PAGE + word * 8)?;
        word.store(value.to_le(), Ordering::Relaxed);
        Some(())
    }

    /// Loads 8 bytes, number `word` of list page `page`.
    pub fn load(&self, page: usize, word: usize) -> Option<u64> {
        let word = self.memory.word((self.first + page) * PAGE + word * 8)?;
        Some(u64::from_le(word.load(Ordering::Relaxed)))
    }
}

/// Pages of a PRP list that the largest transfer of `bytes` needs, at the worst offset.
pub(crate) const fn list_pages(bytes: usize) -> usize {
    // One more page than the length fills, less the one that PRP1 names.
    let entries = bytes.div_ceil(PAGE);
    // Each page but the last gives one entry to the link.
    let pages = entries.saturating_sub(1).div_ceil(PER_PAGE - 1);
    if pages == 0 { 1 } else { pages }
}

/// Points `sqe` at `len` bytes that begin `offset` bytes (a multiple of 4) into the first of
/// `pages`. `None` if there are not enough pages, or the list has no room.
pub(crate) fn build(
    sqe: &mut Sqe,
    mut pages: impl Iterator<Item = u64>,
    offset: usize,
    len: usize,
    list: ListPages<'_>,
) -> Option<()> {
    let total = (offset + len).div_ceil(PAGE).max(1);
    let first = pages.next()?.checked_add(offset as u64)?;
    match total {
        1 => sqe.set_prp(first, 0),
        2 => sqe.set_prp(first, pages.next()?),
        _ => {
            sqe.set_prp(first, list.bus(0)?);
            let (mut page, mut word) = (0, 0);
            let mut left = total - 1;
            while left > 0 {
                // The last entry of a page that is not enough names the next page of the list.
                if word == PER_PAGE - 1 && left > 1 {
                    list.store(page, word, list.bus(page + 1)?)?;
                    (page, word) = (page + 1, 0);
                }
                list.store(page, word, pages.next()?)?;
                word += 1;
                left -= 1;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;

    /// Follows the pointer as a controller does.
    fn walk(sqe: &Sqe, offset: usize, len: usize, list: ListPages<'_>) -> Vec<(u64, usize)> {
        let (prp1, prp2) = sqe.prp();
        let mut runs = vec![(prp1, (PAGE - offset).min(len))];
        let mut left = len - runs[0].1;
        if left == 0 {
            assert_eq!(prp2, 0);
        } else if left <= PAGE {
            runs.push((prp2, left));
        } else {
            let (mut at, mut word) = (prp2, 0);
            while left > 0 {
                let page = (0..list.count).find(|p| list.bus(*p) == Some(at)).unwrap();
                let entry = list.load(page, word).unwrap();
                if word == PER_PAGE - 1 && left > PAGE {
                    (at, word) = (entry, 0);
                    continue;
                }
                runs.push((entry, left.min(PAGE)));
                left -= left.min(PAGE);
                word += 1;
            }
        }
        runs
    }

    #[test]
    fn a_list_names_every_page_once_at_every_offset_and_length() {
        const LONGEST: usize = 4 << 20;
        let memory = heap::alloc(list_pages(LONGEST) * PAGE, 0x7000_0000);
        let list = ListPages::new(&memory, 0, memory.pages().len());
        // Scattered: no page follows the one before.
        let bus = |i: usize| ((i * 2 + 5) * PAGE) as u64;
        let lengths = [
            4,
            512,
            4092,
            4096,
            4100,
            8192,
            12288,
            65536,
            PAGE * 511,
            PAGE * 512,
            PAGE * 513,
            PAGE * 514,
            PAGE * 1023,
            LONGEST - 512,
            LONGEST,
        ];
        for len in lengths {
            for offset in [0, 4, 512, 1024, 2048, 4092] {
                let total = (offset + len).div_ceil(PAGE);
                let mut sqe = Sqe::flush(1);
                build(&mut sqe, (0..total).map(bus), offset, len, list).unwrap();
                let runs = walk(&sqe, offset, len, list);
                assert_eq!(runs.iter().map(|r| r.1).sum::<usize>(), len);
                for (i, (at, _)) in runs.iter().enumerate() {
                    let expected = bus(i) + if i == 0 { offset as u64 } else { 0 };
                    assert_eq!(*at, expected, "page {i} of {len} bytes at {offset}");
                }
            }
        }
    }

    #[test]
    fn too_few_pages_are_noticed() {
        let memory = heap::alloc(PAGE, 0x7000_0000);
        let list = ListPages::new(&memory, 0, 1);
        let mut sqe = Sqe::flush(1);
        assert!(build(&mut sqe, [0x1000].into_iter(), 4, PAGE, list).is_none());
        let pages = (1..2000).map(|i| i * PAGE as u64);
        assert!(build(&mut sqe, pages, 0, PAGE * 600, list).is_none(), "one list page, 600 pages");
    }
}
