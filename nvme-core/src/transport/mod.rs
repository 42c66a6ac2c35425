//! The seam between a controller and the wire that reaches it.
//!
//! A [`Transport`] turns a URL into an [`Endpoint`]: the address of one controller. Each attempt to
//! reach it is an [`Association`], which opens [`Queue`]s. Nothing here blocks: opening is an
//! event, seen by polling the queue.
//!
//! Two kinds of transport fit ([`TransportKind`]): *fabrics*, where registers are reached by
//! Property commands and a queue begins with a Connect command (`NVMe 2.1 §6.3`), and *memory*,
//! where registers are memory and I/O queues are created by admin commands (`NVMe 2.1 §5.2.1`).

mod association;
mod data;
mod endpoint;
mod error;
mod queue;

pub use association::{Association, HostMemory, HostMemoryRequest, Registers, TransportKind};
pub use data::Data;
pub use endpoint::{Endpoint, Transport};
pub use error::{TransportError, UrlError};
pub use queue::{
    Completion, Queue, QueueParams, QueueSetup, QueueStatus, RejectReason, Rejected, Sink, Tag,
};
