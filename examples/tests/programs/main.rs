//! The programs as users run them: as processes, on the software target, on Linux's own, and on
//! QEMU's controller.

mod common;
mod nvmeh;
mod nvmet;
mod pci;
mod pci_paths;
mod perf;
mod quickstart;
mod screenshots;
mod vfio_user;
