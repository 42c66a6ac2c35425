//! What can go wrong between a test and its guest.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the harness. Its `Debug` text is its `Display` text, so that a test that unwraps it
/// shows the latter.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Programs the harness uses are not installed.
    #[error(
        "the virtual-machine tests need Debian packages that are not installed: {list}\n\
         run tests/vm/setup.sh as root, or: apt-get install -y --no-install-recommends {list}",
        list = .packages.join(" ")
    )]
    MissingPackages {
        /// The Debian packages to install.
        packages: Vec<&'static str>,
    },
    /// There is no kernel package in the cache and apt could not give one.
    #[error(
        "the virtual-machine tests need the Debian package linux-image-6.12-amd64 \
         (it is unpacked, not installed) and \
         could not download it: {why}\n\
         run tests/vm/setup.sh as root, or put the package's .deb into {}",
        debs.display()
    )]
    MissingKernel {
        /// What apt said.
        why: String,
        /// Where the harness looks for the package's file.
        debs: PathBuf,
    },
    /// A program of the host failed.
    #[error("{what}: {detail}")]
    Tool {
        /// What was being done.
        what: String,
        /// The program's end and its standard error.
        detail: String,
    },
    /// A system call of the host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done to what.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file of the kernel package is not what it should be.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The guest did not come up, or is gone.
    #[error("the guest {what}; the end of its console and of QEMU's messages:\n{console}")]
    Guest {
        /// What happened.
        what: String,
        /// The last lines of console and messages.
        console: String,
    },
    /// The guest did not answer in time, although the agent should have stopped the script.
    #[error("the guest did not answer {what} within {limit:?}")]
    NoAnswer {
        /// What was asked.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A script of the harness failed inside the guest.
    #[error("in the guest, {what} ended with {code}:\n{output}")]
    Script {
        /// What the script was to do.
        what: String,
        /// Exit status, 128 + signal, or -1 when its time ran out.
        code: i32,
        /// Its standard output and standard error.
        output: String,
    },
    /// QEMU's monitor refused a command.
    #[error("QEMU refused {command}: {answer}")]
    Monitor {
        /// The command.
        command: String,
        /// QEMU's words.
        answer: String,
    },
    /// A number that the guest's configuration does not have.
    #[error("the guest has no {what} {number}")]
    Unknown {
        /// Port, namespace or group.
        what: &'static str,
        /// The number asked for.
        number: u32,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Result of the harness.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: says what was being done when the system call failed.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
