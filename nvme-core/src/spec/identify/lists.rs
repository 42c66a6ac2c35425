//! Lists of namespace identifiers.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::spec::WireError;

/// A page of namespace identifiers, ascending, filled up with zeroes (NVMe 2.1 §5.1.13.2.2, §5.1.13.2.9): the active
/// and allocated namespace lists, and (out of order, too) the changed namespace list log page.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NsidList {
    /// The identifiers.
    pub nsids: [U32; 1024],
}
layout!(NsidList, 4096, nsids @ 0);

impl NsidList {
    /// How many identifiers fit.
    pub const CAPACITY: usize = 1024;

    /// The identifiers before the first zero, in the order sent and unchecked.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nsids.iter().map(|nsid| nsid.get()).take_while(|&nsid| nsid != 0)
    }

    /// The identifiers of an active or allocated list that was asked for with NSID `after`.
    ///
    /// They are checked to ascend and to lie above `after`, so that reading page after page comes to an end whatever
    /// a controller sends. A list shorter than [`NsidList::CAPACITY`] is the last page.
    ///
    /// # Errors
    /// [`WireError::Invalid`] names the entry that does not ascend, or is no namespace identifier.
    pub fn above(&self, after: u32) -> Result<Vec<u32>, WireError> {
        let mut nsids = Vec::new();
        let mut last = after;
        for (at, nsid) in self.iter().enumerate() {
            if nsid <= last || nsid > 0xffff_fffe {
                return Err(WireError::Invalid {
                    what: "namespace list entry",
                    offset: at * 4,
                    value: nsid.into(),
                    rule: "identifiers ascend, and end at FFFFFFFEh",
                });
            }
            nsids.push(nsid);
            last = nsid;
        }
        Ok(nsids)
    }

    /// A page of the first [`NsidList::CAPACITY`] identifiers given.
    #[must_use]
    pub fn from_nsids(nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut page = Self::new_zeroed();
        for (to, nsid) in page.nsids.iter_mut().zip(nsids) {
            *to = nsid.into();
        }
        page
    }
}

impl core::fmt::Debug for NsidList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
