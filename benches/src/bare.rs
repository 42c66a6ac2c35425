//! A queue of the PCI driver alone, without a controller layer or a head above it.

use std::error::Error;

use nvme_core::buffer::Buffer;
use nvme_core::spec::BlockCount;
use nvme_core::spec::command::{BlockOp, IoFlags};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::registers::{Cc, offset};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Association, Completion, Data, Queue, QueueParams, QueueSetup, Registers, Transport,
};
use nvme_mpath::{Host, HostOptions};
use nvme_pci::{Counters, PciTransport};
use nvme_target::Target;

use crate::ring::Rings;
use crate::{IDENTITY, SUBNQN};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An I/O queue on a device that answers within the doorbell, and memory that it reaches.
pub struct BareQueue {
    transport: PciTransport,
    host: Host,
    queue: Box<dyn Queue>,
    // Dropped after the queue.
    _admin: Box<dyn Queue>,
    _association: Box<dyn Association>,
}

fn params(qid: u16, entries: u16) -> QueueParams {
    QueueParams { qid, entries, open_timeout: Duration::from_secs(10) }
}

impl BareQueue {
    /// Brings the device up as far as an I/O queue of 128 entries needs it.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn new(target: &Target) -> Result<Self> {
        let transport = PciTransport::new(Rings::new(target, SUBNQN));
        let host = Host::new(HostOptions::new(IDENTITY).transport(transport.clone()))?;
        let mut association =
            transport.endpoint("ring://device?poll=1")?.associate(Instant::ZERO)?;
        let mut admin = association.open_queue(params(0, 32), Instant::ZERO)?;
        let registers: &mut dyn Registers = association.registers().ok_or("no registers")?;
        registers.write32(offset::CC as u32, Cc::enabled(0).with_css(Cc::CSS_NVM).0);
        let queue = association.open_queue(params(1, 128), Instant::ZERO)?;
        let QueueSetup::Create { cq, sq } = queue.setup() else { return Err("no commands".into()) };
        for (tag, command) in [(1, cq), (2, sq)] {
            admin.submit(command, Data::None, tag).map_err(|_| "the admin queue is full")?;
            admin.flush();
            let mut done: Vec<Completion> = Vec::new();
            admin.poll(Instant::ZERO, &mut done);
            let created = done.first().is_some_and(|c| c.cqe.status().is_success());
            if !created {
                return Err("the queue was not created".into());
            }
        }
        Ok(Self { transport, host, queue, _admin: admin, _association: association })
    }

    /// What the driver has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.transport.counters()
    }

    /// Does `count` reads of `bytes` each, `depth` at a time, as [`Rig::run`](crate::Rig::run) does.
    ///
    /// # Errors
    /// The first thing that fails.
    pub fn run(&mut self, bytes: usize, depth: usize, count: u64) -> Result<()> {
        let mut spare = Vec::new();
        for _ in 0..depth {
            spare.push(Buffer::from(self.host.dma_buf(bytes)?));
        }
        let mut done: Vec<Completion> = Vec::with_capacity(depth);
        let (blocks, step) = ((1 << 30) / 4096, bytes as u64 / 4096);
        let len = BlockCount::new(step as u32).ok_or("no whole blocks")?;
        let read = BlockOp::new(NvmOpcode::READ, 1, len, IoFlags::empty());
        let (mut sent, mut ended, mut next) = (0, 0, 0);
        while ended < count {
            while sent < count
                && self.queue.in_flight() < depth
                && let Some(buffer) = spare.pop()
            {
                next = (next + 7919 * step) % (blocks - step);
                self.queue
                    .submit_block(read, next, &mut Data::Read(buffer), sent as u32)
                    .map_err(|reason| format!("{reason:?}"))?;
                sent += 1;
            }
            self.queue.flush();
            self.queue.poll(Instant::ZERO, &mut done);
            for completion in done.drain(..) {
                if !completion.cqe.status().is_success() {
                    return Err(completion.cqe.status().to_string().into());
                }
                spare.push(completion.data.into_buffer());
                ended += 1;
            }
        }
        Ok(())
    }
}
