//! NVMe over PCIe (NVMe over PCIe Transport Specification 1.1), the host's side.
//!
//! [`Backend`] is what a way to reach a PCI function provides, [`Open`] how it is found.

#[deny(unsafe_code)]
mod backend;
mod dma;
mod mmio;
mod system;
mod uio;
#[deny(unsafe_code)]
mod url;
mod vfio;

pub use backend::{Backend, BackendError, Mmio, Open};
pub use dma::{DmaMapping, DmaMemory, PAGE};
pub use mmio::MappedBar;
pub use uio::Uio;
pub use url::Location;
pub use vfio::Vfio;
