//! The named status codes, one table for each status code type.
//!
//! Codes 80h and up of the command specific type mean one thing to the command sets and another to the fabrics
//! commands; a code alone cannot tell which, so both tables are searched and both names are shown.

use super::Status;

macro_rules! status_codes {
    (
        $(#[$meta:meta])*
        $table:ident: $sct:literal {
            $($code:ident = $sc:literal, $text:literal;)*
        }
    ) => {
        impl Status {
            $(
                #[doc = concat!($text, " (SCT ", stringify!($sct), ", SC `", stringify!($sc), "`).")]
                pub const $code: Self = Self::new($sct, $sc);
            )*
        }

        $(#[$meta])*
        pub(super) const fn $table(sc: u8) -> Option<&'static str> {
            match sc {
                $($sc => Some($text),)*
                _ => None,
            }
        }
    };
}

status_codes! {
    /// Name of a generic command status (NVMe 2.1 §4.2.3.1).
    generic: 0 {
        SUCCESS = 0x00, "Successful Completion";
        INVALID_OPCODE = 0x01, "Invalid Command Opcode";
        INVALID_FIELD = 0x02, "Invalid Field in Command";
        CID_CONFLICT = 0x03, "Command ID Conflict";
        DATA_TRANSFER_ERROR = 0x04, "Data Transfer Error";
        ABORTED_POWER_LOSS = 0x05, "Commands Aborted due to Power Loss Notification";
        INTERNAL_ERROR = 0x06, "Internal Error";
        ABORT_REQUESTED = 0x07, "Command Abort Requested";
        ABORTED_SQ_DELETION = 0x08, "Command Aborted due to SQ Deletion";
        ABORTED_FAILED_FUSED = 0x09, "Command Aborted due to Failed Fused Command";
        ABORTED_MISSING_FUSED = 0x0a, "Command Aborted due to Missing Fused Command";
        INVALID_NAMESPACE = 0x0b, "Invalid Namespace or Format";
        SEQUENCE_ERROR = 0x0c, "Command Sequence Error";
        SGL_INVALID_SEGMENT = 0x0d, "Invalid SGL Segment Descriptor";
        SGL_INVALID_COUNT = 0x0e, "Invalid Number of SGL Descriptors";
        SGL_INVALID_DATA_LENGTH = 0x0f, "Data SGL Length Invalid";
        SGL_INVALID_METADATA_LENGTH = 0x10, "Metadata SGL Length Invalid";
        SGL_INVALID_TYPE = 0x11, "SGL Descriptor Type Invalid";
        INVALID_CMB_USE = 0x12, "Invalid Use of Controller Memory Buffer";
        PRP_INVALID_OFFSET = 0x13, "PRP Offset Invalid";
        ATOMIC_WRITE_UNIT_EXCEEDED = 0x14, "Atomic Write Unit Exceeded";
        OPERATION_DENIED = 0x15, "Operation Denied";
        SGL_INVALID_OFFSET = 0x16, "SGL Offset Invalid";
        HOST_ID_INCONSISTENT = 0x18, "Host Identifier Inconsistent Format";
        KEEP_ALIVE_EXPIRED = 0x19, "Keep Alive Timer Expired";
        KEEP_ALIVE_INVALID = 0x1a, "Keep Alive Timeout Invalid";
        ABORTED_PREEMPT = 0x1b, "Command Aborted due to Preempt and Abort";
        SANITIZE_FAILED = 0x1c, "Sanitize Failed";
        SANITIZE_IN_PROGRESS = 0x1d, "Sanitize In Progress";
        SGL_INVALID_GRANULARITY = 0x1e, "SGL Data Block Granularity Invalid";
        CMB_QUEUE_NOT_SUPPORTED = 0x1f, "Command Not Supported for Queue in CMB";
        WRITE_PROTECTED = 0x20, "Namespace is Write Protected";
        INTERRUPTED = 0x21, "Command Interrupted";
        TRANSIENT_TRANSPORT_ERROR = 0x22, "Transient Transport Error";
        PROHIBITED_BY_LOCKDOWN = 0x23, "Command Prohibited by Command and Feature Lockdown";
        ADMIN_MEDIA_NOT_READY = 0x24, "Admin Command Media Not Ready";
        INVALID_KEY_TAG = 0x25, "Invalid Key Tag";
        HOST_DISPERSED_NAMESPACE_DISABLED = 0x26, "Host Dispersed Namespace Support Not Enabled";
        HOST_ID_NOT_INITIALIZED = 0x27, "Host Identifier Not Initialized";
        INCORRECT_KEY = 0x28, "Incorrect Key";
        FDP_DISABLED = 0x29, "FDP Disabled";
        INVALID_PLACEMENT_HANDLE_LIST = 0x2a, "Invalid Placement Handle List";
        SANITIZE_NAMESPACE_FAILED = 0x2b, "Sanitize Namespace Failed";
        SANITIZE_NAMESPACE_IN_PROGRESS = 0x2c, "Sanitize Namespace In Progress";
        LBA_OUT_OF_RANGE = 0x80, "LBA Out of Range";
        CAPACITY_EXCEEDED = 0x81, "Capacity Exceeded";
        NAMESPACE_NOT_READY = 0x82, "Namespace Not Ready";
        RESERVATION_CONFLICT = 0x83, "Reservation Conflict";
        FORMAT_IN_PROGRESS = 0x84, "Format In Progress";
        INVALID_VALUE_SIZE = 0x85, "Invalid Value Size";
        INVALID_KEY_SIZE = 0x86, "Invalid Key Size";
        KEY_DOES_NOT_EXIST = 0x87, "KV Key Does Not Exist";
        UNRECOVERED_ERROR = 0x88, "Unrecovered Error";
        KEY_EXISTS = 0x89, "Key Exists";
    }
}

status_codes! {
    /// Name of a command specific status of the admin commands and of those common to all command sets
    /// (NVMe 2.1 §4.2.3.2).
    command_specific: 1 {
        CQ_INVALID = 0x00, "Completion Queue Invalid";
        QID_INVALID = 0x01, "Invalid Queue Identifier";
        QUEUE_SIZE_INVALID = 0x02, "Invalid Queue Size";
        ABORT_LIMIT_EXCEEDED = 0x03, "Abort Command Limit Exceeded";
        AER_LIMIT_EXCEEDED = 0x05, "Asynchronous Event Request Limit Exceeded";
        INVALID_FIRMWARE_SLOT = 0x06, "Invalid Firmware Slot";
        INVALID_FIRMWARE_IMAGE = 0x07, "Invalid Firmware Image";
        INVALID_INTERRUPT_VECTOR = 0x08, "Invalid Interrupt Vector";
        INVALID_LOG_PAGE = 0x09, "Invalid Log Page";
        INVALID_FORMAT = 0x0a, "Invalid Format";
        FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x0b, "Firmware Activation Requires Conventional Reset";
        INVALID_QUEUE_DELETION = 0x0c, "Invalid Queue Deletion";
        FEATURE_NOT_SAVEABLE = 0x0d, "Feature Identifier Not Saveable";
        FEATURE_NOT_CHANGEABLE = 0x0e, "Feature Not Changeable";
        FEATURE_NOT_NAMESPACE_SPECIFIC = 0x0f, "Feature Not Namespace Specific";
        FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x10, "Firmware Activation Requires NVM Subsystem Reset";
        FIRMWARE_NEEDS_CONTROLLER_RESET = 0x11, "Firmware Activation Requires Controller Level Reset";
        FIRMWARE_NEEDS_MAX_TIME = 0x12, "Firmware Activation Requires Maximum Time Violation";
        FIRMWARE_ACTIVATION_PROHIBITED = 0x13, "Firmware Activation Prohibited";
        OVERLAPPING_RANGE = 0x14, "Overlapping Range";
        NAMESPACE_INSUFFICIENT_CAPACITY = 0x15, "Namespace Insufficient Capacity";
        NAMESPACE_ID_UNAVAILABLE = 0x16, "Namespace Identifier Unavailable";
        NAMESPACE_ALREADY_ATTACHED = 0x18, "Namespace Already Attached";
        NAMESPACE_IS_PRIVATE = 0x19, "Namespace Is Private";
        NAMESPACE_NOT_ATTACHED = 0x1a, "Namespace Not Attached";
        THIN_PROVISIONING_NOT_SUPPORTED = 0x1b, "Thin Provisioning Not Supported";
        CONTROLLER_LIST_INVALID = 0x1c, "Controller List Invalid";
        SELF_TEST_IN_PROGRESS = 0x1d, "Device Self-test In Progress";
        BOOT_PARTITION_WRITE_PROHIBITED = 0x1e, "Boot Partition Write Prohibited";
        INVALID_CONTROLLER_ID = 0x1f, "Invalid Controller Identifier";
        INVALID_SECONDARY_CONTROLLER_STATE = 0x20, "Invalid Secondary Controller State";
        INVALID_CONTROLLER_RESOURCES = 0x21, "Invalid Number of Controller Resources";
        INVALID_RESOURCE_ID = 0x22, "Invalid Resource Identifier";
        SANITIZE_PROHIBITED_PMR = 0x23, "Sanitize Prohibited While Persistent Memory Region is Enabled";
        ANA_GROUP_ID_INVALID = 0x24, "ANA Group Identifier Invalid";
        ANA_ATTACH_FAILED = 0x25, "ANA Attach Failed";
        INSUFFICIENT_CAPACITY = 0x26, "Insufficient Capacity";
        NAMESPACE_ATTACHMENT_LIMIT = 0x27, "Namespace Attachment Limit Exceeded";
        LOCKDOWN_NOT_SUPPORTED = 0x28, "Prohibition of Command Execution Not Supported";
        IO_COMMAND_SET_NOT_SUPPORTED = 0x29, "I/O Command Set Not Supported";
        IO_COMMAND_SET_NOT_ENABLED = 0x2a, "I/O Command Set Not Enabled";
        IO_COMMAND_SET_COMBINATION_REJECTED = 0x2b, "I/O Command Set Combination Rejected";
        INVALID_IO_COMMAND_SET = 0x2c, "Invalid I/O Command Set";
        IDENTIFIER_UNAVAILABLE = 0x2d, "Identifier Unavailable";
        NAMESPACE_IS_DISPERSED = 0x2e, "Namespace Is Dispersed";
        INVALID_DISCOVERY_INFORMATION = 0x2f, "Invalid Discovery Information";
        ZONING_DATA_LOCKED = 0x30, "Zoning Data Structure Locked";
        ZONING_DATA_NOT_FOUND = 0x31, "Zoning Data Structure Not Found";
        INSUFFICIENT_DISCOVERY_RESOURCES = 0x32, "Insufficient Discovery Resources";
        FUNCTION_DISABLED = 0x33, "Requested Function Disabled";
        ZONEGROUP_ORIGINATOR_INVALID = 0x34, "ZoneGroup Originator Invalid";
        INVALID_HOST = 0x35, "Invalid Host";
        INVALID_NVM_SUBSYSTEM = 0x36, "Invalid NVM Subsystem";
        INVALID_CONTROLLER_DATA_QUEUE = 0x37, "Invalid Controller Data Queue";
        NOT_ENOUGH_RESOURCES = 0x38, "Not Enough Resources";
        CONTROLLER_SUSPENDED = 0x39, "Controller Suspended";
        CONTROLLER_NOT_SUSPENDED = 0x3a, "Controller Not Suspended";
        CONTROLLER_DATA_QUEUE_FULL = 0x3b, "Controller Data Queue Full";
        TOO_MANY_NAMESPACE_SANITIZES = 0x3c, "Maximum Namespace Sanitize Operations Exceeded";
        DEFAULT_PERSONALITY_REQUIRED = 0x3d, "Manufacturing Default Personality Required";
        INVALID_POWER_LIMIT = 0x3e, "Invalid Power Limit";
        CROSS_CONTROLLER_RESET_IN_PROGRESS = 0x3f, "Cross-Controller Reset in Progress";
        CROSS_CONTROLLER_RESET_LOG_FULL = 0x40, "Cross-Controller Reset Log Page Full";
        CROSS_CONTROLLER_RESET_LIMIT_EXCEEDED = 0x41, "Cross-Controller Reset Limit Exceeded";
    }
}

status_codes! {
    /// Name of a command specific status of the I/O command sets (NVM 1.1 §2.1.2 and the zoned command set).
    io_command_specific: 1 {
        CONFLICTING_ATTRIBUTES = 0x80, "Conflicting Attributes";
        INVALID_PROTECTION_INFORMATION = 0x81, "Invalid Protection Information";
        WRITE_TO_READ_ONLY_RANGE = 0x82, "Attempted Write to Read Only Range";
        COMMAND_SIZE_LIMIT_EXCEEDED = 0x83, "Command Size Limit Exceeded";
        INVALID_COMMAND_ID = 0x84, "Invalid Command ID";
        INCOMPATIBLE_NAMESPACE = 0x85, "Incompatible Namespace or Format";
        FAST_COPY_NOT_POSSIBLE = 0x86, "Fast Copy Not Possible";
        OVERLAPPING_IO_RANGE = 0x87, "Overlapping I/O Range";
        INSUFFICIENT_RESOURCES = 0x89, "Insufficient Resources";
        ZONE_INVALID_OPERATION = 0xb6, "Invalid Zone Operation Request";
        ZRWA_RESOURCES_UNAVAILABLE = 0xb7, "ZRWA Resources Unavailable";
        ZONE_BOUNDARY_ERROR = 0xb8, "Zone Boundary Error";
        ZONE_IS_FULL = 0xb9, "Zone Is Full";
        ZONE_IS_READ_ONLY = 0xba, "Zone Is Read Only";
        ZONE_IS_OFFLINE = 0xbb, "Zone Is Offline";
        ZONE_INVALID_WRITE = 0xbc, "Zone Invalid Write";
        TOO_MANY_ACTIVE_ZONES = 0xbd, "Too Many Active Zones";
        TOO_MANY_OPEN_ZONES = 0xbe, "Too Many Open Zones";
        INVALID_ZONE_STATE_TRANSITION = 0xbf, "Invalid Zone State Transition";
    }
}

status_codes! {
    /// Name of a command specific status of the fabrics commands (NVMe 2.1 §4.2.3.2).
    fabrics_specific: 1 {
        CONNECT_INCOMPATIBLE_FORMAT = 0x80, "Connect Incompatible Format";
        CONNECT_CONTROLLER_BUSY = 0x81, "Connect Controller Busy";
        CONNECT_INVALID_PARAMETERS = 0x82, "Connect Invalid Parameters";
        CONNECT_RESTART_DISCOVERY = 0x83, "Connect Restart Discovery";
        CONNECT_INVALID_HOST = 0x84, "Connect Invalid Host";
        INVALID_QUEUE_TYPE = 0x85, "Invalid Queue Type";
        DISCOVER_RESTART = 0x90, "Discover Restart";
        AUTHENTICATION_REQUIRED = 0x91, "Authentication Required";
    }
}

status_codes! {
    /// Name of a media and data integrity error (NVMe 2.1 §4.2.3.3).
    media: 2 {
        WRITE_FAULT = 0x80, "Write Fault";
        UNRECOVERED_READ_ERROR = 0x81, "Unrecovered Read Error";
        GUARD_CHECK = 0x82, "End-to-end Guard Check Error";
        APPLICATION_TAG_CHECK = 0x83, "End-to-end Application Tag Check Error";
        REFERENCE_TAG_CHECK = 0x84, "End-to-end Reference Tag Check Error";
        COMPARE_FAILURE = 0x85, "Compare Failure";
        ACCESS_DENIED = 0x86, "Access Denied";
        DEALLOCATED_BLOCK = 0x87, "Deallocated or Unwritten Logical Block";
        STORAGE_TAG_CHECK = 0x88, "End-to-end Storage Tag Check Error";
    }
}

status_codes! {
    /// Name of a path related status (NVMe 2.1 §4.2.3.4).
    path: 3 {
        INTERNAL_PATH_ERROR = 0x00, "Internal Path Error";
        ANA_PERSISTENT_LOSS = 0x01, "ANA Persistent Loss";
        ANA_INACCESSIBLE = 0x02, "ANA Inaccessible";
        ANA_TRANSITION = 0x03, "ANA Transition";
        CONTROLLER_PATHING_ERROR = 0x60, "Controller Pathing Error";
        HOST_PATHING_ERROR = 0x70, "Host Pathing Error";
        ABORTED_BY_HOST = 0x71, "Command Aborted By Host";
    }
}
