//! Steady-state I/O allocates nothing on the thread that does it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_mpath::{
    ChannelOptions, ControllerOptions, HedgeOptions, Host, HostOptions, IoCompletion, IoRequest,
    PathPolicy,
};
use nvme_target::{FaultAction, FaultRule, NamespaceConfig, SubsystemConfig, Target};
use nvme_tcp::TcpTransport;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread.
struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The counter is gone while a thread ends; what happens then is not counted.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn requests_allocate_nothing() {
    const NQN: &str = "nqn.2026-01.org.example:alloc";
    const LIMIT: Duration = Duration::from_secs(30);
    let namespace = NamespaceConfig::memory(1, 4 << 20);
    let subsystem = SubsystemConfig::new(NQN).unwrap().namespace(namespace);
    let builder = Target::builder().subsystem(subsystem);
    let target = builder.listen("127.0.0.1:0").listen("127.0.0.1:0").start().unwrap();
    let options = HostOptions::new(Uuid([7; 16])).transport(TcpTransport::new());
    let host = Host::new(options).unwrap();
    let mut options = ChannelOptions::default();
    options.latency_histograms = true;
    options.hedge_buffers = 1;
    let mut channel = host.channel(options).unwrap();
    for port in 0..2 {
        // One of the paths has both digests, the other none.
        let address = target.addr(port).unwrap();
        let url = format!("tcp://{address}/{NQN}?hdgst={port}&ddgst={port}");
        let path = host.connect(&url, ControllerOptions::default()).unwrap();
        path.wait_ready(LIMIT).unwrap();
    }
    let head = host.wait_head(&Nqn::new(NQN).unwrap(), 1, LIMIT).unwrap();

    let mut done: Vec<IoCompletion> = Vec::with_capacity(64);
    let mut spare: Vec<Buffer> = Vec::with_capacity(64);
    // 4 KiB goes in the capsule, what is larger by way of R2T.
    let buffers = |size: usize| (0..16).map(move |_| Buffer::zeroed(size));
    let mut round = |spare: &mut Vec<Buffer>, write: bool, limit: bool, count: usize| {
        let (mut sent, mut ended) = (0usize, 0);
        while ended < count {
            while sent < count
                && let Some(buffer) = spare.pop()
            {
                let slba = (sent % 32) as u64 * 16;
                let request = match write {
                    true => IoRequest::write(slba, buffer, sent as u64),
                    false => IoRequest::read(slba, buffer, sent as u64),
                };
                let request = if limit { request.timeout(LIMIT) } else { request };
                channel.submit(&head, request).unwrap();
                sent += 1;
            }
            channel.poll(&mut done);
            for completion in done.drain(..) {
                completion.result.unwrap();
                spare.push(completion.buffer);
                ended += 1;
            }
            if ended < count {
                channel.wait(LIMIT);
            }
        }
    };
    let all = |policy| [4096, 65_536, 131_072].map(|size| (size, policy));
    for (size, policy) in PathPolicy::ALL.into_iter().flat_map(all) {
        head.set_policy(Some(policy));
        spare.clear();
        spare.extend(buffers(size));
        for (write, limit) in [(true, false), (false, false), (true, true), (false, true)] {
            round(&mut spare, write, limit, 500);
            let before = ALLOCATIONS.get();
            round(&mut spare, write, limit, 1000);
            let allocated = ALLOCATIONS.get() - before;
            let what = format!("{size} bytes, write: {write}, time limit: {limit}, {policy}");
            assert_eq!(allocated, 0, "in 1000 requests of {what}");
        }
    }

    // Half of the paths is slow, so that reads are hedged all the time; one buffer is out at most.
    let slow = FaultAction::Delay(Duration::from_millis(2));
    target.add_fault(FaultRule::new(slow).io().listener(0));
    head.set_policy(None);
    let mut hedge = HedgeOptions::default();
    (hedge.percentile, hedge.budget) = (0.5, 1.0);
    head.set_hedged_reads(Some(hedge));
    for size in [4096, 131_072] {
        spare.clear();
        spare.extend(buffers(size));
        let enough = head.stats().hedges_won + 1;
        while head.stats().hedges_won < enough {
            round(&mut spare, false, false, 500);
        }
        let (before, enough) = (ALLOCATIONS.get(), head.stats().hedges_won + 10);
        while head.stats().hedges_won < enough {
            round(&mut spare, false, false, 500);
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "while reads of {size} bytes were hedged");
    }
    drop(channel);
    host.shutdown().unwrap();
}
