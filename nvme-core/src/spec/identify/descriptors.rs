//! Namespace identification descriptors (NVMe 2.1 §5.1.13.2.3).

use super::IDENTIFY_LEN;
use crate::nqn::{Eui64, Nguid, Uuid};
use crate::spec::WireError;

/// Namespace identifier types.
pub mod nidt {
    /// EUI-64, 8 bytes.
    pub const EUI64: u8 = 0x01;
    /// NGUID, 16 bytes.
    pub const NGUID: u8 = 0x02;
    /// UUID, 16 bytes.
    pub const UUID: u8 = 0x03;
    /// Command set identifier, 1 byte.
    pub const CSI: u8 = 0x04;
}

/// Bytes before the identifier: type, length, two reserved.
const HEADER_LEN: usize = 4;

/// One descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Descriptor<'a> {
    /// IEEE extended unique identifier.
    Eui64(Eui64),
    /// Globally unique identifier.
    Nguid(Nguid),
    /// UUID.
    Uuid(Uuid),
    /// The command set that the namespace belongs to, one of [`csi`](super::csi).
    Csi(u8),
    /// A type without a name here.
    Other {
        /// The type.
        nidt: u8,
        /// The identifier.
        id: &'a [u8],
    },
}

/// Reads descriptors one after the other, until one of length 0, the end of the buffer, or the first error.
#[derive(Clone, Debug)]
pub struct Descriptors<'a> {
    buffer: &'a [u8],
    offset: usize,
}

impl<'a> Descriptors<'a> {
    /// Reads the data of Identify CNS 03h.
    #[must_use]
    pub const fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, offset: 0 }
    }

    /// Offset in the buffer of the descriptor that comes next.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    fn read(&self) -> Result<Option<(Descriptor<'a>, usize)>, WireError> {
        let rest = self.buffer.get(self.offset..).unwrap_or_default();
        // Fewer bytes than a header at the very end cannot hold a descriptor; a full list need not be terminated.
        let Some((&[nidt, nidl, _, _], after)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        if nidl == 0 {
            return Ok(None);
        }
        let Some(id) = after.get(..usize::from(nidl)) else {
            return Err(WireError::Truncated {
                what: "namespace identification descriptor",
                offset: self.offset,
                needed: HEADER_LEN as u64 + u64::from(nidl),
                available: rest.len(),
            });
        };
        let length = |rule| WireError::Invalid {
            what: "namespace identification descriptor length",
            offset: self.offset + 1,
            value: nidl.into(),
            rule,
        };
        let descriptor = match nidt {
            nidt::EUI64 => Descriptor::Eui64(Eui64(
                id.try_into().map_err(|_| length("an EUI-64 has 8 bytes"))?,
            )),
            nidt::NGUID => Descriptor::Nguid(Nguid(
                id.try_into().map_err(|_| length("an NGUID has 16 bytes"))?,
            )),
            nidt::UUID => {
                Descriptor::Uuid(Uuid(id.try_into().map_err(|_| length("a UUID has 16 bytes"))?))
            }
            nidt::CSI => match *id {
                [csi] => Descriptor::Csi(csi),
                _ => return Err(length("a command set identifier has 1 byte")),
            },
            _ => Descriptor::Other { nidt, id },
        };
        Ok(Some((descriptor, HEADER_LEN + id.len())))
    }
}

impl<'a> Iterator for Descriptors<'a> {
    type Item = Result<Descriptor<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read() {
            Ok(Some((descriptor, len))) => {
                self.offset += len;
                Some(Ok(descriptor))
            }
            Ok(None) => {
                self.buffer = &[];
                None
            }
            Err(error) => {
                self.buffer = &[];
                Some(Err(error))
            }
        }
    }
}

/// The identifiers of a namespace, by which two paths are known to lead to the same one (NVMe 2.1 §4.5.1).
/// An identifier of all zeroes counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamespaceIds {
    /// IEEE extended unique identifier.
    pub eui64: Option<Eui64>,
    /// Globally unique identifier.
    pub nguid: Option<Nguid>,
    /// UUID.
    pub uuid: Option<Uuid>,
    /// Command set, one of [`csi`](super::csi).
    pub csi: Option<u8>,
}

impl NamespaceIds {
    /// Collects the data of Identify CNS 03h; types without a name here are passed over.
    ///
    /// # Errors
    /// What [`Descriptors`] finds wrong, or a type that occurs twice.
    pub fn parse(buffer: &[u8]) -> Result<Self, WireError> {
        let mut ids = Self::default();
        let mut descriptors = Descriptors::new(buffer);
        let mut seen = 0u8;
        loop {
            let offset = descriptors.offset();
            let Some(descriptor) = descriptors.next() else { return Ok(ids) };
            let nidt = match descriptor? {
                Descriptor::Eui64(id) => {
                    ids.eui64 = Some(id).filter(|id| !id.is_nil());
                    nidt::EUI64
                }
                Descriptor::Nguid(id) => {
                    ids.nguid = Some(id).filter(|id| !id.is_nil());
                    nidt::NGUID
                }
                Descriptor::Uuid(id) => {
                    ids.uuid = Some(id).filter(|id| !id.is_nil());
                    nidt::UUID
                }
                Descriptor::Csi(csi) => {
                    ids.csi = Some(csi);
                    nidt::CSI
                }
                Descriptor::Other { .. } => continue,
            };
            // Two values of one type would leave it open which namespace this is.
            if seen & 1 << nidt != 0 {
                return Err(WireError::Invalid {
                    what: "namespace identification descriptor type",
                    offset,
                    value: nidt.into(),
                    rule: "a type occurs once",
                });
            }
            seen |= 1 << nidt;
        }
    }

    /// The data of Identify CNS 03h.
    #[must_use]
    pub fn encode(&self) -> [u8; IDENTIFY_LEN] {
        let mut page = [0; IDENTIFY_LEN];
        let mut bytes = Vec::with_capacity(64);
        let mut push = |nidt: u8, id: &[u8]| {
            bytes.extend_from_slice(&[nidt, id.len() as u8, 0, 0]);
            bytes.extend_from_slice(id);
        };
        if let Some(id) = &self.eui64 {
            push(nidt::EUI64, &id.0);
        }
        if let Some(id) = &self.nguid {
            push(nidt::NGUID, &id.0);
        }
        if let Some(id) = &self.uuid {
            push(nidt::UUID, &id.0);
        }
        if let Some(csi) = self.csi {
            push(nidt::CSI, &[csi]);
        }
        for (to, from) in page.iter_mut().zip(bytes) {
            *to = from;
        }
        page
    }

    /// Whether there is an identifier that is unique across subsystems (a command set is none).
    #[must_use]
    pub const fn is_identified(&self) -> bool {
        self.eui64.is_some() || self.nguid.is_some() || self.uuid.is_some()
    }
}
