//! Memory that devices reach without a copy: the host's and the program's.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::controller::State;
use nvme_core::memory::{DmaBuf, Memory, Page};
use nvme_mpath::{Channel, ChannelOptions, Head, IoRequest, OverdueAction};
use nvme_pci_bed::{Bed, LIMIT, NQN, channel, connect, pattern, persistent, wait_until};
use nvme_target::PciFault;

/// Writes and reads back, in this memory, and gives it back.
fn verify(channel: &mut Channel, head: &Arc<Head>, mut memory: DmaBuf, version: u64) -> DmaBuf {
    let data = pattern(64 * 512, memory.len(), version);
    memory.as_mut_slice().copy_from_slice(&data);
    let mut buffer = channel.write(head, 64, memory.into()).unwrap();
    buffer.as_mut_slice().fill(0);
    let buffer = channel.read(head, 64, buffer).unwrap();
    assert!(buffer.as_slice() == data, "other data");
    buffer.into_dma_buf().unwrap()
}

#[test]
fn the_hosts_memory_is_reached_by_controllers_of_before_and_after() {
    let mut bed = Bed::new(512);
    let (a, b) = (bed.device("a"), bed.device("b"));
    let host = bed.host();
    let early = host.dma_buf(64 << 10).unwrap();
    let (first, head) = connect(&host, "mem://a", persistent());
    let mut channel = channel(&host);
    let _ = channel.read(&head, 0, Buffer::zeroed(512)).unwrap();
    let before = bed.transport.counters();
    let early = verify(&mut channel, &head, early, 1);
    let late = host.dma_buf(1 << 20).unwrap();
    let late = verify(&mut channel, &head, late, 2);
    // More than a region holds by default.
    let large = host.dma_buf(5 << 20).unwrap();
    assert_eq!(large.len(), 5 << 20);
    drop(large);
    // Another controller, and the first one again after a reset.
    let (_second, _) = connect(&host, "mem://b?scatter=1", persistent());
    first.disconnect();
    first.wait_removed(LIMIT).unwrap();
    let early = verify(&mut channel, &head, early, 3);
    let late = verify(&mut channel, &head, late, 4);
    let after = bed.transport.counters();
    // Admin commands are copied.
    assert_eq!(after.direct - before.direct, 8);
    assert_eq!(after.unreachable, 0);
    assert_eq!((a.stats().dma_errors, b.stats().dma_errors), (0, 0));
    drop((early, late));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn memory_of_the_program_is_reached_until_its_last_piece_is_dropped() {
    let mut bed = Bed::new(512);
    bed.device("a");
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    let mut channel = channel(&host);
    let _ = channel.read(&head, 0, Buffer::zeroed(512)).unwrap();

    let arena = host.register_memory(Memory::from(vec![Page([7; 4096]); 4])).unwrap();
    let piece = arena.take(8192, 4096).unwrap();
    assert!(piece.as_slice().iter().all(|byte| *byte == 7), "what the program put there");
    let region = Arc::downgrade(&arena);
    drop(arena);
    let before = bed.transport.counters();
    let piece = verify(&mut channel, &head, piece, 1);
    assert_eq!(bed.transport.counters().direct - before.direct, 2);
    drop(piece);
    assert!(region.upgrade().is_none(), "nothing keeps the registration");
    let _ = channel.read(&head, 0, Buffer::zeroed(512)).unwrap();
    assert_eq!(bed.transport.counters().direct - before.direct, 2);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn queues_that_stand_still_keep_no_memory_of_the_program() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    let mut channels = [channel(&host), channel(&host)];
    let memory = nvme_pci_bed::Memory::new(2);
    let registration = memory.register(&bed.transport);
    let before = bed.transport.counters();
    for channel in &mut channels {
        let _ = channel.read(&head, 0, memory.buffer(0, 4096)).unwrap();
    }
    assert_eq!(bed.transport.counters().direct - before.direct, 2);
    assert!(memory.is_shared());
    drop(registration);
    // Nothing is submitted any more that a queue could take as an occasion.
    assert!(!memory.is_shared(), "a queue keeps memory that nobody has registered");
    for channel in &mut channels {
        let _ = channel.read(&head, 0, memory.buffer(0, 4096)).unwrap();
    }
    assert_eq!(bed.transport.counters().direct - before.direct, 2);
    assert_eq!(device.stats().dma_errors, 0);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_quiet_channel_has_left_nothing_with_a_device() {
    for action in [OverdueAction::AbortThenReset, OverdueAction::Reset] {
        let mut bed = Bed::new(512);
        let device = bed.device("a");
        let host = bed.host();
        let mut options = persistent();
        options.on_timeout.reads = action;
        let (controller, head) = connect(&host, "mem://a", options);
        let mut options = ChannelOptions::default();
        options.io_timeout = Duration::from_millis(500);
        let mut channel = host.channel(options).unwrap();
        let memory = nvme_pci_bed::Memory::new(3);
        let _registration = memory.register(&bed.transport);
        let _ = channel.read(&head, 0, memory.buffer(0, 4096)).unwrap();
        let mut done = Vec::new();
        channel.quiesce(&mut done);
        assert!(done.is_empty());
        // It takes reads, and writes again and again to where their data are to go.
        device.add_fault(PciFault::Stall);
        for at in 0..3 {
            let buffer = memory.buffer(at * 4096, 4096);
            channel.submit(&head, IoRequest::read(0, buffer, at as u64)).unwrap();
        }
        wait_until("the reads to be kept", || {
            channel.poll(&mut done);
            device.kept() == 3
        });
        channel.quiesce(&mut done);
        assert_eq!((done.len(), channel.in_flight(), device.kept()), (3, 0, 0));
        drop(channel);
        memory.fill(0x22);
        wait_until("the way back", || controller.state() == State::Live);
        // The device has looked at everything that it has.
        assert!(controller.power_state(LIMIT).is_ok());
        assert!(memory.is_filled_with(0x22));
        device.clear_faults();
        host.shutdown_forced(LIMIT).unwrap();
    }
}

#[test]
fn a_region_of_no_whole_pages_is_copied_and_counted() {
    let mut bed = Bed::new(512);
    bed.device("a");
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    let mut channel = channel(&host);
    let _ = channel.read(&head, 0, Buffer::zeroed(512)).unwrap();
    let odd = nvme_pci_bed::Memory::new(2).region(512, 4096);
    let before = bed.transport.counters();
    let arena = host.register_memory(odd).unwrap();
    let piece = verify(&mut channel, &head, arena.take(4096, 64).unwrap(), 1);
    let after = bed.transport.counters();
    assert_eq!(after.direct, before.direct);
    assert!(after.bounced - before.bounced >= 2);
    assert_eq!(after.unreachable - before.unreachable, 1);
    drop(piece);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn memory_goes_over_tcp_as_well() {
    let bed = Bed::new(512);
    let port = bed.target.add_listener("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}/{NQN}", bed.target.addr(port).unwrap());
    let host = bed.host();
    let (_controller, head) = connect(&host, &url, persistent());
    let mut channel = channel(&host);
    let memory = host.dma_buf(64 << 10).unwrap();
    let memory = verify(&mut channel, &head, memory, 1);
    // It outlives the host.
    host.shutdown_forced(LIMIT).unwrap();
    drop((channel, head, host));
    assert_eq!(memory.as_slice().len(), 64 << 10);
}
