//! Data pointers as scatter gather lists (NVMe 2.1 §4.3.2): fewer entries than PRPs where memory is
//! in one piece.

use nvme_core::spec::{SglDescriptor, Sqe};

use crate::dma::PAGE;
use crate::prp::ListPages;

/// Descriptors in a page of a list.
const PER_PAGE: usize = PAGE / 16;

/// Points `sqe` at `len` bytes that begin `offset` bytes into the first of `pages`. `None` if there
/// are not enough pages, or the list has no room.
pub(crate) fn build(
    sqe: &mut Sqe,
    pages: impl Iterator<Item = u64>,
    offset: usize,
    len: usize,
    list: ListPages<'_>,
) -> Option<()> {
    let mut writer = Writer { list, page: 0, used: 0 };
    let mut run: Option<(u64, u32)> = None;
    let mut left = len;
    let mut skip = offset;
    for page in pages {
        if left == 0 {
            break;
        }
        let piece = (PAGE - skip).min(left);
        let at = page.checked_add(skip as u64)?;
        (left, skip) = (left - piece, 0);
        run = match run {
            Some((start, bytes)) if start.checked_add(bytes.into()) == Some(at) => {
                Some((start, bytes.checked_add(piece as u32)?))
            }
            Some((start, bytes)) => {
                writer.put(SglDescriptor::data_block(start, bytes))?;
                Some((at, piece as u32))
            }
            None => Some((at, piece as u32)),
        };
    }
    let (start, bytes) = run.filter(|_| left == 0)?;
    let last = SglDescriptor::data_block(start, bytes);
    if writer.is_empty() {
        sqe.set_sgl(last);
    } else {
        writer.put(last)?;
        sqe.set_sgl(writer.finish()?);
    }
    Some(())
}

/// Writes descriptors one after the other, linking the pages that they fill.
struct Writer<'a> {
    list: ListPages<'a>,
    page: usize,
    /// Descriptors in the present page.
    used: usize,
}

impl Writer<'_> {
    fn is_empty(&self) -> bool {
        self.page == 0 && self.used == 0
    }

    fn store(&self, page: usize, at: usize, descriptor: SglDescriptor) -> Option<()> {
        let [low, high]: [u64; 2] = zerocopy::transmute!(descriptor);
        self.list.store(page, at * 2, u64::from_le(low))?;
        self.list.store(page, at * 2 + 1, u64::from_le(high))
    }

    fn put(&mut self, descriptor: SglDescriptor) -> Option<()> {
        if self.used == PER_PAGE {
            // The page is full: its last descriptor moves on, and makes room for the link, which is
            // written when the length of the next page is known.
            let low = self.list.load(self.page, (PER_PAGE - 1) * 2)?;
            let high = self.list.load(self.page, (PER_PAGE - 1) * 2 + 1)?;
            self.list.bus(self.page + 1)?;
            if self.page > 0 {
                self.link(self.page, PER_PAGE, false)?;
            }
            self.page += 1;
            self.list.store(self.page, 0, low)?;
            self.list.store(self.page, 1, high)?;
            self.used = 1;
        }
        self.store(self.page, self.used, descriptor)?;
        self.used += 1;
        Some(())
    }

    /// The descriptor of page `page`, which has `count` descriptors.
    fn segment(&self, page: usize, count: usize, last: bool) -> Option<SglDescriptor> {
        let (at, bytes) = (self.list.bus(page)?, (count * 16) as u32);
        Some(if last {
            SglDescriptor::last_segment(at, bytes)
        } else {
            SglDescriptor::segment(at, bytes)
        })
    }

    /// Makes the last descriptor of the page before `page` point to it.
    fn link(&self, page: usize, count: usize, last: bool) -> Option<()> {
        let descriptor = self.segment(page, count, last)?;
        self.store(page - 1, PER_PAGE - 1, descriptor)
    }

    /// The descriptor for the command itself.
    fn finish(&self) -> Option<SglDescriptor> {
        if self.page == 0 {
            return self.segment(0, self.used, true);
        }
        self.link(self.page, self.used, true)?;
        self.segment(0, PER_PAGE, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap;
    use nvme_core::spec::command::SglType;

    /// Follows the pointer as a controller does.
    fn walk(sqe: &Sqe, list: ListPages<'_>, pages: usize) -> Vec<(u64, u32)> {
        let mut runs = Vec::new();
        let mut segment = sqe.sgl();
        loop {
            let kind = segment.sgl_type();
            if kind == SglType::DATA_BLOCK {
                runs.push((segment.address.get(), segment.length.get()));
                return runs;
            }
            let page = (0..pages).find(|p| list.bus(*p) == Some(segment.address.get())).unwrap();
            let count = segment.length.get() as usize / 16;
            let mut next = None;
            for i in 0..count {
                let words = [i * 2, i * 2 + 1].map(|w| list.load(page, w).unwrap().to_le());
                let d: SglDescriptor = zerocopy::transmute!(words);
                if d.sgl_type() == SglType::DATA_BLOCK {
                    runs.push((d.address.get(), d.length.get()));
                } else {
                    assert_eq!((i + 1, kind), (count, SglType::SEGMENT), "a link comes last");
                    next = Some(d);
                }
            }
            match next {
                Some(d) => segment = d,
                None => {
                    assert_eq!(kind, SglType::LAST_SEGMENT);
                    return runs;
                }
            }
        }
    }

    #[test]
    fn runs_are_joined_and_lists_linked_at_every_count() {
        let memory = heap::alloc(6 * PAGE, 0x7000_0000);
        let list = ListPages::new(&memory, 0, 6);
        for gap in [1, 2] {
            for count in [1, 2, 3, 255, 256, 257, 510, 511, 512, 513, 1025] {
                for offset in [0, 4, 4092] {
                    let len = count * PAGE - offset - 8 * usize::from(count > 1);
                    let len = len.min(count * PAGE - offset);
                    let bus = |i: usize| ((i * gap + 5) * PAGE) as u64;
                    let mut sqe = Sqe::flush(1);
                    build(&mut sqe, (0..count).map(bus), offset, len, list).unwrap();
                    let runs = walk(&sqe, list, 6);
                    assert_eq!(runs.iter().map(|r| r.1 as usize).sum::<usize>(), len);
                    assert_eq!(runs[0].0, bus(0) + offset as u64);
                    assert_eq!(runs.len(), if gap == 1 { 1 } else { count });
                    for (i, run) in runs.iter().enumerate().skip(1) {
                        assert_eq!(run.0, bus(i));
                    }
                }
            }
        }
    }
}
