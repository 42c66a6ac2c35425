//! Discovery log pages as a discovery controller may send them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nvme_core::spec::log::DiscoveryLog;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = DiscoveryLog::parse(bytes) {
        assert!(log.entries().len() <= bytes.len() / 1024);
        for entry in log.entries() {
            let _ = (entry.address(), entry.service(), entry.subsystem_nqn(), entry.flags());
        }
    }
});
