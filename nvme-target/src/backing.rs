//! Where the blocks of a namespace live: sparse memory, a file, or nowhere.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::RwLock;

/// Bytes allocated together when memory is first written.
const CHUNK: usize = 64 << 10;
/// Locks that the chunks of one memory backing are spread over.
const SHARDS: usize = 64;
/// What a file is zeroed with, piece by piece, and what is sent of a namespace that holds nothing.
pub(crate) static ZEROES: [u8; CHUNK] = [0; CHUNK];

/// The storage behind a namespace, addressed by byte offset.
///
/// A backing has no size of its own: the namespace checks ranges before it gets here. All methods may be called
/// from several threads; overlapping accesses are then ordered per 64 KiB of memory and not at all for files.
#[derive(Debug)]
#[non_exhaustive]
pub enum Backing {
    /// Memory that is allocated, 64 KiB at a time, on the first write there; unwritten ranges read as zeroes.
    Memory(SparseMemory),
    /// A file, read and written at offsets.
    File(File),
    /// Reads give zeroes, writes are dropped: for benches that measure everything but storage.
    Null,
}

impl Backing {
    /// Sparse memory, all zeroes.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(SparseMemory::default())
    }

    /// Opens, or makes, a file for reading and writing.
    ///
    /// # Errors
    /// What the operating system says about opening it.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self::File(file))
    }

    /// Fills `buf` from `offset`; what lies past the end of a file reads as zeroes.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(memory) => {
                memory.read(offset, buf);
                Ok(())
            }
            Self::File(file) => read_file(file, offset, buf),
            Self::Null => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Stores `buf` at `offset`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(memory) => {
                memory.write(offset, buf);
                Ok(())
            }
            Self::File(file) => file.write_all_at(buf, offset),
            Self::Null => Ok(()),
        }
    }

    /// Zeroes a range; whole chunks of memory are given back.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        match self {
            Self::Memory(memory) => {
                memory.zero(offset, len);
                Ok(())
            }
            Self::File(file) => {
                let end = offset + len;
                let mut at = offset;
                while at < end {
                    let n = (end - at).min(CHUNK as u64);
                    file.write_all_at(&ZEROES[..n as usize], at)?;
                    at += n;
                }
                Ok(())
            }
            Self::Null => Ok(()),
        }
    }

    /// Whether the range equals `buf`; a null backing equals everything.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn compare(&self, offset: u64, buf: &[u8]) -> io::Result<bool> {
        match self {
            Self::Null => Ok(true),
            _ => {
                let mut ours = vec![0; buf.len()];
                self.read(offset, &mut ours)?;
                Ok(ours == buf)
            }
        }
    }

    /// Makes what was written before durable.
    ///
    /// # Errors
    /// A file that cannot be synchronised.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_data(),
            Self::Memory(_) | Self::Null => Ok(()),
        }
    }
}

/// Fills `buf` from the file, with zeroes past its end.
fn read_file(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => {
                buf.fill(0);
                break;
            }
            Ok(n) => {
                offset += n as u64;
                buf = &mut buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Memory allocated on write.
#[derive(Debug)]
pub struct SparseMemory {
    shards: Box<[Shard]>,
}

type Shard = RwLock<HashMap<u64, Box<[u8]>>>;

impl Default for SparseMemory {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl SparseMemory {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut done = 0;
        for piece in pieces(offset, buf.len() as u64) {
            let out = &mut buf[done..done + piece.len];
            match self.shard(piece.chunk).read().get(&piece.chunk) {
                Some(chunk) => out.copy_from_slice(&chunk[piece.start..piece.start + piece.len]),
                None => out.fill(0),
            }
            done += piece.len;
        }
    }

    fn write(&self, offset: u64, buf: &[u8]) {
        let mut done = 0;
        for piece in pieces(offset, buf.len() as u64) {
            let mut shard = self.shard(piece.chunk).write();
            let chunk =
                shard.entry(piece.chunk).or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
            chunk[piece.start..piece.start + piece.len]
                .copy_from_slice(&buf[done..done + piece.len]);
            done += piece.len;
        }
    }

    fn zero(&self, offset: u64, len: u64) {
        for piece in pieces(offset, len) {
            let mut shard = self.shard(piece.chunk).write();
            if piece.len == CHUNK {
                shard.remove(&piece.chunk);
            } else if let Some(chunk) = shard.get_mut(&piece.chunk) {
                chunk[piece.start..piece.start + piece.len].fill(0);
            }
        }
    }

    fn shard(&self, chunk: u64) -> &Shard {
        &self.shards[(chunk % SHARDS as u64) as usize]
    }

    /// Bytes allocated so far.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.shards.iter().map(|s| (s.read().len() * CHUNK) as u64).sum()
    }
}

/// The part of a range that lies in one chunk.
struct Piece {
    chunk: u64,
    start: usize,
    len: usize,
}

fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = (at % CHUNK as u64) as usize;
        let len = (end - at).min((CHUNK - start) as u64) as usize;
        let piece = Piece { chunk: at / CHUNK as u64, start, len };
        at += len as u64;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_what_crosses_a_chunk_and_frees_whole_ones() {
        let backing = Backing::memory();
        let at = CHUNK as u64 - 100;
        let data: Vec<u8> = (0..CHUNK + 200).map(|i| i as u8).collect();
        backing.write(at, &data).unwrap();
        let mut back = vec![0xff; data.len() + 2];
        backing.read(at - 1, &mut back).unwrap();
        assert_eq!(back[0], 0);
        assert_eq!(&back[1..=data.len()], &data[..]);
        assert_eq!(back[data.len() + 1], 0);
        assert!(backing.compare(at, &data).unwrap());

        let Backing::Memory(memory) = &backing else { unreachable!() };
        assert_eq!(memory.allocated(), 3 * CHUNK as u64);
        backing.zero(0, 2 * CHUNK as u64 + 10).unwrap();
        assert_eq!(memory.allocated(), CHUNK as u64);
        backing.read(2 * CHUNK as u64, &mut back[..20]).unwrap();
        assert_eq!(&back[..10], &[0; 10]);
        assert_eq!(back[10..20], data[100 + CHUNK + 10..100 + CHUNK + 20]);
    }

    #[test]
    fn a_file_reads_zeroes_past_its_end() {
        let dir = std::env::temp_dir().join(format!("nvme-target-backing-{}", std::process::id()));
        let backing = Backing::file(&dir).unwrap();
        backing.write(512, &[7; 512]).unwrap();
        let mut buf = [1; 1024];
        backing.read(512, &mut buf).unwrap();
        assert_eq!(buf[..512], [7; 512]);
        assert_eq!(buf[512..], [0; 512]);
        backing.zero(512, 100).unwrap();
        assert!(!backing.compare(512, &[7; 512]).unwrap());
        backing.flush().unwrap();
        std::fs::remove_file(dir).unwrap();
    }
}
