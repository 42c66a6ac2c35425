//! The best lanes, as long as they are known to be.
//!
//! Until the channel is polled again, what is in flight on a controller only grows, and with it the time
//! that a request is expected to take there. So of several lanes that are best and equally so, each one
//! stays best until it got one more request; and where the next best one is further off than that, all of
//! them are best once more. A look at all lanes is needed only when neither tells.

/// What is expected of a request on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outlook {
    /// How good the lane is for it: less is better.
    pub(super) time: u64,
    /// How much is added to that with each request that is in flight; 1 at least.
    pub(super) each: u64,
    /// What is in flight.
    pub(super) load: u32,
}

/// See the module's text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leaders {
    /// The round of the queues in which this holds.
    round: u64,
    /// Those of `all` that got nothing yet, by their places' bits.
    left: u64,
    /// The best lanes, of the first 64.
    all: u64,
    /// What is expected of each of `left`.
    time: u64,
    each: u64,
    load: u32,
    /// How many there are in `all`; and how many requests they took before they had so much.
    count: u32,
    taken: u32,
    /// The best time of all other lanes.
    other: u64,
}

impl Leaders {
    /// The first of the best lanes, as far as it is known without a look at the others. `load` says what
    /// is in flight on a lane now.
    #[inline]
    pub(super) fn take(&mut self, round: u64, load: impl Fn(usize) -> u32) -> Option<usize> {
        if self.round != round {
            return None;
        }
        loop {
            while self.left != 0 {
                let at = self.left.trailing_zeros() as usize;
                self.left &= self.left - 1;
                // Requests of other heads may have gone there.
                if load(at) <= self.load {
                    return Some(at);
                }
            }
            // Each of them has got one more.
            let time = self.time.saturating_add(self.each);
            if time >= self.other {
                return None;
            }
            (self.time, self.load, self.left) = (time, self.load + 1, self.all);
            self.taken += self.count;
        }
    }

    /// Looks at the lanes, in their order, `None` for those that cannot be taken, and takes the first of
    /// the best ones.
    pub(super) fn look(
        &mut self,
        round: u64,
        lanes: impl Iterator<Item = Option<Outlook>>,
    ) -> Option<usize> {
        let (mut found, mut best) = (None, Outlook { time: u64::MAX, each: 1, load: 0 });
        let (mut all, mut count, mut other) = (0, 0, u64::MAX);
        for (at, lane) in lanes.enumerate() {
            let Some(lane) = lane else { continue };
            let bit = if at < 64 { 1 << at } else { 0 };
            if found.is_none() || lane.time < best.time {
                (other, found, best) = (best.time, Some(at), lane);
                (all, count) = (bit, 1);
            } else if lane == best && bit != 0 {
                (all, count) = (all | bit, count + 1);
            } else {
                other = other.min(lane.time);
            }
        }
        // Beyond the 64th a lane is found, but not remembered.
        let other = if all == 0 { 0 } else { other };
        let Outlook { time, each, load } = best;
        let left = found.map_or(0, |at| all & !(1_u64.checked_shl(at as u32).unwrap_or(0)));
        *self = Self { round, left, all, time, each, load, taken: 0, count, other };
        found
    }

    /// The next look is at all lanes as soon as each of the best ones has got one more.
    pub(super) const fn stop(&mut self) {
        self.other = 0;
    }

    /// What is in flight on each of the best lanes that got nothing since; and which they are, by bit.
    pub(super) const fn best(&self) -> (u32, u64) {
        (self.load, self.all)
    }

    /// How many requests they took since all lanes were looked at.
    pub(super) const fn taken(&self) -> u32 {
        self.taken + self.count - self.left.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random (xorshift).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }
    }

    struct Lane {
        base: u64,
        each: u64,
        load: u32,
    }

    fn outlook(lane: &Lane) -> Option<Outlook> {
        let Lane { base, each, load } = *lane;
        let time = base.saturating_add(each.saturating_mul(load.into()));
        Some(Outlook { time, each, load })
    }

    fn choose(leaders: &mut Leaders, round: u64, lanes: &[Lane]) -> (usize, bool) {
        let load = |at: usize| lanes[at].load;
        match leaders.take(round, load) {
            Some(at) => (at, false),
            None => (leaders.look(round, lanes.iter().map(outlook)).unwrap(), true),
        }
    }

    #[test]
    fn the_choice_is_that_of_a_look_at_all_lanes_each_time() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for case in 0..2000 {
            let (count, lines) = (1 + dice.roll(80), 1 + dice.roll(3));
            let mut lane = |_| {
                let line = dice.roll(lines);
                let base = [0, 40, 1000][line as usize];
                Lane { base, each: 1 + line * 7, load: dice.roll(4) as u32 }
            };
            let mut lanes: Vec<Lane> = (0..count).map(&mut lane).collect();
            let (mut leaders, mut round) = (Leaders::default(), 1);
            for request in 0..300 {
                let best = lanes.iter().map(|lane| outlook(lane).unwrap().time).min().unwrap();
                let (at, _) = choose(&mut leaders, round, &lanes);
                let time = outlook(&lanes[at]).unwrap().time;
                assert_eq!(time, best, "case {case}, request {request}, lane {at}");
                // Where all have the same line, of those with the least in flight the first.
                let first = lanes.iter().position(|l| outlook(l).unwrap().time == best);
                assert!(
                    lines > 1 || Some(at) == first,
                    "case {case}, request {request}, lane {at}"
                );
                lanes[at].load += 1;
                match dice.roll(40) {
                    // Another head's request.
                    0..4 => {
                        let other = dice.roll(count) as usize;
                        lanes[other].load += 1;
                    }
                    4 => {
                        round += 1;
                        lanes.iter_mut().for_each(|lane| lane.load -= lane.load.min(3));
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn all_lanes_are_looked_at_once_where_they_are_equal() {
        let lane = |_| Lane { base: 7, each: 2, load: 3 };
        let mut lanes: Vec<Lane> = (0..8).map(lane).collect();
        let mut leaders = Leaders::default();
        let looks = (0..64).filter(|request| {
            let (at, looked) = choose(&mut leaders, 1, &lanes);
            assert_eq!(at, request % 8);
            lanes[at].load += 1;
            looked
        });
        assert_eq!((looks.count(), leaders.taken()), (1, 64));
    }
}
