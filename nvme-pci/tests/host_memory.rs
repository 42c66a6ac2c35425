//! The host memory buffer: who has it when.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nvme_mpath::ControllerOptions;
use nvme_pci_bed::{Bed, LIMIT, Load, channel, connect, persistent, wait_until};
use nvme_target::{PciConfig, PciFault};

const MIB: u64 = 1 << 20;

fn limited(bytes: u64) -> ControllerOptions {
    let mut options = persistent();
    options.host_memory = bytes;
    options
}

#[test]
fn the_controller_has_it_while_it_is_live_and_gets_it_back_after_a_reset() {
    let mut bed = Bed::new(512);
    let device = bed.configured("a", PciConfig::new().host_memory(512, 64));
    let host = bed.host();
    let (controller, head) = connect(&host, "mem://a", persistent());
    assert_eq!((controller.host_memory(), device.host_memory()), (2 * MIB, 2 * MIB));
    let load = Load::start(channel(&host), &head, 16, 4096, 0);
    load.wait_more(200);
    for n in 1..=3 {
        controller.reset("a test");
        wait_until("the way back", || controller.reconnects() == n);
        assert_eq!(controller.host_memory(), 2 * MIB);
        load.wait_more(200);
    }
    // It is not only told that it is the same: the device finds all that it had written.
    let stats = device.stats();
    assert_eq!((stats.host_memory_given, stats.host_memory_returned), (4, 3), "{stats:?}");
    assert!(stats.host_memory_writes > 4 * 512, "{stats:?}");
    load.stop().assert_clean();
    controller.disconnect();
    controller.wait_removed(LIMIT).unwrap();
    // Taken away before the shutdown, and never written to while it was not the controller's.
    let stats = device.stats();
    assert_eq!((stats.host_memory_taken, stats.host_memory_at_shutdown), (1, 0), "{stats:?}");
    assert_eq!((device.host_memory(), stats.dma_errors), (0, 0), "{stats:?}");
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn it_is_kept_for_as_long_as_a_controller_cannot_be_stopped() {
    let mut bed = Bed::new(512);
    let device = bed.configured("a", PciConfig::new().host_memory(64, 64));
    let host = bed.host();
    let (controller, _) = connect(&host, "mem://a", persistent());
    // It goes on using the buffer until the function is reset.
    device.add_fault(PciFault::StuckEnabled);
    controller.reset("a test");
    wait_until("the way back", || controller.reconnects() == 1);
    let stats = device.stats();
    assert_eq!((stats.dma_errors, stats.resets), (0, 1), "{stats:?}");
    assert_eq!(stats.host_memory_given, 2, "{stats:?}");
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn the_option_bounds_it_and_what_does_not_fit_is_done_without() {
    let given = |config: PciConfig, url: &str, limit: u64| {
        let mut bed = Bed::new(512);
        let device = bed.configured("a", config);
        let host = bed.host();
        let (controller, _) = connect(&host, url, limited(limit));
        assert_eq!(controller.host_memory(), device.host_memory());
        host.shutdown_forced(LIMIT).unwrap();
        controller.host_memory().max(device.stats().host_memory_given)
    };
    let wish = || PciConfig::new().host_memory(256, 16);
    assert_eq!(given(PciConfig::new(), "mem://a", 64 * MIB), 0, "it asks for nothing");
    assert_eq!(given(wish(), "mem://a", 0), 0, "switched off");
    assert_eq!(given(wish(), "mem://a", 60 << 10), 0, "less than HMMIN is of no use");
    // No two pages next to each other: 256 pieces.
    assert_eq!(given(wish().host_memory_pieces(2, 0), "mem://a?scatter=1", MIB), 0);
    assert_eq!(given(wish().host_memory_pieces(1, 15), "mem://a?scatter=1", MIB), 0);
    for (config, url, limit, bytes) in [
        (wish(), "mem://a", 64 * MIB, MIB),
        (wish(), "mem://a", 100_000, 98_304),
        (wish().host_memory_pieces(2, 1), "mem://a", MIB, MIB),
        (wish(), "mem://a?scatter=1", MIB, MIB),
        (wish().host_memory_pieces(1, 16), "mem://a?scatter=1", MIB, 64 << 10),
    ] {
        let mut bed = Bed::new(512);
        let device = bed.configured("a", config);
        let host = bed.host();
        let (controller, _) = connect(&host, url, limited(limit));
        assert_eq!((controller.host_memory(), device.host_memory()), (bytes, bytes), "{url}");
        host.shutdown_forced(LIMIT).unwrap();
    }
}
