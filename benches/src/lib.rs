//! What the benches have in common: a target, a host with some paths to it, and a loop that keeps a
//! queue full.

#![deny(unsafe_code)]

pub mod bare;
pub mod bare_tcp;
pub mod callgrind;
pub mod connecting;
pub mod counted;
pub mod elsewhere;
pub mod footprint;
pub mod heap;
pub mod instant;
pub mod loops;
pub mod rates;
pub mod ring;
pub mod stepping;
pub mod usage;

use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_mpath::{
    Channel, ChannelOptions, ControllerOptions, Head, Host, HostOptions, IoCompletion, IoOp,
    IoRequest,
};
use nvme_pci::{Counters, PciTransport, VfioUser};
use nvme_target::{NamespaceConfig, SubsystemConfig, Target};
use nvme_tcp::TcpTransport;

use ring::Rings;

pub(crate) const IDENTITY: Uuid = Uuid(*b"nvme-host-bench!");

/// The subsystem of [`target`].
pub const SUBNQN: &str = "nqn.2026-01.org.example:bench";

/// How long the thread of [`target`] stays awake after its last command.
const AWAKE: Duration = Duration::from_micros(200);

/// A target with `listeners` listeners on loopback and one namespace of 4 KiB blocks that holds
/// nothing: reads are zeroes, writes go nowhere. Its thread stays awake while there is I/O, as the other side
/// does.
///
/// # Panics
/// When loopback cannot be listened on.
#[must_use]
pub fn target(listeners: usize) -> Target {
    let namespace = NamespaceConfig::null(1, 1 << 30).block_size(4096);
    let subsystem = SubsystemConfig::new(SUBNQN).expect("a valid name").namespace(namespace);
    let mut builder = Target::builder().subsystem(subsystem).busy_poll(AWAKE);
    for _ in 0..listeners {
        builder = builder.listen("127.0.0.1:0");
    }
    builder.start().expect("a target on loopback")
}

/// A host, one head of it, and a channel.
pub struct Rig {
    /// The channel.
    pub channel: Channel,
    /// The head of namespace 1.
    pub head: Arc<Head>,
    /// The host.
    pub host: Host,
    done: Vec<IoCompletion>,
    spare: Vec<Buffer>,
    next: u64,
    /// Buffers are in memory that devices reach.
    direct: bool,
    /// Answers are given so much time to come before they are looked for.
    pause: Option<Duration>,
    /// What reaches the device, if it is one.
    device: Option<PciTransport>,
    /// Requests are handed in together.
    together: bool,
}

impl Rig {
    /// Connects to `urls`, all of them paths to namespace 1 of `subnqn`.
    ///
    /// # Panics
    /// When that does not succeed.
    #[must_use]
    pub fn connect(urls: &[String], subnqn: &str) -> Self {
        Self::with(HostOptions::new(IDENTITY).transport(TcpTransport::default()), urls, subnqn)
    }

    /// Connects to one PCI function behind a vfio-user server, with buffers that it reaches.
    ///
    /// # Panics
    /// When that does not succeed.
    #[must_use]
    pub fn vfio_user(url: &str, subnqn: &str) -> Self {
        Self::on_device(url, subnqn, PciTransport::new(VfioUser::new()))
    }

    /// Connects to a device in the process that answers within the doorbell.
    ///
    /// # Panics
    /// When that does not succeed.
    #[must_use]
    pub fn ring(target: &Target) -> Self {
        let transport = PciTransport::new(Rings::new(target, SUBNQN));
        Self::on_device("ring://device?poll=1", SUBNQN, transport)
    }

    fn on_device(url: &str, subnqn: &str, transport: PciTransport) -> Self {
        let options = HostOptions::new(IDENTITY).transport(transport.clone());
        let rig = Self::with(options, &[url.to_owned()], subnqn);
        Self { direct: true, device: Some(transport), ..rig }
    }

    /// Connects a host of one's own making.
    ///
    /// # Panics
    /// When that does not succeed.
    #[must_use]
    pub fn with(options: HostOptions, urls: &[String], subnqn: &str) -> Self {
        let host = Host::new(options).expect("a host");
        let channel = host.channel(ChannelOptions::default()).expect("a channel");
        for url in urls {
            let path = host.connect(url, ControllerOptions::default()).expect("a URL");
            path.wait_ready(Duration::from_secs(10)).expect("a path");
        }
        let subnqn = Nqn::new(subnqn).expect("a valid name");
        let head = host.wait_head(&subnqn, 1, Duration::from_secs(10)).expect("namespace 1");
        let (done, spare) = (Vec::new(), Vec::new());
        let (direct, pause, device, together) = (false, None, None, false);
        Self { channel, head, host, done, spare, next: 0, direct, pause, device, together }
    }

    /// Connects to all listeners of a target, with `query` appended to each URL.
    ///
    /// # Panics
    /// When that does not succeed.
    #[must_use]
    pub fn on(target: &Target, listeners: usize, query: &str) -> Self {
        let url = |i| format!("tcp://{}/{SUBNQN}{query}", target.addr(i).expect("an address"));
        Self::connect(&(0..listeners).map(url).collect::<Vec<_>>(), SUBNQN)
    }

    /// Lets so much time pass before answers are looked for, so that they are there and nothing is
    /// executed in vain.
    pub const fn set_pause(&mut self, pause: Duration) {
        self.pause = Some(pause);
    }

    /// Hands in all requests for which there is room by one call, and not each by one.
    pub const fn set_together(&mut self, together: bool) {
        self.together = together;
    }

    // A function of its own, so that what is done in it can be left out.
    #[inline(never)]
    fn pause(&self) {
        std::thread::sleep(self.pause.unwrap_or_default());
    }

    /// What the PCI driver has counted, where there is one.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.device.as_ref().map(PciTransport::counters).unwrap_or_default()
    }

    /// Sleeps in the channel for so long, and polls it whenever it wakes up.
    pub fn idle(&mut self, time: Duration) {
        let until = std::time::Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return;
            }
            self.channel.wait(left);
            self.channel.poll(&mut self.done);
        }
    }

    /// Does `count` requests of `bytes` each, `depth` at a time, polling.
    ///
    /// # Panics
    /// When one fails.
    // A function of its own, so that what is done in it can be told from all else.
    #[inline(never)]
    pub fn run(&mut self, op: IoOp, bytes: usize, depth: usize, count: u64) {
        if self.together {
            return self.run_together(op, bytes, depth, count);
        }
        let blocks = self.head.geometry().blocks;
        let step = bytes as u64 / u64::from(self.head.geometry().block_size);
        self.fill(bytes, depth);
        let (mut sent, mut ended) = (0, 0);
        while ended < count {
            while sent < count
                && self.channel.in_flight() < depth
                && let Some(buffer) = self.spare.pop()
            {
                // A stride that visits the whole namespace without looking like a stream.
                self.next = (self.next + 7919 * step) % (blocks - step);
                let request = match op {
                    IoOp::Read => IoRequest::read(self.next, buffer, sent),
                    _ => IoRequest::write(self.next, buffer, sent),
                };
                self.channel.submit(&self.head, request).expect("room in the channel");
                sent += 1;
            }
            if self.pause.is_some() {
                self.channel.flush();
                self.pause();
            }
            self.channel.poll(&mut self.done);
            for completion in self.done.drain(..) {
                completion.result.expect("a completion without error");
                self.spare.push(completion.buffer);
                ended += 1;
            }
        }
        self.spare.clear();
    }

    /// Takes as many buffers as are missing.
    fn fill(&mut self, bytes: usize, depth: usize) {
        while self.spare.len() < depth {
            self.spare.push(match self.direct {
                true => self.host.dma_buf(bytes).expect("memory that devices reach").into(),
                false => Buffer::zeroed(bytes),
            });
        }
    }

    /// The same with all requests that there is room for handed in together.
    #[inline(never)]
    fn run_together(&mut self, op: IoOp, bytes: usize, depth: usize, count: u64) {
        let blocks = self.head.geometry().blocks;
        let step = bytes as u64 / u64::from(self.head.geometry().block_size);
        self.fill(bytes, depth);
        let (mut sent, mut ended) = (0, 0);
        let (hop, all) = (7919 * step, blocks - step);
        while ended < count {
            let room = (depth - self.channel.in_flight()).min((count - sent) as usize);
            let Self { channel, head, spare, next, .. } = self;
            let from = *next;
            let mut at = from;
            let new = spare.drain(spare.len() - room..).zip(sent..).map(move |(buffer, n)| {
                at = (at + hop) % all;
                (at, buffer, n)
            });
            let handed = match op {
                IoOp::Read => channel
                    .submit_all(head, new.map(|(at, buffer, n)| IoRequest::read(at, buffer, n))),
                _ => channel
                    .submit_all(head, new.map(|(at, buffer, n)| IoRequest::write(at, buffer, n))),
            };
            let handed = handed.expect("room in the channel");
            sent += handed as u64;
            *next = (from + hop * handed as u64) % all;
            self.channel.poll(&mut self.done);
            ended += self.done.len() as u64;
            // In whatever order: of those from the end nothing is moved but what is used.
            while let Some(IoCompletion { result, buffer, .. }) = self.done.pop() {
                if let Err(error) = result {
                    panic!("a completion without error, not {error}");
                }
                self.spare.push(buffer);
            }
        }
        self.spare.clear();
    }
}
