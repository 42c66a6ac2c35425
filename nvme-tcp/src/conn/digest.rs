//! CRC32C, the digest of headers and data (TCP 1.1 §3.3.1.1).

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// The digest of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// A digest over data that arrives in pieces.
#[derive(Debug)]
pub(crate) struct Running(Digest);

impl Running {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Forgets everything: the next piece is the first.
    pub(crate) fn restart(&mut self) {
        self.0.reset();
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces since the last restart.
    pub(crate) fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value and the 32-byte vectors of RFC 7143 §A.4.
    #[test]
    fn known_vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let whole: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        let mut running = Running::new();
        running.update(b"something before");
        running.restart();
        let mut rest = whole.as_slice();
        for n in [1, 3, 64, 511, 4096].into_iter().cycle() {
            let (piece, tail) = rest.split_at(n.min(rest.len()));
            running.update(piece);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(running.value(), crc32c(&whole));
    }
}
