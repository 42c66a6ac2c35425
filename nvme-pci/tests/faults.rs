//! Controllers that break, lie, hang and vanish: every request ends once, in bounded time.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use nvme_core::controller::{RemovedCause, State};
use nvme_mpath::{ChannelOptions, HeadState, Host, IoRequest};
use nvme_pci_bed::{Bed, LIMIT, Load, channel, connect, pattern, persistent, verify, wait_until};
use nvme_target::{PciConfig, PciFault};

/// What `controller` says of a device that cannot be brought up.
fn refusal(config: PciConfig) -> String {
    let mut bed = Bed::new(512);
    bed.configured("a", config);
    let host = bed.host();
    let controller = host.connect("mem://a", persistent()).unwrap();
    wait_until("an error", || controller.last_error().is_some());
    let error = controller.last_error().unwrap().to_string();
    host.shutdown_forced(LIMIT).unwrap();
    error
}

#[test]
fn a_device_that_cannot_be_is_refused_by_what_is_wrong() {
    let error = refusal(PciConfig::new().mqes(0));
    assert!(error.contains("MQES is 0"), "{error}");
    let error = refusal(PciConfig::new().smallest_page(1));
    assert!(error.contains("MPSMIN is 1"), "{error}");
    let error = refusal(PciConfig::new().bar_bytes(4096));
    assert!(error.contains("BAR 0 has 4096 bytes"), "{error}");
    // The admin queue's completion doorbell is at 0x1000 + 128 KiB.
    let error = refusal(PciConfig::new().doorbell_stride(15));
    assert!(error.contains("DSTRD 15") && error.contains("past the end of BAR 0"), "{error}");
}

#[test]
fn doorbells_may_be_far_apart() {
    let mut bed = Bed::new(512);
    bed.configured("a", PciConfig::new().doorbell_stride(4).bar_bytes(64 << 10));
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    verify(&mut channel(&host), &head, 3, pattern(3, 8192, 1));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_controller_that_does_not_become_ready_is_not_waited_for_for_ever() {
    let mut bed = Bed::new(512);
    let device = bed.configured("a", PciConfig::new().ready_units(1));
    device.add_fault(PciFault::NeverReady);
    let host = bed.host();
    let controller = host.connect("mem://a", persistent()).unwrap();
    wait_until("the second try", || device.stats().enables >= 2);
    let error = controller.last_error().unwrap().to_string();
    assert!(error.contains("becoming ready"), "{error}");
    device.clear_faults();
    wait_until("a live controller", || controller.state() == State::Live);
    host.shutdown_forced(LIMIT).unwrap();
}

/// A load during which the device breaks once; it goes on when the controller is back.
fn breaks_once(url: &str, fault: PciFault, why: &str) {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let events = host.events(10_000);
    let (controller, head) = connect(&host, url, persistent());
    let mut options = ChannelOptions::default();
    options.io_timeout = Duration::from_millis(500);
    let load = Load::start(host.channel(options).unwrap(), &head, 16, 12 << 10, 0);
    load.wait_more(100);
    device.add_fault(fault);
    wait_until("a reconnect", || controller.reconnects() > 0);
    device.clear_faults();
    load.wait_more(100);
    load.stop().assert_clean();
    let told: Vec<String> =
        std::iter::from_fn(|| events.try_next()).map(|e| format!("{:?}", e.event)).collect();
    assert!(told.iter().any(|e| e.contains(why)), "{fault:?}: no {why:?} in {told:#?}");
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn answers_that_cannot_be_end_the_association_and_nothing_else() {
    for url in ["mem://a", "mem://a?poll=1"] {
        breaks_once(url, PciFault::AnswerTwice, "answered already");
        breaks_once(url, PciFault::WrongCid(0x8000), "with CID");
        breaks_once(url, PciFault::WrongCid(0x0fff), "with CID");
        breaks_once(url, PciFault::WrongSqid(9), "SQID 9 on queue 1");
        breaks_once(url, PciFault::WrongSqhd(4000), "SQHD 4000");
    }
}

#[test]
fn a_fatal_status_in_the_middle_of_io_is_recovered_from() {
    breaks_once("mem://a", PciFault::FatalAfter(40), "controller fatal status");
    breaks_once("mem://a?poll=1", PciFault::FatalAfter(0), "controller fatal status");
}

#[test]
fn an_answer_that_cannot_be_seen_is_a_timeout() {
    breaks_once("mem://a", PciFault::WrongPhase, "Reset");
}

#[test]
fn a_controller_that_ignores_being_disabled_is_reset() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let (controller, head) = connect(&host, "mem://a", persistent());
    let load = Load::start(channel(&host), &head, 16, 4096, 0);
    load.wait_more(50);
    device.add_fault(PciFault::StuckEnabled);
    controller.reset("a test");
    wait_until("a reset of the function", || device.stats().resets > 0);
    load.wait_more(50);
    device.clear_faults();
    load.stop().assert_clean();
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_device_that_vanishes_and_comes_back_loses_nothing() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let (mut controller, head) = connect(&host, "mem://a", persistent());
    head.set_delayed_removal(LIMIT);
    let load = Load::start(channel(&host), &head, 16, 12 << 10, 0);
    for _ in 0..3 {
        load.wait_more(50);
        device.unplug();
        // It is not waited for, though `ctrl_loss_tmo` has long to go: whoever puts it back connects.
        assert_eq!(controller.wait_removed(LIMIT).unwrap(), RemovedCause::Gone);
        wait_until("the window", || matches!(head.state(), HeadState::RemovalPending { .. }));
        assert!(head.paths().is_empty());
        device.plug();
        controller = host.connect("mem://a", persistent()).unwrap();
    }
    load.wait_more(50);
    load.stop().assert_clean();
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_device_that_reads_as_zero_is_gone() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let (controller, head) = connect(&host, "mem://a", persistent());
    head.set_delayed_removal(LIMIT);
    let load = Load::start(channel(&host), &head, 16, 12 << 10, 0);
    load.wait_more(50);
    device.add_fault(PciFault::Zeroes);
    assert_eq!(controller.wait_removed(LIMIT).unwrap(), RemovedCause::Gone);
    let error = controller.last_error().unwrap().to_string();
    assert!(error.contains("VS reads as zero"), "{error}");
    // Nor is there one to connect to.
    let again = host.connect("mem://a", persistent()).unwrap();
    wait_until("an error", || again.last_error().is_some());
    let error = again.last_error().unwrap().to_string();
    assert!(error.contains("no controller answers (CAP 0x0000000000000000"), "{error}");
    device.clear_faults();
    load.wait_more(50);
    load.stop().assert_clean();
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn another_device_in_the_place_of_the_first_is_noticed() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let events = host.events(10_000);
    let (controller, head) = connect(&host, "mem://a", persistent());
    let load = Load::start(channel(&host), &head, 16, 12 << 10, 0);
    for n in 1..=3 {
        load.wait_more(50);
        let stats = device.stats();
        device.replace();
        // Long before the requests time out, which takes 30 s and an Abort.
        wait_until("the way back", || controller.reconnects() == n);
        assert_eq!(device.stats().dma_errors, stats.dma_errors);
    }
    load.wait_more(50);
    load.stop().assert_clean();
    let told = std::iter::from_fn(|| events.try_next()).map(|e| format!("{:?}", e.event));
    assert_eq!(told.filter(|e| e.contains("not ready any more")).count(), 3);
    host.shutdown_forced(LIMIT).unwrap();
}

/// A namespace of a host whose device keeps a read, and what the read came back with.
fn stalled_read(host: &Host, device: &nvme_target::PciDevice, bed: &Bed, direct: bool) {
    let (controller, head) = connect(host, "mem://a", persistent());
    let mut options = ChannelOptions::default();
    options.io_timeout = Duration::from_millis(200);
    let mut channel = host.channel(options).unwrap();
    let memory = nvme_pci_bed::Memory::new(16);
    let registration = direct.then(|| memory.register(&bed.transport));
    device.add_fault(PciFault::Stall);
    device.add_fault(PciFault::StuckEnabled);
    let before = bed.transport.counters();
    let request = IoRequest::read(0, memory.buffer(512, 32 << 10), 7);
    channel.submit(&head, request).unwrap();
    wait_until("the read to be kept", || {
        channel.poll(&mut Vec::new());
        device.kept() > 0
    });
    // Nobody finds the device again, so that the read cannot be sent once more.
    bed.slots.remove("a");
    head.set_fail_if_no_path(true);
    controller.reset("a test");
    controller.disconnect();
    let mut done = Vec::new();
    wait_until("the end of the read", || {
        let resets = device.stats().resets;
        channel.poll(&mut done);
        assert!(done.is_empty() || resets > 0 || device.stats().resets > 0, "it came back early");
        !done.is_empty()
    });
    let done = done.remove(0);
    assert!(done.result.is_err());
    let after = bed.transport.counters();
    assert_eq!(
        (after.direct - before.direct > 0, after.bounced > before.bounced),
        (direct, !direct)
    );
    // From here on the memory is the caller's: whoever else writes there shows.
    memory.fill(0xa5);
    device.clear_faults();
    // Nothing tells of a write that does not come: the device, its thread and the host's get time for one.
    for _ in 0..50 {
        device.step();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(memory.is_filled_with(0xa5), "the device wrote to memory that had been given back");
    assert_eq!(device.stats().dma_errors, 0);
    drop((registration, done));
}

#[test]
fn no_buffer_comes_back_while_the_device_can_still_write_to_it() {
    for direct in [true, false] {
        let mut bed = Bed::new(512);
        let device = bed.device("a");
        let host = bed.host();
        stalled_read(&host, &device, &bed, direct);
        host.shutdown_forced(LIMIT).unwrap();
    }
}
