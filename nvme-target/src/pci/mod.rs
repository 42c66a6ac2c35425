//! The PCI front: a function with registers, doorbells and DMA, in front of the model.
//!
//! A [`PciDevice`] is steered like hardware: registers are read and written, memory is reached
//! through [`HostMemory`], interrupts go to [`Interrupts`]. Who connects those to a host is not its
//! business: a driver in the same process, or a server that offers the function to another one.

mod admin;
mod cmb;
mod config;
mod data;
mod device;
mod doorbells;
mod engine;
mod execute;
mod host_memory;
mod memory;
mod peer;
mod registers;
mod reset;
mod rings;
mod shadow;
mod turn;

pub use config::{PciConfig, PciFault};
pub use device::{PciDevice, PciStats, PciWorker};
pub use memory::{Doorbells, HostMemory, Interrupts};
