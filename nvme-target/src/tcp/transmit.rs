//! Bytes on their way to the host.

use std::io::{self, Write};

/// Smallest step by which the buffer grows.
const GROW: usize = 64 << 10;

/// One connection's outgoing bytes, in one piece so that a batch of PDUs leaves by one system call.
#[derive(Debug, Default)]
pub(crate) struct Transmit {
    buf: Vec<u8>,
    head: usize,
    tail: usize,
    /// The socket would take no more when last asked.
    blocked: bool,
}

impl Transmit {
    /// Bytes not yet given to the socket.
    pub fn pending(&self) -> usize {
        self.tail - self.head
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The socket may take bytes again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Room for `len` bytes at the end, with whatever they held before; the caller fills all of them.
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        if self.buf.len() - self.tail < len {
            self.make_room(len);
        }
        let start = self.tail;
        self.tail += len;
        &mut self.buf[start..self.tail]
    }

    fn make_room(&mut self, len: usize) {
        self.buf.copy_within(self.head..self.tail, 0);
        self.tail -= self.head;
        self.head = 0;
        let need = self.tail + len;
        // twice what is needed now, or a slow reader would make every push move all that is pending
        if self.buf.len() < 2 * need {
            self.buf.resize((2 * need).next_multiple_of(GROW), 0);
        }
    }

    /// Takes back the last `len` bytes that were reserved.
    pub fn give_back(&mut self, len: usize) {
        self.tail = self.tail.saturating_sub(len).max(self.head);
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
    }

    /// A place in the stream, to come back to with [`since`](Self::since); valid until the next flush or push.
    pub fn mark(&self) -> usize {
        self.pending()
    }

    /// The bytes pushed since `mark`.
    pub fn since(&mut self, mark: usize) -> &mut [u8] {
        &mut self.buf[self.head + mark..self.tail]
    }

    /// Writes what the socket takes; the count of bytes written.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        let mut written = 0;
        while self.head < self.tail && !self.blocked {
            match socket.write(&self.buf[self.head..self.tail]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.head += n;
                    written += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
        Ok(written)
    }
}
