//! Memory that devices reach directly, so that data in it is not copied.
//!
//! A [`Memory`] is a region that transports are told of
//! ([`Transport::register_memory`](crate::transport::Transport::register_memory)); each makes it
//! reachable for all its controllers, now and later. An [`Arena`] is such a region with its
//! registrations, out of which [`DmaBuf`]s are taken. A `DmaBuf` becomes a
//! [`Buffer`](crate::buffer::Buffer) and comes back out of it.

mod arena;
mod ranges;
mod region;

pub use arena::{Arena, DmaBuf};
pub use ranges::Ranges;
pub use region::{Memory, MemoryKind, Page};
