//! Namespace identification descriptors as a controller may send them. What parses must survive being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvme_core::spec::identify::NamespaceIds;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ids) = NamespaceIds::parse(bytes) {
        assert_eq!(NamespaceIds::parse(&ids.encode()), Ok(ids));
    }
});
