//! Blocks with metadata: after each block's data, and beside all of it.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_mpath::{Channel, Head, IoCompletion, IoError, IoRequest, SubmitReason};
use nvme_pci_bed::{
    Bed, LIMIT, Memory, NQN, SIZE, channel, connect, finish, pattern, persistent, verify,
};
use nvme_target::{Metadata, NamespaceConfig, PciConfig, SubsystemConfig};

fn bed(block_size: u32, metadata: Metadata) -> Bed {
    let namespace = NamespaceConfig::memory(1, SIZE).block_size(block_size).metadata(metadata);
    Bed::with(SubsystemConfig::new(NQN).unwrap().mdts(0).namespace(namespace))
}

fn run(channel: &mut Channel, head: &Arc<Head>, request: IoRequest) -> IoCompletion {
    channel.submit(head, request).unwrap();
    finish(channel, 1).remove(0)
}

fn succeed(channel: &mut Channel, head: &Arc<Head>, request: IoRequest) -> Buffer {
    let done = run(channel, head, request);
    assert!(done.result.is_ok(), "{:?} at {}: {:?}", done.op, done.slba, done.result);
    done.buffer
}

#[test]
fn blocks_with_their_metadata_after_them_are_read_as_written() {
    for url in ["mem://a?poll=1", "mem://a?scatter=1&sgl=512", "mem://a?sgl=0&irq=1"] {
        for (block_size, bytes) in [(512, 8), (512, 6), (4096, 64), (4096, 16)] {
            let mut bed = bed(block_size, Metadata::Extended(bytes));
            let device = bed.device("a");
            let host = bed.host();
            let (_controller, head) = connect(&host, url, persistent());
            let mut channel = channel(&host);
            let geometry = head.geometry();
            assert_eq!((geometry.metadata_size, geometry.extended_metadata), (bytes, true));
            let block = geometry.buffer_block() as usize;
            assert_eq!(block, block_size as usize + usize::from(bytes));
            let most = geometry.max_transfer / block;
            assert!(geometry.max_transfer.is_multiple_of(block));
            for (i, blocks) in [1, 2, 7, 8, 9, 31, 64, most].into_iter().enumerate() {
                let data = pattern(i as u64, (blocks * block).next_multiple_of(4), 1);
                verify(&mut channel, &head, i as u64 * 3, data[..blocks * block].to_vec());
            }
            let refused = channel.submit(&head, IoRequest::read(0, Buffer::zeroed(4096), 0));
            let reason = refused.unwrap_err().reason;
            assert_eq!(reason, SubmitReason::Unaligned { len: 4096, block_size: block as u32 });
            let beside = Buffer::zeroed(block).with_metadata(Buffer::zeroed(bytes.into()));
            let reason = channel.submit(&head, IoRequest::read(0, beside, 0)).unwrap_err().reason;
            assert_eq!(reason, SubmitReason::Metadata { given: bytes.into(), wanted: 0 });
            assert_eq!(device.stats().dma_errors, 0);
            host.shutdown_forced(LIMIT).unwrap();
        }
    }
}

/// Writes blocks with metadata, reads both back, compares, and looks at what is around.
fn verify_beside(
    channel: &mut Channel,
    head: &Arc<Head>,
    slba: u64,
    blocks: usize,
    make: &mut dyn FnMut(usize, usize) -> Buffer,
) {
    let geometry = head.geometry();
    let (block, each) = (geometry.block_size as usize, usize::from(geometry.metadata_size));
    let data = pattern(slba, blocks * block, 1);
    let metadata = pattern(slba, (blocks * each).next_multiple_of(4), 2);
    let metadata = &metadata[..blocks * each];
    let mut buffer = make(blocks * block, blocks * each);
    buffer.as_mut_slice().copy_from_slice(&data);
    buffer.metadata_mut().unwrap().copy_from_slice(metadata);
    let buffer = succeed(channel, head, IoRequest::write(slba, buffer, 1));
    let mut buffer = succeed(channel, head, IoRequest::compare(slba, buffer, 2));
    buffer.as_mut_slice().fill(0xee);
    buffer.metadata_mut().unwrap().fill(0xee);
    let mut buffer = succeed(channel, head, IoRequest::read(slba, buffer, 3));
    assert!(buffer.as_slice() == data, "{blocks} blocks at {slba}: the data is another");
    assert!(buffer.metadata().unwrap() == metadata, "{blocks} blocks at {slba}: the metadata");
    *buffer.metadata_mut().unwrap().last_mut().unwrap() ^= 1;
    let differs = run(channel, head, IoRequest::compare(slba, buffer, 4));
    assert!(matches!(*differs.result.unwrap_err(), IoError::Status { .. }));
    // The last block of what was written, alone.
    let last = make(block, each);
    let last = succeed(channel, head, IoRequest::read(slba + blocks as u64 - 1, last, 5));
    assert!(last.as_slice() == &data[(blocks - 1) * block..], "{blocks} blocks at {slba}");
    assert_eq!(last.metadata().unwrap(), &metadata[(blocks - 1) * each..]);
}

#[test]
fn metadata_beside_the_data_is_read_as_written_through_copies() {
    let mut urls = ["mem://a?poll=1", "mem://a?scatter=1", "mem://a?sgl=0", "mem://a?cmb=sq+data"];
    for url in &mut urls {
        for (block_size, bytes) in [(512, 8), (512, 3), (4096, 64)] {
            let mut bed = bed(block_size, Metadata::Separate(bytes));
            let config = PciConfig::new();
            let cmb = url.contains("cmb");
            let config = if cmb { config.controller_memory(8 << 20) } else { config };
            let device = bed.configured("a", config);
            let host = bed.host();
            let (_controller, head) = connect(&host, url, persistent());
            let mut channel = channel(&host);
            let geometry = head.geometry();
            assert_eq!((geometry.metadata_size, geometry.extended_metadata), (bytes, false));
            let most = geometry.max_transfer / block_size as usize;
            // On scattered pages there is no larger piece than one.
            let most =
                if url.contains("scatter") { most.min(4096 / usize::from(bytes)) } else { most };
            let mut make =
                |data, metadata| Buffer::zeroed(data).with_metadata(Buffer::zeroed(metadata));
            for (i, blocks) in [1, 2, 7, 64, most].into_iter().enumerate() {
                verify_beside(&mut channel, &head, i as u64 * 5, blocks, &mut make);
            }
            let stats = device.stats();
            assert_eq!((stats.dma_errors, bed.transport.counters().direct), (0, 0), "{url}");
            host.shutdown_forced(LIMIT).unwrap();
        }
    }
}

#[test]
fn metadata_in_registered_memory_is_reached_where_it_is() {
    for url in ["mem://a?sgl=0", "mem://a?sgl=512", "mem://a?scatter=1"] {
        let mut bed = bed(512, Metadata::Separate(8));
        let device = bed.device("a");
        let host = bed.host();
        let (_controller, head) = connect(&host, url, persistent());
        let mut channel = channel(&host);
        let memory = Memory::new(64);
        let _registered = memory.register(&bed.transport);
        for (offset, direct) in [(0, true), (4, true), (4090, false), (4000, true), (8190, false)] {
            // 64 blocks have 512 bytes of metadata: at 4000 they lie on two pages.
            let direct = direct && !(offset == 4000 && url.contains("scatter"));
            memory.fill(0xdd);
            let mut make = |data, metadata| {
                let beside = memory.buffer(40 * 4096 + offset, metadata);
                memory.buffer(4096, data).with_metadata(beside)
            };
            let before = bed.transport.counters();
            verify_beside(&mut channel, &head, 7, 64, &mut make);
            let after = bed.transport.counters();
            if direct {
                assert_eq!(after.bounced, before.bounced, "{url}, {offset}");
            } else {
                assert!(after.bounced > before.bounced, "{url}, {offset}");
            }
            let at = 40 * 4096 + offset;
            let around = [memory.buffer(34 * 4096, at - 34 * 4096), memory.buffer(at + 512, 4096)];
            assert!(around.iter().all(|b| b.as_slice().iter().all(|x| *x == 0xdd)), "{offset}");
        }
        assert_eq!(device.stats().dma_errors, 0);
        host.shutdown_forced(LIMIT).unwrap();
    }
}

#[test]
fn many_at_once_take_turns_with_little_memory() {
    // 64 KiB for data and 16 KiB for metadata, of which each request asks for 8 KiB.
    let mut bed = bed(512, Metadata::Separate(64));
    bed.device("a");
    let host = bed.host();
    let (_controller, head) =
        connect(&host, "mem://a?bounce=65536&max_transfer=65536", persistent());
    let mut channel = channel(&host);
    for at in 0..32u64 {
        let metadata = Buffer::from(vec![at as u8; 128 * 64]);
        let buffer = Buffer::from(vec![!at as u8; 65536]).with_metadata(metadata);
        channel.submit(&head, IoRequest::write(at * 128, buffer, at)).unwrap();
    }
    assert!(finish(&mut channel, 32).iter().all(|done| done.result.is_ok()));
    for at in 0..32u64 {
        let buffer = Buffer::zeroed(65536).with_metadata(Buffer::zeroed(128 * 64));
        channel.submit(&head, IoRequest::read(at * 128, buffer, at)).unwrap();
    }
    for done in finish(&mut channel, 32) {
        let at = done.user_data as u8;
        assert!(done.result.is_ok() && done.buffer.as_slice().iter().all(|x| *x == !at));
        assert!(done.buffer.metadata().unwrap().iter().all(|x| *x == at));
    }
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn metadata_of_another_length_is_refused() {
    let mut bed = bed(512, Metadata::Separate(8));
    bed.device("a");
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    let mut channel = channel(&host);
    let mut refusal = |buffer| {
        let refused = channel.submit(&head, IoRequest::read(0, buffer, 0)).unwrap_err();
        assert!(!refused.buffer.is_empty());
        refused.reason
    };
    for given in [0, 7, 9, 16] {
        let buffer = Buffer::zeroed(512).with_metadata(Buffer::zeroed(given));
        assert_eq!(refusal(buffer), SubmitReason::Metadata { given, wanted: 8 });
    }
    let wanted = SubmitReason::Metadata { given: 0, wanted: 16 };
    assert_eq!(refusal(Buffer::zeroed(1024)), wanted, "none at all");
    host.shutdown_forced(LIMIT).unwrap();

    let mut bed = Bed::new(512);
    bed.device("a");
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    let mut channel = nvme_pci_bed::channel(&host);
    let buffer = Buffer::zeroed(512).with_metadata(Buffer::zeroed(8));
    let refused = channel.submit(&head, IoRequest::write(0, buffer, 0)).unwrap_err();
    assert_eq!(refused.reason, SubmitReason::Metadata { given: 8, wanted: 0 });
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn fabrics_move_metadata_after_the_data_only() {
    for metadata in [Metadata::Extended(8), Metadata::Separate(8)] {
        let bed = bed(512, metadata);
        let port = bed.target.add_listener("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}/{NQN}", bed.target.addr(port).unwrap());
        let host = bed.host();
        let (_controller, head) = connect(&host, &url, persistent());
        let mut channel = channel(&host);
        if head.geometry().extended_metadata {
            verify(&mut channel, &head, 3, pattern(9, 520 * 20, 1));
        } else {
            let buffer = Buffer::zeroed(512).with_metadata(Buffer::zeroed(8));
            let done = run(&mut channel, &head, IoRequest::write(0, buffer, 0));
            let error = *done.result.unwrap_err();
            assert!(matches!(error, IoError::Metadata { .. }), "{error}");
            assert_eq!(done.buffer.metadata().unwrap().len(), 8);
        }
        host.shutdown_forced(LIMIT).unwrap();
    }
}
