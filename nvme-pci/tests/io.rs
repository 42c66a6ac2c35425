//! Verified I/O on a device in the process.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nvme_mpath::{Channel, Head, IoRequest};
use nvme_pci_bed::{
    Bed, LIMIT, Load, Memory, channel, connect, finish, pattern, persistent, verify,
};
use std::sync::Arc;

#[test]
fn what_is_written_is_read_at_every_length() {
    for (url, block_size) in [
        ("mem://a", 512),
        ("mem://a", 4096),
        ("mem://a?poll=1", 512),
        ("mem://a?scatter=1", 512),
        ("mem://a?scatter=1&sgl=0&poll=1", 4096),
        ("mem://a?irq=1&sgl=0", 512),
        ("mem://a?vectors=1", 512),
        ("mem://a?vectors=0", 512),
        ("mem://a?shadow=0", 512),
        ("mem://a?shadow=0&poll=1", 512),
    ] {
        let mut bed = Bed::new(block_size);
        let device = bed.device("a");
        let host = bed.host();
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}max_transfer=4194304");
        let (_controller, head) = connect(&host, &url, persistent());
        let mut channel = channel(&host);
        let block = block_size as usize;
        let mut lengths: Vec<usize> = vec![1, 2, 3, 7, 8, 9, 16, 17, 64, 255, 256, 257];
        lengths.extend([1 << 20, (2 << 20) + 4096, 4 << 20].map(|bytes| bytes / block));
        for (i, blocks) in lengths.into_iter().enumerate() {
            let slba = (i * 5 + 1) as u64;
            let data = pattern(slba * block as u64, blocks * block, i as u64);
            verify(&mut channel, &head, slba, data);
        }
        let stats = device.stats();
        assert_eq!((stats.dma_errors, stats.bad_doorbells), (0, 0));
        assert_eq!(stats.sgl_commands > 0, !url.contains("sgl=0"), "{url}");
        assert_eq!(stats.sgl_commands, bed.transport.counters().sgl);
        host.shutdown_forced(LIMIT).unwrap();
    }
}

/// Writes from one place of the memory and reads into another; both as long as they are, and
/// nothing beside them.
fn verify_in_place(
    channel: &mut Channel,
    head: &Arc<Head>,
    memory: &Memory,
    offset: usize,
    len: usize,
) {
    memory.fill(0xee);
    let data = pattern(offset as u64, len, len as u64);
    let mut from = memory.buffer(offset, len);
    from.as_mut_slice().copy_from_slice(&data);
    channel.submit(head, IoRequest::write(8, from, 1)).unwrap();
    assert!(finish(channel, 1)[0].result.is_ok());
    memory.fill(0xee);
    channel.submit(head, IoRequest::read(8, memory.buffer(offset, len), 2)).unwrap();
    let done = finish(channel, 1).remove(0);
    assert!(done.result.is_ok(), "{:?}", done.result);
    assert!(done.buffer.as_slice() == data, "{len} bytes at {offset} are others");
    drop(done);
    let before = memory.buffer(0, offset);
    let after = memory.buffer(offset + len, memory.size() - offset - len);
    let untouched = |b: &[u8]| b.iter().all(|x| *x == 0xee);
    assert!(untouched(before.as_slice()) && untouched(after.as_slice()), "{len} at {offset}");
}

#[test]
fn registered_memory_is_reached_where_it_is_at_every_offset() {
    for url in ["mem://a?max_transfer=4194304&sgl=0", "mem://a?max_transfer=4194304&sgl=512"] {
        for scatter in ["", "&scatter=1"] {
            let mut bed = Bed::new(512);
            let device = bed.device("a");
            let host = bed.host();
            let url = format!("{url}{scatter}");
            let (_controller, head) = connect(&host, &url, persistent());
            let mut channel = channel(&host);
            let memory = Memory::new(20);
            let registration = memory.register(&bed.transport);
            let before = bed.transport.counters();
            let mut count = 0;
            for len in [512, 3584, 4096, 4608, 8192, 12288, 65536] {
                for offset in [0, 4, 512, 516, 2048, 4092, 4096, 8188] {
                    verify_in_place(&mut channel, &head, &memory, offset, len);
                    count += 2;
                }
            }
            let large = Memory::new(1026);
            let large_registration = large.register(&bed.transport);
            for (offset, len) in [(0, 2 << 20), (4092, 2 << 20), (4, 4 << 20), (0, 4 << 20)] {
                verify_in_place(&mut channel, &head, &large, offset, len);
                count += 2;
            }
            drop(large_registration);
            let after = bed.transport.counters();
            assert_eq!(after.direct - before.direct, count, "{url}");
            assert_eq!(after.bounced, before.bounced, "{url}");
            // What no data pointer can name, and what is registered no more, is copied.
            verify_in_place(&mut channel, &head, &memory, 513, 8192);
            verify_in_place(&mut channel, &head, &memory, 2, 512);
            drop(registration);
            verify_in_place(&mut channel, &head, &memory, 512, 8192);
            assert_eq!(bed.transport.counters().direct, after.direct);
            assert_eq!(bed.transport.counters().bounced - after.bounced, 6);
            assert_eq!(device.stats().dma_errors, 0);
            host.shutdown_forced(LIMIT).unwrap();
        }
    }
}

#[test]
fn four_queues_work_at_once() {
    for url in ["mem://a", "mem://a?poll=1", "mem://a?vectors=2", "mem://a?shadow=0"] {
        let mut bed = Bed::new(512);
        bed.device("a");
        let host = bed.host();
        let (_controller, head) = connect(&host, url, persistent());
        let loads: Vec<Load> = (0..4u64)
            .map(|i| Load::start(channel(&host), &head, 24, 10 << 10, i * (4 << 20)))
            .collect();
        for load in &loads {
            load.wait_more(300);
        }
        for load in loads {
            load.stop().assert_clean();
        }
        let saved = bed.transport.counters().doorbells_saved;
        assert_eq!(saved > 0, !url.contains("shadow=0"), "{url}: {saved} doorbells saved");
        host.shutdown_forced(LIMIT).unwrap();
    }
}

#[test]
fn a_queue_that_a_channel_leaves_behind_can_be_used_by_another() {
    let mut bed = Bed::new(512);
    let device = bed.device("a");
    let host = bed.host();
    let mut options = persistent();
    options.max_io_queues = 2;
    let (controller, head) = connect(&host, "mem://a", options);
    for round in 0..10 {
        let mut channel = channel(&host);
        verify(&mut channel, &head, round, pattern(round, 4096, round));
        // With I/O under way, whose memory must outlive the channel.
        for i in 0..20 {
            let data = pattern(i, 16 << 10, round);
            channel.submit(&head, IoRequest::write(64 + i * 32, data.into(), i)).unwrap();
        }
        channel.flush();
    }
    assert_eq!((device.stats().dma_errors, controller.reconnects()), (0, 0));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn more_data_than_the_pool_holds_takes_turns() {
    let mut bed = Bed::new(512);
    bed.device("a");
    let host = bed.host();
    let (_controller, head) =
        connect(&host, "mem://a?bounce=65536&max_transfer=65536", persistent());
    let load = Load::start(channel(&host), &head, 64, 20 << 10, 0);
    load.wait_more(500);
    load.stop().assert_clean();
    assert_eq!(head.geometry().max_transfer, 65536);
    host.shutdown_forced(LIMIT).unwrap();
}
