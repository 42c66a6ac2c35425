//! The target as a host sees it, over real sockets.

mod admin;
mod cross_reset;
mod discovery;
mod events;
mod faults;
mod handle;
mod host;
mod io;
mod protocol;
