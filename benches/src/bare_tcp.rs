//! I/O queues of the TCP transport alone, without a controller layer or a head above them.

use std::error::Error;

use nvme_core::buffer::Buffer;
use nvme_core::nqn::Nqn;
use nvme_core::spec::command::{BlockOp, IoFlags};
use nvme_core::spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectData, ConnectResponse, PropertySize, property,
};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_core::spec::registers::{Cc, Csts};
use nvme_core::spec::{BlockCount, Cqe, Sqe};
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Association, Completion, Data, Queue, QueueParams, QueueStatus, Transport,
};
use nvme_tcp::TcpTransport;
use zerocopy::IntoBytes;

use crate::IDENTITY;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Entries of an I/O queue.
const ENTRIES: u16 = 129;
/// Entries of an admin queue.
const ADMIN_ENTRIES: u16 = 32;
/// Bytes that a write's capsule may bring: what the bench's target says in Identify Controller, which nobody asks.
const IN_CAPSULE: usize = 16 << 10;

/// One I/O queue on a controller of its own for each URL.
pub struct TcpQueues {
    paths: Vec<Path>,
    spare: Vec<Buffer>,
    done: Vec<Completion>,
    next: u64,
    turn: usize,
}

struct Path {
    queue: Box<dyn Queue>,
    // Dropped after the queue.
    _admin: Box<dyn Queue>,
    _association: Box<dyn Association>,
}

impl TcpQueues {
    /// Connects to `urls`, and brings each controller up as far as an I/O queue needs it.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn connect(urls: &[String], subnqn: &str) -> Result<Self> {
        let paths = urls.iter().map(|url| Path::connect(url, subnqn)).collect::<Result<_>>()?;
        Ok(Self { paths, spare: Vec::new(), done: Vec::new(), next: 0, turn: 0 })
    }

    /// Does `count` requests of `bytes` each, `depth` at a time, from one queue after the other, as
    /// [`Rig::run`](crate::Rig::run) does through a head.
    ///
    /// # Errors
    /// The first thing that fails.
    pub fn run(&mut self, write: bool, bytes: usize, depth: usize, count: u64) -> Result<()> {
        let (blocks, step) = ((1 << 30) / 4096, bytes as u64 / 4096);
        let len = BlockCount::new(step as u32).ok_or("no whole blocks")?;
        let opcode = if write { NvmOpcode::WRITE } else { NvmOpcode::READ };
        let op = BlockOp::new(opcode, 1, len, IoFlags::empty());
        self.spare.resize_with(depth, || Buffer::zeroed(bytes));
        let (mut sent, mut ended) = (0, 0);
        while ended < count {
            while sent < count
                && sent - ended < depth as u64
                && let Some(buffer) = self.spare.pop()
            {
                self.next = (self.next + 7919 * step) % (blocks - step);
                self.turn = (self.turn + 1) % self.paths.len();
                let mut data = if write { Data::Write(buffer) } else { Data::Read(buffer) };
                let queue = &mut self.paths[self.turn].queue;
                queue
                    .submit_block(op, self.next, &mut data, sent as u32)
                    .map_err(|reason| format!("{reason:?}"))?;
                sent += 1;
            }
            for path in &mut self.paths {
                path.queue.flush();
                if let QueueStatus::Failed(error) = path.queue.poll(Instant::ZERO, &mut self.done) {
                    return Err(error.into());
                }
            }
            for completion in self.done.drain(..) {
                if !completion.cqe.status().is_success() {
                    return Err(completion.cqe.status().to_string().into());
                }
                self.spare.push(completion.data.into_buffer());
                ended += 1;
            }
        }
        self.spare.clear();
        Ok(())
    }
}

impl Path {
    fn connect(url: &str, subnqn: &str) -> Result<Self> {
        let (subnqn, hostnqn) = (Nqn::new(subnqn)?, Nqn::from_uuid(IDENTITY));
        let mut association = TcpTransport::default().endpoint(url)?.associate(Instant::ZERO)?;
        let connect = |queue: &mut dyn Queue, qid, entries: u16, cntlid| {
            let data = ConnectData::new(IDENTITY, cntlid, &subnqn, &hostnqn);
            let sqe = Sqe::connect(qid, entries - 1, ConnectAttributes::empty(), 0);
            execute(queue, sqe, Data::Write(Buffer::from(data.as_bytes().to_vec())))
        };
        let mut open = |qid, entries| {
            let open_timeout = Duration::from_secs(10);
            association.open_queue(QueueParams { qid, entries, open_timeout }, Instant::ZERO)
        };
        let mut admin = open(0, ADMIN_ENTRIES)?;
        let cqe = connect(&mut *admin, 0, ADMIN_ENTRIES, CNTLID_DYNAMIC)?;
        let cntlid = ConnectResponse::from_cqe(&cqe).cntlid;
        let enable = u64::from(Cc::enabled(0).with_css(Cc::CSS_NVM).0);
        let set = Sqe::property_set(property::CC, PropertySize::Four, enable);
        execute(&mut *admin, set, Data::None)?;
        loop {
            let get = Sqe::property_get(property::CSTS, PropertySize::Four);
            let csts = Csts(execute(&mut *admin, get, Data::None)?.dw0.get());
            if csts.rdy() == 1 {
                break;
            }
        }
        let mut queue = open(1, ENTRIES)?;
        connect(&mut *queue, 1, ENTRIES, cntlid)?;
        queue.set_in_capsule_data(IN_CAPSULE);
        Ok(Self { queue, _admin: admin, _association: association })
    }
}

/// One command on a queue that has nothing else to do, once it is open.
fn execute(queue: &mut dyn Queue, sqe: Sqe, mut data: Data) -> Result<Cqe> {
    let mut done: Vec<Completion> = Vec::new();
    let mut submitted = false;
    loop {
        match queue.poll(Instant::ZERO, &mut done) {
            QueueStatus::Failed(error) => return Err(error.into()),
            QueueStatus::Ready if !submitted => {
                queue.submit_from(sqe, &mut data, 0).map_err(|reason| format!("{reason:?}"))?;
                queue.flush();
                submitted = true;
            }
            _ => {}
        }
        if let Some(completion) = done.pop() {
            let status = completion.cqe.status();
            return if status.is_success() {
                Ok(completion.cqe)
            } else {
                Err(status.to_string().into())
            };
        }
    }
}
