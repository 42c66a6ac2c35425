//! What a request costs: no allocation, one doorbell per batch.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![expect(unsafe_code, reason = "the allocator is wrapped to count")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_mpath::{Channel, Head, Host, IoCompletion, IoRequest};
use nvme_pci_bed::{Bed, LIMIT, NQN, channel, connect, persistent};
use nvme_target::{PciConfig, PciDevice};
use std::sync::Arc;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One batch of requests, with the buffers of the one before.
fn batch(
    channel: &mut Channel,
    head: &Arc<Head>,
    write: bool,
    buffers: &mut Vec<Buffer>,
    done: &mut Vec<IoCompletion>,
) {
    let depth = buffers.len();
    for (i, buffer) in buffers.drain(..).enumerate() {
        let (at, tag) = (i as u64 * 8, i as u64);
        let request = match write {
            true => IoRequest::write(at, buffer, tag),
            false => IoRequest::read(at, buffer, tag),
        };
        channel.submit(head, request).unwrap();
    }
    channel.flush();
    while done.len() < depth {
        channel.poll(done);
        if done.len() < depth {
            channel.wait(Duration::from_millis(1));
        }
    }
    for completion in done.drain(..) {
        assert!(completion.result.is_ok());
        buffers.push(completion.buffer);
    }
}

/// Memory that the device reaches, and memory from which it has to be copied.
fn buffers(host: &Host, direct: bool, depth: usize, len: usize) -> Vec<Buffer> {
    let buffer = |_| match direct {
        true => host.dma_buf(len).unwrap().into(),
        false => Buffer::zeroed(len),
    };
    (0..depth).map(buffer).collect()
}

#[test]
fn requests_allocate_nothing_and_batches_ring_once() {
    for (url, flags) in [("mem://a?poll=1", "polled"), ("mem://a", "by interrupt")] {
        let bed = Bed::new(512);
        // The device works within the write to the doorbell, and so on this thread: it is counted,
        // too.
        let device = PciDevice::new(&bed.target, NQN, PciConfig::new().inline()).unwrap();
        bed.slots.insert("a", device.clone());
        let host = bed.host();
        let (_controller, head) = connect(&host, url, persistent());
        let mut channel = channel(&host);
        for (depth, len) in [(1, 4096), (32, 4096), (8, 64 << 10), (4, 128 << 10)] {
            for (write, direct) in [(false, false), (true, false), (false, true), (true, true)] {
                let what =
                    format!("{depth} of {len} bytes {flags}, write: {write}, direct: {direct}");
                let mut buffers = buffers(&host, direct, depth, len);
                let mut done = Vec::with_capacity(depth);
                let mut batches = |n| {
                    for _ in 0..n {
                        batch(&mut channel, &head, write, &mut buffers, &mut done);
                    }
                };
                batches(50);
                let (counted, before) = (ALLOCATIONS.get(), bed.transport.counters());
                batches(100);
                assert_eq!(ALLOCATIONS.get() - counted, 0, "{what}");
                let after = bed.transport.counters();
                // The admin queue may have done something meanwhile.
                let commands = after.commands - before.commands;
                assert!(commands >= 100 * depth as u64, "{what}");
                let extra = commands - 100 * depth as u64;
                assert!(after.sq_doorbells - before.sq_doorbells <= 100 + extra, "{what}");
                assert!(after.cq_doorbells - before.cq_doorbells <= 100 + extra, "{what}");
                let copied = after.bounced - before.bounced;
                assert_eq!(copied > extra, !direct, "{what}: {copied} were copied");
            }
        }
        host.shutdown_forced(LIMIT).unwrap();
    }
}
