//! Commands that cannot be answered at once: their data has yet to come, or they are held back.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::spec::Sqe;

use crate::fault::FaultAction;

/// A command in waiting.
#[derive(Debug)]
pub(crate) struct Slot {
    pub sqe: Sqe,
    /// Bytes of data that the host is to send.
    pub len: u32,
    /// Room for them, once there is need of it ([`Slots::fetch_buffer`]).
    pub data: Vec<u8>,
    /// Bytes of it received.
    pub received: u32,
    /// Bytes of it asked for by R2T.
    pub requested: u32,
    /// A data digest was wrong.
    pub damaged: bool,
    pub waits: Waits,
    pub fault: Option<Arc<FaultAction>>,
    /// Tells this command from a later one in the same slot.
    pub serial: u64,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// H2CData.
    Data,
    /// A timer.
    Timer,
    /// The end of the connection, and then so long.
    Death(Duration),
}

/// The waiting commands of a connection; a command's place is its transfer tag.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    /// Buffers of finished commands, so that a steady load allocates nothing. The last one comes first: it is in
    /// the processor's cache.
    buffers: Vec<Vec<u8>>,
    /// Bytes of those.
    kept: usize,
    serial: u64,
}

/// Bytes of buffers kept for the next commands, by capacity.
const KEPT_MAX: usize = 32 << 20;

impl Slots {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a command into a free slot; `len` bytes of data are to come.
    pub fn put(
        &mut self,
        sqe: Sqe,
        len: u32,
        waits: Waits,
        fault: Option<Arc<FaultAction>>,
    ) -> Option<u16> {
        self.serial += 1;
        let slot = Slot {
            sqe,
            len,
            data: Vec::new(),
            received: 0,
            requested: 0,
            damaged: false,
            waits,
            fault,
            serial: self.serial,
        };
        if let Some(tag) = self.free.pop() {
            self.slots[usize::from(tag)] = Some(slot);
            return Some(tag);
        }
        let tag = u16::try_from(self.slots.len()).ok()?;
        self.slots.push(Some(slot));
        Some(tag)
    }

    /// Gives a command room for its data, unless it has it; not before data is there, for until then a whole queue
    /// of commands may be waiting.
    pub fn fetch_buffer(&mut self, tag: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(tag))?.as_mut()?;
        if slot.data.is_empty() {
            let mut data = self.buffers.pop().unwrap_or_default();
            self.kept -= data.capacity();
            data.resize(slot.len as usize, 0);
            slot.data = data;
        }
        Some(slot)
    }

    pub fn get(&mut self, tag: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(tag))?.as_mut()
    }

    pub fn take(&mut self, tag: u16) -> Option<Slot> {
        let slot = self.slots.get_mut(usize::from(tag))?.take()?;
        self.free.push(tag);
        Some(slot)
    }

    /// Takes the command that waits for this timer, unless it was aborted meanwhile.
    pub fn take_timed(&mut self, tag: u16, serial: u64) -> Option<Slot> {
        self.get(tag).filter(|slot| slot.serial == serial)?;
        self.take(tag)
    }

    /// Takes a held command by its identifier, for Abort.
    pub fn take_held(&mut self, cid: u16) -> Option<Slot> {
        let held = |slot: &Slot| slot.sqe.cid.get() == cid && slot.waits == Waits::Timer;
        let tag = self.slots.iter().position(|s| s.as_ref().is_some_and(held))?;
        self.take(tag as u16)
    }

    /// Gives a finished command's buffer back.
    pub fn recycle(&mut self, data: Vec<u8>) {
        if data.capacity() > 0 && self.kept + data.capacity() <= KEPT_MAX {
            self.kept += data.capacity();
            self.buffers.push(data);
        }
    }

    /// Takes the commands that outlive the connection.
    pub fn take_survivors(&mut self) -> Vec<(Duration, Slot)> {
        let mut survivors = Vec::new();
        for slot in self.slots.drain(..).flatten() {
            if let Waits::Death(after) = slot.waits {
                survivors.push((after, slot));
            }
        }
        self.free.clear();
        survivors
    }
}
