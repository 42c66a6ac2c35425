//! The commands supported and effects log page (NVMe 2.1 §5.1.12.1.6).

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Effects of one command.
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
pub struct CommandEffects(pub U32);

/// The bits of [`CommandEffects`] that stand for themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effects(u32);

bitflags::bitflags! {
    impl Effects: u32 {
        /// The command is supported.
        const SUPPORTED = 1 << 0;
        /// It may change logical block content.
        const CONTENT_CHANGE = 1 << 1;
        /// It may change namespace capabilities.
        const NAMESPACE_CAPABILITY_CHANGE = 1 << 2;
        /// It may change how many namespaces there are.
        const NAMESPACE_INVENTORY_CHANGE = 1 << 3;
        /// It may change controller capabilities.
        const CONTROLLER_CAPABILITY_CHANGE = 1 << 4;
        /// It takes a UUID index.
        const UUID_SELECTION = 1 << 19;
        const _ = !0;
    }
}

impl CommandEffects {
    /// The bits that stand for themselves; the fields of several bits are in there too, unnamed.
    #[must_use]
    pub const fn bits(self) -> Effects {
        Effects::from_bits_retain(self.0.get())
    }

    /// Command submission and execution (CSE): 0 no restriction, 1 no other command to the namespace meanwhile, 2 none
    /// to any namespace.
    #[must_use]
    pub const fn submission_restriction(self) -> u8 {
        (self.0.get() >> 16) as u8 & 0x7
    }
}

/// The log page, 4096 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EffectsLog {
    /// Effects of each admin command, by opcode.
    pub admin: [CommandEffects; 256],
    /// Effects of each I/O command, by opcode.
    pub io: [CommandEffects; 256],
    reserved2048: [u8; 2048],
}
layout!(EffectsLog, 4096, admin @ 0, io @ 1024, reserved2048 @ 2048);
