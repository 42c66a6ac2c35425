//! What a connection needs of the socket below it.

use std::fmt;
use std::io::{self, Read, Write};

/// A reliable stream of bytes that never blocks: a TCP socket, or what a simulation puts in its place.
///
/// Reading and writing answer [`io::ErrorKind::WouldBlock`] where they would wait; reading zero bytes means that the
/// host has closed its side. Dropping it closes it.
pub trait Wire: Read + Write + fmt::Debug {
    /// Nothing more is written. What has been written is still delivered. May be called again.
    ///
    /// # Errors
    /// The connection is broken already.
    fn finish(&mut self) -> io::Result<()>;
}

impl Wire for mio::net::TcpStream {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}
