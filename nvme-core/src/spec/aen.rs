//! Asynchronous events: what the completion of an Asynchronous Event Request says (NVMe 2.1 §5.1.2).

use super::completion::Cqe;

open_enum! {
    /// Asynchronous event type.
    pub struct EventType(u8) {
        ERROR = 0x0, "Error Status";
        HEALTH = 0x1, "SMART / Health Status";
        NOTICE = 0x2, "Notice";
        IMMEDIATE = 0x3, "Immediate";
        ONE_SHOT = 0x4, "One-Shot";
        IO_COMMAND_SET = 0x6, "I/O Command Specific Status";
        VENDOR = 0x7, "Vendor Specific";
    }
}

open_enum! {
    /// Asynchronous event information of an error event.
    pub struct ErrorInfo(u8) {
        INVALID_DOORBELL_REGISTER = 0x00, "Write to Invalid Doorbell Register";
        INVALID_DOORBELL_VALUE = 0x01, "Invalid Doorbell Write Value";
        DIAGNOSTIC_FAILURE = 0x02, "Diagnostic Failure";
        PERSISTENT_INTERNAL_ERROR = 0x03, "Persistent Internal Error";
        TRANSIENT_INTERNAL_ERROR = 0x04, "Transient Internal Error";
        FIRMWARE_IMAGE_LOAD_ERROR = 0x05, "Firmware Image Load Error";
    }
}

open_enum! {
    /// Asynchronous event information of a health event.
    pub struct HealthInfo(u8) {
        RELIABILITY = 0x00, "NVM Subsystem Reliability";
        TEMPERATURE_THRESHOLD = 0x01, "Temperature Threshold";
        SPARE_BELOW_THRESHOLD = 0x02, "Spare Below Threshold";
    }
}

open_enum! {
    /// Asynchronous event information of a notice.
    pub struct NoticeInfo(u8) {
        NAMESPACE_CHANGED = 0x00, "Attached Namespace Attribute Changed";
        FIRMWARE_ACTIVATION_STARTING = 0x01, "Firmware Activation Starting";
        TELEMETRY_CHANGED = 0x02, "Telemetry Log Changed";
        ANA_CHANGE = 0x03, "Asymmetric Namespace Access Change";
        PREDICTABLE_LATENCY_CHANGE = 0x04, "Predictable Latency Event Aggregate Log Change";
        LBA_STATUS_ALERT = 0x05, "LBA Status Information Alert";
        ENDURANCE_GROUP_CHANGE = 0x06, "Endurance Group Event Aggregate Log Page Change";
        REACHABILITY_GROUP_CHANGE = 0x07, "Reachability Group Change";
        REACHABILITY_ASSOCIATION_CHANGE = 0x08, "Reachability Association Change";
        ALLOCATED_NAMESPACE_CHANGED = 0x09, "Allocated Namespace Attribute Changed";
        ZONE_DESCRIPTOR_CHANGED = 0xef, "Zone Descriptor Changed";
        DISCOVERY_LOG_CHANGE = 0xf0, "Discovery Log Page Change";
        HOST_DISCOVERY_LOG_CHANGE = 0xf1, "Host Discovery Log Page Change";
        CROSS_CONTROLLER_RESET_COMPLETED = 0xf4, "Cross-Controller Reset Completed";
        LOST_HOST_COMMUNICATION = 0xf5, "Lost Host Communication";
    }
}

/// Dword 0 of the completion of an Asynchronous Event Request (NVMe 2.1 §5.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// Event type, 3 bits.
    pub event_type: EventType,
    /// What happened; its meaning depends on the type, see [`AsyncEvent::kind`].
    pub info: u8,
    /// The log page to read, which also re-arms the event.
    pub lid: u8,
    /// Event specific parameter (dword 1); for instance the namespace of a notice that has one.
    pub parameter: u32,
}

/// An event by type and information together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The controller reports an error.
    Error(ErrorInfo),
    /// Health changed for the worse.
    Health(HealthInfo),
    /// Something about the subsystem changed.
    Notice(NoticeInfo),
    /// Any other type, with its information.
    Other(EventType, u8),
}

impl AsyncEvent {
    /// A notice as a controller sends it.
    #[must_use]
    pub const fn notice(info: NoticeInfo, lid: u8) -> Self {
        Self { event_type: EventType::NOTICE, info: info.0, lid, parameter: 0 }
    }

    /// Reads the event out of a completion whose status is success.
    #[must_use]
    pub const fn from_cqe(cqe: &Cqe) -> Self {
        let dw0 = cqe.dw0.get();
        Self {
            event_type: EventType(dw0 as u8 & 0x7),
            info: (dw0 >> 8) as u8,
            lid: (dw0 >> 16) as u8,
            parameter: cqe.dw1.get(),
        }
    }

    /// The completion result to send.
    #[must_use]
    pub const fn to_result(self) -> u64 {
        (self.event_type.0 & 0x7) as u64
            | (self.info as u64) << 8
            | (self.lid as u64) << 16
            | (self.parameter as u64) << 32
    }

    /// Type and information together.
    #[must_use]
    pub const fn kind(self) -> EventKind {
        match self.event_type {
            EventType::ERROR => EventKind::Error(ErrorInfo(self.info)),
            EventType::HEALTH => EventKind::Health(HealthInfo(self.info)),
            EventType::NOTICE => EventKind::Notice(NoticeInfo(self.info)),
            other => EventKind::Other(other, self.info),
        }
    }
}

impl core::fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.kind() {
            EventKind::Error(info) => write!(f, "error event: {info}")?,
            EventKind::Health(info) => write!(f, "health event: {info}")?,
            EventKind::Notice(info) => write!(f, "notice: {info}")?,
            EventKind::Other(event_type, info) => write!(f, "event {event_type}: {info:02X}h")?,
        }
        write!(f, ", log page {:02X}h", self.lid)
    }
}
