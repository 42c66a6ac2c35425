//! What the tests of the PCI driver have in common: a host on devices in the process, load, and memory.
//!
//! Everything here panics where something is not as it must be.

use std::alloc::Layout;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::transport::Transport;
use nvme_mpath::{
    Channel, ChannelOptions, Controller, ControllerOptions, Head, Host, HostOptions, IoCompletion,
    IoOp, IoRequest,
};
use nvme_pci::PciTransport;
use nvme_pci::mem::MemSlots;
use nvme_target::{NamespaceConfig, PciConfig, PciDevice, PciWorker, SubsystemConfig, Target};

/// The subsystem of every [`Bed`].
pub const NQN: &str = "nqn.2026-01.org.example:pci";
/// The longest that anything is waited for.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of namespace 1.
pub const SIZE: u64 = 64 << 20;

/// A subsystem, and devices in front of it.
pub struct Bed {
    /// What the devices belong to.
    pub target: Target,
    /// The devices by name, as `mem://` finds them.
    pub slots: MemSlots,
    /// What reaches them.
    pub transport: PciTransport,
    workers: Vec<PciWorker>,
    next_port: usize,
}

impl Bed {
    /// One namespace of [`SIZE`] bytes in blocks of so many.
    #[must_use]
    pub fn new(block_size: u32) -> Self {
        Self::with(
            SubsystemConfig::new(NQN)
                .unwrap()
                .mdts(0)
                .namespace(NamespaceConfig::memory(1, SIZE).block_size(block_size)),
        )
    }

    /// A subsystem of the test's own, which must be [`NQN`].
    #[must_use]
    pub fn with(subsystem: SubsystemConfig) -> Self {
        let target = Target::builder().subsystem(subsystem).start().unwrap();
        let slots = MemSlots::new();
        let transport = PciTransport::new(slots.clone());
        Self { target, slots, transport, workers: Vec::new(), next_port: 1 << 16 }
    }

    /// A device that runs on a thread of its own.
    pub fn device(&mut self, name: &str) -> PciDevice {
        self.configured(name, PciConfig::new())
    }

    /// A device of this kind that runs on a thread of its own.
    pub fn configured(&mut self, name: &str, config: PciConfig) -> PciDevice {
        let device = PciDevice::new(&self.target, NQN, config.port(self.next_port)).unwrap();
        self.next_port += 1;
        self.slots.insert(name, device.clone());
        self.workers.push(device.start().unwrap());
        device
    }

    /// A host that reaches the devices, and TCP.
    #[must_use]
    pub fn host(&self) -> Host {
        let options = HostOptions::new(Uuid(*b"nvme-host-tests!"));
        let options = options.transport(self.transport.clone());
        Host::new(options.transport(nvme_tcp::TcpTransport::new())).unwrap()
    }
}

/// A controller that is tried again soon.
#[must_use]
pub fn persistent() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.reconnect_delay = Duration::from_millis(20);
    options
}

/// A controller that is given up as soon as it is lost, and looked for again by the library.
#[must_use]
pub fn eager() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.ctrl_loss_tmo = Some(Duration::ZERO);
    options.reattach_delay = Some(Duration::from_millis(20));
    options
}

/// Connects and waits until namespace 1 can be used.
pub fn connect(host: &Host, url: &str, options: ControllerOptions) -> (Controller, Arc<Head>) {
    let controller = host.connect(url, options).unwrap();
    if let Err(error) = controller.wait_ready(LIMIT) {
        panic!("{url}: {error}, {:?}", controller.last_error());
    }
    let head = host.wait_head(&Nqn::new(NQN).unwrap(), 1, LIMIT).unwrap();
    (controller, head)
}

/// A channel with all defaults.
#[must_use]
pub fn channel(host: &Host) -> Channel {
    host.channel(ChannelOptions::default()).unwrap()
}

/// Waits until something is so, at most for [`LIMIT`]. (What is waited for has no way to say that it has
/// come: a counter, a state.)
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Polls until `count` requests have ended.
pub fn finish(channel: &mut Channel, count: usize) -> Vec<IoCompletion> {
    let until = Instant::now() + LIMIT;
    let mut done = Vec::new();
    while done.len() < count {
        channel.poll(&mut done);
        assert!(Instant::now() < until, "{} of {count} requests ended", done.len());
        if done.len() < count {
            channel.wait(Duration::from_millis(50));
        }
    }
    done
}

/// Bytes that tell where they belong.
#[must_use]
pub fn pattern(at: u64, len: usize, version: u64) -> Vec<u8> {
    let word = |i: usize| {
        let mut z = (at + i as u64 * 4) ^ version.rotate_left(40);
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ z >> 31) as u32
    };
    (0..len / 4).flat_map(|i| word(i).to_le_bytes()).collect()
}

/// Writes and reads back; panics at what is wrong.
pub fn verify(channel: &mut Channel, head: &Arc<Head>, slba: u64, data: Vec<u8>) {
    let (len, copy) = (data.len(), data.clone());
    channel.submit(head, IoRequest::write(slba, data.into(), 1)).unwrap();
    let done = finish(channel, 1).remove(0);
    assert!(done.result.is_ok(), "write of {len} bytes at block {slba}: {:?}", done.result);
    channel.submit(head, IoRequest::read(slba, Buffer::zeroed(len), 2)).unwrap();
    let done = finish(channel, 1).remove(0);
    assert!(done.result.is_ok(), "read of {len} bytes at block {slba}: {:?}", done.result);
    assert!(done.buffer.as_slice() == copy, "{len} bytes at block {slba} are others");
}

/// What a [`Load`] saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that succeeded.
    pub completed: u64,
    /// What those that failed said.
    pub errors: Vec<String>,
    /// Places that read as something else.
    pub wrong: Vec<String>,
    /// Requests that ended twice.
    pub duplicated: u64,
    /// Requests that never ended.
    pub lost: usize,
}

impl Report {
    /// Something was done, and nothing went wrong.
    pub fn assert_clean(&self) {
        let Self { completed, errors, wrong, duplicated, lost } = self;
        assert!(*completed > 0 && errors.is_empty() && wrong.is_empty(), "{self:#?}");
        assert_eq!((*duplicated, *lost), (0, 0));
    }
}

/// A thread that writes places of the namespace and reads them back, over and over.
pub struct Load {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    thread: JoinHandle<Report>,
}

impl Load {
    /// `depth` requests of `len` bytes at once, from byte `base` of the namespace on.
    #[must_use]
    pub fn start(channel: Channel, head: &Arc<Head>, depth: usize, len: usize, base: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicU64::new(0));
        let (told, seen, head) = (Arc::clone(&stop), Arc::clone(&progress), Arc::clone(head));
        let thread =
            std::thread::spawn(move || run(channel, &head, depth, len, base, &told, &seen));
        Self { stop, progress, thread }
    }

    /// Waits until `count` more requests have succeeded.
    pub fn wait_more(&self, count: u64) {
        let goal = self.progress.load(Ordering::Relaxed) + count;
        wait_until("progress", || {
            self.progress.load(Ordering::Relaxed) >= goal || self.thread.is_finished()
        });
    }

    /// Lets what is under way end. What was seen.
    #[must_use]
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn run(
    mut channel: Channel,
    head: &Arc<Head>,
    depth: usize,
    len: usize,
    base: u64,
    stop: &AtomicBool,
    progress: &AtomicU64,
) -> Report {
    let block = u64::from(head.geometry().block_size);
    let place = |at: usize| base + (at * len) as u64;
    let mut versions = vec![0u64; depth];
    let mut under_way = vec![false; depth];
    let mut report = Report::default();
    let mut done = Vec::new();
    let mut last_progress = Instant::now();
    for (at, under_way) in under_way.iter_mut().enumerate() {
        let data = pattern(place(at), len, 0);
        let request = IoRequest::write(place(at) / block, data.into(), at as u64);
        channel.submit(head, request).unwrap();
        *under_way = true;
    }
    while under_way.iter().any(|u| *u) && last_progress.elapsed() < LIMIT {
        channel.poll(&mut done);
        let stopping = stop.load(Ordering::Relaxed);
        for completion in done.drain(..) {
            last_progress = Instant::now();
            let at = completion.user_data as usize;
            if !std::mem::take(&mut under_way[at]) {
                report.duplicated += 1;
                continue;
            }
            if let Err(error) = completion.result {
                report.errors.push(error.to_string());
                continue;
            }
            report.completed += 1;
            progress.store(report.completed, Ordering::Relaxed);
            let read = completion.op == IoOp::Read;
            if read && completion.buffer.as_slice() != pattern(place(at), len, versions[at]) {
                report.wrong.push(format!("place {at}, version {}", versions[at]));
            }
            if stopping {
                continue;
            }
            let request = if read {
                versions[at] += 1;
                let data = pattern(place(at), len, versions[at]);
                IoRequest::write(place(at) / block, data.into(), at as u64)
            } else {
                IoRequest::read(place(at) / block, Buffer::zeroed(len), at as u64)
            };
            channel.submit(head, request).unwrap();
            under_way[at] = true;
        }
        channel.wait(Duration::from_millis(20));
    }
    report.lost = under_way.iter().filter(|u| **u).count();
    report
}

/// Page-aligned memory that devices can be given.
#[derive(Clone)]
pub struct Memory {
    pages: Arc<Pages>,
}

struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the pointer is only handed out; the tests see to it that one party uses the memory.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl Memory {
    /// `count` pages of zeroes.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let layout = Layout::from_size_align(count * 4096, 4096).unwrap();
        // SAFETY: not of size zero.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        Self { pages: Arc::new(Pages { base, layout }) }
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pages.layout.size()
    }

    /// Whether somebody else still has a part of the memory.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.pages) > 1
    }

    /// `len` bytes from `at` on as a region.
    #[must_use]
    pub fn region(&self, at: usize, len: usize) -> nvme_core::memory::Memory {
        assert!(at + len <= self.size());
        let owner = Box::new(self.clone());
        // SAFETY: inside of the memory, which lives as long as the owner.
        unsafe { nvme_core::memory::Memory::from_raw_parts(self.pages.base.add(at), len, owner) }
    }

    /// Registers the memory until what is returned is dropped.
    #[must_use]
    pub fn register(&self, transport: &PciTransport) -> Box<dyn Any + Send + Sync> {
        let region = self.region(0, self.size());
        transport.register_memory(&Arc::new(region)).unwrap().unwrap()
    }

    /// A part of the memory; the tests use no part twice at once.
    #[must_use]
    pub fn buffer(&self, at: usize, len: usize) -> Buffer {
        assert!(at + len <= self.pages.layout.size());
        // SAFETY: inside.
        unsafe { Buffer::from_raw_parts(self.pages.base.add(at), len) }
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        // SAFETY: all of the memory, which nobody else uses now.
        unsafe { self.pages.base.as_ptr().write_bytes(byte, self.pages.layout.size()) };
    }

    /// Whether every byte is this one.
    #[must_use]
    pub fn is_filled_with(&self, byte: u8) -> bool {
        // SAFETY: inside; volatile, since that nobody else writes is what is tested.
        let at = |i| unsafe { self.pages.base.as_ptr().add(i).read_volatile() };
        (0..self.pages.layout.size()).all(|i| at(i) == byte)
    }
}
