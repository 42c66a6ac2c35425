//! Data that tells where it belongs and which version of it this is.

/// The contents of blocks: a function of their place, a version and a salt. Two patterns of different
/// place or version differ in every eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Tells tests apart that share a namespace.
    pub salt: u64,
    /// Which time the place is written.
    pub version: u64,
}

impl Pattern {
    /// `len` bytes for the byte offset `at`.
    #[must_use]
    pub fn bytes(self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.fill(at, &mut data);
        data
    }

    /// Fills `data`, which belongs at the byte offset `at`.
    pub fn fill(self, at: u64, data: &mut [u8]) {
        for (i, word) in data.chunks_mut(8).enumerate() {
            let value = self.word(at + i as u64 * 8).to_le_bytes();
            let len = word.len();
            word.copy_from_slice(&value[..len]);
        }
    }

    /// Where `data`, read at the byte offset `at`, first is another than this one.
    #[must_use]
    pub fn difference(self, at: u64, data: &[u8]) -> Option<u64> {
        data.chunks(8).enumerate().find_map(|(i, word)| {
            let offset = at + i as u64 * 8;
            (self.word(offset).to_le_bytes()[..word.len()] != *word).then_some(offset)
        })
    }

    /// SplitMix64, whose output function is a bijection: different inputs give different words.
    fn word(self, offset: u64) -> u64 {
        let input = offset ^ self.version.rotate_left(40) ^ self.salt.rotate_left(20);
        let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
