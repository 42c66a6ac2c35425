//! Status codes: fields, names, text.

use nvme_core::spec::Status;
use nvme_core::spec::aen::{AsyncEvent, EventKind, EventType, NoticeInfo};
use nvme_core::spec::opcode::{AdminOpcode, NvmOpcode};
use nvme_core::spec::{Cqe, registers::Version};
use proptest::prelude::*;

#[test]
fn fields_come_from_their_bits() {
    let status = Status::from_raw(0x4000 | 0x2000 | 2 << 11 | 0x302);
    assert_eq!((status.sct(), status.sc(), status.crd()), (3, 2, 2));
    assert!(status.dnr() && status.more() && status.is_path_related() && status.is_ana());
    assert!(status.is(Status::ANA_INACCESSIBLE));
    assert_ne!(status, Status::ANA_INACCESSIBLE);
    assert_eq!(status.code(), Status::ANA_INACCESSIBLE);
}

#[test]
fn success_is_code_zero_whatever_the_retry_bits() {
    assert!(Status::SUCCESS.is_success());
    assert!(Status::SUCCESS.with_crd(1).is_success());
    assert!(!Status::CQ_INVALID.is_success(), "SCT 1 SC 0 is an error");
    assert!(!Status::INTERNAL_PATH_ERROR.is_success(), "SCT 3 SC 0 is an error");
    assert!(Status::INTERNAL_PATH_ERROR.is_path_related() && !Status::INTERNAL_PATH_ERROR.is_ana());
    assert!(!Status::HOST_PATHING_ERROR.is_ana());
}

#[test]
fn text_names_type_and_code() {
    assert_eq!(
        Status::ANA_INACCESSIBLE.to_string(),
        "Path Related / ANA Inaccessible (SCT 3h SC 02h)"
    );
    assert_eq!(
        Status::INVALID_FIELD.with_dnr().with_crd(3).to_string(),
        "Generic / Invalid Field in Command (SCT 0h SC 02h CRD 3 DNR)"
    );
    assert_eq!(Status::new(7, 0xc0).to_string(), "Vendor Specific / unknown (SCT 7h SC C0h)");
    // A code that two kinds of command share shows both readings.
    assert_eq!(
        Status::CONNECT_INVALID_PARAMETERS.to_string(),
        "Command Specific / Attempted Write to Read Only Range or Connect Invalid Parameters (SCT 1h SC 82h)"
    );
    assert_eq!(
        Status::CONNECT_INVALID_PARAMETERS.fabrics_name(),
        Some("Connect Invalid Parameters")
    );
    assert_eq!(Status::AUTHENTICATION_REQUIRED.raw(), 0x191);
    assert_eq!(Status::ABORTED_BY_HOST.raw(), 0x371);
}

#[test]
fn codes_without_a_name_are_kept() {
    assert_eq!(AdminOpcode::IDENTIFY.to_string(), "Identify (06h)");
    assert_eq!(NvmOpcode(0xc1).to_string(), "unknown (C1h)");
    assert_eq!(format!("{:?}", NvmOpcode(0xc1)), "NvmOpcode(0xc1)");
    assert_eq!(Version::new(2, 1, 0).to_string(), "2.1.0");
    assert!(Version::new(1, 4, 0).at_least(1, 3) && !Version::new(1, 2, 1).at_least(1, 3));
}

#[test]
fn async_events_read_from_dword_0() {
    // Notice (2), ANA change (3), log page 0Ch.
    let cqe = Cqe::new(0, Status::SUCCESS, 0x0c_0302);
    let event = AsyncEvent::from_cqe(&cqe);
    assert_eq!(event.kind(), EventKind::Notice(NoticeInfo::ANA_CHANGE));
    assert_eq!(event.lid, 0x0c);
    assert_eq!(event.to_string(), "notice: Asymmetric Namespace Access Change (03h), log page 0Ch");
}

proptest! {
    #[test]
    fn any_status_can_be_printed(raw: u16) {
        let status = Status::from_raw(raw);
        prop_assert!(status.to_string().contains("SCT"));
        prop_assert_eq!(status.raw(), raw & 0x7fff);
        prop_assert!(status.name().is_none_or(|name| !name.is_empty()));
    }

    #[test]
    fn async_events_survive(event_type in 0u8..8, info: u8, lid: u8, parameter: u32) {
        let event = AsyncEvent { event_type: EventType(event_type), info, lid, parameter };
        let back = AsyncEvent::from_cqe(&Cqe::new(1, Status::SUCCESS, event.to_result()));
        prop_assert_eq!(back, event);
        prop_assert!(!event.to_string().is_empty());
    }
}
