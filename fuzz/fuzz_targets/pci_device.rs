//! The PCI driver on a device that does what the input says; see `nvme-pci/tests/support/liar`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../nvme-pci/tests/support/liar/mod.rs"]
mod liar;

fuzz_target!(|data: &[u8]| {
    let _ = liar::run(data);
});
