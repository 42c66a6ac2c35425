//! Loops of I/O in the process, to count the instructions of what they go through.

use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::spec::{BlockCount, Sqe};
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data, Queue};
use nvme_mpath::{HostOptions, IoOp, PathPolicy};

use crate::instant::{InstantQueue, InstantTransport};
use crate::{IDENTITY, Rig, SUBNQN, target};

/// Time for queues and views to come to the channel, asleep, so that it costs no instructions.
const SETTLE: Duration = Duration::from_millis(100);

/// Reads through a head of `paths` paths, on queues that answer at once.
///
/// # Panics
/// When one fails.
pub fn head(bytes: usize, depth: usize, count: u64, paths: usize, policy: PathPolicy) {
    let target = target(paths);
    let url = |i| format!("tcp://{}/{SUBNQN}", target.addr(i).expect("an address"));
    let urls: Vec<String> = (0..paths).map(url).collect();
    let options = HostOptions::new(IDENTITY).transport(InstantTransport::default());
    let mut rig = Rig::with(options, &urls, SUBNQN);
    rig.head.set_policy(Some(policy));
    rig.idle(SETTLE);
    rig.run(IoOp::Read, bytes, depth, count);
}

/// The loop of [`Rig::run`] on such a queue alone.
///
/// # Panics
/// When a read fails.
pub fn bare(bytes: usize, depth: usize, count: u64) {
    let mut queue: Box<dyn Queue> = Box::new(InstantQueue::new(depth));
    let mut spare: Vec<Buffer> = (0..depth).map(|_| Buffer::zeroed(bytes)).collect();
    let mut done: Vec<Completion> = Vec::with_capacity(depth);
    let (blocks, step) = ((1 << 30) / 4096, bytes as u64 / 4096);
    let (mut sent, mut ended, mut next) = (0, 0, 0);
    let len = BlockCount::new(step as u32).expect("a number of blocks");
    while ended < count {
        while sent < count
            && queue.in_flight() < depth
            && let Some(buffer) = spare.pop()
        {
            next = (next + 7919 * step) % (blocks - step);
            let sqe = Sqe::read(1, next, len);
            queue.submit(sqe, Data::Read(buffer), sent as u32).expect("room in the queue");
            sent += 1;
        }
        queue.flush();
        queue.poll(Instant::ZERO, &mut done);
        for completion in done.drain(..) {
            assert!(completion.cqe.status().is_success(), "a completion without error");
            spare.push(completion.data.into_buffer());
            ended += 1;
        }
    }
}

/// Reads or writes through a head on a PCI device that answers within the doorbell.
///
/// # Panics
/// When one fails.
pub fn ring(op: IoOp, bytes: usize, depth: usize, count: u64) {
    let target = target(0);
    let mut rig = Rig::ring(&target);
    rig.idle(SETTLE);
    rig.run(op, bytes, depth, count);
}
