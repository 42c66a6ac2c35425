//! Bytes on their way to the host.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use crate::backing::ZEROES;

/// Smallest step by which the buffer grows.
const GROW: usize = 64 << 10;

/// Slices in one write at most, of which the zeroes of a read are one or more.
const SLICES: usize = 128;

/// Zeroes that belong into the stream and are not in the buffer.
#[derive(Clone, Copy, Debug)]
struct Zeroes {
    /// The place in the buffer of the byte behind them.
    at: usize,
    len: usize,
}

/// One connection's outgoing bytes, in one piece so that a batch of PDUs leaves by one system call.
#[derive(Debug, Default)]
pub(crate) struct Transmit {
    buf: Vec<u8>,
    head: usize,
    tail: usize,
    /// In the order of the stream.
    zeroes: VecDeque<Zeroes>,
    /// How many those are together.
    hollow: usize,
    /// The socket would take no more when last asked.
    blocked: bool,
}

impl Transmit {
    /// Bytes not yet given to the socket.
    pub fn pending(&self) -> usize {
        self.tail - self.head + self.hollow
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
        self.zeroes.iter_mut().for_each(|z| z.at -= self.head);

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
        let least = self.zeroes.back().map_or(self.head, |z| z.at);
        self.tail = self.tail.saturating_sub(len).max(least);
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
    }

    /// Adds `len` zeroes without writing them anywhere.
    pub fn push_zeroes(&mut self, len: usize) {
        if len > 0 {
            self.zeroes.push_back(Zeroes { at: self.tail, len });
            self.hollow += len;
        }
    }

    /// A place in the buffer, to come back to with [`since`](Self::since); valid until the next flush or push.
    pub fn mark(&self) -> usize {
        self.tail - self.head
    }

    /// The bytes reserved and pushed since `mark`.
    pub fn since(&mut self, mark: usize) -> &mut [u8] {
        &mut self.buf[self.head + mark..self.tail]
    }

    /// Writes what the socket takes; the count of bytes written.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        let mut written = 0;
        while self.pending() > 0 && !self.blocked {
            let result = if self.zeroes.is_empty() {
                socket.write(&self.buf[self.head..self.tail])
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let used = self.gather(&mut slices);
                socket.write_vectored(&slices[..used])
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.advance(n);
                    written += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.pending() == 0 {
            self.head = 0;
            self.tail = 0;
        }
        Ok(written)
    }

    /// Shows what is to be written next, front first; how many slices were filled.
    fn gather<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut room = out.iter_mut();
        let mut put = |bytes: &'a [u8]| match room.next() {
            Some(slot) => {
                *slot = IoSlice::new(bytes);
                true
            }
            None => false,
        };
        let mut used = 0;
        let mut at = self.head;
        let rest = Zeroes { at: self.tail, len: 0 };
        for zeroes in self.zeroes.iter().chain([&rest]) {
            if zeroes.at > at {
                if !put(&self.buf[at..zeroes.at]) {
                    return used;
                }
                used += 1;
                at = zeroes.at;
            }
            let mut left = zeroes.len;
            while left > 0 {
                let n = left.min(ZEROES.len());
                if !put(&ZEROES[..n]) {
                    return used;
                }
                used += 1;
                left -= n;
            }
        }
        used
    }

    /// Takes note that the first `n` bytes have been written.
    fn advance(&mut self, mut n: usize) {
        while let Some(zeroes) = self.zeroes.front_mut() {
            let before = n.min(zeroes.at - self.head);
            self.head += before;
            n -= before;
            if self.head < zeroes.at {
                return;
            }
            let of_these = n.min(zeroes.len);
            zeroes.len -= of_these;
            self.hollow -= of_these;
            n -= of_these;
            if zeroes.len > 0 {
                return;
            }
            self.zeroes.pop_front();
        }
        self.head = (self.head + n).min(self.tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time, and every other time none.
    struct Narrow {
        got: Vec<u8>,
        width: usize,
        full: bool,
    }

    impl Write for Narrow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(buf)])
        }

        fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            self.full = !self.full;
            if self.full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let before = self.got.len();
            for buf in bufs {
                let left = self.width - (self.got.len() - before);
                self.got.extend_from_slice(&buf[..left.min(buf.len())]);
            }
            Ok(self.got.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn zeroes_come_where_they_were_put_however_little_the_socket_takes() {
        for width in [1, 7, 24, 100, 1000, 70_000, 1 << 20] {
            let mut socket = Narrow { got: Vec::new(), width, full: false };
            let mut transmit = Transmit::default();
            let mut want = Vec::new();
            for round in 0..60usize {
                // With 60 of the long ones what is pending is moved to the front of the buffer.
                let header = vec![round as u8 + 1; if width < 1000 { 24 } else { 2400 }];
                let zeroes = [0, 1, 512, 4096, 66_000][round % 5] / if width < 24 { 64 } else { 1 };
                transmit.push(&header);
                transmit.push_zeroes(zeroes);
                want.extend_from_slice(&header);
                want.resize(want.len() + zeroes, 0);
                if round % 7 == 0 {
                    transmit.push(&[9; 3000]);
                    transmit.give_back(2999);
                    want.push(9);
                }
                assert_eq!(socket.got.len() + transmit.pending(), want.len());
                if round % 3 == 0 {
                    transmit.unblock();
                    transmit.flush(&mut socket).unwrap();
                }
            }
            while transmit.pending() > 0 {
                transmit.unblock();
                transmit.flush(&mut socket).unwrap();
            }
            assert!(socket.got == want, "width {width}");
        }
    }

    #[test]
    fn what_lies_behind_zeroes_can_be_taken_back_and_changed_but_not_they() {
        let mut transmit = Transmit::default();
        transmit.push(&[1; 4]);
        transmit.push_zeroes(4);
        let mark = transmit.mark();
        transmit.push(&[2; 4]);
        transmit.since(mark)[0] = 3;
        transmit.give_back(2);
        let mut out = Vec::new();
        transmit.flush(&mut out).unwrap();
        assert_eq!(out, [1, 1, 1, 1, 0, 0, 0, 0, 3, 2]);
        transmit.push_zeroes(2);
        transmit.give_back(10);
        transmit.flush(&mut out).unwrap();
        assert_eq!(out[10..], [0, 0]);
    }
}
