//! NVMe over TCP (NVMe/TCP Transport Specification 1.1), the host's side.
//!
//! - [`conn::Connection`]: the protocol of one connection, without a socket and without a clock.
//! - [`TcpQueue`]: a connection on a [`Stream`], as the [`Queue`](nvme_core::transport::Queue) that
//!   the controller layer drives. A simulation brings its own stream.
//! - [`TcpTransport`]: sockets, associations and URLs.
//!
//! Nothing here blocks and nothing starts a thread, except that a host *name* is resolved in a
//! thread of its own. In steady state no memory is allocated and no lock is taken per command.
#![forbid(unsafe_code)]

pub mod conn;
mod counters;
mod endpoint;
mod options;
mod queue;
mod socket;
mod stream;
mod switch;
mod url;

pub use counters::Counters;
pub use endpoint::TcpTransport;
pub use options::Options;
pub use queue::TcpQueue;
pub use stream::Stream;
pub use url::{DISCOVERY_PORT, IO_PORT};
