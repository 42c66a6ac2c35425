//! What the objects of a host take on the heap. The program must count: [`heap`].

use std::error::Error;

use nvme_core::buffer::Buffer;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{Completion, Queue, QueueParams, QueueStatus, Transport};
use nvme_mpath::{Channel, ChannelOptions, Host, IoRequest};
use nvme_target::Target;
use nvme_tcp::TcpTransport;

use crate::connecting::{Connecting, driven};
use crate::{elsewhere, heap};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes and allocations between two moments on one thread.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Bytes that are held since.
    pub bytes: i64,
    /// Allocations since, of what is held and of what is not.
    pub allocations: u64,
}

fn taken<T>(work: impl FnOnce() -> Result<T>) -> Result<(Taken, T)> {
    let (bytes, allocations) = (heap::live(), heap::allocations());
    let made = work()?;
    let bytes = heap::live() - bytes;
    Ok((Taken { bytes, allocations: heap::allocations() - allocations }, made))
}

/// What the TCP queues of one thread take.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// An idle queue of 128 entries.
    pub queue: i64,
    /// An idle queue of 32 entries, as for admin commands.
    pub small: i64,
    /// What the queues of one thread share.
    pub shared: i64,
}

/// Opens queues to a target, and sends nothing.
///
/// # Errors
/// Whatever is in the way.
pub fn queues() -> Result<Queues> {
    let target = elsewhere::many(1, 1, 1);
    let (first, _one) = taken(|| queue(&target, 128))?;
    let (second, _two) = taken(|| queue(&target, 128))?;
    let (small, _three) = taken(|| queue(&target, 32))?;
    let shared = first.bytes - second.bytes;
    Ok(Queues { queue: second.bytes, small: small.bytes, shared })
}

fn queue(target: &Target, entries: u16) -> Result<Box<dyn Queue>> {
    let url = format!("tcp://{}/{}", target.addr(0)?, elsewhere::subnqn(0));
    let mut association = TcpTransport::default().endpoint(&url)?.associate(Instant::ZERO)?;
    let params = QueueParams { qid: 0, entries, open_timeout: Duration::from_secs(10) };
    let mut queue = association.open_queue(params, Instant::ZERO)?;
    let mut done: Vec<Completion> = Vec::new();
    loop {
        match queue.poll(Instant::ZERO, &mut done) {
            QueueStatus::Ready => return Ok(queue),
            QueueStatus::Opening => std::thread::yield_now(),
            QueueStatus::Ending(error) | QueueStatus::Failed(error) => return Err(error.into()),
        }
    }
}

/// What heads take, all of one subsystem.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// How many there are.
    pub count: u32,
    /// A channel of depth 256, without queues.
    pub channel: Taken,
    /// A controller, its queues, and all the heads with their first path.
    pub first: Taken,
    /// A second controller, its queues, and a second path for each of the heads.
    pub second: Taken,
    /// What the channel remembers of the heads after a read of each.
    pub used: Taken,
}

/// Connects a host to `count` namespaces over two controllers, one after the other, and reads once
/// from each.
///
/// # Errors
/// Whatever is in the way.
pub fn heads(count: u32) -> Result<Heads> {
    let target = elsewhere::many(1, count, 2);
    let url =
        |n| -> Result<String> { Ok(format!("tcp://{}/{}", target.addr(n)?, elsewhere::subnqn(0))) };
    let host = Host::new(driven())?;
    let (channel, mut with) = taken(|| Ok(host.channel(ChannelOptions::default())?))?;
    let mut connecting = Connecting::new(&host);
    let mut bring_up = |n| {
        taken(|| {
            connecting.connect(&url(n)?, count as usize)?;
            connecting.finish()
        })
    };
    let (first, ()) = bring_up(0)?;
    let (second, ()) = bring_up(1)?;
    let (used, _buffer) = taken(|| read_each(&host, &mut with))?;
    Ok(Heads { count, channel, first, second, used })
}

fn read_each(host: &Host, channel: &mut Channel) -> Result<Buffer> {
    let mut done = Vec::with_capacity(4);
    let mut buffer = Buffer::zeroed(4096);
    for head in host.heads() {
        channel.submit(&head, IoRequest::read(0, buffer, 0))?;
        while done.is_empty() {
            host.drive(Duration::ZERO);
            channel.poll(&mut done);
        }
        let Some(completion) = done.pop() else { return Err("no completion".into()) };
        completion.result?;
        buffer = completion.buffer;
    }
    Ok(buffer)
}
