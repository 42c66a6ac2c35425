//! A host on devices in the process.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_mpath::{
    Channel, ChannelOptions, Controller, ControllerOptions, Head, Host, HostOptions, IoCompletion,
    IoRequest,
};
use nvme_pci::PciTransport;
use nvme_pci::mem::MemSlots;
use nvme_target::{NamespaceConfig, PciConfig, PciDevice, PciWorker, SubsystemConfig, Target};

pub const NQN: &str = "nqn.2026-01.org.example:pci";
/// The longest that anything is waited for.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of namespace 1.
pub const SIZE: u64 = 64 << 20;

/// A subsystem, and devices in front of it.
pub struct Bed {
    pub target: Target,
    pub slots: MemSlots,
    pub transport: PciTransport,
    workers: Vec<PciWorker>,
    next_port: usize,
}

impl Bed {
    pub fn new(block_size: u32) -> Self {
        Self::with(
            SubsystemConfig::new(NQN)
                .unwrap()
                .mdts(0)
                .namespace(NamespaceConfig::memory(1, SIZE).block_size(block_size)),
        )
    }

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

    pub fn configured(&mut self, name: &str, config: PciConfig) -> PciDevice {
        let device = PciDevice::new(&self.target, NQN, config.port(self.next_port)).unwrap();
        self.next_port += 1;
        self.slots.insert(name, device.clone());
        self.workers.push(device.start().unwrap());
        device
    }

    pub fn host(&self) -> Host {
        let options = HostOptions::new(Uuid(*b"nvme-host-tests!"));
        Host::new(options.transport(self.transport.clone())).unwrap()
    }
}

/// A controller that is tried again soon.
pub fn persistent() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.reconnect_delay = Duration::from_millis(20);
    options
}

/// A controller that is given up as soon as it is lost, and looked for again by the library.
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

pub fn channel(host: &Host) -> Channel {
    host.channel(ChannelOptions::default()).unwrap()
}

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
