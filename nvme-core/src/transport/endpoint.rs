//! From a URL to a controller, and the memory that reaches it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::{Association, TransportError, UrlError};
use crate::memory::{Memory, MemoryKind};
use crate::time::Instant;

/// The address of one controller. Cheap to clone by its `Arc`.
pub trait Endpoint: Send + Sync + fmt::Debug {
    /// The address in normal form, such as `tcp://192.0.2.7:4420`. Names the path in messages.
    fn address(&self) -> &str;

    /// The subsystem that the URL asks for; `None` where the transport reaches one controller only
    /// and its subsystem is learnt by Identify.
    fn subsystem_nqn(&self) -> Option<&str>;

    /// The NUMA node that the controller is near, where that is known before anything is connected.
    fn numa_node(&self) -> Option<u32> {
        None
    }

    /// Begins a new association. Returns at once; [`Association::opening`] tells when it is there.
    ///
    /// # Errors
    /// A failure that is known at once.
    fn associate(&self, now: Instant) -> Result<Box<dyn Association>, TransportError>;
}

/// A kind of wire, registered by URL scheme.
pub trait Transport: Send + Sync + fmt::Debug {
    /// The scheme, such as `tcp`.
    fn scheme(&self) -> &'static str;

    /// Parses a URL of this scheme. No I/O.
    ///
    /// # Errors
    /// [`UrlError`] names the part of the URL that is wrong.
    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, UrlError>;

    /// What memory must be for all controllers of this transport to reach it without a copy, as far
    /// as that is known before they are connected.
    fn memory_kind(&self) -> MemoryKind {
        MemoryKind::Any
    }

    /// Allocates memory of `len` bytes, rounded up to what `kind` consists of, and zeroed. Of a
    /// lesser kind where the system has none of this one; that is correct, and slower. `None` where
    /// the transport has no memory of its own kind.
    ///
    /// # Errors
    /// [`TransportError::Memory`] if there is none at all.
    fn allocate_memory(
        &self,
        len: usize,
        kind: MemoryKind,
    ) -> Option<Result<Memory, TransportError>> {
        let _ = (len, kind);
        None
    }

    /// Makes memory reachable for all controllers of this transport, present and future, until what
    /// is returned is dropped; `None` where any memory does. A controller that cannot be given the
    /// memory for what it is reaches it through copies.
    ///
    /// # Errors
    /// [`TransportError::Memory`] if a limit of the process or a failure of the system is in the way
    /// of a controller that is connected.
    fn register_memory(
        &self,
        memory: &Arc<Memory>,
    ) -> Result<Option<Box<dyn Any + Send + Sync>>, TransportError> {
        let _ = memory;
        Ok(None)
    }
}
