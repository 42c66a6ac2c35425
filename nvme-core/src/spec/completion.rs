//! The completion queue entry.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::status::Status;

/// A completion queue entry, 16 bytes (NVMe 2.1 §4.2.1; inside a response capsule §4.2.1, TCP 1.1 §3.6.2.7).
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
#[repr(C)]
pub struct Cqe {
    /// Command specific result, low half.
    pub dw0: U32,
    /// Command specific result, high half.
    pub dw1: U32,
    /// How far the controller has consumed the submission queue; reserved where flow control is disabled.
    pub sqhd: U16,
    /// The submission queue the command came from; reserved over fabrics.
    pub sqid: U16,
    /// Command identifier.
    pub cid: U16,
    /// Bit 0 is the phase tag (reserved over fabrics), bits 15:1 the status field.
    pub status: U16,
}
layout!(Cqe, 16, dw0 @ 0, dw1 @ 4, sqhd @ 8, sqid @ 10, cid @ 12, status @ 14);

impl Cqe {
    /// A completion as a controller sends it, phase bit clear.
    #[must_use]
    pub fn new(cid: u16, status: Status, result: u64) -> Self {
        let mut cqe = Self { cid: cid.into(), ..Self::default() };
        cqe.set_result(result);
        cqe.set_status(status, false);
        cqe
    }

    /// Both result dwords as one number.
    #[must_use]
    pub const fn result(&self) -> u64 {
        self.dw0.get() as u64 | (self.dw1.get() as u64) << 32
    }

    /// Stores the command specific result.
    pub fn set_result(&mut self, result: u64) {
        self.dw0 = (result as u32).into();
        self.dw1 = ((result >> 32) as u32).into();
    }

    /// The status field without the phase tag.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_raw(self.status.get() >> 1)
    }

    /// Stores status field and phase tag.
    pub fn set_status(&mut self, status: Status, phase: bool) {
        self.status = (status.raw() << 1 | u16::from(phase)).into();
    }

    /// The phase tag, which a controller with memory based queues inverts on each pass (NVMe 2.1 §4.2.4).
    #[must_use]
    pub const fn phase(&self) -> bool {
        self.status.get() & 1 != 0
    }
}
