//! A reset of the whole subsystem, asked for on one of its controllers.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nvme_mpath::HostError;
use nvme_pci_bed::{Bed, LIMIT, Load, channel, connect, persistent, wait_until};
use nvme_target::PciConfig;

#[test]
fn all_controllers_come_back_and_nothing_is_lost() {
    let mut bed = Bed::new(512);
    let config = || PciConfig::new().subsystem_reset();
    let (a, b) = (bed.configured("a", config()), bed.configured("b", config()));
    let host = bed.host();
    let (first, head) = connect(&host, "mem://a", persistent());
    let (second, _) = connect(&host, "mem://b", persistent());
    assert!(first.info().unwrap().subsystem_reset);
    let load = Load::start(channel(&host), &head, 32, 4096, 0);
    for n in 1..=3 {
        load.wait_more(500);
        first.subsystem_reset("a test").unwrap();
        // The other one is told by nobody: it finds CSTS.NSSRO.
        wait_until("the way back", || first.reconnects() == n && second.reconnects() == n);
        for controller in [&first, &second] {
            wait_until("ready", || controller.wait_ready(LIMIT).is_ok());
        }
    }
    load.wait_more(500);
    load.stop().assert_clean();
    for device in [&a, &b] {
        let stats = device.stats();
        assert_eq!((stats.enables, stats.resets, stats.dma_errors), (4, 0, 0), "{stats:?}");
    }
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_reset_from_before_is_not_taken_for_a_new_one() {
    let mut bed = Bed::new(512);
    let device = bed.configured("a", PciConfig::new().subsystem_reset());
    device.write32(0x20, 0x4e56_4d65);
    assert_eq!(device.read32(0x1c) & 1 << 4, 1 << 4);
    let host = bed.host();
    let (controller, head) = connect(&host, "mem://a", persistent());
    assert_eq!(device.read32(0x1c) & 1 << 4, 0);
    let load = Load::start(channel(&host), &head, 8, 4096, 0);
    load.wait_more(500);
    load.stop().assert_clean();
    assert_eq!((controller.reconnects(), device.stats().enables), (0, 1));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn it_is_refused_where_the_controller_cannot() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let (controller, _) = connect(&host, "mem://a", persistent());
    let error = controller.subsystem_reset("a test").unwrap_err();
    assert!(matches!(error, HostError::Controller(_)), "{error}");
    assert!(error.to_string().contains("NSSRS is 0"), "{error}");
    assert_eq!((controller.reconnects(), device.stats().enables), (0, 1));
    host.shutdown_forced(LIMIT).unwrap();
}
