//! A controller that takes its time to stop holds nobody up.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use nvme_core::controller::State;
use nvme_core::nqn::Uuid;
use nvme_mpath::{Host, HostOptions, IoRequest};
use nvme_pci::{Options, PciTransport};
use nvme_pci_bed::{Bed, LIMIT, channel, connect, pattern, persistent, wait_until};
use nvme_target::{PciConfig, PciFault};

/// Two hosts in one: a device on the PCI bus that is stuck, and a controller over TCP.
#[test]
fn a_device_that_does_not_stop_delays_no_other_controller() {
    let mut bed = Bed::new(512);
    let device = bed.configured("a", PciConfig::new().ready_units(40));
    let port = bed.target.add_listener("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}/{}", bed.target.addr(port).unwrap(), nvme_pci_bed::NQN);
    let mut options = Options::default();
    options.disable_limit = Duration::from_secs(10);
    let transport = PciTransport::with_defaults(bed.slots.clone(), options);
    let host = HostOptions::new(Uuid(*b"nvme-host-tests!")).transport(transport);
    let host = Host::new(host.transport(nvme_tcp::TcpTransport::new())).unwrap();

    let mut lively = persistent();
    lively.keep_alive = Duration::from_secs(1);
    let (tcp, head) = connect(&host, &url, lively);
    let (pci, same) = connect(&host, "mem://a", persistent());
    assert!(std::sync::Arc::ptr_eq(&head, &same));
    wait_until("two paths", || head.paths().iter().filter(|p| p.usable).count() == 2);

    // Both queues come to the channel, in whatever order, before anything is made of their turns.
    let mut channel = channel(&host);
    wait_until("reads on each path", || {
        if channel.in_flight() == 0 {
            let buffer = nvme_core::buffer::Buffer::zeroed(4096);
            channel.submit(&head, IoRequest::read(0, buffer, 0)).unwrap();
        }
        channel.poll(&mut Vec::new());
        channel.in_flight() == 0 && host.snapshot().controllers.iter().all(|c| c.commands > 0)
    });

    // One read is inside the device when it is reset; it must stay there until it has stopped.
    device.add_fault(PciFault::Stall);
    for user in 0..2 {
        let buffer = nvme_core::buffer::Buffer::zeroed(4096);
        channel.submit(&head, IoRequest::read(0, buffer, user)).unwrap();
    }
    let mut done = Vec::new();
    wait_until("the read to be kept", || {
        channel.poll(&mut done);
        device.kept() == 1 && done.len() == 1
    });
    device.add_fault(PciFault::StuckEnabled);
    pci.reset("a test");
    wait_until("the loss", || pci.state() == State::Resetting);

    // Meanwhile the other one loses its connection, comes back, takes I/O, and is kept alive.
    let before = tcp.reconnects();
    bed.target.kill_connections(port).unwrap();
    wait_until("the way back", || tcp.reconnects() > before && tcp.state() == State::Live);
    let data = pattern(64, 4096, 1);
    channel.submit(&head, IoRequest::write(64, data.into(), 7)).unwrap();
    wait_until("the write", || {
        channel.poll(&mut done);
        done.iter().any(|d| d.user_data == 7)
    });
    assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
    assert_eq!(done.len(), 2, "the read came back from a device that may still write to it");
    assert_eq!(
        (device.stats().resets, device.kept()),
        (0, 1),
        "all that took longer than stopping"
    );

    wait_until("a reset of the function", || device.stats().resets > 0);
    wait_until("the read", || {
        channel.poll(&mut done);
        done.len() == 3
    });
    assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
    device.clear_faults();
    wait_until("the way back", || pci.state() == State::Live);
    host.shutdown_forced(LIMIT).unwrap();
}
