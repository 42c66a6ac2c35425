//! The cross-controller reset log page (TP8028; NVMe 2.3, log page 1Eh): what became of the resets that this host
//! asked one controller to do to another.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::spec::WireError;

open_enum! {
    /// Status of a cross-controller reset.
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct ResetState(u8) {
        IN_PROGRESS = 0x00, "In Progress";
        SUCCESS = 0x01, "Successful";
        FAILED = 0x02, "Failed";
    }
}

/// An entry of the log page, 8 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CrossControllerResetEntry {
    /// Identifier of the impacted controller.
    pub icid: U16,
    /// Its instance uniquifier.
    pub ciu: u8,
    reserved3: u8,
    /// Identifier of the aborting controller, FFFFh none.
    pub acid: U16,
    /// Status.
    pub ccrs: ResetState,
    /// Flags.
    pub ccrf: u8,
}
layout!(CrossControllerResetEntry, 8, icid @ 0, ciu @ 2, reserved3 @ 3, acid @ 4, ccrs @ 6, ccrf @ 7);

impl CrossControllerResetEntry {
    /// An entry about instance `ciu` of controller `icid`.
    #[must_use]
    pub fn new(icid: u16, ciu: u8, state: ResetState) -> Self {
        Self { icid: icid.into(), ciu, reserved3: 0, acid: u16::MAX.into(), ccrs: state, ccrf: 0 }
    }
}

/// Number of entries, then six reserved bytes.
const HEADER_LEN: usize = 8;

/// A log page of which every bound has been checked.
#[derive(Clone, Copy, Debug)]
pub struct CrossControllerResetLog<'a> {
    entries: &'a [CrossControllerResetEntry],
}

impl<'a> CrossControllerResetLog<'a> {
    /// Length in bytes of the largest page: 511 entries.
    pub const MAX_LEN: usize = 4096;

    /// Checks that `buffer` holds the header and as many entries as it tells.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if the buffer is too short.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, WireError> {
        let truncated = |what, offset: usize, needed| WireError::Truncated {
            what,
            offset,
            needed,
            available: buffer.len().saturating_sub(offset),
        };
        let (header, rest) = <[u8; HEADER_LEN]>::ref_from_prefix(buffer)
            .map_err(|_| truncated("cross-controller reset log header", 0, HEADER_LEN as u64))?;
        let count = u16::from_le_bytes([header[0], header[1]]);
        let needed = u64::from(count) * size_of::<CrossControllerResetEntry>() as u64;
        let (entries, _) =
            <[CrossControllerResetEntry]>::ref_from_prefix_with_elems(rest, count.into())
                .map_err(|_| truncated("cross-controller reset log entries", HEADER_LEN, needed))?;
        Ok(Self { entries })
    }

    /// The entries.
    #[must_use]
    pub const fn entries(&self) -> &'a [CrossControllerResetEntry] {
        self.entries
    }

    /// Writes a log page of the first 511 entries given.
    #[must_use]
    pub fn encode(entries: &[CrossControllerResetEntry]) -> Vec<u8> {
        let most = (Self::MAX_LEN - HEADER_LEN) / size_of::<CrossControllerResetEntry>();
        let entries = entries.get(..most).unwrap_or(entries);
        let mut page = vec![0; HEADER_LEN];
        page[..2].copy_from_slice(&(entries.len() as u16).to_le_bytes());
        page.extend_from_slice(entries.as_bytes());
        page
    }
}
