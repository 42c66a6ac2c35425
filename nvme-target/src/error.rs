//! What the handle's methods can fail with.

use std::io;
use std::net::SocketAddr;

use nvme_core::nqn::NqnError;

/// Why a target cannot do what it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A name is no NQN.
    #[error("subsystem name {name:?}: {source}")]
    Nqn {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: NqnError,
    },
    /// Two subsystems with one name.
    #[error("subsystem {0} is there already")]
    DuplicateSubsystem(String),
    /// There is no such subsystem.
    #[error("no subsystem {0} in this target")]
    NoSubsystem(String),
    /// A listening address cannot be understood.
    #[error("listening address {0:?} is not ADDRESS:PORT")]
    Address(String),
    /// A listener cannot be made.
    #[error("listening on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The event loop cannot be made.
    #[error("starting the event loop: {0}")]
    EventLoop(io::Error),
    /// There is no such listener.
    #[error("no listener {0} in this target")]
    NoListener(usize),
    /// Namespace identifiers are 1 to [`NSID_MAX`](crate::NSID_MAX).
    #[error("namespace identifier {0}: 1 to {max} are possible", max = crate::NSID_MAX)]
    NamespaceId(u32),
    /// Two namespaces with one identifier.
    #[error("namespace {0} is there already")]
    DuplicateNamespace(u32),
    /// There is no such namespace.
    #[error("no namespace {0} in this subsystem")]
    NoNamespace(u32),
    /// Blocks are 512 or 4096 bytes.
    #[error("namespace {nsid}: blocks of {block_size} bytes; 512 and 4096 are possible")]
    BlockSize {
        /// The namespace.
        nsid: u32,
        /// The block size asked for.
        block_size: u32,
    },
    /// ANA group identifiers are 1 to 128.
    #[error("ANA group {0}: 1 to 128 are possible")]
    AnaGroup(u32),
    /// The worker thread has ended.
    #[error("the target's thread is gone")]
    Gone,
}
