//! Log pages.

use nvme_core::nqn::Nqn;
use nvme_core::spec::log::{
    AddressFamily, AnaGroup, AnaLog, AnaState, ChangedNamespaceList, CrossControllerResetEntry,
    CrossControllerResetLog, DiscoveryEntry, DiscoveryHeader, DiscoveryLog, Effects, EffectsLog,
    ErrorLogEntry, FirmwareSlotLog, ResetState, SmartLog, SubsystemType, TransportType,
};
use nvme_core::spec::{Status, WireError};
use proptest::prelude::*;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Two groups: 1 optimized with namespaces 1 and 2, 5 in change without any.
fn ana_page() -> Vec<u8> {
    let mut page = vec![0u8; 16 + 32 + 8 + 32];
    page[0] = 9;
    page[8] = 2;
    page[16] = 1;
    page[20] = 2;
    page[24] = 7;
    page[32] = 0x01;
    page[48] = 1;
    page[52] = 2;
    page[56] = 5;
    page[72] = 0x0f;
    page
}

#[test]
fn ana_groups_are_read() {
    let page = ana_page();
    let log = AnaLog::parse(&page).expect("well formed");
    assert_eq!(log.chgcnt(), 9);
    let groups: Vec<_> = log.groups().collect();
    assert_eq!(groups.len(), 2);
    assert_eq!((groups[0].grpid, groups[0].chgcnt, groups[0].state), (1, 7, AnaState::OPTIMIZED));
    assert_eq!(groups[0].nsids, [U32::new(1), U32::new(2)]);
    assert_eq!((groups[1].grpid, groups[1].state), (5, AnaState::CHANGE));
    assert!(groups[0].state.is_accessible() && !groups[1].state.is_accessible());
}

#[test]
fn reserved_bits_and_bytes_after_the_groups_do_not_matter() {
    let mut page = ana_page();
    page[32] = 0xf2;
    page.extend_from_slice(&[0xff; 100]);
    let log = AnaLog::parse(&page).expect("well formed");
    assert_eq!(log.groups().next().map(|group| group.state), Some(AnaState::NON_OPTIMIZED));
    assert_eq!(log.groups().count(), 2);
}

#[test]
fn bad_ana_pages_name_their_offset() {
    let good = ana_page();
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut page = good.clone();
        change(&mut page);
        let error = AnaLog::parse(&page).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    };
    check(&|p| p.truncate(15), "ANA log page header at byte 0 needs 16 bytes, 15 are there");
    check(&|p| p.truncate(87), "ANA group descriptor at byte 56 needs 32 bytes, 31 are there");
    check(&|p| p[8] = 3, "ANA group descriptor at byte 88 needs 32 bytes, 0 are there");
    check(&|p| p[20] = 200, "ANA group descriptor at byte 16 needs 832 bytes, 72 are there");
    check(
        &|p| p[20..24].fill(0xff),
        "ANA group descriptor at byte 16 needs 17179869212 bytes, 72 are there",
    );
    check(&|p| p[56] = 0, "ANA group identifier at byte 56 is 0x0: groups count from 1");
    check(&|p| p[72] = 5, "ANA state at byte 72 is 0x5: states are 1 to 4 and Fh");
    check(&|p| p[32] = 0, "ANA state at byte 32 is 0x0: states are 1 to 4 and Fh");
}

#[test]
fn discovery_entries_are_read() {
    let mut page = DiscoveryHeader::new(3, 1).as_bytes().to_vec();
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = TransportType::TCP;
    entry.adrfam = AddressFamily::IPV4;
    entry.subtype = SubsystemType::NVM;
    entry.subnqn = Nqn::new("nqn.2014-08.org.example:sub").expect("legal").to_field();
    entry.set_address("192.0.2.7", "4420");
    page.extend_from_slice(entry.as_bytes());
    assert_eq!(page[1024..1028], [3, 1, 2, 0]);
    assert_eq!(&page[1024 + 32..1024 + 37], b"4420 ");
    assert_eq!(&page[1024 + 512..1024 + 521], b"192.0.2.7");

    let log = DiscoveryLog::parse(&page).expect("well formed");
    assert_eq!((log.genctr(), log.entries().len()), (3, 1));
    let entry = &log.entries()[0];
    assert_eq!((entry.address(), entry.service()), (Ok("192.0.2.7"), Ok("4420")));
    assert_eq!(entry.subsystem_nqn().expect("legal").as_str(), "nqn.2014-08.org.example:sub");

    let mut entry = entry.clone();
    entry.traddr[..4].copy_from_slice(b"1\n.2");
    assert!(matches!(entry.address(), Err(WireError::Text { offset: 1, .. })));
    // NUL ends the text as well as padding does.
    entry.traddr[..4].copy_from_slice(b"::1\0");
    assert_eq!(entry.address(), Ok("::1"));
}

#[test]
fn a_discovery_log_that_promises_too_much_is_refused() {
    for numrec in [2, 1 << 40, u64::MAX / 1024, u64::MAX] {
        let mut page = DiscoveryHeader::new(0, numrec).as_bytes().to_vec();
        page.extend_from_slice(&[0; 1024]);
        let error = DiscoveryLog::parse(&page).expect_err("one entry is there");
        assert!(
            matches!(error, WireError::Truncated { offset: 1024, available: 1024, .. }),
            "{error}"
        );
    }
    let mut page = DiscoveryHeader::new(0, 0).as_bytes().to_vec();
    page[16] = 1;
    assert!(matches!(DiscoveryLog::parse(&page), Err(WireError::Invalid { offset: 16, .. })));
    assert!(DiscoveryLog::parse(&page[..1023]).is_err());
    assert_eq!(DiscoveryHeader::new(0, 3).page_len(), Some(4096));
    assert_eq!(DiscoveryHeader::new(0, u64::MAX).page_len(), None);
}

#[test]
fn fixed_pages_have_their_fields_in_place() {
    let mut raw = [0u8; 4096];
    raw[8] = 0x11; // admin opcode 02h
    raw[1024 + 4 * 0x09] = 0x03; // I/O opcode 09h
    raw[1024 + 4 * 0x09 + 2] = 0x01;
    let log = EffectsLog::ref_from_bytes(&raw).expect("4096 bytes");
    assert_eq!(log.admin[2].bits(), Effects::SUPPORTED | Effects::CONTROLLER_CAPABILITY_CHANGE);
    assert!(log.io[9].bits().contains(Effects::SUPPORTED | Effects::CONTENT_CHANGE));
    assert_eq!(log.io[9].submission_restriction(), 1);

    let mut raw = [0u8; 512];
    raw[0] = 0x21;
    raw[8..16].copy_from_slice(b"1.0     ");
    let log = FirmwareSlotLog::ref_from_bytes(&raw).expect("512 bytes");
    assert_eq!((log.active_slot(), log.revision(1).as_deref()), (1, Some("1.0")));
    assert_eq!([0, 2, 8, 255].map(|slot| log.revision(slot)), [None, None, None, None]);

    let mut raw = [0u8; 512];
    raw[1..3].copy_from_slice(&310u16.to_le_bytes());
    raw[32] = 5;
    let log = SmartLog::ref_from_bytes(&raw).expect("512 bytes");
    assert_eq!((log.temperature.get(), log.data_units_read.get()), (310, 5));

    let mut entry = ErrorLogEntry::new_zeroed();
    assert!(entry.is_empty());
    entry.error_count = 1.into();
    entry.status = 0x8004u16.into();
    assert!(entry.status().is(Status::INVALID_FIELD) && entry.status().dnr());

    let changed = ChangedNamespaceList::from_nsids([u32::MAX]);
    assert_eq!(changed.iter().collect::<Vec<_>>(), [u32::MAX]);
}

#[test]
fn cross_controller_resets_are_listed() {
    let entries = [
        CrossControllerResetEntry::new(0x0102, 3, ResetState::SUCCESS),
        CrossControllerResetEntry::new(4, 5, ResetState::IN_PROGRESS),
    ];
    let page = CrossControllerResetLog::encode(&entries);
    assert_eq!(page[..16], [2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 3, 0, 0xff, 0xff, 1, 0]);
    let log = CrossControllerResetLog::parse(&page).expect("well formed");
    assert_eq!(log.entries(), entries);
    assert!(CrossControllerResetLog::parse(&page[..23]).is_err());
    let many = vec![entries[0]; 600];
    assert_eq!(CrossControllerResetLog::encode(&many).len(), CrossControllerResetLog::MAX_LEN);
}

fn state() -> impl Strategy<Value = AnaState> {
    prop::sample::select(vec![
        AnaState::OPTIMIZED,
        AnaState::NON_OPTIMIZED,
        AnaState::INACCESSIBLE,
        AnaState::PERSISTENT_LOSS,
        AnaState::CHANGE,
    ])
}

proptest! {
    #[test]
    fn ana_pages_survive(
        chgcnt: u64,
        groups in prop::collection::vec(
            (1..=u32::MAX, any::<u64>(), state(), prop::collection::vec(any::<u32>(), 0..20)), 0..20),
    ) {
        let nsids: Vec<Vec<U32>> =
            groups.iter().map(|group| group.3.iter().copied().map(U32::new).collect()).collect();
        let groups: Vec<AnaGroup<'_>> = groups.iter().zip(&nsids)
            .map(|(&(grpid, chgcnt, state, _), nsids)| AnaGroup { grpid, chgcnt, state, nsids }).collect();
        let page = AnaLog::encode(chgcnt, groups.iter().copied());
        let log = AnaLog::parse(&page).expect("well formed");
        prop_assert_eq!(log.chgcnt(), chgcnt);
        prop_assert_eq!(log.groups().collect::<Vec<_>>(), groups);
        // Whatever is cut off is missed.
        if !page.is_empty() {
            prop_assert!(AnaLog::parse(&page[..page.len() - 1]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(log) = AnaLog::parse(&bytes) {
            prop_assert!(log.groups().count() <= bytes.len() / 32);
        }
        let _ = DiscoveryLog::parse(&bytes);
        if let Ok(log) = CrossControllerResetLog::parse(&bytes) {
            prop_assert!(log.entries().len() <= bytes.len() / 8);
        }
    }

    #[test]
    fn damaged_ana_pages_never_panic(at in 0usize..88, value: u8) {
        let mut page = ana_page();
        page[at] = value;
        if let Ok(log) = AnaLog::parse(&page) {
            prop_assert_eq!(log.groups().count(), usize::from(u16::from_le_bytes([page[8], page[9]])));
        }
    }

    #[test]
    fn damaged_discovery_pages_never_panic(
        changes in prop::collection::vec((0usize..3072, any::<u8>()), 0..40),
    ) {
        let mut page = DiscoveryHeader::new(1, 2).as_bytes().to_vec();
        page.resize(3072, 0);
        for (at, value) in changes {
            page[at] = value;
        }
        if let Ok(log) = DiscoveryLog::parse(&page) {
            for entry in log.entries() {
                let _ = (entry.address(), entry.service(), entry.subsystem_nqn(), entry.flags());
            }
        }
    }
}
