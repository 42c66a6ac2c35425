//! Asymmetric namespace access: the state of each group as seen through each listener (NVMe 2.1 §8.1.1).

use std::collections::BTreeMap;

use nvme_core::spec::Status;

/// Groups that a subsystem may have; identifiers run from 1 to this.
pub const ANA_GROUP_MAX: u32 = 128;

/// State of an ANA group on one listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AnaState {
    /// The preferred way to the group's namespaces.
    #[default]
    Optimized = 0x01,
    /// Works, other listeners may be better.
    NonOptimized = 0x02,
    /// I/O fails with ANA Inaccessible.
    Inaccessible = 0x03,
    /// I/O fails with ANA Persistent Loss.
    PersistentLoss = 0x04,
    /// I/O fails with ANA Transition.
    Change = 0x0f,
}

impl AnaState {
    /// The code in log page and completions.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a command that needs the namespace's media fails with in this state. No DNR: another path may do.
    pub(crate) const fn failure(self) -> Option<Status> {
        match self {
            Self::Optimized | Self::NonOptimized => None,
            Self::Inaccessible => Some(Status::ANA_INACCESSIBLE),
            Self::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
            Self::Change => Some(Status::ANA_TRANSITION),
        }
    }
}

/// One group on one listener.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Group {
    pub state: AnaState,
    /// Counts the changes of this group.
    pub changes: u64,
}

/// The groups as one listener shows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenerGroups {
    groups: BTreeMap<u32, Group>,
    /// The log page's change count.
    pub changes: u64,
}

/// All groups on all listeners. What was never set is optimized.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnaTable {
    listeners: BTreeMap<usize, ListenerGroups>,
}

impl AnaTable {
    pub fn group(&self, listener: usize, group: u32) -> Group {
        self.listeners
            .get(&listener)
            .and_then(|l| l.groups.get(&group))
            .copied()
            .unwrap_or_default()
    }

    pub fn changes(&self, listener: usize) -> u64 {
        self.listeners.get(&listener).map_or(0, |l| l.changes)
    }

    /// Groups that were given a state on this listener.
    pub fn known(&self, listener: usize) -> impl Iterator<Item = u32> {
        self.listeners.get(&listener).into_iter().flat_map(|l| l.groups.keys().copied())
    }

    /// Sets a state; whether that was a change.
    pub fn set(&mut self, listener: usize, group: u32, state: AnaState) -> bool {
        let of_listener = self.listeners.entry(listener).or_default();
        let entry = of_listener.groups.entry(group).or_default();
        if entry.state == state {
            return false;
        }
        entry.state = state;
        entry.changes += 1;
        of_listener.changes += 1;
        true
    }

    /// Notes that the namespaces of a group are others than before, which changes the log page everywhere.
    pub fn membership_changed(&mut self, group: u32) {
        for listener in self.listeners.values_mut() {
            listener.changes += 1;
            if let Some(group) = listener.groups.get_mut(&group) {
                group.changes += 1;
            }
        }
    }
}
