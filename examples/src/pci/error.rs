//! What is in the way of a function's change of drivers.

use std::io;
use std::path::{Path, PathBuf};

/// Why something cannot be told, or done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// The text is no address of a PCI function.
    #[error("{0}")]
    Address(String),

    /// The machine has no such function.
    #[error("{address}: there is no such PCI function")]
    Missing {
        /// The function's address.
        address: String,
    },

    /// The function is no NVMe controller.
    #[error("{address}: not an NVMe controller, its class code is {class:06x}h")]
    Class {
        /// The function's address.
        address: String,
        /// Base class, sub-class and programming interface.
        class: u32,
    },

    /// Somebody would lose what they use.
    #[error("{address}: in use: {}", uses.join("; "))]
    InUse {
        /// The function's address.
        address: String,
        /// What uses it, such as `nvme0n1 is mounted on /srv`.
        uses: Vec<String>,
    },

    /// The kernel has no such driver now.
    #[error("{address}: the kernel has no driver {driver}; load its module: modprobe {driver}")]
    NoDriver {
        /// The function's address.
        address: String,
        /// The driver.
        driver: String,
    },

    /// The kernel did not give the function to the driver.
    #[error("{address}: {driver} does not take the function: {reason}")]
    Refused {
        /// The function's address.
        address: String,
        /// The driver.
        driver: String,
        /// What the kernel said, and what may be the matter.
        reason: String,
    },

    /// A file of the kernel's, or of this program's, cannot be used.
    #[error("{}: {what}: {source}{}", path.display(), hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        what: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
}

/// What to do about the error that people meet most.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (this needs root)",
        _ => "",
    }
}

impl PciError {
    /// For `map_err`.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, what, source }
    }
}
