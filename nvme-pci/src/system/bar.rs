//! A BAR of which some windows are mapped and the rest is reached by calls.
#![expect(unsafe_code, reason = "device registers are reached through a mapping")]

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::backend::{BackendError, Mmio};
use crate::dma::{DmaMemory, PAGE};
use crate::mmio::MappedBar;
use crate::system::mapping::Mapping;
use crate::system::unusable;

/// Accesses to a region that is not mapped.
pub(crate) trait Calls: Send + Sync + fmt::Debug {
    /// Fills `to` from `offset`.
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()>;

    /// Writes `from` to `offset`.
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()>;
}

/// A part of the BAR that is mapped.
#[derive(Debug)]
struct Window {
    start: usize,
    end: usize,
    registers: MappedBar,
    mapping: Arc<Mapping>,
}

/// The registers of a function, until [`Bar::disconnect`].
#[derive(Debug)]
pub(crate) struct Bar {
    len: usize,
    windows: Vec<Window>,
    calls: Option<Box<dyn Calls>>,
    gone: AtomicBool,
    /// Memory of the controller's that is mapped for the driver.
    memory: Mutex<Vec<Weak<Mapping>>>,
}

/// Checks that `len` of the `size` bytes at `offset` can be mapped of a BAR of `has` bytes.
pub(crate) fn check_window(
    address: &str,
    bar: u8,
    has: u64,
    offset: u64,
    size: u64,
    len: usize,
) -> Result<(), BackendError> {
    let inside = offset.checked_add(size).is_some_and(|end| end <= has);
    if inside && len > 0 && len as u64 <= size {
        return Ok(());
    }
    let text = format!("{size} bytes at {offset:#x} are not in BAR {bar}, which has {has} bytes");
    Err(unusable(address, text))
}

impl Bar {
    /// A BAR of `len` bytes with nothing mapped; `calls` reach what is not mapped.
    pub(crate) fn new(len: usize, calls: Option<Box<dyn Calls>>) -> Self {
        Self {
            len,
            windows: Vec::new(),
            calls,
            gone: AtomicBool::new(false),
            memory: Mutex::default(),
        }
    }

    /// Maps the bytes `range`, which are at `offset` of `file`. Both are multiples of the page size.
    pub(crate) fn map(
        &mut self,
        range: Range<usize>,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<()> {
        if range.end > self.len || range.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Arc::new(Mapping::file(file, offset, range.len())?);
        // SAFETY: a mapping is aligned to pages and lives as long as its owner, which is handed
        // over; it is never exposed as a reference.
        let registers = unsafe {
            MappedBar::new(mapping.as_ptr(), mapping.len(), Box::new(Arc::clone(&mapping)))
        };
        self.windows.push(Window { start: range.start, end: range.end, registers, mapping });
        // The window of the doorbells is used most.
        self.windows.sort_by_key(|w| (w.end <= DOORBELLS, w.start));
        Ok(())
    }

    /// Maps `len` bytes at `offset` of `file`, a window to memory of the controller's, whose pages the
    /// controller knows by the addresses from `bus` on. Let go of with the rest.
    pub(crate) fn map_memory(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        bus: u64,
    ) -> io::Result<DmaMemory> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mapping = Arc::new(Mapping::file(file, offset, len)?);
        memory.retain(|mapping| mapping.strong_count() > 0);
        memory.push(Arc::downgrade(&mapping));
        let pages = (0..len / PAGE).map(|n| bus + (n * PAGE) as u64).collect();
        // SAFETY: a mapping is aligned to pages and lives as long as its owner; when the function is
        // let go of, other memory takes its place.
        Ok(unsafe { DmaMemory::new(mapping.as_ptr(), pages, Box::new(mapping)) })
    }

    /// Lets go of the function: from here on reads give all ones and writes do nothing.
    pub(crate) fn disconnect(&self) {
        if self.gone.swap(true, Ordering::SeqCst) {
            return;
        }
        for window in &self.windows {
            // If even that fails the function stays mapped; accesses are refused by the flag.
            let _ = window.mapping.replace();
        }
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for mapping in memory.iter().filter_map(Weak::upgrade) {
            let _ = mapping.replace();
        }
    }

    /// The window that holds `offset`, and the offset in it.
    #[inline]
    fn window(&self, offset: usize) -> Option<(&Window, usize)> {
        let window = self.windows.iter().find(|w| offset >= w.start && offset < w.end)?;
        Some((window, offset - window.start))
    }

    fn call_read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0xff; N];
        let inside = offset.checked_add(N).is_some_and(|end| end <= self.len);
        if let (true, Some(calls)) = (inside, &self.calls)
            && calls.read(offset as u64, &mut bytes).is_err()
        {
            bytes = [0xff; N];
        }
        bytes
    }

    fn call_write(&self, offset: usize, bytes: &[u8]) {
        let inside = offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len);
        if let (true, Some(calls)) = (inside, &self.calls) {
            fence(Ordering::SeqCst);
            // A function that cannot be reached shows in its registers, which are read all the time.
            let _ = calls.write(offset as u64, bytes);
        }
    }

    fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// Where doorbells begin (NVMe over PCIe Transport 1.1 §3.1.2).
const DOORBELLS: usize = 0x1000;

impl Mmio for Bar {
    fn len(&self) -> usize {
        self.len
    }

    fn read32(&self, offset: usize) -> u32 {
        if self.gone() || !offset.is_multiple_of(4) {
            return u32::MAX;
        }
        match self.window(offset) {
            Some((window, at)) => window.registers.read32(at),
            None => u32::from_le_bytes(self.call_read(offset)),
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        if self.gone() || !offset.is_multiple_of(8) {
            return u64::MAX;
        }
        match self.window(offset) {
            Some((window, at)) => window.registers.read64(at),
            None => u64::from_le_bytes(self.call_read(offset)),
        }
    }

    #[inline]
    fn write32(&self, offset: usize, value: u32) {
        if self.gone() || !offset.is_multiple_of(4) {
            return;
        }
        match self.window(offset) {
            Some((window, at)) => window.registers.write32(at, value),
            None => self.call_write(offset, &value.to_le_bytes()),
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        if self.gone() || !offset.is_multiple_of(8) {
            return;
        }
        match self.window(offset) {
            Some((window, at)) => window.registers.write64(at, value),
            None => self.call_write(offset, &value.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use rustix::fs::MemfdFlags;

    use super::*;

    #[derive(Debug)]
    struct FileCalls(File);

    impl Calls for FileCalls {
        fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
            self.0.read_exact_at(to, offset)
        }

        fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
            self.0.write_all_at(from, offset)
        }
    }

    fn bar() -> (Bar, File) {
        let fd = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(0x3000).unwrap();
        let calls = FileCalls(file.try_clone().unwrap());
        let mut bar = Bar::new(0x3000, Some(Box::new(calls)));
        bar.map(0x1000..0x2000, file.as_fd(), 0x1000).unwrap();
        (bar, file)
    }

    #[test]
    fn windows_and_calls_reach_the_same_bytes() {
        let (bar, file) = bar();
        for offset in [0x14, 0x1008, 0x2ffc] {
            bar.write32(offset, 0x0403_0201);
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, offset as u64).unwrap();
            assert_eq!(bytes, [1, 2, 3, 4], "{offset:#x}");
            assert_eq!(bar.read32(offset), 0x0403_0201, "{offset:#x}");
        }
        bar.write64(0x28, 0x0807_0605_0403_0201);
        assert_eq!((bar.read64(0x28), bar.read32(0x2c)), (0x0807_0605_0403_0201, 0x0807_0605));
        // Outside, and across the end.
        bar.write32(0x3000, 1);
        assert_eq!((bar.read32(0x3000), bar.read64(0x2ffc)), (u32::MAX, u64::MAX));
    }

    #[test]
    fn a_disconnected_bar_reads_as_ones_and_changes_nothing() {
        let (bar, file) = bar();
        bar.write32(0x1000, 7);
        bar.disconnect();
        bar.write32(0x1000, 9);
        bar.write32(0x14, 9);
        // Straight through the mapping, as a thread that was past the check does.
        let direct = &bar.windows[0].registers;
        assert_eq!(direct.read32(4), u32::MAX);
        direct.write32(0, 9);
        assert_eq!((bar.read32(0x1000), bar.read64(0)), (u32::MAX, u64::MAX));
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0x1000).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 7);
        file.read_exact_at(&mut bytes, 0x14).unwrap();
        assert_eq!(bytes, [0; 4]);
    }
}
