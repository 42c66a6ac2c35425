//! Names: NQN, UUID and the other identifiers.

use nvme_core::nqn::{DISCOVERY_NQN, Eui64, NQN_MAX_LEN, Nguid, Nqn, NqnError, Uuid, UuidError};
use proptest::prelude::*;

#[test]
fn what_is_an_nqn() {
    let longest = format!("nqn.{}", "x".repeat(NQN_MAX_LEN - 4));
    assert_eq!(Nqn::new(&longest).map(|nqn| nqn.as_str().len()), Ok(223));
    assert_eq!(Nqn::new(&format!("{longest}x")), Err(NqnError::TooLong(224)));
    assert_eq!(Nqn::new(""), Err(NqnError::Empty));
    assert_eq!(Nqn::new("iqn.2014-08.org.example"), Err(NqnError::Prefix));
    assert_eq!(Nqn::new("nqn.a\nb"), Err(NqnError::Control(5)));
    assert_eq!(Nqn::new("nqn.a\0b"), Err(NqnError::Control(5)));
    assert_eq!(
        Nqn::new("nqn.2014-08.org.exämple:é").map(|nqn| nqn.to_string()),
        Ok("nqn.2014-08.org.exämple:é".into())
    );
    assert!(Nqn::discovery().is_discovery());
    assert_eq!(DISCOVERY_NQN.parse(), Ok(Nqn::discovery()));
}

#[test]
fn a_field_ends_at_its_nul() {
    let mut field = [0u8; 256];
    field[..7].copy_from_slice(b"nqn.abc");
    assert_eq!(Nqn::from_field(&field).map(|nqn| nqn.to_string()), Ok("nqn.abc".into()));
    field[8] = b'x'; // after the NUL
    assert_eq!(Nqn::from_field(&field).map(|nqn| nqn.to_field()[8]), Ok(0));
    field[5] = 0xff;
    assert_eq!(Nqn::from_field(&field), Err(NqnError::Utf8(5)));
    assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::TooLong(256)));
    assert_eq!(Nqn::from_field(&[0; 256]), Err(NqnError::Empty));
}

#[test]
fn uuids_are_read_and_written() {
    let text = "01234567-89ab-cdef-0123-456789abcdef";
    let uuid: Uuid = text.parse().expect("legal");
    assert_eq!(uuid.0[..4], [0x01, 0x23, 0x45, 0x67]);
    assert_eq!(uuid.to_string(), text);
    assert_eq!("0123456789ABCDEF0123456789ABCDEF".parse(), Ok(uuid));
    assert_eq!(
        Nqn::from_uuid(uuid).as_str(),
        "nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef"
    );
    for bad in [
        "",
        "01234567-89ab-cdef-0123-456789abcde",
        "01234567-89ab-cdef-0123-456789abcdeg",
        "01234567+89ab-cdef-0123-456789abcdef",
        "0123456-789ab-cdef-0123-456789abcdef",
        "+123456789abcdef0123456789abcdef",
        "0123456789abcdef0123456789abcdéf",
    ] {
        assert_eq!(bad.parse::<Uuid>(), Err(UuidError), "{bad:?}");
    }
    assert!(Uuid::NIL.is_nil() && !uuid.is_nil());
    assert_eq!(Uuid::from_random([0xff; 16]).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

#[test]
fn other_identifiers_are_plain_hexadecimal() {
    assert_eq!(Eui64([0, 0x25, 0x38, 1, 2, 3, 4, 0xff]).to_string(), "00253801020304ff");
    assert_eq!(format!("{:?}", Nguid([0xab; 16])), format!("Nguid({})", "ab".repeat(16)));
    assert!(Eui64::default().is_nil());
}

proptest! {
    #[test]
    fn names_survive_their_field(name in "nqn\\.[^\\p{Cc}]{0,50}") {
        let nqn = Nqn::new(&name).expect("legal");
        prop_assert_eq!(Nqn::from_field(&nqn.to_field()), Ok(nqn));
    }

    #[test]
    fn arbitrary_fields_never_panic(bytes in prop::collection::vec(any::<u8>(), 256)) {
        let field: [u8; 256] = bytes.try_into().expect("256 bytes");
        if let Ok(nqn) = Nqn::from_field(&field) {
            prop_assert!(nqn.as_str().starts_with("nqn."));
        }
    }

    #[test]
    fn uuids_survive(bytes: [u8; 16]) {
        let uuid = Uuid(bytes);
        prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
        let _ = (text.parse::<Uuid>(), text.parse::<Nqn>());
    }
}
