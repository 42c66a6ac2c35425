//! Data structures that Identify returns (NVMe 2.1 §5.1.13). Each is 4096 bytes.

mod controller;
mod descriptors;
mod lists;
mod namespace;

pub use controller::{
    AnaCapabilities, ControllerAttributes, ControllerType, IdentifyController,
    MultiPathCapabilities, OptionalCommands, PowerStateDescriptor, SglSupport,
};
pub use descriptors::{Descriptor, Descriptors, NamespaceIds, nidt};
pub use lists::NsidList;
pub use namespace::{
    IdentifyNamespace, IndependentNamespace, LbaFormat, NamespaceFeatures, NamespaceSharing,
};

/// Length in bytes of every Identify data structure.
pub const IDENTIFY_LEN: usize = 4096;

/// Values of the CNS field: which structure Identify returns.
pub mod cns {
    /// Identify Namespace of a command set that has none of its own in CNS 05h.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespace list, identifiers above the command's NSID.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// Command set specific Identify Namespace.
    pub const CSI_NAMESPACE: u8 = 0x05;
    /// Command set specific Identify Controller.
    pub const CSI_CONTROLLER: u8 = 0x06;
    /// Active namespace list of one command set.
    pub const CSI_ACTIVE_NAMESPACES: u8 = 0x07;
    /// Command set independent Identify Namespace.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Allocated namespace list.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// Identify Namespace of an allocated namespace.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers that a namespace is attached to.
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    /// Controllers of the subsystem.
    pub const CONTROLLERS: u8 = 0x13;
    /// Primary controller capabilities.
    pub const PRIMARY_CONTROLLER: u8 = 0x14;
    /// Secondary controllers.
    pub const SECONDARY_CONTROLLERS: u8 = 0x15;
    /// Namespace granularity list.
    pub const NAMESPACE_GRANULARITY: u8 = 0x16;
    /// UUID list.
    pub const UUIDS: u8 = 0x17;
    /// I/O command set combinations.
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// Command set identifiers (NVMe 2.1 §3.1.3.2 and the figure "Command Set Identifiers").
pub mod csi {
    /// NVM command set.
    pub const NVM: u8 = 0x00;
    /// Key Value command set.
    pub const KEY_VALUE: u8 = 0x01;
    /// Zoned Namespace command set.
    pub const ZONED: u8 = 0x02;
}
