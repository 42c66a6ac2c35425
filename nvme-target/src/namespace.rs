//! Namespaces: how they are described, and what the I/O path needs of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nvme_core::nqn::{Eui64, Nguid, Uuid};
use nvme_core::spec::Status;

use crate::ana::{ANA_GROUP_MAX, AnaState};
use crate::backing::Backing;
use crate::error::TargetError;

/// Namespace identifiers that a subsystem may use: 1 to this (the NN of Identify Controller).
pub const NSID_MAX: u32 = 16_384;

/// The identifiers that tell whether a namespace is the same as before (NVMe 2.1 §4.5.1). Nil ones are not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIds {
    /// UUID.
    pub uuid: Uuid,
    /// NGUID.
    pub nguid: Nguid,
    /// EUI-64.
    pub eui64: Eui64,
}

/// What comes with each block's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metadata {
    /// Nothing.
    #[default]
    None,
    /// So many bytes after each block's data, in the same buffer (an extended LBA).
    Extended(u16),
    /// So many bytes for each block, in a buffer of their own. Fabrics do not move it: there, commands
    /// that read, write or compare blocks fail with Invalid Field in Command.
    Separate(u16),
}

impl Metadata {
    /// Bytes for each block.
    pub(crate) const fn bytes(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Extended(bytes) | Self::Separate(bytes) => bytes,
        }
    }
}

/// Describes a namespace to add.
#[derive(Debug)]
pub struct NamespaceConfig {
    pub(crate) nsid: u32,
    pub(crate) bytes: u64,
    pub(crate) block_size: u32,
    pub(crate) metadata: Metadata,
    pub(crate) ids: Option<NamespaceIds>,
    pub(crate) ana_group: u32,
    pub(crate) backing: Backing,
    pub(crate) enabled: bool,
}

impl NamespaceConfig {
    fn new(nsid: u32, bytes: u64, backing: Backing) -> Self {
        Self {
            nsid,
            bytes,
            block_size: 4096,
            metadata: Metadata::None,
            ids: None,
            ana_group: 1,
            backing,
            enabled: true,
        }
    }

    /// `bytes` of sparse memory as namespace `nsid`: blocks of 4096 bytes, ANA group 1, enabled, a UUID made from
    /// the subsystem's NQN and `nsid`.
    #[must_use]
    pub fn memory(nsid: u32, bytes: u64) -> Self {
        Self::new(nsid, bytes, Backing::memory())
    }

    /// `bytes` of nothing: reads give zeroes, writes go nowhere. For benches.
    #[must_use]
    pub fn null(nsid: u32, bytes: u64) -> Self {
        Self::new(nsid, bytes, Backing::Null)
    }

    /// A file, made if it is not there, as namespace `nsid` of `bytes` bytes; `None` takes the file's length.
    ///
    /// # Errors
    /// What the operating system says about opening the file.
    pub fn file(nsid: u32, path: impl AsRef<Path>, bytes: Option<u64>) -> io::Result<Self> {
        let backing = Backing::file(path)?;
        let bytes = match (&backing, bytes) {
            (_, Some(bytes)) => bytes,
            (Backing::File(file), None) => file.metadata()?.len(),
            _ => 0,
        };
        Ok(Self::new(nsid, bytes, backing))
    }

    /// Bytes per logical block: 512 or 4096.
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    /// Metadata with each block. It comes on top of the bytes that the namespace has. Metadata that is
    /// beside the data is kept in memory, whatever the data is kept in.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// The identifiers to report.
    #[must_use]
    pub fn ids(mut self, ids: NamespaceIds) -> Self {
        self.ids = Some(ids);
        self
    }

    /// The ANA group, 1 to 128.
    #[must_use]
    pub fn ana_group(mut self, group: u32) -> Self {
        self.ana_group = group;
        self
    }

    /// Adds the namespace disabled: hosts do not see it until it is enabled.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.enabled = false;
        self
    }
}

/// A namespace of a subsystem. Cheap to clone: the storage is shared.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub nsid: u32,
    pub block_shift: u32,
    pub metadata: Metadata,
    pub blocks: u64,
    pub ids: NamespaceIds,
    pub ana_group: u32,
    pub backing: Arc<Backing>,
    /// Metadata that is beside the data.
    pub beside: Arc<Backing>,
    pub enabled: bool,
}

impl Namespace {
    pub fn new(config: NamespaceConfig, nqn: &str) -> Result<Self, TargetError> {
        let NamespaceConfig { nsid, bytes, block_size, metadata, ids, ana_group, backing, enabled } =
            config;
        if !(1..=NSID_MAX).contains(&nsid) {
            return Err(TargetError::NamespaceId(nsid));
        }
        if block_size != 512 && block_size != 4096 {
            return Err(TargetError::BlockSize { nsid, block_size });
        }
        check_group(ana_group)?;
        let ids = ids.unwrap_or_else(|| NamespaceIds {
            uuid: derived_uuid(nqn, nsid),
            ..NamespaceIds::default()
        });
        let mut new = Self {
            nsid,
            block_shift: block_size.trailing_zeros(),
            metadata,
            blocks: 0,
            ids,
            ana_group,
            backing: Arc::new(backing),
            beside: Arc::new(Backing::memory()),
            enabled,
        };
        new.resize(bytes);
        Ok(new)
    }

    /// Bytes of a block in a data buffer, and in the storage.
    pub fn block(&self) -> u64 {
        let block = 1 << self.block_shift;
        match self.metadata {
            Metadata::Extended(bytes) => block + u64::from(bytes),
            Metadata::None | Metadata::Separate(_) => block,
        }
    }

    /// Bytes of a block's metadata beside the data.
    pub fn metadata_beside(&self) -> u64 {
        match self.metadata {
            Metadata::Separate(bytes) => bytes.into(),
            Metadata::None | Metadata::Extended(_) => 0,
        }
    }

    /// Sets the size to so many bytes of data, rounded down to whole blocks.
    pub fn resize(&mut self, bytes: u64) {
        let most = u64::MAX / (self.block() + self.metadata_beside());
        self.blocks = (bytes >> self.block_shift).min(most);
    }
}

pub(crate) fn check_group(group: u32) -> Result<(), TargetError> {
    if (1..=ANA_GROUP_MAX).contains(&group) { Ok(()) } else { Err(TargetError::AnaGroup(group)) }
}

/// A UUID that the same subsystem gives the same namespace each time, and others do not: two rounds of FNV-1a.
fn derived_uuid(nqn: &str, nsid: u32) -> Uuid {
    let hash = |seed: u64| {
        nqn.bytes()
            .chain(nsid.to_le_bytes())
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&hash(0xcbf2_9ce4_8422_2325).to_be_bytes());
    bytes[8..].copy_from_slice(&hash(0x8422_2325_cbf2_9ce4).to_be_bytes());
    Uuid::from_random(bytes)
}

/// The namespaces as one listener's I/O queues see them: replaced as a whole on every change, so that the I/O path
/// takes no lock.
#[derive(Debug)]
pub(crate) struct IoView {
    /// The subsystem's generation that this view shows.
    pub generation: u64,
    /// Ascending by identifier.
    namespaces: Vec<(Namespace, AnaState)>,
}

impl IoView {
    pub fn new(generation: u64, namespaces: Vec<(Namespace, AnaState)>) -> Self {
        Self { generation, namespaces }
    }

    /// The namespace, if commands to it may run now.
    pub fn find(&self, nsid: u32) -> Result<&Namespace, Status> {
        let at = self
            .namespaces
            .binary_search_by_key(&nsid, |(ns, _)| ns.nsid)
            .map_err(|_| Status::INVALID_NAMESPACE.with_dnr())?;
        let (ns, ana) = &self.namespaces[at];
        if !ns.enabled {
            // as Linux's target does: the namespace may come back, and may be there on another path
            return Err(Status::INTERNAL_PATH_ERROR);
        }
        match ana.failure() {
            Some(status) => Err(status),
            None => Ok(ns),
        }
    }
}
