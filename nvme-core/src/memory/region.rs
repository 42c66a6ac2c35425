//! A region of memory, whoever made it.
#![expect(unsafe_code, reason = "memory is handed to devices by contract")]

use std::any::Any;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// What memory must be, so that the controllers of a transport reach it without a copy. Each kind
/// does for those before it, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MemoryKind {
    /// Any memory.
    #[default]
    Any,
    /// Whole pages of 4 KiB, at addresses that an IOMMU can be told of.
    Pages,
    /// Pages of a file that another process can map.
    Shared,
    /// Huge pages of such a file, which stay where they are in physical memory.
    Huge,
}

/// A page of the caller's.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

impl Page {
    /// Zeros.
    pub const ZERO: Self = Self([0; 4096]);
}

/// A region of memory, and whom it belongs to.
///
/// Transports keep it alive (by an [`Arc`](std::sync::Arc)) for as long as any device reaches it.
pub struct Memory {
    ptr: NonNull<u8>,
    len: usize,
    file: Option<(OwnedFd, u64)>,
    /// Bytes of the physical pages that it surely consists of.
    page: usize,
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the address is only handed on here; whoever accesses the bytes answers for it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory of the process, `len` bytes rounded up to pages of 4 KiB, one at least; `None`
    /// if there is not as much.
    #[must_use]
    pub fn zeroed(len: usize) -> Option<Self> {
        let count = len.div_ceil(size_of::<Page>()).max(1);
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).ok()?;
        pages.resize(count, Page::ZERO);
        Some(pages.into())
    }

    /// Memory that the caller has. For devices to reach it, it must begin and end on a page of
    /// 4 KiB; where it does not, data in it is copied.
    ///
    /// `owner` is dropped once no device reaches the memory any more, which may be later than the
    /// end of its registration.
    ///
    /// # Safety
    /// `ptr` must be valid for reads and writes of `len` bytes until `owner` is dropped. What is
    /// taken out of the region as [`DmaBuf`](super::DmaBuf)s belongs to those; nothing else may
    /// access these bytes.
    #[must_use]
    pub unsafe fn from_raw_parts(
        ptr: NonNull<u8>,
        len: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self { ptr, len, file: None, page: size_of::<Page>(), _owner: owner }
    }

    /// Says that the region is `file` from `offset` on, mapped shared, so that other processes can
    /// be given it.
    #[must_use]
    pub fn backed_by(mut self, file: OwnedFd, offset: u64) -> Self {
        self.file = Some((file, offset));
        self
    }

    /// Says that the region consists of huge pages of `page` bytes.
    ///
    /// # Safety
    /// The region must begin and end on such a page, all pages must be there, and they must stay
    /// where they are in physical memory until the owner is dropped, as those of hugetlbfs do:
    /// devices without an IOMMU are given their physical addresses.
    #[must_use]
    pub unsafe fn with_huge_pages(mut self, page: usize) -> Self {
        self.page = page.max(size_of::<Page>());
        self
    }

    /// The first byte.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file that the region is of, and where in it the region begins.
    #[must_use]
    pub fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.file.as_ref().map(|(fd, offset)| (fd.as_fd(), *offset))
    }

    /// Bytes of its physical pages: 4,096, or more where they are huge and do not move.
    #[must_use]
    pub const fn page(&self) -> usize {
        self.page
    }
}

/// Takes the pages over: no contract is needed.
impl From<Vec<Page>> for Memory {
    fn from(pages: Vec<Page>) -> Self {
        /// Pages that are freed with the last reference to them. They are never looked at as such.
        struct Owned(NonNull<[Page]>);
        // SAFETY: plain bytes, which the value owns.
        unsafe impl Send for Owned {}
        // SAFETY: as above; there is no access through it.
        unsafe impl Sync for Owned {}
        impl Drop for Owned {
            fn drop(&mut self) {
                // SAFETY: came from a box, once.
                drop(unsafe { Box::from_raw(self.0.as_ptr()) });
            }
        }
        let pages = Box::into_raw(pages.into_boxed_slice());
        // SAFETY: a box is not null.
        let pages = unsafe { NonNull::new_unchecked(pages) };
        let len = pages.len() * size_of::<Page>();
        // SAFETY: the box is the region's alone from here on, and is freed with its owner.
        unsafe { Self::from_raw_parts(pages.cast(), len, Box::new(Owned(pages))) }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes at {:p})", self.len, self.ptr)
    }
}
