//! What a queue needs of the wire below it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use nvme_core::transport::TransportError;

/// A non-blocking, reliable stream of bytes: a TCP socket, or what a simulation puts in its place.
///
/// Every method returns at once.
pub trait Stream: Send + fmt::Debug {
    /// Goes on connecting; true once bytes can flow.
    ///
    /// # Errors
    /// The peer cannot be reached.
    fn poll_open(&mut self) -> Result<bool, TransportError>;

    /// Receives into `buffers`, in order. Zero means that the peer has closed.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing has arrived; anything else ends the connection.
    fn read(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Sends from `buffers`, in order; may send a part only. Must not raise `SIGPIPE`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is no room; anything else ends the connection.
    fn write(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// The descriptor to wait on, if there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether this host has cut the stream, from whatever thread. Looked at before every read.
    fn is_cut(&self) -> bool;

    /// Cuts the stream: nothing is sent any more.
    fn cut(&mut self);

    /// The peer's address as it appears in messages, such as `tcp://192.0.2.7:4420`.
    fn address(&self) -> &str;
}
