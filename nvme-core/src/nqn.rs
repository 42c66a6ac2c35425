//! Names of hosts, subsystems and namespaces: NQN, UUID, EUI-64, NGUID.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length in bytes of the field that an NQN travels in.
pub const NQN_FIELD_LEN: usize = 256;

/// Longest NQN in bytes, its NUL not counted (NVMe 2.1 §4.7).
pub const NQN_MAX_LEN: usize = 223;

/// The well known NQN of a discovery subsystem (NVMe 2.1 §4.7.1).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// An NVMe Qualified Name: UTF-8, 1 to 223 bytes, beginning with `nqn.` (NVMe 2.1 §4.7).
///
/// Control characters are refused: names end up in logs and terminals, and a peer chooses some of them.
/// Cloning is cheap. Names compare byte by byte, as the specification demands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(Arc<str>);

/// Why something is not an NQN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NqnError {
    /// Nothing before the NUL.
    #[error("NQN is empty")]
    Empty,
    /// More than 223 bytes.
    #[error("NQN of {0} bytes or more, longest is 223")]
    TooLong(usize),
    /// It begins otherwise.
    #[error("NQN does not begin with \"nqn.\"")]
    Prefix,
    /// Not UTF-8.
    #[error("NQN is not UTF-8 from byte {0}")]
    Utf8(usize),
    /// NUL, newline, or another control character.
    #[error("NQN has a control character at byte {0}")]
    Control(usize),
}

impl Nqn {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`NqnError`] tells what is wrong with it.
    pub fn new(name: &str) -> Result<Self, NqnError> {
        if name.is_empty() {
            return Err(NqnError::Empty);
        }
        if name.len() > NQN_MAX_LEN {
            return Err(NqnError::TooLong(name.len()));
        }
        if let Some((at, _)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(NqnError::Control(at));
        }
        if !name.starts_with("nqn.") {
            return Err(NqnError::Prefix);
        }
        Ok(Self(name.into()))
    }

    /// Reads a name out of a wire field, up to the first NUL.
    ///
    /// # Errors
    /// [`NqnError`] tells what is wrong with it; a field without NUL in its first 224 bytes is too long.
    pub fn from_field(field: &[u8; NQN_FIELD_LEN]) -> Result<Self, NqnError> {
        let len = field.iter().position(|&b| b == 0).unwrap_or(NQN_FIELD_LEN);
        if len > NQN_MAX_LEN {
            return Err(NqnError::TooLong(len));
        }
        let name =
            core::str::from_utf8(&field[..len]).map_err(|e| NqnError::Utf8(e.valid_up_to()))?;
        Self::new(name)
    }

    /// The wire field: the name, then NULs.
    #[must_use]
    pub fn to_field(&self) -> [u8; NQN_FIELD_LEN] {
        let mut field = [0; NQN_FIELD_LEN];
        for (to, from) in field.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        field
    }

    /// The host NQN made from a host's UUID (NVMe 2.1 §4.7).
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}").into())
    }

    /// The well known discovery subsystem.
    #[must_use]
    pub fn discovery() -> Self {
        Self(DISCOVERY_NQN.into())
    }

    /// Whether this is the well known discovery subsystem.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        &*self.0 == DISCOVERY_NQN
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

/// A UUID as NVMe carries it: 16 bytes, most significant first (NVMe 2.1 §4.5.1, RFC 9562).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Uuid(pub [u8; 16]);

/// The text is not a UUID of 32 hexadecimal digits, with hyphens in the usual places or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID: expected xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx in hexadecimal digits")]
pub struct UuidError;

impl Uuid {
    /// All zeroes, which means that there is none.
    pub const NIL: Self = Self([0; 16]);

    /// Whether all bytes are zero.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }

    /// A random (version 4) UUID from 16 bytes of the caller's randomness.
    #[must_use]
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let hyphenated = s.len() == 36;
        if !hyphenated && s.len() != 32 {
            return Err(UuidError);
        }
        let mut uuid = [0; 16];
        let mut digits = 0;
        for (i, c) in s.bytes().enumerate() {
            if hyphenated && matches!(i, 8 | 13 | 18 | 23) {
                if c != b'-' {
                    return Err(UuidError);
                }
                continue;
            }
            let digit = char::from(c).to_digit(16).ok_or(UuidError)? as u8;
            let byte = uuid.get_mut(digits / 2).ok_or(UuidError)?;
            *byte = *byte << 4 | digit;
            digits += 1;
        }
        Ok(Self(uuid))
    }
}

macro_rules! hex_id {
    ($(#[$meta:meta])* $name:ident, $len:literal) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, KnownLayout,
            Immutable, Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Whether all bytes are zero, which means that there is none.
            #[must_use]
            pub fn is_nil(&self) -> bool {
                self.0 == [0; $len]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

hex_id! {
    /// An IEEE Extended Unique Identifier of a namespace, 8 bytes, most significant first (NVMe 2.1 §4.5.1).
    Eui64, 8
}
hex_id! {
    /// A Namespace Globally Unique Identifier, 16 bytes, most significant first (NVMe 2.1 §4.5.1).
    Nguid, 16
}

macro_rules! debug_as_display {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}
debug_as_display!(Uuid, Eui64, Nguid);
