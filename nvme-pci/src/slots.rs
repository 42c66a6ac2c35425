//! Commands in flight, by command identifier.

use nvme_core::transport::{Data, Tag};

use crate::bounce::Chain;

/// Bits of a command identifier that are left for the generation at least.
const GENERATION_BITS: u32 = 4;
/// Commands that a queue can have in flight at most.
pub(crate) const SLOTS_MAX: u16 = 1 << (16 - GENERATION_BITS);

/// Where the device finds a command's data.
#[derive(Debug)]
pub(crate) enum Place {
    /// There is none.
    None,
    /// In the caller's own memory.
    Direct,
    /// In pages of the queue's pool.
    Bounce(Chain),
    /// Its metadata in a piece of the queue's; its data in pages of the pool, if it has some.
    Metadata { piece: u16, data: Chain },
}

/// What the driver itself wants to know of a command's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Nothing.
    No,
    /// Identify Controller.
    Identify,
    /// Delete I/O Completion Queue of this queue.
    DeleteCq(u16),
    /// Asynchronous Event Request, which may take for ever.
    Event,
    /// Doorbell Buffer Config, the driver's own: nobody else is told of its end.
    Doorbells,
}

/// A command in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub tag: Tag,
    pub data: Data,
    pub place: Place,
    pub watch: Watch,
    /// Its number among the entries of the submission ring.
    pub number: u64,
}

#[derive(Debug)]
struct Slot {
    /// Tells this use of the slot from the ones before.
    generation: u16,
    command: Option<InFlight>,
}

/// The slots of one queue. A command identifier is a slot's number with the generation above it, so
/// that an answer that comes late, or twice, is not taken for that of the slot's next command.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// Bits of a command identifier that are the slot's number.
    bits: u32,
}

/// Why a command identifier of a completion is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCid {
    /// No command in flight has it.
    Unknown,
    /// A command that has ended already had it.
    Stale,
}

impl Slots {
    /// `count` free slots, at most [`SLOTS_MAX`].
    pub fn new(count: u16) -> Self {
        let count = count.clamp(1, SLOTS_MAX);
        Self {
            slots: (0..count).map(|_| Slot { generation: 0, command: None }).collect(),
            // The lowest numbers are used first, so that little memory is touched at low depth.
            free: (0..count).rev().collect(),
            bits: u32::from(count).next_power_of_two().trailing_zeros(),
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot that the next [`put`](Self::put) uses.
    #[inline]
    pub fn next_free(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Puts a command into the slot that [`next_free`](Self::next_free) told; its identifier.
    #[inline]
    pub fn put(&mut self, command: InFlight) -> Option<u16> {
        let at = self.free.pop()?;
        let slot = self.slots.get_mut(usize::from(at))?;
        slot.command = Some(command);
        Some(slot.generation << self.bits | at)
    }

    /// The slot and generation in a command identifier.
    #[inline]
    fn split(&self, cid: u16) -> (usize, u32) {
        (usize::from(cid) & ((1 << self.bits) - 1), u32::from(cid) >> self.bits)
    }

    /// The command that a completion is for.
    #[inline]
    pub fn find(&self, cid: u16) -> Result<&InFlight, BadCid> {
        let (at, generation) = self.split(cid);
        let slot = self.slots.get(at).ok_or(BadCid::Unknown)?;
        match &slot.command {
            _ if generation != u32::from(slot.generation) => Err(BadCid::Stale),
            Some(command) => Ok(command),
            None => Err(BadCid::Unknown),
        }
    }

    /// The identifier of the command with this tag. Looks at all slots. Commands of the driver's own
    /// have no tag.
    pub fn command_id(&self, tag: Tag) -> Option<u16> {
        let own = |c: &InFlight| c.watch == Watch::Doorbells;
        let is = |s: &Slot| s.command.as_ref().is_some_and(|c| c.tag == tag && !own(c));
        let (slot, at) = self.slots.iter().zip(0u16..).find(|(slot, _)| is(slot))?;
        Some(slot.generation << self.bits | at)
    }

    /// Takes the command out that a completion is for.
    #[inline]
    pub fn take(&mut self, cid: u16) -> Result<InFlight, BadCid> {
        self.find(cid)?;
        let (at, _) = self.split(cid);
        let slot = self.slots.get_mut(at).ok_or(BadCid::Unknown)?;
        let command = slot.command.take().ok_or(BadCid::Unknown)?;
        // The last generation is left out: FFFFh is not to be used as an identifier (NVMe 2.1 §4.1).
        let last = (1u32 << (16 - self.bits)) - 2;
        let next = if u32::from(slot.generation) == last { 0 } else { slot.generation + 1 };
        slot.generation = next;
        self.free.push(at as u16);
        Ok(command)
    }

    /// Takes all commands out, for the end of a queue.
    pub fn drain(&mut self) -> impl Iterator<Item = InFlight> {
        let free = &mut self.free;
        self.slots.iter_mut().zip(0u16..).filter_map(move |(slot, at)| {
            let command = slot.command.take()?;
            free.push(at);
            Some(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(tag: Tag) -> InFlight {
        InFlight { tag, data: Data::None, place: Place::None, watch: Watch::No, number: 0 }
    }

    #[test]
    fn an_answer_is_taken_once() {
        let mut slots = Slots::new(3);
        let cids: Vec<u16> = (0..3).map(|t| slots.put(command(t)).unwrap()).collect();
        assert_eq!((0..4).map(|t| slots.command_id(t)).collect::<Vec<_>>(), {
            let mut known: Vec<_> = cids.iter().map(|cid| Some(*cid)).collect();
            known.push(None);
            known
        });
        assert_eq!(slots.put(command(9)), None);
        assert_eq!(slots.take(cids[1]).unwrap().tag, 1);
        assert_eq!(slots.take(cids[1]).unwrap_err(), BadCid::Stale);
        let again = slots.put(command(4)).unwrap();
        assert_ne!(again, cids[1], "the same slot under another identifier");
        assert_eq!(slots.take(cids[1]).unwrap_err(), BadCid::Stale);
        assert_eq!(slots.take(again).unwrap().tag, 4);
        assert_eq!(slots.take(3).unwrap_err(), BadCid::Unknown, "no such slot");
        assert_eq!(slots.drain().map(|c| c.tag).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(slots.in_flight(), 0);
    }

    #[test]
    fn the_identifier_that_is_not_to_be_used_is_not() {
        for count in [1, 2, 31, 127, SLOTS_MAX] {
            let mut slots = Slots::new(count);
            for _ in 0..70_000 {
                let cid = slots.put(command(0)).unwrap();
                assert_ne!(cid, u16::MAX);
                slots.take(cid).unwrap();
            }
            // The slot with the highest number, through all its generations.
            let all: Vec<u16> = (0..count).map(|_| slots.put(command(0)).unwrap()).collect();
            assert!(!all.contains(&u16::MAX));
        }
    }
}
