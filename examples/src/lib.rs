//! What the programs of nvme-host have in common: a workload that checks what it does, and the
//! small things of the terminal.

#![forbid(unsafe_code)]

pub mod host;
pub mod meter;
pub mod narrate;
pub mod pci;
pub mod perf;
mod plot;
pub mod size;
pub mod terminal;
pub mod timeline;
pub mod watch;
pub mod workload;
