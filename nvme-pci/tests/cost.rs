//! What a request costs: no allocation, one doorbell per batch.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![expect(unsafe_code, reason = "the allocator is wrapped to count")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use nvme_core::buffer::Buffer;
use nvme_mpath::{Channel, Head, IoCompletion, IoRequest};
use nvme_target::{PciConfig, PciDevice};
use std::sync::Arc;
use support::{Bed, LIMIT, NQN, channel, connect, persistent};

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

/// One batch of reads, with the buffers of the one before.
fn batch(
    channel: &mut Channel,
    head: &Arc<Head>,
    buffers: &mut Vec<Buffer>,
    done: &mut Vec<IoCompletion>,
) {
    let depth = buffers.len();
    for (i, buffer) in buffers.drain(..).enumerate() {
        channel.submit(head, IoRequest::read(i as u64 * 8, buffer, i as u64)).unwrap();
    }
    channel.flush();
    while done.len() < depth {
        channel.poll(done);
    }
    for completion in done.drain(..) {
        assert!(completion.result.is_ok());
        buffers.push(completion.buffer);
    }
}

#[test]
fn requests_allocate_nothing_and_batches_ring_once() {
    let bed = Bed::new(512);
    // The device works within the write to the doorbell, and so on this thread: it is counted, too.
    let device = PciDevice::new(&bed.target, NQN, PciConfig::new().inline()).unwrap();
    bed.slots.insert("a", device.clone());
    let host = bed.host();
    let (_controller, head) = connect(&host, "mem://a?poll=1", persistent());
    let mut channel = channel(&host);
    for (depth, len) in [(1, 4096), (32, 4096), (8, 64 << 10)] {
        let mut buffers: Vec<Buffer> = (0..depth).map(|_| Buffer::zeroed(len)).collect();
        let mut done = Vec::with_capacity(depth);
        for _ in 0..100 {
            batch(&mut channel, &head, &mut buffers, &mut done);
        }
        let (counted, before) = (ALLOCATIONS.get(), bed.transport.counters());
        for _ in 0..100 {
            batch(&mut channel, &head, &mut buffers, &mut done);
        }
        assert_eq!(ALLOCATIONS.get() - counted, 0, "{depth} requests of {len} bytes");
        let after = bed.transport.counters();
        // The admin queue may have done something meanwhile.
        let commands = after.commands - before.commands;
        assert!(commands >= 100 * depth as u64);
        let extra = commands - 100 * depth as u64;
        assert!(after.sq_doorbells - before.sq_doorbells <= 100 + extra, "depth {depth}");
        assert!(after.cq_doorbells - before.cq_doorbells <= 100 + extra, "depth {depth}");
    }
    host.shutdown_forced(LIMIT).unwrap();
}
