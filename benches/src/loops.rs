//! Loops of I/O in the process, to count the instructions of what they go through.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::spec::BlockCount;
use nvme_core::spec::command::{BlockOp, IoFlags};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::time::Instant;
use nvme_core::transport::{Completion, Data, Queue};
use nvme_mpath::{HostOptions, IoOp, IoRequest, PathPolicy};

use crate::instant::{InstantQueue, InstantTransport};
use crate::stepping::SteppingClock;
use crate::{IDENTITY, Rig, SUBNQN, target};

/// Limit for all paths to come to the channel.
const LIMIT: Duration = Duration::from_secs(60);
/// What passes from one poll to the next, by the host's clock, where they are counted: a million reads a
/// second where a poll brings 32. How fast valgrind is must not decide how often times are taken.
const STEP: Duration = Duration::from_micros(32);
/// Time for queues and views to come to the channel, asleep, so that it costs no instructions.
const SETTLE: Duration = Duration::from_millis(100);

/// Reads through a head of `paths` paths, on queues that answer at once; handed in one by one or
/// `together`.
///
/// # Panics
/// When one fails.
pub fn head(
    bytes: usize,
    depth: usize,
    count: u64,
    paths: usize,
    policy: PathPolicy,
    together: bool,
) {
    let target = target(paths);
    let url = |i| format!("tcp://{}/{SUBNQN}", target.addr(i).expect("an address"));
    let urls: Vec<String> = (0..paths).map(url).collect();
    let mut options = HostOptions::new(IDENTITY).transport(InstantTransport::default());
    let clock = Arc::new(SteppingClock::default());
    options.clock = Arc::clone(&clock) as Arc<_>;
    let mut rig = Rig::with(options, &urls, SUBNQN);
    until_all_answer(&mut rig, bytes, depth);
    rig.head.set_policy(Some(policy));
    rig.idle(SETTLE);
    clock.step_by(STEP);
    rig.set_together(together);
    rig.run(IoOp::Read, bytes, depth, count);
    // For the end of the host.
    clock.step_by(Duration::ZERO);
}

/// Reads until every path has answered something: then the channel has all queues, however long that
/// took. Asleep meanwhile, so that it costs few instructions.
fn until_all_answer(rig: &mut Rig, bytes: usize, depth: usize) {
    let answers = |rig: &Rig| -> Vec<u64> {
        rig.host.snapshot().controllers.iter().map(|controller| controller.commands).collect()
    };
    let (before, end) = (answers(rig), std::time::Instant::now() + LIMIT);
    while answers(rig).iter().zip(&before).any(|(now, before)| now == before) {
        assert!(std::time::Instant::now() < end, "a path answers nothing");
        for block in 0..depth as u64 {
            let read = IoRequest::read(block, Buffer::zeroed(bytes), block);
            rig.channel.submit(&rig.head, read).expect("room in the channel");
        }
        while rig.channel.in_flight() > 0 {
            rig.idle(Duration::from_millis(1));
        }
        for completion in rig.done.drain(..) {
            completion.result.expect("a completion without error");
        }
    }
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
    let read = BlockOp::new(NvmOpcode::READ, 1, len, IoFlags::empty());
    while ended < count {
        while sent < count
            && queue.in_flight() < depth
            && let Some(buffer) = spare.pop()
        {
            next = (next + 7919 * step) % (blocks - step);
            let mut data = Data::Read(buffer);
            queue.submit_block(read, next, &mut data, sent as u32).expect("room in the queue");
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

/// Reads or writes through a head on a PCI device that answers within the doorbell; handed in one by one
/// or `together`.
///
/// # Panics
/// When one fails.
pub fn ring(op: IoOp, bytes: usize, depth: usize, count: u64, together: bool) {
    let target = target(0);
    let mut rig = Rig::ring(&target);
    rig.idle(SETTLE);
    rig.set_together(together);
    rig.run(op, bytes, depth, count);
}
