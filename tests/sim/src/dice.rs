//! Numbers that are as good as random, and the same for the same seed.

/// A generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The generator of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number from 0 to `sides` less one.
    pub const fn roll(&mut self, sides: u64) -> u64 {
        self.bits() % sides
    }

    /// True once in `sides` times.
    pub const fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    /// A number from `from` up to, and not, `to`.
    pub const fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.roll(to - from)
    }

    /// One of a list.
    pub const fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len() as u64) as usize]
    }

    /// A generator of its own for something that must not disturb this one's order.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self(self.bits())
    }
}
