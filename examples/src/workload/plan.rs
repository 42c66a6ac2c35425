//! What is read and written, and where.

use super::stamp::mix;

/// The order and the kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Reads, one after the other through the region, again and again.
    Read,
    /// Writes, one after the other.
    Write,
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// As many reads as writes, anywhere.
    RandRw,
}

impl Pattern {
    /// Whether it writes.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::RandRead)
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads blocks.
    Read,
    /// Writes blocks.
    Write,
}

/// One worker's share of the work. It has its region for itself: nobody else writes to it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Order and kind of requests.
    pub pattern: Pattern,
    /// First block of the region.
    pub first: u64,
    /// Blocks in the region, at least `request_blocks`.
    pub blocks: u64,
    /// Bytes that a block has in a buffer: its data, and its metadata if that follows.
    pub block_size: usize,
    /// Bytes of metadata of each block beside the buffer's data.
    pub metadata_size: usize,
    /// Blocks moved by one request, at least 1.
    pub request_blocks: u64,
    /// Random requests begin at multiples of their size; otherwise at any block, so that they
    /// overlap in part.
    pub aligned: bool,
    /// Stamp what is written, and judge what is read. Needs blocks of 512 bytes or more.
    pub verify: bool,
    /// Requests under way at once, 1..=65,536.
    pub depth: usize,
    /// Where randomness starts from; also names the run in the stamps, so that two workers, and two
    /// runs, must not have the same one.
    pub seed: u64,
}

impl Plan {
    /// Bytes moved by one request.
    #[must_use]
    pub const fn request_bytes(&self) -> usize {
        self.request_blocks as usize * self.block_size
    }

    /// Cuts the region into `workers` plans of equal size; `None` if it is too small for that.
    #[must_use]
    pub fn split(&self, workers: u64) -> Option<Vec<Self>> {
        let blocks = self.blocks.checked_div(workers)?;
        let share = |i: u64| Self {
            first: self.first + i * blocks,
            blocks,
            seed: mix(self.seed.wrapping_add(i)),
            ..self.clone()
        };
        (blocks >= self.request_blocks).then(|| (0..workers).map(share).collect())
    }
}

/// Chooses one request after the other.
#[derive(Debug)]
pub(super) struct Chooser {
    random: u64,
    /// Offset of the next sequential request, in blocks.
    next: u64,
}

impl Chooser {
    pub(super) const fn new(seed: u64) -> Self {
        Self { random: seed, next: 0 }
    }

    /// The next request: what, and from which block on.
    pub(super) fn choose(&mut self, plan: &Plan) -> (Kind, u64) {
        let kind = match plan.pattern {
            Pattern::Read | Pattern::RandRead => Kind::Read,
            Pattern::Write | Pattern::RandWrite => Kind::Write,
            Pattern::RandRw if self.below(2) == 0 => Kind::Read,
            Pattern::RandRw => Kind::Write,
        };
        let offset = match plan.pattern {
            Pattern::Read | Pattern::Write => {
                let offset = self.next;
                let after = offset + plan.request_blocks;
                self.next = if after + plan.request_blocks > plan.blocks { 0 } else { after };
                offset
            }
            _ if plan.aligned => {
                self.below(plan.blocks / plan.request_blocks) * plan.request_blocks
            }
            _ => self.below(plan.blocks - plan.request_blocks + 1),
        };
        (kind, plan.first + offset)
    }

    /// A number from 0 to below `limit` (SplitMix64; the bias is far below what matters here).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pattern: Pattern, aligned: bool) -> Plan {
        Plan {
            pattern,
            first: 100,
            blocks: 10,
            block_size: 512,
            metadata_size: 0,
            request_blocks: 4,
            aligned,
            verify: true,
            depth: 4,
            seed: 1,
        }
    }

    #[test]
    fn requests_stay_inside_the_region() {
        for pattern in [Pattern::Read, Pattern::Write, Pattern::RandRw] {
            for aligned in [true, false] {
                let plan = plan(pattern, aligned);
                let mut chooser = Chooser::new(plan.seed);
                for _ in 0..1000 {
                    let (_, lba) = chooser.choose(&plan);
                    assert!((100..=106).contains(&lba), "{pattern:?}: {lba}");
                    assert!(!aligned || (lba - 100) % 4 == 0);
                }
            }
        }
    }

    #[test]
    fn shares_do_not_overlap() {
        let shares = plan(Pattern::RandRw, true).split(2).unwrap();
        assert_eq!((shares[0].first, shares[1].first), (100, 105));
        assert_ne!(shares[0].seed, shares[1].seed);
        assert!(plan(Pattern::RandRw, true).split(3).is_none());
        assert!(plan(Pattern::RandRw, true).split(0).is_none());
    }
}
