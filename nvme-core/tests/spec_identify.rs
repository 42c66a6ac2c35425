//! Identify data structures.

use nvme_core::nqn::{Eui64, Nguid, Uuid};
use nvme_core::spec::WireError;
use nvme_core::spec::identify::{
    AnaCapabilities, Descriptor, Descriptors, IdentifyController, IdentifyNamespace, LbaFormat,
    MultiPathCapabilities, NamespaceIds, NsidList,
};
use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

#[test]
fn controller_fields_that_a_host_lives_by() {
    let mut raw = [0u8; 4096];
    raw[4..64].fill(b' ');
    raw[4..9].copy_from_slice(b"S1\x1b34");
    raw[24..29].copy_from_slice(b"Model");
    raw[76] = 0x0a;
    raw[77] = 5;
    raw[96..100].copy_from_slice(&0x41u32.to_le_bytes());
    raw[128..134].copy_from_slice(&[10, 0, 20, 0, 0x2c, 1]);
    raw[343] = 0x5f;
    raw[386] = 99;
    raw[525] = 7;
    raw[1792..1796].copy_from_slice(&516u32.to_le_bytes());
    raw[768..800].copy_from_slice(b"nqn.2014-08.org.example:sub\0\0\0\0\0");
    let id = IdentifyController::read_from_bytes(&raw).expect("4096 bytes");
    assert_eq!((id.serial().as_str(), id.model().as_str()), ("S1?34", "Model"));
    assert_eq!(id.firmware(), "");
    assert_eq!(id.cmic, MultiPathCapabilities::ANA | MultiPathCapabilities::MULTIPLE_CONTROLLERS);
    assert!(id.reports_ana() && id.has_volatile_write_cache());
    assert!(id.anacap.contains(AnaCapabilities::GROUP_STABLE));
    assert_eq!(id.max_transfer(4096), Some(128 * 1024));
    assert_eq!([0, 1, 2, 3, 4].map(|crd| id.retry_delay_ms(crd)), [0, 1000, 2000, 30_000, 0]);
    assert_eq!(id.cqt.get(), 99);
    assert_eq!(id.in_capsule_len(), Some(8192));
    assert_eq!(id.subsystem_nqn().expect("legal").as_str(), "nqn.2014-08.org.example:sub");
}

#[test]
fn absurd_controller_values_do_no_harm() {
    let id = IdentifyController::read_from_bytes(&[0xff; 4096]).expect("4096 bytes");
    assert_eq!(id.max_transfer(4096), None);
    assert!(id.subsystem_nqn().is_err());
    assert!(id.serial().starts_with("???"));
    assert!(id.in_capsule_len().is_some());
    let id = IdentifyController::new_zeroed();
    assert_eq!(id.max_transfer(4096), None);
    assert_eq!(id.in_capsule_len(), None);
}

#[test]
fn names_are_padded_and_cut() {
    let mut id = IdentifyController::new_zeroed();
    id.set_names("serial", "m", "firmware-too-long");
    assert_eq!(&id.sn, b"serial              ");
    assert_eq!(id.firmware(), "firmware");
}

#[test]
fn block_size_comes_from_the_format_in_use() {
    let mut ns = IdentifyNamespace::new_zeroed();
    ns.nlbaf = 1;
    ns.lbaf[0].lbads = 9;
    ns.lbaf[1] = LbaFormat { ms: 8.into(), lbads: 12, rp: 0 };
    assert_eq!(ns.block_size(), Ok(512));
    ns.flbas = 0x11;
    assert_eq!(ns.block_size(), Ok(4096));
    assert!(ns.has_extended_metadata());
    // Bits 6:5 count only where there are more than 16 formats.
    ns.flbas = 0x21;
    assert_eq!(ns.format_index(), 1);
    ns.nlbaf = 15;
    assert_eq!(ns.format_index(), 1);
    ns.nlbaf = 16;
    assert_eq!(ns.format_index(), 17);
    assert!(ns.format().is_err(), "the 18th of 17 formats");
    ns.nlbaf = 17;
    ns.lbaf[17].lbads = 13;
    assert_eq!(ns.block_size(), Ok(8192));
}

#[test]
fn a_format_that_cannot_be_is_refused() {
    let mut ns = IdentifyNamespace::new_zeroed();
    for lbads in [0, 8, 32, 255] {
        ns.lbaf[0].lbads = lbads;
        assert!(
            matches!(ns.block_size(), Err(WireError::Invalid { offset: 130, value, .. }) if value == lbads.into())
        );
    }
    ns.flbas = 1;
    assert!(matches!(ns.format(), Err(WireError::Invalid { offset: 26, value: 1, .. })));
    // More formats than the structure has room for.
    ns.nlbaf = 255;
    ns.nulbaf = 255;
    ns.flbas = 0x6f;
    assert_eq!(ns.format_index(), 63);
    assert!(ns.format().is_ok());
}

#[test]
fn namespace_lists_must_ascend() {
    let page = NsidList::from_nsids([1, 2, 7]);
    assert_eq!(page.above(0), Ok(vec![1, 2, 7]));
    assert_eq!(format!("{page:?}"), "[1, 2, 7]");
    // The same page again for "above 7" would make a host ask for ever.
    assert!(matches!(page.above(7), Err(WireError::Invalid { offset: 0, value: 1, .. })));
    let page = NsidList::from_nsids([1, 3, 3]);
    assert!(matches!(page.above(0), Err(WireError::Invalid { offset: 8, value: 3, .. })));
    let page = NsidList::from_nsids([1, u32::MAX]);
    assert!(matches!(page.above(0), Err(WireError::Invalid { offset: 4, .. })));
    assert_eq!(NsidList::from_nsids(1..=5000).above(0).map(|n| n.len()), Ok(1024));
}

#[test]
fn descriptors_are_read_until_length_zero() {
    let mut page = [0u8; 4096];
    page[..4].copy_from_slice(&[3, 16, 0, 0]);
    page[4..20].fill(0xaa);
    page[20..25].copy_from_slice(&[4, 1, 0, 0, 2]);
    page[25..31].copy_from_slice(&[9, 2, 0, 0, 5, 6]);
    page[35] = 0x77; // beyond the end of the list
    let found: Result<Vec<_>, _> = Descriptors::new(&page).collect();
    let expected = vec![
        Descriptor::Uuid(Uuid([0xaa; 16])),
        Descriptor::Csi(2),
        Descriptor::Other { nidt: 9, id: &[5, 6] },
    ];
    assert_eq!(found, Ok(expected));
    let ids = NamespaceIds::parse(&page).expect("well formed");
    assert_eq!((ids.uuid, ids.csi, ids.nguid), (Some(Uuid([0xaa; 16])), Some(2), None));
    assert!(ids.is_identified());
}

#[test]
fn bad_descriptors_name_their_offset() {
    // A UUID of 8 bytes, second in the list.
    let page = [4, 1, 0, 0, 0, 3, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let error = NamespaceIds::parse(&page).expect_err("a UUID has 16 bytes");
    assert!(matches!(error, WireError::Invalid { offset: 6, value: 8, .. }));
    assert!(error.to_string().contains("at byte 6 is 0x8"), "{error}");
    // One that runs past the end.
    let page = [2, 16, 0, 0, 1, 2];
    let error = NamespaceIds::parse(&page).expect_err("two of 16 bytes are there");
    assert_eq!(
        error.to_string(),
        "namespace identification descriptor at byte 0 needs 20 bytes, 6 are there"
    );
    // The same type twice.
    let page = [4, 1, 0, 0, 0, 4, 1, 0, 0, 0];
    assert!(matches!(
        NamespaceIds::parse(&page),
        Err(WireError::Invalid { offset: 5, value: 4, .. })
    ));
}

#[test]
fn identifiers_of_zeroes_count_as_absent() {
    let ids = NamespaceIds { uuid: Some(Uuid::NIL), csi: Some(0), ..NamespaceIds::default() };
    let back = NamespaceIds::parse(&ids.encode()).expect("well formed");
    assert_eq!((back.uuid, back.csi), (None, Some(0)));
    assert!(!back.is_identified());
}

/// An identifier that is not all zeroes, or none.
fn id<const N: usize>() -> impl Strategy<Value = Option<[u8; N]>> {
    prop::option::of(any::<[u8; N]>().prop_filter("not nil", |id| id.iter().any(|&b| b != 0)))
}

proptest! {
    #[test]
    fn identifiers_survive(eui64 in id::<8>(), nguid in id::<16>(), uuid in id::<16>(), csi: Option<u8>) {
        let ids = NamespaceIds { eui64: eui64.map(Eui64), nguid: nguid.map(Nguid), uuid: uuid.map(Uuid), csi };
        prop_assert_eq!(NamespaceIds::parse(&ids.encode()), Ok(ids));
    }

    #[test]
    fn arbitrary_descriptors_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = NamespaceIds::parse(&bytes);
        let mut descriptors = Descriptors::new(&bytes);
        let mut last = 0;
        while let Some(Ok(_)) = descriptors.next() {
            prop_assert!(descriptors.offset() > last && descriptors.offset() <= bytes.len());
            last = descriptors.offset();
        }
        prop_assert!(descriptors.next().is_none(), "it ends at the first error");
    }

    #[test]
    fn likely_descriptors_never_panic(list in prop::collection::vec((0u8..6, 0u8..18), 0..12)) {
        let bytes: Vec<u8> = list.iter().flat_map(|&(nidt, len)| {
            [nidt, len, 0, 0].into_iter().chain(std::iter::repeat_n(1, len.into()))
        }).collect();
        let _ = NamespaceIds::parse(&bytes);
    }

    #[test]
    fn arbitrary_namespaces_never_panic(bytes in prop::collection::vec(any::<u8>(), 4096)) {
        let ns = IdentifyNamespace::ref_from_bytes(&bytes).expect("4096 bytes");
        let _ = (ns.format(), ns.format_index());
        if let Ok(size) = ns.block_size() {
            prop_assert!(size.is_power_of_two() && size >= 512);
        }
        let list = NsidList::ref_from_bytes(&bytes).expect("4096 bytes");
        if let Ok(nsids) = list.above(0) {
            prop_assert!(nsids.is_sorted() && nsids.len() <= NsidList::CAPACITY);
        }
        let id = IdentifyController::ref_from_bytes(&bytes).expect("4096 bytes");
        let _ = (id.serial(), id.subsystem_nqn(), id.max_transfer(1 << 27), id.in_capsule_len());
        prop_assert_eq!(id.as_bytes(), &bytes);
    }
}
