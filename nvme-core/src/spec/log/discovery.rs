//! The discovery log page (NVMe 2.1 §5.1.12.3.1).

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nqn::{NQN_FIELD_LEN, Nqn, NqnError};
use crate::spec::{WireError, text};

open_enum! {
    /// TRTYPE, transport type.
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct TransportType(u8) {
        RDMA = 0x01, "RDMA";
        FIBRE_CHANNEL = 0x02, "Fibre Channel";
        TCP = 0x03, "TCP";
        LOOP = 0xfe, "Intra-host Loopback";
    }
}

open_enum! {
    /// ADRFAM, address family of the transport address.
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct AddressFamily(u8) {
        NONE = 0x00, "None";
        IPV4 = 0x01, "IPv4";
        IPV6 = 0x02, "IPv6";
        INFINIBAND = 0x03, "InfiniBand";
        FIBRE_CHANNEL = 0x04, "Fibre Channel";
        LOOP = 0xfe, "Intra-host Loopback";
    }
}

open_enum! {
    /// SUBTYPE, what an entry points to.
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    pub struct SubsystemType(u8) {
        REFERRAL = 0x01, "Discovery Subsystem Referral";
        NVM = 0x02, "NVM Subsystem";
        CURRENT_DISCOVERY = 0x03, "Current Discovery Subsystem";
    }
}

/// TREQ, transport requirements.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct TransportRequirements(u8);

bitflags::bitflags! {
    impl TransportRequirements: u8 {
        /// A secure channel is required.
        const SECURE_REQUIRED = 1 << 0;
        /// A secure channel is not required.
        const SECURE_NOT_REQUIRED = 1 << 1;
        /// Connect may disable submission queue flow control.
        const NO_FLOW_CONTROL = 1 << 2;
        const _ = !0;
    }
}

/// EFLAGS, entry flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryFlags(u16);

bitflags::bitflags! {
    impl EntryFlags: u16 {
        /// Another discovery address of this subsystem returns the same information.
        const DUPLICATE = 1 << 0;
        /// Explicit persistent connections to this discovery subsystem are supported.
        const PERSISTENT = 1 << 1;
        /// No connectivity to a centralized discovery controller.
        const NO_CDC = 1 << 2;
        const _ = !0;
    }
}

/// Header of the log page, 1024 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// Generation: if it differs between two reads, the page changed in between.
    pub genctr: U64,
    /// Number of entries.
    pub numrec: U64,
    /// Record format, 0.
    pub recfmt: U16,
    reserved18: [u8; 1006],
}
layout!(DiscoveryHeader, 1024, genctr @ 0, numrec @ 8, recfmt @ 16, reserved18 @ 18);

impl DiscoveryHeader {
    /// A header of `numrec` entries.
    #[must_use]
    pub fn new(genctr: u64, numrec: u64) -> Self {
        Self {
            genctr: genctr.into(),
            numrec: numrec.into(),
            recfmt: 0.into(),
            reserved18: [0; 1006],
        }
    }

    /// Length in bytes of the whole page; `None` if the count is absurd.
    #[must_use]
    pub fn page_len(&self) -> Option<u64> {
        let entries = self.numrec.get().checked_mul(size_of::<DiscoveryEntry>() as u64)?;
        entries.checked_add(size_of::<Self>() as u64)
    }
}

/// An entry, 1024 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// Transport type.
    pub trtype: TransportType,
    /// Address family.
    pub adrfam: AddressFamily,
    /// What the entry points to.
    pub subtype: SubsystemType,
    /// Transport requirements.
    pub treq: TransportRequirements,
    /// Port identifier.
    pub portid: U16,
    /// Controller identifier to connect to, FFFFh dynamic, FFFEh static with any.
    pub cntlid: U16,
    /// Most entries of an admin submission queue.
    pub asqsz: U16,
    /// Flags, see [`DiscoveryEntry::flags`].
    pub eflags: U16,
    reserved12: [u8; 20],
    /// Transport service identifier, the TCP port in decimal.
    pub trsvcid: [u8; 32],
    reserved64: [u8; 192],
    /// NQN of the subsystem.
    pub subnqn: [u8; NQN_FIELD_LEN],
    /// Transport address.
    pub traddr: [u8; 256],
    /// Transport specific address subtype; of TCP, byte 0 is the security type: 0 none, 1 TLS before 1.3, 2 TLS 1.3.
    pub tsas: [u8; 256],
}
layout!(
    DiscoveryEntry, 1024, trtype @ 0, adrfam @ 1, subtype @ 2, treq @ 3, portid @ 4, cntlid @ 6, asqsz @ 8,
    eflags @ 10, reserved12 @ 12, trsvcid @ 32, reserved64 @ 64, subnqn @ 256, traddr @ 512, tsas @ 768,
);

impl DiscoveryEntry {
    /// Entry flags.
    #[must_use]
    pub const fn flags(&self) -> EntryFlags {
        EntryFlags::from_bits_retain(self.eflags.get())
    }

    /// Transport address as text.
    ///
    /// # Errors
    /// [`WireError::Text`] if the field holds other than printable ASCII.
    pub fn address(&self) -> Result<&str, WireError> {
        text::ascii("discovery entry transport address", &self.traddr)
    }

    /// Transport service identifier as text.
    ///
    /// # Errors
    /// [`WireError::Text`] if the field holds other than printable ASCII.
    pub fn service(&self) -> Result<&str, WireError> {
        text::ascii("discovery entry transport service identifier", &self.trsvcid)
    }

    /// NQN of the subsystem.
    ///
    /// # Errors
    /// [`NqnError`] if the field holds none.
    pub fn subsystem_nqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Stores address and service identifier, each cut to its field's length.
    pub fn set_address(&mut self, address: &str, service: &str) {
        text::fill(&mut self.traddr, address);
        text::fill(&mut self.trsvcid, service);
    }
}

/// A whole discovery log page of which every bound has been checked.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryLog<'a> {
    header: &'a DiscoveryHeader,
    entries: &'a [DiscoveryEntry],
}

impl<'a> DiscoveryLog<'a> {
    /// Checks that `buffer` holds the header and as many entries as it tells. Bytes after the last are ignored.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if the buffer is too short; [`WireError::Invalid`] if the record format is not 0.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, WireError> {
        let truncated = |what, offset, needed| WireError::Truncated {
            what,
            offset,
            needed,
            available: buffer.len().saturating_sub(offset),
        };
        let header_len = size_of::<DiscoveryHeader>();
        let (header, rest) = DiscoveryHeader::ref_from_prefix(buffer)
            .map_err(|_| truncated("discovery log page header", 0, header_len as u64))?;
        if header.recfmt.get() != 0 {
            return Err(WireError::Invalid {
                what: "discovery log record format",
                offset: core::mem::offset_of!(DiscoveryHeader, recfmt),
                value: header.recfmt.get().into(),
                rule: "the only format is 0",
            });
        }
        let needed = header.page_len().map_or(u64::MAX, |len| len - header_len as u64);
        let entries = usize::try_from(header.numrec.get())
            .ok()
            .and_then(|count| <[DiscoveryEntry]>::ref_from_prefix_with_elems(rest, count).ok());
        match entries {
            Some((entries, _)) => Ok(Self { header, entries }),
            None => Err(truncated("discovery log entries", header_len, needed)),
        }
    }

    /// Generation counter; read the header again after the page and compare.
    #[must_use]
    pub const fn genctr(&self) -> u64 {
        self.header.genctr.get()
    }

    /// The entries.
    #[must_use]
    pub const fn entries(&self) -> &'a [DiscoveryEntry] {
        self.entries
    }
}
