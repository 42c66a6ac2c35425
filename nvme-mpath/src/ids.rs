//! Names of things inside one host.

use std::fmt;

/// A controller of a host. Never reused within the life of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControllerId(u32);

impl ControllerId {
    /// The controller of this number, if there is one: numbers come from [`as_u32`](Self::as_u32).
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number itself.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ControllerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A channel of a host. Never reused within the life of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChannelId(pub(crate) u32);

/// One association of one controller: `slot` is the place of the controller in tables (reused when
/// it is gone), `epoch` tells its associations apart (never reused).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AssociationId {
    pub(crate) slot: u32,
    pub(crate) epoch: u64,
}
