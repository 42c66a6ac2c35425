//! Asymmetric namespace access as the host uses it: the log, parsed and checked (`NVMe 2.1 §2.4.2, §5.1.12.1.13`).

use std::fmt;

/// The state of an ANA group on one controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AnaState {
    /// The best way to the namespaces of the group; also what a controller without ANA has.
    #[default]
    Optimized,
    /// Works, but another controller may be better.
    NonOptimized,
    /// Does not work for now.
    Inaccessible,
    /// Will not work again.
    PersistentLoss,
    /// In transition, for no longer than ANATT.
    Change,
}

impl AnaState {
    /// The state that a log's state field means; `None` for reserved values.
    #[must_use]
    pub const fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            0x01 => Self::Optimized,
            0x02 => Self::NonOptimized,
            0x03 => Self::Inaccessible,
            0x04 => Self::PersistentLoss,
            0x0f => Self::Change,
            _ => return None,
        })
    }

    /// Whether I/O may be sent.
    #[must_use]
    pub const fn is_accessible(self) -> bool {
        matches!(self, Self::Optimized | Self::NonOptimized)
    }

    /// The name that Linux uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent-loss",
            Self::Change => "change",
        }
    }
}

impl fmt::Display for AnaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The ANA log of one controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnaSnapshot {
    /// The log's change count.
    pub change_count: u64,
    /// Groups in ascending order of their identifier.
    pub groups: Vec<AnaGroup>,
}

impl AnaSnapshot {
    /// The state of a namespace: that of the group which lists it, else that of group `id`, to
    /// which the namespace says it belongs (a log may leave the lists out, and a namespace may have
    /// moved since it was identified). `None` if the log has neither.
    #[must_use]
    pub fn state_of_namespace(&self, nsid: u32, id: u32) -> Option<AnaState> {
        let lists = |g: &&AnaGroup| g.nsids.binary_search(&nsid).is_ok();
        self.groups.iter().find(lists).map(|g| g.state).or_else(|| self.state_of(id))
    }

    /// The state of group `id`; `None` if the log does not have it.
    #[must_use]
    pub fn state_of(&self, id: u32) -> Option<AnaState> {
        let at = self.groups.binary_search_by_key(&id, |g| g.id).ok()?;
        Some(self.groups[at].state)
    }
}

/// One group of the ANA log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnaGroup {
    /// ANA group identifier, not 0.
    pub id: u32,
    /// State of the group on this controller.
    pub state: AnaState,
    /// The group's change count.
    pub change_count: u64,
    /// Namespaces in the group, ascending.
    pub nsids: Vec<u32>,
}
