//! The commands in flight: a fixed table, made once per queue, linked by index.

use nvme_core::spec::{Cqe, Sqe};
use nvme_core::transport::{Data, Tag};

/// No slot: the end of a list.
pub(crate) const NONE: u16 = u16::MAX;

/// The identifier that should not be used, because the Error Information log gives it the meaning
/// "no command" (NVMe 2.1 §4.1).
const RESERVED_CID: u16 = 0xffff;

/// Where a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No command here.
    Free,
    /// Waits for its capsule to be staged.
    Submitted,
    /// Its capsule has been staged; the controller owns it.
    Active,
    /// Answered, but its buffer is still being sent from.
    Draining,
}

/// A range of data that the controller is ready to take (R2T).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grant {
    pub(crate) offset: u32,
    pub(crate) left: u32,
    pub(crate) ttag: u16,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) data: Data,
    pub(crate) tag: Tag,
    /// The command's identifier on the wire.
    pub(crate) cid: u16,
    pub(crate) phase: Phase,
    /// The data goes in the command capsule.
    pub(crate) in_capsule: bool,
    /// Linked into the send list.
    pub(crate) queued: bool,
    /// The last C2HData PDU has come.
    pub(crate) last_seen: bool,
    /// A data digest was wrong.
    pub(crate) damaged: bool,
    /// Bytes of data.
    pub(crate) len: u32,
    /// Bytes received and checked for position.
    pub(crate) received: u32,
    /// End of the range that R2Ts have asked for.
    pub(crate) requested: u32,
    /// Bytes staged for sending.
    pub(crate) written: u32,
    /// Stream position of the first byte of its capsule.
    pub(crate) tx_begin: u64,
    /// Stream position after its last staged byte.
    pub(crate) tx_end: u64,
    /// The command, while it waits for its capsule to be staged.
    pub(crate) sqe: Sqe,
    /// The answer, while draining.
    pub(crate) answer: Cqe,
    next: u16,
    grant_first: u16,
    grants: u16,
}

/// All commands of a queue, the free list, the list of those with something to send, and the R2Ts.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    grants: Box<[Grant]>,
    max_r2t: u16,
    index_bits: u32,
    free: u16,
    in_use: usize,
    send_first: u16,
    send_last: u16,
}

impl Slots {
    /// Room for `capacity` commands (1 to 65,534) with `max_r2t` outstanding R2Ts each.
    pub(crate) fn new(capacity: u16, max_r2t: u16) -> Self {
        let slots = (0..capacity)
            .map(|i| Slot {
                data: Data::None,
                tag: 0,
                cid: i,
                phase: Phase::Free,
                in_capsule: false,
                queued: false,
                last_seen: false,
                damaged: false,
                len: 0,
                received: 0,
                requested: 0,
                written: 0,
                tx_begin: 0,
                tx_end: 0,
                sqe: Sqe::default(),
                answer: Cqe::default(),
                next: if i + 1 < capacity { i + 1 } else { NONE },
                grant_first: 0,
                grants: 0,
            })
            .collect();
        Self {
            slots,
            grants: vec![Grant::default(); usize::from(capacity) * usize::from(max_r2t)].into(),
            max_r2t,
            index_bits: u16::BITS - (capacity.saturating_sub(1)).leading_zeros(),
            free: if capacity == 0 { NONE } else { 0 },
            in_use: 0,
            send_first: NONE,
            send_last: NONE,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE
    }

    pub(crate) fn get(&self, index: u16) -> &Slot {
        &self.slots[usize::from(index)]
    }

    pub(crate) fn get_mut(&mut self, index: u16) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }

    /// Takes a free slot and gives its command a new identifier.
    pub(crate) fn take(&mut self, data: Data, tag: Tag, len: u32) -> Option<u16> {
        let index = self.free;
        let bits = self.index_bits;
        // The slots are fewer than `NONE`, which is the end of the free list.
        let slot = self.slots.get_mut(usize::from(index))?;
        self.free = slot.next;
        // The generation lies above the index, so that what overflows is what is too much of it.
        slot.cid = next_cid(slot.cid, index, bits);
        if slot.cid == RESERVED_CID {
            slot.cid = next_cid(slot.cid, index, bits);
        }
        slot.data = data;
        slot.tag = tag;
        slot.phase = Phase::Submitted;
        slot.in_capsule = false;
        slot.queued = false;
        slot.last_seen = false;
        slot.damaged = false;
        slot.len = len;
        slot.received = 0;
        slot.requested = 0;
        slot.written = 0;
        slot.next = NONE;
        slot.grants = 0;
        self.in_use += 1;
        Some(index)
    }

    /// Frees a slot; its tag, and its data, which the caller takes out before the slot is used again.
    pub(crate) fn release(&mut self, index: u16) -> (Tag, &mut Data) {
        let slot = &mut self.slots[usize::from(index)];
        debug_assert!(slot.phase != Phase::Free && !slot.queued);
        slot.phase = Phase::Free;
        slot.next = self.free;
        self.free = index;
        self.in_use -= 1;
        (slot.tag, &mut slot.data)
    }

    /// The slot that a command with this identifier would have, which need not exist.
    pub(crate) const fn index(&self, cid: u16) -> u16 {
        (cid as u32 & ((1 << self.index_bits) - 1)) as u16
    }

    /// The slot at `index` if the controller has its command, and `cid` names that.
    #[inline]
    pub(crate) fn active_mut(&mut self, cid: u16) -> Option<(u16, &mut Slot)> {
        let index = self.index(cid);
        let slot = self.slots.get_mut(usize::from(index))?;
        (slot.cid == cid && slot.phase == Phase::Active).then_some((index, slot))
    }

    /// The slot of the command that `cid` names, or why there is none.
    pub(crate) fn find(&self, cid: u16) -> Result<u16, &'static str> {
        let index = self.index(cid);
        match self.slots.get(usize::from(index)) {
            None => Err("no such command can exist on this queue"),
            Some(slot) if slot.cid != cid => {
                Err("an identifier of another generation, long completed")
            }
            Some(slot) if matches!(slot.phase, Phase::Free | Phase::Draining) => {
                Err("it is not in flight: already completed, or never sent")
            }
            Some(_) => Ok(index),
        }
    }

    /// The identifier of the unanswered command with this tag. Looks at all slots.
    pub(crate) fn command_id(&self, tag: Tag) -> Option<u16> {
        let unanswered = |slot: &&Slot| matches!(slot.phase, Phase::Submitted | Phase::Active);
        let slot = self.slots.iter().filter(unanswered).find(|slot| slot.tag == tag)?;
        Some(slot.cid)
    }

    /// Appends a slot to the send list, unless it is in it.
    pub(crate) fn queue_send(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        if slot.queued {
            return;
        }
        slot.queued = true;
        slot.next = NONE;
        if self.send_last == NONE {
            self.send_first = index;
        } else {
            self.slots[usize::from(self.send_last)].next = index;
        }
        self.send_last = index;
    }

    /// Takes the first slot of the send list.
    pub(crate) fn next_send(&mut self) -> Option<u16> {
        let index = self.send_first;
        if index == NONE {
            return None;
        }
        let slot = &mut self.slots[usize::from(index)];
        slot.queued = false;
        self.send_first = std::mem::replace(&mut slot.next, NONE);
        if self.send_first == NONE {
            self.send_last = NONE;
        }
        Some(index)
    }

    pub(crate) fn has_sends(&self) -> bool {
        self.send_first != NONE
    }

    /// Remembers an R2T; false when as many as allowed are outstanding.
    pub(crate) fn push_grant(&mut self, index: u16, grant: Grant) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        if slot.grants == self.max_r2t {
            return false;
        }
        let at = (slot.grant_first + slot.grants) % self.max_r2t;
        slot.grants += 1;
        self.grants[usize::from(index) * usize::from(self.max_r2t) + usize::from(at)] = grant;
        true
    }

    /// The oldest R2T of a command.
    pub(crate) fn grant_mut(&mut self, index: u16) -> Option<&mut Grant> {
        let slot = &self.slots[usize::from(index)];
        if slot.grants == 0 {
            return None;
        }
        let at = usize::from(index) * usize::from(self.max_r2t) + usize::from(slot.grant_first);
        self.grants.get_mut(at)
    }

    /// Drops the oldest R2T of a command; true when another is waiting.
    pub(crate) fn pop_grant(&mut self, index: u16) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        slot.grant_first = (slot.grant_first + 1) % self.max_r2t;
        slot.grants = slot.grants.saturating_sub(1);
        slot.grants > 0
    }
}

/// The identifier after `cid` of the slot at `index`: the index in the lower bits, above them a
/// generation, which wraps around.
const fn next_cid(cid: u16, index: u16, index_bits: u32) -> u16 {
    match 1u16.checked_shl(index_bits) {
        Some(step) => cid.wrapping_add(step),
        // No bit is left for a generation.
        None => index,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(slots: &mut Slots) -> (u16, u16) {
        let index = slots.take(Data::None, 0, 0).unwrap();
        (index, slots.get(index).cid)
    }

    #[test]
    fn every_slot_is_used_before_the_table_is_full() {
        for capacity in [1u16, 2, 31, 1023, 1024, 65_534] {
            let mut slots = Slots::new(capacity, 1);
            let mut seen = std::collections::HashSet::new();
            for _ in 0..capacity {
                let (index, cid) = take(&mut slots);
                assert!(seen.insert(cid), "capacity {capacity}: {cid:#x} twice");
                assert_eq!(slots.find(cid), Ok(index));
            }
            assert!(slots.is_full());
            assert!(slots.take(Data::None, 0, 0).is_none());
        }
    }

    #[test]
    fn an_identifier_dies_with_its_command_and_ffff_is_never_used() {
        // 16 slots: 4 bits of index, 12 of generation.
        let mut slots = Slots::new(16, 1);
        let mut old = None;
        for _ in 0..10_000 {
            let mut taken = Vec::new();
            for _ in 0..16 {
                let (index, cid) = take(&mut slots);
                assert_ne!(cid, 0xffff);
                taken.push((index, cid));
            }
            if let Some(old) = old {
                assert!(slots.find(old).is_err());
            }
            for (index, cid) in &taken {
                slots.release(*index);
                assert!(slots.find(*cid).is_err());
            }
            old = taken.first().map(|t| t.1);
        }
        assert_eq!(slots.in_use(), 0);
    }

    #[test]
    fn the_send_list_is_first_in_first_out_and_takes_a_slot_once() {
        let mut slots = Slots::new(4, 1);
        let a = take(&mut slots).0;
        let b = take(&mut slots).0;
        slots.queue_send(b);
        slots.queue_send(a);
        slots.queue_send(b);
        assert_eq!(slots.next_send(), Some(b));
        slots.queue_send(b);
        assert_eq!((slots.next_send(), slots.next_send()), (Some(a), Some(b)));
        assert!(!slots.has_sends() && slots.next_send().is_none());
    }

    #[test]
    fn grants_are_bounded_and_in_order() {
        let mut slots = Slots::new(2, 3);
        take(&mut slots);
        let index = take(&mut slots).0;
        for round in 0..5u32 {
            for i in 0..3 {
                let grant = Grant { offset: round * 3 + i, left: 1, ttag: 0 };
                assert!(slots.push_grant(index, grant));
            }
            assert!(!slots.push_grant(index, Grant::default()));
            for i in 0..3 {
                assert_eq!(slots.grant_mut(index).unwrap().offset, round * 3 + i);
                assert_eq!(slots.pop_grant(index), i < 2);
            }
            assert!(slots.grant_mut(index).is_none());
        }
    }
}
