//! A piece of the process's address space, unmapped when dropped.
#![expect(unsafe_code, reason = "mapping memory")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A mapping that this process can read and write.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the address is not accessed here; whoever does answers for it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory of this process, not given to children: a device keeps writing to the same
    /// pages after a fork.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let mapping = Self::unnamed(len, MapFlags::PRIVATE)?;
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    /// Zeroed huge pages of 2 MiB, all there already. `len` is a multiple of that.
    pub(crate) fn huge(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB | MapFlags::POPULATE;
        let mapping = Self::unnamed(len, flags)?;
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    /// `len` bytes of a file or device from `offset`, shared.
    pub(crate) fn file(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        Self::shared(fd, offset, len, MapFlags::SHARED)
    }

    fn shared(fd: BorrowedFd<'_>, offset: u64, len: usize, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: the system chooses where; nothing is there yet.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                offset,
            )?
        };
        Self::at(base, len)
    }

    /// `len` bytes of a file from its beginning, shared, all there already, and not given to
    /// children.
    pub(crate) fn populated_file(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let mapping = Self::shared(fd, 0, len, MapFlags::SHARED | MapFlags::POPULATE)?;
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    fn unnamed(len: usize, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: the system chooses where; nothing is there yet.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )?
        };
        Self::at(base, len)
    }

    fn at(base: *mut std::ffi::c_void, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len })
    }

    fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping; the advice does not change what this process sees.
        let advised = unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxDontFork)
        };
        Ok(advised?)
    }

    /// Where it begins.
    pub(crate) const fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Puts memory of this process in the place of what is mapped, all ones (all zeros if memory is
    /// short), in one step: whoever accesses the mapping meanwhile reaches the one or the other. What
    /// was mapped is let go.
    pub(crate) fn replace(&self) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let base = self.base.as_ptr().cast();
        let ones = rustix::fs::memfd_create("nvme-gone", MemfdFlags::CLOEXEC).and_then(|file| {
            let page = [0xff_u8; 4096];
            let mut at = 0;
            while at < self.len {
                at += rustix::io::pwrite(&file, &page, at as u64)?;
            }
            Ok(file)
        });
        // SAFETY: the range is this mapping, to which there are no references: it is a device's, and
        // is accessed by volatile reads and writes only, which ordinary memory bears as well.
        let replaced = unsafe {
            match &ones {
                Ok(file) => rustix::mm::mmap(base, self.len, prot, flags, file.as_fd(), 0),
                Err(_) => rustix::mm::mmap_anonymous(base, self.len, prot, flags),
            }
        };
        Ok(replaced.map(drop)?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value, which is the only one to unmap it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.len)
    }
}
