//! The target as a host sees it, over real sockets.

mod admin;
mod host;
mod io;
