//! PCI functions with NVMe controllers on this machine: who has them, and giving them from one driver
//! to another.
//!
//! - [`Tree`]: what `/sys` and `/proc` tell of them.
//! - [`Function`], [`Disk`], [`Use`]: one function, and what is made of it.
//! - [`Tree::bind`], [`Tree::restore`]: the change, and the way back.

mod binding;
mod error;
#[cfg(test)]
mod fake;
mod function;
mod tree;
mod usage;

pub use binding::Restored;
pub use error::PciError;
pub use function::{Function, Group, Member};
pub use tree::{Attributes, Tree};
pub use usage::{Disk, Process, Use};

/// The drivers that hand a function to a program, with the schemes of their URLs.
pub const DRIVERS: [(&str, &str); 2] = [("vfio-pci", "vfio"), ("uio_pci_generic", "uio")];
