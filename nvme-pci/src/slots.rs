//! Commands in flight, by command identifier.

use nvme_core::transport::{Data, Tag};

use crate::bounce::Chain;
use crate::ring::Spot;

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

/// What there is to be known of a command that is not plain: more is to be done about its end than to
/// tell its owner, or its data is not where that wants it.
#[derive(Debug)]
pub(crate) struct Odd {
    pub place: Place,
    pub watch: Watch,
}

impl Odd {
    const NONE: Self = Self { place: Place::None, watch: Watch::No };
}

/// A command identifier that is in use, or free: one cache line, all that a plain command needs.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    data: Data,
    /// Where the command is on the submission ring.
    spot: Spot,
    /// The command identifier of this use, or of the next one, and above it what else there is to
    /// know: [`FREE`], [`ODD`]. So that of a plain command in flight it is the identifier alone.
    state: u32,
    tag: Tag,
    /// Of a free slot: the next free one.
    next: u16,
}

/// Nothing is in flight under the identifier.
const FREE: u32 = 1 << 16;
/// There is an [`Odd`] to the command.
const ODD: u32 = 1 << 17;

/// The end of the list of free slots: no slot's number.
const END: u16 = u16::MAX;

/// The slots of one queue. A command identifier is a slot's number with the generation above it, so
/// that an answer that comes late, or twice, is not taken for that of the slot's next command.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// By the same places; of no meaning for slots that are not so flagged.
    odd: Box<[Odd]>,
    free: u16,
    /// The part of a command identifier that is the slot's number.
    mask: u16,
    /// The first number past the identifiers that are used.
    end: u32,
    in_flight: usize,
}

/// Why a command identifier of a completion is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCid {
    /// No command in flight has it.
    Unknown,
    /// A command that has ended already had it.
    Stale,
}

impl Slot {
    /// The command has ended: the identifier is not valid any more.
    #[inline]
    fn vacate(&mut self, cid: u16, mask: u16, end: u32) {
        let cid = u32::from(cid);
        let next = cid + u32::from(mask) + 1;
        let next = if next < end { next } else { cid & u32::from(mask) };
        self.state = next | FREE;
    }

    /// Drops what was not taken.
    #[inline]
    fn clear(&mut self) {
        if !matches!(self.data, Data::None) {
            self.data = Data::None;
        }
    }
}

impl Slots {
    /// `count` free slots, at most [`SLOTS_MAX`].
    pub fn new(count: u16) -> Self {
        let count = count.clamp(1, SLOTS_MAX);
        let bits = u32::from(count).next_power_of_two().trailing_zeros();
        let slot = |at: u16| Slot {
            data: Data::None,
            spot: 0,
            state: u32::from(at) | FREE,
            tag: 0,
            // The lowest numbers are used first, so that little memory is touched at low depth.
            next: if at + 1 == count { END } else { at + 1 },
        };
        Self {
            slots: (0..count).map(slot).collect(),
            odd: (0..count).map(|_| Odd::NONE).collect(),
            free: 0,
            mask: ((1u32 << bits) - 1) as u16,
            // FFFFh is not to be used as an identifier (NVMe 2.1 §4.1).
            end: ((1u32 << (16 - bits)) - 1) << bits,
            in_flight: 0,
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
    pub fn put(&mut self, tag: Tag, data: &mut Data, spot: Spot) -> Option<u16> {
        let slot = self.slots.get_mut(usize::from(self.free))?;
        self.free = slot.next;
        self.in_flight += 1;
        slot.state &= !FREE;
        (slot.tag, slot.spot) = (tag, spot);
        data.move_to(&mut slot.data);
        Some(slot.state as u16)
    }

    /// Notes of the command in a slot what is not plain about it.
    #[cold]
    pub fn note(&mut self, at: u16, place: Place, watch: Watch) {
        let at = usize::from(at);
        if watch == Watch::No && matches!(place, Place::None | Place::Direct) {
            return;
        }
        if let (Some(slot), Some(odd)) = (self.slots.get_mut(at), self.odd.get_mut(at)) {
            slot.state |= ODD;
            *odd = Odd { place, watch };
        }
    }

    /// Frees the slot of the command that a completion is for, and shows what it had. False, and
    /// nothing was done, unless it is a plain one and `can_be` agrees, who is told its spot and how
    /// many are in flight.
    #[inline]
    pub fn end_plain(
        &mut self,
        cid: u16,
        can_be: impl FnOnce(Spot, usize) -> bool,
        taker: impl FnOnce(Tag, &mut Data),
    ) -> bool {
        let (mask, end) = (self.mask, self.end);
        let at = cid & mask;
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return false };
        // Neither free, nor odd, nor of another generation.
        if slot.state != u32::from(cid) || !can_be(slot.spot, self.in_flight) {
            return false;
        }
        slot.vacate(cid, mask, end);
        slot.next = self.free;
        self.free = at;
        self.in_flight -= 1;
        taker(slot.tag, &mut slot.data);
        slot.clear();
        true
    }

    /// The command that a completion is for: the slot's number, and the command's spot.
    #[cold]
    pub fn find(&self, cid: u16) -> Result<(u16, Spot), BadCid> {
        let at = cid & self.mask;
        let slot = self.slots.get(usize::from(at)).ok_or(BadCid::Unknown)?;
        if slot.state as u16 != cid {
            return Err(BadCid::Stale);
        }
        if slot.state & FREE == 0 { Ok((at, slot.spot)) } else { Err(BadCid::Unknown) }
    }

    /// The number of the slot whose commands have such an identifier.
    #[inline]
    pub const fn number(&self, cid: u16) -> u16 {
        cid & self.mask
    }

    /// The identifier of the command with this tag. Looks at all slots. Commands of the driver's own
    /// have no tag.
    pub fn command_id(&self, tag: Tag) -> Option<u16> {
        let own = |at: u16| self.watch(at) == Watch::Doorbells;
        let is = |(at, slot): &(u16, &Slot)| slot.state & FREE == 0 && slot.tag == tag && !own(*at);
        let (_, slot) = (0u16..).zip(&self.slots).find(is)?;
        Some(slot.state as u16)
    }

    /// What is to be known of the command in a slot, if it is not plain.
    fn odd(&self, at: u16) -> Option<&Odd> {
        let slot = self.slots.get(usize::from(at)).filter(|slot| slot.state & ODD != 0)?;
        self.odd.get(usize::from(at)).filter(|_| slot.state & FREE == 0)
    }

    /// What the driver wants to know of the end of the command in a slot.
    fn watch(&self, at: u16) -> Watch {
        self.odd(at).map_or(Watch::No, |odd| odd.watch)
    }

    /// What is not plain about the command in a slot. Its place is told once: whoever is told clears
    /// up there.
    #[cold]
    pub fn take_odd(&mut self, at: u16) -> Odd {
        match self.odd(at).is_some() {
            true => {
                let odd = &mut self.odd[usize::from(at)];
                let place = std::mem::replace(&mut odd.place, Place::None);
                Odd { place, watch: odd.watch }
            }
            false => Odd::NONE,
        }
    }

    /// The data of the command in a slot.
    pub fn data(&self, at: u16) -> Option<&Data> {
        self.slots.get(usize::from(at)).filter(|slot| slot.state & FREE == 0).map(|slot| &slot.data)
    }

    /// The same to be changed.
    pub fn data_mut(&mut self, at: u16) -> Option<&mut Data> {
        let slot = self.slots.get_mut(usize::from(at)).filter(|slot| slot.state & FREE == 0);
        slot.map(|slot| &mut slot.data)
    }

    /// Frees the slot of any command in flight, and gives what it had.
    #[cold]
    pub fn free(&mut self, at: u16) -> Option<(Tag, Data)> {
        let slot = self.slots.get_mut(usize::from(at)).filter(|slot| slot.state & FREE == 0)?;
        slot.vacate(slot.state as u16, self.mask, self.end);
        slot.next = self.free;
        self.free = at;
        self.in_flight -= 1;
        Some((slot.tag, std::mem::take(&mut slot.data)))
    }

    /// The numbers of the slots that are in use, for the end of a queue.
    pub fn used(&self) -> Vec<u16> {
        (0u16..).zip(&self.slots).filter(|(_, s)| s.state & FREE == 0).map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(slots: &mut Slots, tag: Tag) -> Option<u16> {
        slots.put(tag, &mut Data::None, 0)
    }

    /// Frees the slot of a command, by the way of plain ones where it is one; its tag.
    fn take(slots: &mut Slots, cid: u16) -> Result<Tag, BadCid> {
        let mut tag = None;
        if slots.end_plain(cid, |_, _| true, |its, _| tag = Some(its)) {
            return Ok(tag.unwrap());
        }
        let (at, _) = slots.find(cid)?;
        Ok(slots.free(at).unwrap().0)
    }

    fn is_plain(slots: &Slots, cid: u16) -> bool {
        slots.slots[usize::from(cid & slots.mask)].state == u32::from(cid)
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
    fn what_is_odd_about_a_command_ends_with_it() {
        let mut slots = Slots::new(2);
        let cid = put(&mut slots, 5).unwrap();
        slots.note(0, Place::Direct, Watch::No);
        assert!(is_plain(&slots, cid), "nothing was odd");
        slots.note(0, Place::None, Watch::Event);
        assert!(!is_plain(&slots, cid));
        assert_eq!((slots.find(cid), slots.command_id(5)), (Ok((0, 0)), Some(cid)));
        assert_eq!((slots.take_odd(0).watch, slots.take_odd(1).watch), (Watch::Event, Watch::No));
        assert_eq!(take(&mut slots, cid), Ok(5));
        let again = put(&mut slots, 6).unwrap();
        assert_eq!(slots.take_odd(0).watch, Watch::No);
        assert!(is_plain(&slots, again));
        slots.note(0, Place::None, Watch::Doorbells);
        assert_eq!(slots.command_id(6), None, "the driver's own");
    }

    #[test]
    fn data_that_nobody_took_is_dropped() {
        let mut slots = Slots::new(1);
        let mut data = Data::Read(nvme_core::buffer::Buffer::zeroed(8));
        let cid = slots.put(1, &mut data, 0).unwrap();
        assert!(matches!(data, Data::None) && slots.data(0).unwrap().len() == 8);
        assert!(!slots.end_plain(cid, |_, _| false, |_, _| unreachable!()), "it cannot be");
        assert!(slots.end_plain(cid, |spot, in_flight| (spot, in_flight) == (0, 1), |_, _| {}));
        slots.put(2, &mut data, 1).unwrap();
        assert!(matches!(data, Data::None) && slots.data(0).unwrap().is_empty());
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
