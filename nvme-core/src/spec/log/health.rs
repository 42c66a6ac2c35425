//! SMART / health information (NVMe 2.1 §5.1.12.1.3) and firmware slots (§5.1.12.1.4).

use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::spec::text;

/// Critical warnings.
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
pub struct CriticalWarning(u8);

bitflags::bitflags! {
    impl CriticalWarning: u8 {
        /// Available spare below its threshold.
        const SPARE = 1 << 0;
        /// Temperature beyond a threshold.
        const TEMPERATURE = 1 << 1;
        /// Reliability degraded.
        const RELIABILITY = 1 << 2;
        /// All media read only.
        const READ_ONLY = 1 << 3;
        /// Volatile memory backup failed.
        const VOLATILE_BACKUP = 1 << 4;
        /// Persistent memory region read only or unreliable.
        const PERSISTENT_MEMORY = 1 << 5;
        const _ = !0;
    }
}

/// SMART / health information log page, 512 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// Critical warnings.
    pub critical_warning: CriticalWarning,
    /// Composite temperature in kelvin.
    pub temperature: U16,
    /// Available spare in percent.
    pub available_spare: u8,
    /// Available spare threshold in percent.
    pub spare_threshold: u8,
    /// Life used in percent, may exceed 100.
    pub percentage_used: u8,
    /// Endurance group critical warnings.
    pub endurance_warning: u8,
    reserved7: [u8; 25],
    /// Data units read, in thousands of 512 bytes.
    pub data_units_read: U128,
    /// Data units written, in thousands of 512 bytes.
    pub data_units_written: U128,
    /// Read commands completed.
    pub host_reads: U128,
    /// Write commands completed.
    pub host_writes: U128,
    /// Minutes busy with I/O.
    pub busy_time: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Hours powered on.
    pub power_on_hours: U128,
    /// Unexpected power losses.
    pub unsafe_shutdowns: U128,
    /// Unrecovered data integrity errors.
    pub media_errors: U128,
    /// Error log entries over the controller's life.
    pub error_log_entries: U128,
    /// Minutes at warning temperature.
    pub warning_temperature_time: U32,
    /// Minutes at critical temperature.
    pub critical_temperature_time: U32,
    /// Temperature sensors in kelvin, 0 not there.
    pub temperature_sensors: [U16; 8],
    /// Transitions to thermal management temperatures 1 and 2.
    pub thermal_transitions: [U32; 2],
    /// Seconds in thermal management 1 and 2.
    pub thermal_time: [U32; 2],
    reserved232: [u8; 280],
}
layout!(
    SmartLog, 512, critical_warning @ 0, temperature @ 1, available_spare @ 3, spare_threshold @ 4, percentage_used @ 5,
    endurance_warning @ 6, data_units_read @ 32, data_units_written @ 48, host_reads @ 64, host_writes @ 80,
    busy_time @ 96, power_cycles @ 112, power_on_hours @ 128, unsafe_shutdowns @ 144, media_errors @ 160,
    error_log_entries @ 176, warning_temperature_time @ 192, critical_temperature_time @ 196,
    temperature_sensors @ 200, thermal_transitions @ 216, thermal_time @ 224, reserved232 @ 232,
);

/// Firmware slot information log page, 512 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Bits 2:0 active slot, bits 6:4 slot to be active after the next reset (0: the same).
    pub afi: u8,
    reserved1: [u8; 7],
    /// Firmware revision of slots 1 to 7, ASCII, zero for an empty one.
    pub revisions: [[u8; 8]; 7],
    reserved64: [u8; 448],
}
layout!(FirmwareSlotLog, 512, afi @ 0, reserved1 @ 1, revisions @ 8, reserved64 @ 64);

impl FirmwareSlotLog {
    /// The active slot, 1 to 7.
    #[must_use]
    pub const fn active_slot(&self) -> u8 {
        self.afi & 0x7
    }

    /// Firmware revision in a slot of 1 to 7, `None` for an empty or impossible one.
    #[must_use]
    pub fn revision(&self, slot: u8) -> Option<String> {
        let index = usize::from(slot).checked_sub(1)?;
        Some(text::ascii_lossy(self.revisions.get(index)?)).filter(|revision| !revision.is_empty())
    }
}
