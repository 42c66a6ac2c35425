//! Log pages (NVMe 2.1 §5.1.12).

mod ana;
mod discovery;
mod effects;
mod error;
mod health;
mod reset;

pub use ana::{
    AnaGroup, AnaGroupDescriptor, AnaGroups, AnaLog, AnaLogHeader, AnaState, LSP_RETURN_GROUPS_ONLY,
};
pub use discovery::{
    AddressFamily, DiscoveryEntry, DiscoveryHeader, DiscoveryLog, EntryFlags, SubsystemType,
    TransportRequirements, TransportType,
};
pub use effects::{CommandEffects, Effects, EffectsLog};
pub use error::ErrorLogEntry;
pub use health::{CriticalWarning, FirmwareSlotLog, SmartLog};
pub use reset::{CrossControllerResetEntry, CrossControllerResetLog, ResetState};

/// The changed namespace list log page (NVMe 2.1 §5.1.12.1.5): a list of identifiers, or FFFFFFFFh alone when more
/// than 1024 changed, in which case every namespace is to be looked at.
pub use super::identify::NsidList as ChangedNamespaceList;

/// Log page identifiers.
pub mod lid {
    /// Supported log pages.
    pub const SUPPORTED_LOG_PAGES: u8 = 0x00;
    /// Error information.
    pub const ERROR: u8 = 0x01;
    /// SMART / health information.
    pub const SMART: u8 = 0x02;
    /// Firmware slot information.
    pub const FIRMWARE_SLOT: u8 = 0x03;
    /// Changed attached namespace list.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands supported and effects.
    pub const EFFECTS: u8 = 0x05;
    /// Device self-test.
    pub const SELF_TEST: u8 = 0x06;
    /// Telemetry, host initiated.
    pub const TELEMETRY_HOST: u8 = 0x07;
    /// Telemetry, controller initiated.
    pub const TELEMETRY_CONTROLLER: u8 = 0x08;
    /// Endurance group information.
    pub const ENDURANCE_GROUP: u8 = 0x09;
    /// Asymmetric namespace access.
    pub const ANA: u8 = 0x0c;
    /// Persistent event log.
    pub const PERSISTENT_EVENT: u8 = 0x0d;
    /// Cross-controller reset (TP8028).
    pub const CROSS_CONTROLLER_RESET: u8 = 0x1e;
    /// Lost host communication (TP8028).
    pub const LOST_HOST_COMMUNICATION: u8 = 0x1f;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
    /// Host discovery.
    pub const HOST_DISCOVERY: u8 = 0x71;
    /// Reservation notification.
    pub const RESERVATION: u8 = 0x80;
    /// Sanitize status.
    pub const SANITIZE: u8 = 0x81;
}
