//! The asymmetric namespace access log page (NVMe 2.1 §5.1.12.1.13, §8.1.1).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::spec::WireError;

/// Bit of the log specific parameter of Get Log Page: return groups without their namespaces.
pub const LSP_RETURN_GROUPS_ONLY: u8 = 1 << 0;

open_enum! {
    /// State of an ANA group as seen through one controller (NVMe 2.1 §8.1.1.2).
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct AnaState(u8) {
        OPTIMIZED = 0x01, "Optimized";
        NON_OPTIMIZED = 0x02, "Non-Optimized";
        INACCESSIBLE = 0x03, "Inaccessible";
        PERSISTENT_LOSS = 0x04, "Persistent Loss";
        CHANGE = 0x0f, "Change";
    }
}

impl AnaState {
    /// Whether I/O may be sent while the group is in this state.
    #[must_use]
    pub const fn is_accessible(self) -> bool {
        matches!(self, Self::OPTIMIZED | Self::NON_OPTIMIZED)
    }
}

/// Header of the log page, 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AnaLogHeader {
    /// Counts changes of the page.
    pub chgcnt: U64,
    /// Number of group descriptors.
    pub ngrps: U16,
    reserved10: [u8; 6],
}
layout!(AnaLogHeader, 16, chgcnt @ 0, ngrps @ 8, reserved10 @ 10);

/// A group descriptor without its namespace identifiers, 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AnaGroupDescriptor {
    /// Group identifier, from 1.
    pub grpid: U32,
    /// Number of namespace identifiers that follow.
    pub nnsids: U32,
    /// Counts changes of this group; 0: not reported.
    pub chgcnt: U64,
    /// State in bits 3:0.
    pub state: u8,
    reserved17: [u8; 15],
}
layout!(AnaGroupDescriptor, 32, grpid @ 0, nnsids @ 4, chgcnt @ 8, state @ 16, reserved17 @ 17);

/// One group of the log page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnaGroup<'a> {
    /// Group identifier, never 0.
    pub grpid: u32,
    /// Counts changes of this group; 0: not reported.
    pub chgcnt: u64,
    /// One of the five states that have a name.
    pub state: AnaState,
    /// Namespaces of the group; empty in a page of groups only.
    pub nsids: &'a [U32],
}

/// An ANA log page of which every bound has been checked.
#[derive(Clone, Copy, Debug)]
pub struct AnaLog<'a> {
    header: &'a AnaLogHeader,
    descriptors: &'a [u8],
}

impl<'a> AnaLog<'a> {
    /// Checks a log page: the header, and that each descriptor and its namespaces lie inside the buffer and have a group
    /// identifier and a known state. Bytes after the last descriptor are ignored.
    ///
    /// # Errors
    /// [`WireError`] names what is wrong and at which offset of `buffer`.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, WireError> {
        let Ok((header, descriptors)) = AnaLogHeader::ref_from_prefix(buffer) else {
            return Err(WireError::Truncated {
                what: "ANA log page header",
                offset: 0,
                needed: size_of::<AnaLogHeader>() as u64,
                available: buffer.len(),
            });
        };
        let mut rest = descriptors;
        for _ in 0..header.ngrps.get() {
            (_, rest) = read_group(rest, buffer.len() - rest.len())?;
        }
        Ok(Self { header, descriptors })
    }

    /// Counts changes of the page.
    #[must_use]
    pub const fn chgcnt(&self) -> u64 {
        self.header.chgcnt.get()
    }

    /// The groups, in the order sent.
    #[must_use]
    pub const fn groups(&self) -> AnaGroups<'a> {
        AnaGroups { left: self.header.ngrps.get(), rest: self.descriptors }
    }

    /// Writes a log page.
    #[must_use]
    pub fn encode<'g>(chgcnt: u64, groups: impl IntoIterator<Item = AnaGroup<'g>>) -> Vec<u8> {
        let mut header =
            AnaLogHeader { chgcnt: chgcnt.into(), ngrps: 0.into(), reserved10: [0; 6] };
        let mut page = header.as_bytes().to_vec();
        let mut ngrps = 0;
        for group in groups.into_iter().take(usize::from(u16::MAX)) {
            let descriptor = AnaGroupDescriptor {
                grpid: group.grpid.into(),
                nnsids: (group.nsids.len() as u32).into(),
                chgcnt: group.chgcnt.into(),
                state: group.state.0,
                reserved17: [0; 15],
            };
            page.extend_from_slice(descriptor.as_bytes());
            page.extend_from_slice(group.nsids.as_bytes());
            ngrps += 1;
        }
        header.ngrps = ngrps.into();
        for (to, from) in page.iter_mut().zip(header.as_bytes()) {
            *to = *from;
        }
        page
    }
}

/// Reads the group that begins `bytes`, which is byte `offset` of the page; returns what follows it as well.
fn read_group(bytes: &[u8], offset: usize) -> Result<(AnaGroup<'_>, &[u8]), WireError> {
    let truncated = |needed| WireError::Truncated {
        what: "ANA group descriptor",
        offset,
        needed,
        available: bytes.len(),
    };
    let header_len = size_of::<AnaGroupDescriptor>() as u64;
    let (descriptor, after) =
        AnaGroupDescriptor::ref_from_prefix(bytes).map_err(|_| truncated(header_len))?;
    let nnsids = descriptor.nnsids.get();
    let needed = header_len + u64::from(nnsids) * 4;
    let count = usize::try_from(nnsids).map_err(|_| truncated(needed))?;
    let (nsids, rest) =
        <[U32]>::ref_from_prefix_with_elems(after, count).map_err(|_| truncated(needed))?;
    let grpid = descriptor.grpid.get();
    if grpid == 0 {
        return Err(WireError::Invalid {
            what: "ANA group identifier",
            offset,
            value: 0,
            rule: "groups count from 1",
        });
    }
    let state = AnaState(descriptor.state & 0xf);
    if state.name().is_none() {
        return Err(WireError::Invalid {
            what: "ANA state",
            offset: offset + core::mem::offset_of!(AnaGroupDescriptor, state),
            value: state.0.into(),
            rule: "states are 1 to 4 and Fh",
        });
    }
    Ok((AnaGroup { grpid, chgcnt: descriptor.chgcnt.get(), state, nsids }, rest))
}

/// Iterates over the groups of an [`AnaLog`].
#[derive(Clone, Debug)]
pub struct AnaGroups<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for AnaGroups<'a> {
    type Item = AnaGroup<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // `AnaLog::parse` has read these bytes once, so this cannot fail.
        let (group, rest) = read_group(self.rest, 0).ok()?;
        self.rest = rest;
        Some(group)
    }
}
