//! ANA log pages as a controller may send them. A page that parses must survive being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvme_core::spec::log::AnaLog;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = AnaLog::parse(bytes) {
        let groups: Vec<_> = log.groups().collect();
        let page = AnaLog::encode(log.chgcnt(), groups.iter().copied());
        let again = AnaLog::parse(&page).expect("own output parses");
        assert!(again.groups().eq(groups));
    }
});
