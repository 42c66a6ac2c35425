//! What is written to a block so that it can be told, later, whose it is.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | magic |
//! | 8..16 | logical block address |
//! | 16..24 | sequence number of the write |
//! | 24..32 | run |
//! | 32..36 | CRC32C of the whole block, with this field zero |
//! | 36..40 | zero |
//! | 40.. | a pattern made from all of the above |
//!
//! All numbers are little-endian. The pattern fills the block so that a block of which only a part
//! was written never has a valid checksum.

use crc_fast::{CrcAlgorithm, Digest};

/// Smallest block that a stamp fits into, in bytes.
pub const MIN_BLOCK: usize = 512;

const MAGIC: [u8; 8] = *b"nvmeh\x01\xd7\x5e";
const CRC_AT: usize = 32;
const PATTERN_AT: usize = 40;

/// Says which write a block comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Logical block address that the block was written to.
    pub lba: u64,
    /// Sequence number of the write, from 1 on within a run.
    pub sequence: u64,
    /// Tells the writer apart from others, and from earlier ones.
    pub run: u64,
}

/// What a block was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A whole stamped block.
    Stamp(Stamp),
    /// It looks like a stamped block, and its checksum is wrong.
    Damaged,
    /// All bytes are zero.
    Zero,
    /// Something that was not written by this engine.
    Foreign,
}

impl Stamp {
    /// Fills `block` (at least [`MIN_BLOCK`] bytes; a shorter one is left alone).
    pub fn write(&self, block: &mut [u8]) {
        if block.len() < MIN_BLOCK {
            return;
        }
        let (head, body) = block.split_at_mut(PATTERN_AT);
        head.fill(0);
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&self.lba.to_le_bytes());
        head[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        head[24..32].copy_from_slice(&self.run.to_le_bytes());
        self.pattern(body);
        let crc = checksum(block);
        block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Fills the metadata beside a block, of any length.
    pub fn write_metadata(&self, metadata: &mut [u8]) {
        self.pattern(metadata);
    }

    /// Whether the metadata beside a block is what this write had.
    #[must_use]
    pub fn has_metadata(&self, metadata: &[u8]) -> bool {
        let mut own = vec![0; metadata.len()];
        self.pattern(&mut own);
        own == metadata
    }

    /// Words that differ between stamps and within one.
    fn pattern(&self, body: &mut [u8]) {
        let seed = mix(self.lba ^ mix(self.sequence ^ mix(self.run)));
        for (word, i) in body.chunks_mut(8).zip(1u64..) {
            let value = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
            let len = word.len();
            word.copy_from_slice(&value[..len]);
        }
    }
}

/// Looks at a block.
#[must_use]
pub fn inspect(block: &[u8]) -> Seen {
    if block.len() < MIN_BLOCK || block[..8] != MAGIC {
        let zero = block.iter().all(|b| *b == 0);
        return if zero { Seen::Zero } else { Seen::Foreign };
    }
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| block[at + i]));
    let stored = u32::from_le_bytes(std::array::from_fn(|i| block[CRC_AT + i]));
    if checksum(block) != stored {
        return Seen::Damaged;
    }
    Seen::Stamp(Stamp { lba: word(8), sequence: word(16), run: word(24) })
}

/// CRC32C of a block, its own field taken as zero.
fn checksum(block: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&block[..CRC_AT]);
    digest.update(&[0; 4]);
    digest.update(&block[CRC_AT + 4..]);
    // A 32-bit checksum fits.
    digest.finalize() as u32
}

/// Spreads the bits of a number (the finalizer of SplitMix64).
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_of_one_write() {
        let stamp = Stamp { lba: 7, sequence: 3, run: 9 };
        let mut metadata = [0; 13];
        stamp.write_metadata(&mut metadata);
        assert!(stamp.has_metadata(&metadata));
        assert!(!Stamp { sequence: 4, ..stamp }.has_metadata(&metadata));
    }

    #[test]
    fn a_stamp_is_read_back_at_any_block_size() {
        for size in [512, 4096, 65_536] {
            let stamp = Stamp { lba: u64::MAX, sequence: 7, run: 3 };
            let mut block = vec![0xff; size];
            stamp.write(&mut block);
            assert_eq!(inspect(&block), Seen::Stamp(stamp));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_mixture_of_two_versions_is_seen() {
        let (mut a, mut b) = (vec![0; 512], vec![0; 512]);
        Stamp { lba: 9, sequence: 1, run: 1 }.write(&mut a);
        Stamp { lba: 9, sequence: 2, run: 1 }.write(&mut b);
        for at in 0..512 {
            let mut block = a.clone();
            block[at] ^= 0x10;
            assert!(matches!(inspect(&block), Seen::Damaged | Seen::Foreign), "byte {at}");
        }
        for cut in (64..512).step_by(64) {
            let mixed = [&a[..cut], &b[cut..]].concat();
            assert_eq!(inspect(&mixed), Seen::Damaged, "cut at {cut}");
        }
    }

    #[test]
    fn what_was_never_stamped_is_told_apart() {
        assert_eq!(inspect(&[0; 512]), Seen::Zero);
        assert_eq!(inspect(&[1; 512]), Seen::Foreign);
    }
}
