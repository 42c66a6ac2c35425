//! Who a namespace is: the identifiers that decide whether a returning path belongs to a head.

use std::fmt;

use crate::nqn::{Eui64, Nguid, Uuid};

/// The identifiers of a namespace (`NVMe 2.1 §4.5.1`). Each that is known must be equal for two
/// paths to lead to the same namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamespaceIds {
    /// Universally unique identifier, if reported.
    pub uuid: Option<Uuid>,
    /// Namespace globally unique identifier, if reported (not zero).
    pub nguid: Option<Nguid>,
    /// IEEE extended unique identifier, if reported (not zero).
    pub eui64: Option<Eui64>,
    /// Command set identifier; 0 is the NVM command set.
    pub csi: u8,
}

impl NamespaceIds {
    /// Whether no globally unique identifier is known, so that only the NSID tells namespaces of
    /// one subsystem apart.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.uuid.is_none() && self.nguid.is_none() && self.eui64.is_none()
    }

    /// Whether `self` and `other` claim a globally unique identifier in common.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        (self.uuid.is_some() && self.uuid == other.uuid)
            || (self.nguid.is_some() && self.nguid == other.nguid)
            || (self.eui64.is_some() && self.eui64 == other.eui64)
    }
}

impl fmt::Display for NamespaceIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        if let Some(id) = self.uuid {
            write!(f, "uuid {id}")?;
            sep = ", ";
        }
        if let Some(id) = self.nguid {
            write!(f, "{sep}nguid {id}")?;
            sep = ", ";
        }
        if let Some(id) = self.eui64 {
            write!(f, "{sep}eui64 {id}")?;
            sep = ", ";
        }
        if sep.is_empty() { f.write_str("no identifiers") } else { Ok(()) }
    }
}
