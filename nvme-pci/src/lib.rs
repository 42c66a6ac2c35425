//! NVMe over PCIe (NVMe over PCIe Transport Specification 1.1), the host's side.
//!
//! - [`PciTransport`]: URLs, associations and queues, for the controller layer to drive.
//! - `mem` (feature): a device in the process.
//! - [`Backend`]: what a way to reach a PCI function provides, [`Open`]: how a function is found.
//!
//! Threads are started for two things that may take seconds, and end with them: opening a function,
//! and stopping one that does not stop at once. In steady state no memory is allocated and no lock is taken per
//! command; the submission doorbell is written once per flush, the completion doorbell once per poll.
//! What a device writes is read by atomic words and raw copies, and whatever it says is checked: an
//! answer that cannot be ends the association, after the controller has been stopped.
#![deny(unsafe_code)]

mod backend;
mod bounce;
mod cmb;
mod counters;
mod device;
mod dma;
#[cfg(any(test, feature = "mem"))]
mod heap;
mod hmb;
#[cfg(feature = "mem")]
pub mod mem;
mod metadata;
mod mmio;
mod opening;
mod options;
mod pair;
mod prp;
mod queue;
mod region;
mod ring;
mod sgl;
mod shadow;
mod slots;
mod system;
mod transport;
mod uio;
mod url;
mod vfio;
mod vfio_user;

pub use backend::{Backend, BackendError, Mmio, Open};
pub use counters::Counters;
pub use dma::{DmaMapping, DmaMemory, PAGE};
pub use mmio::MappedBar;
pub use options::{CmbUse, Notice, Options};
pub use transport::PciTransport;
pub use uio::Uio;
pub use url::Location;
pub use vfio::Vfio;
pub use vfio_user::VfioUser;
