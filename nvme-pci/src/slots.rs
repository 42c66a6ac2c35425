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

impl InFlight {
    /// Whether its end is nobody's business but its owner's, and its data is where that wants it.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.watch == Watch::No && matches!(self.place, Place::None | Place::Direct)
    }
}

/// A command identifier that is in use, or free.
#[derive(Debug)]
struct Slot {
    command: InFlight,
    /// Tells this use of the slot from the ones before.
    generation: u16,
    used: bool,
    /// Of a free slot: the next free one.
    next: u16,
}

/// The end of the list of free slots: no slot's number.
const END: u16 = u16::MAX;

/// The slots of one queue. A command identifier is a slot's number with the generation above it, so
/// that an answer that comes late, or twice, is not taken for that of the slot's next command.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: u16,
    in_flight: usize,
    /// Bits of a command identifier that are the slot's number.
    bits: u32,
    /// The generation before the first.
    last: u16,
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
        let bits = u32::from(count).next_power_of_two().trailing_zeros();
        let slot = |at: u16| Slot {
            command: InFlight {
                tag: 0,
                data: Data::None,
                place: Place::None,
                watch: Watch::No,
                number: 0,
            },
            generation: 0,
            used: false,
            // The lowest numbers are used first, so that little memory is touched at low depth.
            next: if at + 1 == count { END } else { at + 1 },
        };
        Self {
            slots: (0..count).map(slot).collect(),
            free: 0,
            in_flight: 0,
            bits,
            // FFFFh is not to be used as an identifier (NVMe 2.1 §4.1).
            last: ((1u32 << (16 - bits)) - 2) as u16,
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The slot that the next [`put`](Self::put) uses.
    #[inline]
    pub fn next_free(&self) -> Option<u16> {
        (self.free != END).then_some(self.free)
    }

    /// Has the next [`put`](Self::put) use a slot with a number below `most`; which, if one is free.
    #[cold]
    pub fn prefer_below(&mut self, most: usize) -> Option<u16> {
        let mut before = None;
        let mut at = self.free;
        while usize::from(at) >= most {
            before = Some(at);
            at = self.slots.get(usize::from(at))?.next;
        }
        if let Some(before) = before {
            let after = std::mem::replace(&mut self.slots[usize::from(at)].next, self.free);
            self.slots[usize::from(before)].next = after;
            self.free = at;
        }
        Some(at)
    }

    /// Puts a command into the slot that [`next_free`](Self::next_free) told, and takes its data,
    /// which the device finds where it is; its identifier.
    #[inline]
    pub fn put(&mut self, tag: Tag, data: &mut Data, number: u64) -> Option<u16> {
        let at = self.free;
        let slot = self.slots.get_mut(usize::from(at))?;
        self.free = slot.next;
        self.in_flight += 1;
        slot.used = true;
        let command = &mut slot.command;
        (command.tag, command.number) = (tag, number);
        (command.place, command.watch) = (Place::Direct, Watch::No);
        // What was there has been taken. Said here, so that the move needs no detour.
        command.data = Data::None;
        command.data = std::mem::take(data);
        Some(slot.generation << self.bits | at)
    }

    /// The command that a completion is for, by the slot's number.
    #[inline]
    pub fn find(&self, cid: u16) -> Result<(u16, &InFlight), BadCid> {
        let at = self.number(cid);
        let slot = self.slots.get(usize::from(at)).ok_or(BadCid::Unknown)?;
        if u32::from(cid) >> self.bits != u32::from(slot.generation) {
            return Err(BadCid::Stale);
        }
        if slot.used { Ok((at, &slot.command)) } else { Err(BadCid::Unknown) }
    }

    /// The number of the slot whose commands have such an identifier.
    #[inline]
    pub const fn number(&self, cid: u16) -> u16 {
        cid & ((1 << self.bits) - 1)
    }

    /// The identifier of the command with this tag. Looks at all slots. Commands of the driver's own
    /// have no tag.
    pub fn command_id(&self, tag: Tag) -> Option<u16> {
        let own = |c: &InFlight| c.watch == Watch::Doorbells;
        let is = |s: &Slot| s.used && s.command.tag == tag && !own(&s.command);
        let (slot, at) = self.slots.iter().zip(0u16..).find(|(slot, _)| is(slot))?;
        Some(slot.generation << self.bits | at)
    }

    /// The command in a slot.
    pub fn get(&self, at: u16) -> Option<&InFlight> {
        self.slots.get(usize::from(at)).filter(|slot| slot.used).map(|slot| &slot.command)
    }

    /// The same to be changed.
    pub fn get_mut(&mut self, at: u16) -> Option<&mut InFlight> {
        self.slots.get_mut(usize::from(at)).filter(|slot| slot.used).map(|slot| &mut slot.command)
    }

    /// Frees the slot that [`find`](Self::find) told, and gives what its command had.
    #[inline]
    pub fn free(&mut self, at: u16) -> Option<(Tag, Data)> {
        let slot = self.slots.get_mut(usize::from(at)).filter(|slot| slot.used)?;
        slot.used = false;
        slot.generation = if slot.generation == self.last { 0 } else { slot.generation + 1 };
        slot.next = self.free;
        self.free = at;
        self.in_flight -= 1;
        Some((slot.command.tag, std::mem::take(&mut slot.command.data)))
    }

    /// The numbers of the slots that are in use, for the end of a queue.
    pub fn used(&self) -> Vec<u16> {
        (0u16..).zip(&self.slots).filter(|(_, slot)| slot.used).map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(slots: &mut Slots, tag: Tag) -> Option<u16> {
        slots.put(tag, &mut Data::None, 0)
    }

    /// Frees the slot of a command; its tag.
    fn take(slots: &mut Slots, cid: u16) -> Result<Tag, BadCid> {
        let (at, _) = slots.find(cid)?;
        Ok(slots.free(at).unwrap().0)
    }

    #[test]
    fn an_answer_is_taken_once() {
        let mut slots = Slots::new(3);
        let cids: Vec<u16> = (0..3).map(|t| put(&mut slots, t).unwrap()).collect();
        assert_eq!((0..4).map(|t| slots.command_id(t)).collect::<Vec<_>>(), {
            let mut known: Vec<_> = cids.iter().map(|cid| Some(*cid)).collect();
            known.push(None);
            known
        });
        assert_eq!(put(&mut slots, 9), None);
        assert_eq!(take(&mut slots, cids[1]).unwrap(), 1);
        assert_eq!(take(&mut slots, cids[1]).unwrap_err(), BadCid::Stale);
        let again = put(&mut slots, 4).unwrap();
        assert_ne!(again, cids[1], "the same slot under another identifier");
        assert_eq!(take(&mut slots, cids[1]).unwrap_err(), BadCid::Stale);
        assert_eq!(take(&mut slots, again).unwrap(), 4);
        assert_eq!(take(&mut slots, 3).unwrap_err(), BadCid::Unknown, "no such slot");
        let left: Vec<Tag> = slots.used().into_iter().map(|at| slots.free(at).unwrap().0).collect();
        assert_eq!((left, slots.in_flight()), (vec![0, 2], 0));
    }

    #[test]
    fn a_slot_with_a_low_number_is_found_behind_others() {
        let mut slots = Slots::new(6);
        let cids: Vec<u16> = (0..6).map(|t| put(&mut slots, t).unwrap()).collect();
        assert_eq!(slots.prefer_below(6), None, "none is free");
        for cid in [1, 0, 3, 5] {
            take(&mut slots, cids[cid]).unwrap();
        }
        assert_eq!(slots.prefer_below(6), Some(5), "the one that it is anyway");
        assert_eq!(slots.prefer_below(2), Some(0));
        assert_eq!((slots.prefer_below(1), slots.next_free()), (Some(0), Some(0)));
        put(&mut slots, 10).unwrap();
        assert_eq!((slots.prefer_below(1), slots.next_free()), (None, Some(5)));
        let order: Vec<u16> = (0..3).map(|_| put(&mut slots, 11).unwrap() & 7).collect();
        assert_eq!((order, slots.next_free()), (vec![5, 3, 1], None));
    }

    #[test]
    fn the_identifier_that_is_not_to_be_used_is_not() {
        for count in [1, 2, 31, 127, SLOTS_MAX] {
            let mut slots = Slots::new(count);
            for _ in 0..70_000 {
                let cid = put(&mut slots, 0).unwrap();
                assert_ne!(cid, u16::MAX);
                take(&mut slots, cid).unwrap();
            }
            // The slot with the highest number, through all its generations.
            let all: Vec<u16> = (0..count).map(|_| put(&mut slots, 0).unwrap()).collect();
            assert!(!all.contains(&u16::MAX));
        }
    }
}
