//! A software NVMe subsystem with a TCP and a PCI front and faults as data: for tests, benches and the quickstart.
//!
//! A [`Target`] has subsystems, each with namespaces in memory, in a file, or nowhere; listeners, through which hosts
//! reach all of them; ANA states per listener and group; and [faults](FaultRule), which make any command or connection
//! fare as badly as a test wants. By default it reports what Linux's own target does.
//!
//! It shares with the host side nothing but the wire structures of [`nvme_core::spec`], so that a wrong reading of the
//! specification on one side does not cancel itself out on the other.
//!
//! Three layers: the model ([`Subsystem`] and what is in it) knows neither sockets nor threads; the TCP front turns
//! PDUs into calls of the model, the PCI front ([`PciDevice`]) registers and doorbells; the handle ([`Target`]) steers
//! them. [`DrivenTarget`] is the same TCP front on its caller's streams and clock.
#![deny(unsafe_code)]

mod admin;
mod aer;
mod ana;
mod backing;
mod config;
mod controller;
mod cross_reset;
mod directory;
mod driven;
mod error;
mod fabrics;
mod fault;
mod identify;
mod io;
mod logs;
mod namespace;
mod pci;
mod stats;
mod subsystem;
mod target;
mod tcp;
mod transport;
#[cfg(feature = "vfio-user")]
mod vfio_user;

pub use aer::AsyncEvent;
pub use ana::{ANA_GROUP_MAX, AnaState};
pub use backing::{Backing, SparseMemory};
pub use config::{PowerState, SubsystemConfig};
pub use driven::{ConnectionId, DrivenTarget};
pub use error::TargetError;
pub use fault::{BadIcResp, BadPdu, FaultAction, FaultId, FaultRule};
pub use namespace::{Metadata, NSID_MAX, NamespaceConfig, NamespaceIds};
pub use pci::{
    Doorbells, HostMemory, Interrupts, PciConfig, PciDevice, PciFault, PciStats, PciWorker,
};
pub use stats::Stats;
pub use subsystem::{ControllerInfo, Subsystem};
pub use target::{Listener, Target, TargetBuilder};
pub use tcp::wire::Wire;
pub use transport::{SuccessFlag, Transport};
#[cfg(feature = "vfio-user")]
pub use vfio_user::VfioUserServer;
