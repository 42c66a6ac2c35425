//! Discovery log pages as a discovery controller may send them: a page of two entries with bytes changed, since bytes
//! out of nowhere hardly ever reach the length of a header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvme_core::spec::log::DiscoveryLog;

const PAGE_LEN: usize = 3 * 1024;

fuzz_target!(|changes: Vec<(u16, u8)>| {
    let mut page = vec![0; PAGE_LEN];
    page[8] = 2;
    for (at, byte) in changes {
        page[usize::from(at) % PAGE_LEN] = byte;
    }
    if let Ok(log) = DiscoveryLog::parse(&page) {
        assert!(log.entries().len() <= 2);
        for entry in log.entries() {
            let _ = (entry.address(), entry.service(), entry.subsystem_nqn(), entry.flags());
        }
    }
});
