//! Queues and data in the controller memory buffer.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nvme_core::spec::registers::{CmbLoc, CmbSz};
use nvme_pci_bed::{Bed, LIMIT, Load, channel, connect, pattern, persistent, verify, wait_until};
use nvme_target::PciConfig;

/// Queues whose submission queue, and whose memory for copies, are in the buffer, after I/O.
fn used(config: PciConfig, url: &str) -> (u64, u64) {
    let mut bed = Bed::new(512);
    let device = bed.configured("a", config);
    let host = bed.host();
    let (controller, head) = connect(&host, url, persistent());
    let mut one = channel(&host);
    for (n, len) in [512, 4096, 65536, 1 << 20].into_iter().enumerate() {
        verify(&mut one, &head, n as u64, pattern(n as u64, len, 1));
    }
    // More at once than the memory begins with, and after a reset.
    let load = Load::start(channel(&host), &head, 64, 60 << 10, 0);
    load.wait_more(200);
    let before = controller.reconnects();
    controller.reset("a test");
    wait_until("the way back", || controller.reconnects() > before);
    load.wait_more(200);
    load.stop().assert_clean();
    assert_eq!((device.stats().dma_errors, device.stats().bad_doorbells), (0, 0), "{url}");
    let counters = bed.transport.counters();
    host.shutdown_forced(LIMIT).unwrap();
    (counters.cmb_queues, counters.cmb_pools)
}

#[test]
fn queues_and_data_are_where_the_url_says() {
    let large = || PciConfig::new().controller_memory(16 << 20);
    // Two channels, before and after the reset.
    assert_eq!(used(large(), "mem://a"), (0, 0));
    assert_eq!(used(large(), "mem://a?cmb=sq"), (4, 0));
    assert_eq!(used(large(), "mem://a?cmb=sq+data"), (4, 4));
    assert_eq!(used(large(), "mem://a?cmb=sq+data&sgl=0&shadow=0"), (4, 4));
}

#[test]
fn what_has_no_room_or_is_not_there_is_in_the_machines_memory() {
    let bytes = |n| PciConfig::new().controller_memory(n);
    assert_eq!(used(PciConfig::new(), "mem://a?cmb=sq+data"), (0, 0), "no buffer");
    assert_eq!(used(bytes(4096), "mem://a?cmb=sq+data"), (0, 0), "a queue is two pages");
    assert_eq!(used(bytes(64 << 10), "mem://a?cmb=sq+data"), (4, 0));
    // As far as the controller supports it.
    let told = |size: CmbSz| {
        let location = CmbLoc(0).with_bir(2).0;
        PciConfig::new().controller_memory_told(16 << 20, location, size.with_sz(4096).0)
    };
    assert_eq!(used(told(CmbSz(0)), "mem://a?cmb=sq+data"), (0, 0));
    assert_eq!(used(told(CmbSz(0).with_sqs(1).with_wds(1)), "mem://a?cmb=sq+data"), (4, 0));
    assert_eq!(used(told(CmbSz(0).with_rds(1).with_wds(1)), "mem://a?cmb=sq+data"), (0, 4));
}

/// What is said of a buffer that cannot be.
fn refusal(location: CmbLoc, size: CmbSz) -> String {
    let mut bed = Bed::new(512);
    let config = PciConfig::new().controller_memory_told(1 << 20, location.0, size.with_sqs(1).0);
    bed.configured("a", config);
    let host = bed.host();
    let controller = host.connect("mem://a?cmb=sq", persistent()).unwrap();
    wait_until("an error", || controller.last_error().is_some());
    let error = controller.last_error().unwrap().to_string();
    host.shutdown_forced(LIMIT).unwrap();
    error
}

#[test]
fn a_buffer_that_cannot_be_is_refused_by_what_is_wrong() {
    let place = |bir, ofst| CmbLoc(0).with_bir(bir).with_ofst(ofst);
    let units = |szu, sz| CmbSz(0).with_szu(szu).with_sz(sz);
    for (location, size, reason) in [
        (place(2, 1), units(0, 256), "1048576 bytes at 0x1000 are not in BAR 2"),
        (place(2, 0), units(0, 257), "1052672 bytes at 0x0 are not in BAR 2"),
        (place(2, 0xf_ffff), units(0, 1), "are not in BAR 2, which has 1048576 bytes"),
        (place(2, 0xf_ffff), units(6, 0xf_ffff), "are not in BAR 2"),
        (place(2, 0), units(6, 1), "68719476736 bytes at 0x0"),
        (place(2, 0), units(9, 1), "SZU is 9"),
        (place(1, 0), units(0, 1), "BIR is 1"),
        (place(7, 0), units(0, 1), "BIR is 7"),
        (place(3, 0), units(0, 1), "not in BAR 3, which has 0 bytes"),
    ] {
        let error = refusal(location, size);
        assert!(error.contains("controller memory buffer"), "{error}");
        assert!(error.contains(reason), "{error} has no {reason:?}");
    }
}
