//! Features: identifiers and values (NVMe 2.1 §5.1.25).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Feature identifiers.
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER_MANAGEMENT: u8 = 0x02;
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache; bit 0 of the value enables it.
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues, see [`super::NumberOfQueues`].
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration, see [`super::AsyncEventConfig`].
    pub const ASYNC_EVENT_CONFIG: u8 = 0x0b;
    /// Autonomous Power State Transition.
    pub const AUTONOMOUS_POWER_STATE: u8 = 0x0c;
    /// Host Memory Buffer.
    pub const HOST_MEMORY_BUFFER: u8 = 0x0d;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 0x0e;
    /// Keep Alive Timer; the value is the timeout in milliseconds.
    pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
    /// Host Behavior Support, see [`super::HostBehavior`].
    pub const HOST_BEHAVIOR: u8 = 0x16;
    /// I/O Command Set Profile.
    pub const IO_COMMAND_SET_PROFILE: u8 = 0x19;
    /// Host Identifier; the data is 8 bytes, or 16 with bit 0 of dword 11.
    pub const HOST_IDENTIFIER: u8 = 0x81;
    /// Reservation Notification Mask.
    pub const RESERVATION_NOTIFICATION_MASK: u8 = 0x82;
    /// Reservation Persistence.
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
    /// Namespace Write Protection Config.
    pub const NAMESPACE_WRITE_PROTECT: u8 = 0x84;
}

/// Value of Asynchronous Event Configuration (NVMe 2.1 §5.1.25.1.5); Identify Controller's OAES has the same bits
/// from 8 up and tells which of them the controller supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AsyncEventConfig(u32);

bitflags::bitflags! {
    impl AsyncEventConfig: u32 {
        /// Health: available spare below threshold.
        const SPARE = 1 << 0;
        /// Health: temperature beyond a threshold.
        const TEMPERATURE = 1 << 1;
        /// Health: reliability degraded.
        const RELIABILITY = 1 << 2;
        /// Health: media read only.
        const READ_ONLY = 1 << 3;
        /// Health: volatile memory backup failed.
        const VOLATILE_BACKUP = 1 << 4;
        /// Health: persistent memory region read only or unreliable.
        const PERSISTENT_MEMORY = 1 << 5;
        /// Notice: attached namespace attribute changed.
        const NAMESPACE = 1 << 8;
        /// Notice: firmware activation starting.
        const FIRMWARE_ACTIVATION = 1 << 9;
        /// Notice: telemetry log changed.
        const TELEMETRY = 1 << 10;
        /// Notice: ANA change.
        const ANA_CHANGE = 1 << 11;
        /// Notice: predictable latency event aggregate log change.
        const PREDICTABLE_LATENCY = 1 << 12;
        /// Notice: LBA status information alert.
        const LBA_STATUS = 1 << 13;
        /// Notice: endurance group event aggregate log change.
        const ENDURANCE_GROUP = 1 << 14;
        /// Notice: normal NVM subsystem shutdown.
        const SUBSYSTEM_SHUTDOWN = 1 << 15;
        /// Temperature threshold hysteresis recovery.
        const TEMPERATURE_RECOVERY = 1 << 16;
        /// Notice: reachability groups change.
        const REACHABILITY = 1 << 17;
        /// Notice: allocated namespace attribute changed.
        const ALLOCATED_NAMESPACE = 1 << 19;
        /// Notice: cross-controller reset completed (TP8028).
        const CROSS_CONTROLLER_RESET = 1 << 20;
        /// Notice: zone descriptor changed.
        const ZONE_DESCRIPTOR = 1 << 27;
        /// Notice: discovery log page change.
        const DISCOVERY_CHANGE = 1 << 31;
        const _ = !0;
    }
}

/// Value of Number of Queues (NVMe 2.1 §5.1.25.1.6): as an argument what the host asks for, as a result what the
/// controller allocates, which may be more or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NumberOfQueues {
    /// I/O submission queues, 1 to 65535.
    pub submission: u32,
    /// I/O completion queues, 1 to 65535.
    pub completion: u32,
}

impl NumberOfQueues {
    /// As many of one kind as of the other.
    #[must_use]
    pub const fn pairs(count: u32) -> Self {
        Self { submission: count, completion: count }
    }

    /// Reads dword 11 of the command, or dword 0 of the completion.
    #[must_use]
    pub const fn from_dword(value: u32) -> Self {
        Self { submission: (value & 0xffff) + 1, completion: (value >> 16) + 1 }
    }

    /// The dword; each count is brought into the range 1 to 65535.
    #[must_use]
    pub fn to_dword(self) -> u32 {
        let field = |count: u32| count.clamp(1, 0xffff) - 1;
        field(self.completion) << 16 | field(self.submission)
    }

    /// Queue pairs that both counts allow.
    #[must_use]
    pub fn queue_pairs(self) -> u32 {
        self.submission.min(self.completion)
    }
}

/// Flags of Host Memory Buffer, dword 11 (NVMe 2.1 §5.1.25.2.4).
pub mod host_memory {
    /// The controller may use the memory.
    pub const ENABLE: u32 = 1 << 0;
    /// It is the memory that the controller had before, unchanged.
    pub const RETURN: u32 = 1 << 1;
}

/// A piece of the host memory buffer, 16 bytes (NVMe 2.1 §5.1.25.2.4).
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
pub struct HostMemoryPiece {
    /// Bus address, a multiple of the page size (CC.MPS).
    pub address: U64,
    /// Pages (CC.MPS).
    pub pages: U32,
    reserved12: [u8; 4],
}
layout!(HostMemoryPiece, 16, address @ 0, pages @ 8, reserved12 @ 12);

impl HostMemoryPiece {
    /// `pages` pages from `address` on.
    #[must_use]
    pub fn new(address: u64, pages: u32) -> Self {
        Self { address: address.into(), pages: pages.into(), reserved12: [0; 4] }
    }
}

/// Entries of the table of autonomous power state transitions.
pub const APST_ENTRIES: usize = 32;

/// An entry of that table, 8 bytes (NVMe 2.1 §5.1.25.1.8): where the controller goes from one power
/// state, and after how long.
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
pub struct ApstEntry(U64);
layout!(ApstEntry, 8);

impl ApstEntry {
    /// To power state `state`, 0 to 31, after `idle_ms` milliseconds without a command, at most
    /// 2^24 - 1; after 0 not at all.
    #[must_use]
    pub fn new(state: u8, idle_ms: u32) -> Self {
        let (state, idle) = (u64::from(state & 0x1f), u64::from(idle_ms.min(0xff_ffff)));
        Self((idle << 8 | state << 3).into())
    }

    /// The state.
    #[must_use]
    pub fn state(self) -> u8 {
        (self.0.get() >> 3) as u8 & 0x1f
    }

    /// The milliseconds.
    #[must_use]
    pub fn idle_ms(self) -> u32 {
        (self.0.get() >> 8) as u32 & 0xff_ffff
    }
}

/// Data of Host Behavior Support, 512 bytes (NVMe 2.1 §5.1.25.1.14).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HostBehavior {
    /// 1: the host understands Command Interrupted and the retry delays.
    pub acre: u8,
    /// 1: the host understands extended telemetry data area 4.
    pub etdas: u8,
    /// 1: the host understands extended LBA formats.
    pub lbafee: u8,
    /// 1: the host understands dispersed namespaces.
    pub hdisns: u8,
    /// Copy descriptor formats that the host enables.
    pub cdfe: U16,
    reserved6: [u8; 506],
}
layout!(HostBehavior, 512, acre @ 0, etdas @ 1, lbafee @ 2, hdisns @ 3, cdfe @ 4, reserved6 @ 6);

impl HostBehavior {
    /// Advanced command retry, nothing else.
    #[must_use]
    pub fn with_command_retry() -> Self {
        let mut this = Self::new_zeroed();
        this.acre = 1;
        this
    }
}

impl core::fmt::Debug for HostBehavior {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HostBehavior")
            .field("acre", &self.acre)
            .field("etdas", &self.etdas)
            .field("lbafee", &self.lbafee)
            .field("hdisns", &self.hdisns)
            .field("cdfe", &self.cdfe.get())
            .finish_non_exhaustive()
    }
}
