//! A virtual machine for tests: Debian's kernel under QEMU's emulation, with Linux's NVMe/TCP
//! target, driven from the test's process.
//!
//! ```no_run
//! use nvme_vm::{AnaState, Guest};
//!
//! # fn main() -> nvme_vm::Result<()> {
//! let guest = Guest::shared()?;
//! let address = guest.addr(1)?; // connect there, to guest.subnqn()
//! guest.set_ana(1, 1, AnaState::Inaccessible)?;
//! guest.disable_port(2)?;
//! # Ok(())
//! # }
//! ```
//!
//! The target has one subsystem, [`SUBNQN`], at two ports (numbered 1 and 2) with two ANA groups
//! and two namespaces; [`Config`] tells and changes it. Every namespace is a memory-backed device
//! whose contents start as zeros.
//!
//! Nothing is skipped: what is not installed is an [`Error`] that names the Debian packages.
//! `tests/vm/setup.sh` installs them and downloads the guest's kernel; after that neither root nor
//! a network is needed. What takes time is made once and kept in `target/vm-cache`, or where
//! [`CACHE_VARIABLE`] says.
#![forbid(unsafe_code)]

mod agent;
mod cache;
mod config;
mod error;
mod guest;
mod image;
mod kernel;
mod linux;
mod monitor;
mod network;
mod pci;
mod prereq;
mod qemu;
mod relay;
mod target;
mod tool;

pub use agent::Output;
pub use cache::CACHE_VARIABLE;
pub use config::{Config, Namespace};
pub use error::{Error, Result};
pub use guest::{Guest, SERIAL, SUBNQN, Shared};
pub use linux::LinuxController;
pub use pci::{Disks, SHARED_NQN};
pub use prereq::check as check_prerequisites;
pub use target::{AnaState, Backing};
