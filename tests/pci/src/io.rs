//! Verified I/O by the real driver, on whatever way there is to a function.

use std::sync::Arc;

use nvme_core::buffer::Buffer;
use nvme_core::memory::DmaBuf;
use nvme_core::nqn::Nqn;
use nvme_core::transport::Transport;
use nvme_e2e::{ChannelExt, LIMIT, Load, Pattern, host_options, persistent, wait_until};
use nvme_mpath::{ChannelOptions, ControllerOptions, Head, Host, HostOptions};
use nvme_pci::{Counters, PciTransport, Uio, Vfio, VfioUser};

/// Bytes of a namespace that are used.
const SPACE: u64 = 48 << 20;

/// Every way to a function.
#[derive(Clone, Debug)]
pub struct Ways([PciTransport; 3]);

impl Ways {
    /// New ones, that nothing has been counted on.
    #[must_use]
    pub fn new() -> Self {
        Self([
            PciTransport::new(Vfio::new()),
            PciTransport::new(Uio::new()),
            PciTransport::new(VfioUser::new()),
        ])
    }

    /// A host that knows them, and TCP.
    ///
    /// # Panics
    /// If there is no host to be had.
    #[must_use]
    pub fn host(&self) -> Host {
        let options = self.0.iter().cloned().fold(host_options(), HostOptions::transport);
        Host::new(options).expect("a host")
    }

    /// What was counted on the way that `url` goes.
    ///
    /// # Panics
    /// If none goes there.
    #[must_use]
    pub fn counters(&self, url: &str) -> Counters {
        let scheme = url.split("://").next().unwrap_or_default();
        let way = self.0.iter().find(|way| way.scheme() == scheme);
        way.expect("a way that the URL goes").counters()
    }
}

impl Default for Ways {
    fn default() -> Self {
        Self::new()
    }
}

/// A host that knows every way to a function, and TCP.
///
/// # Panics
/// If there is no host to be had.
#[must_use]
pub fn host() -> Host {
    Ways::new().host()
}

/// Writes and reads in memory of the host's, which no backend may copy: from before the controller
/// was connected (`early`), and allocated now.
fn in_place(host: &Host, ways: &Ways, head: &Arc<Head>, early: DmaBuf) {
    let counted = || {
        let all = ways.0.iter().map(PciTransport::counters);
        all.fold((0, 0), |(direct, bounced), c| (direct + c.direct, bounced + c.bounced))
    };
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let late = host.dma_buf(96 << 10).expect("memory");
    // The channel's queue is there with the first request.
    let _ = channel.read(head, 0, Buffer::zeroed(4096)).expect("a read");
    let before = counted();
    for (n, memory) in [early, late].into_iter().enumerate() {
        let byte = |at: usize| (at / 512 + at + n) as u8;
        let mut buffer = Buffer::from(memory);
        buffer.as_mut_slice().iter_mut().enumerate().for_each(|(at, b)| *b = byte(at));
        let mut buffer = channel.write(head, 8, buffer).expect("a write");
        buffer.as_mut_slice().fill(0);
        let buffer = channel.read(head, 8, buffer).expect("a read");
        assert!(buffer.as_slice().iter().enumerate().all(|(at, b)| *b == byte(at)), "other data");
    }
    let after = counted();
    assert_eq!((after.0 - before.0, after.1 - before.1), (4, 0), "copies were made");
}

/// Connects, and waits for namespace `nsid` of the subsystem `nqn`.
///
/// # Panics
/// If it does not come.
#[must_use]
pub fn head(host: &Host, url: &str, nqn: &str, nsid: u32, options: ControllerOptions) -> Arc<Head> {
    let controller = host.connect(url, options).expect("a URL");
    if let Err(error) = controller.wait_ready(LIMIT) {
        panic!("{url}: {error}, {:?}", controller.last_error());
    }
    let nqn = Nqn::new(nqn).expect("a name");
    host.wait_head(&nqn, nsid, LIMIT).expect("a head")
}

/// Writes and reads memory that no backend may copy, then one block to 4 MiB, as far as the URL
/// allows, at odd and even places, then has `queues` channels do
/// so at once, 16 requests deep, while the controller is reset. Queues and data must be in the
/// controller memory buffer if the URL says so. Gives what was counted.
///
/// # Panics
/// If anything is wrong.
pub fn verified_io(url: &str, nqn: &str, nsid: u32, queues: usize) -> Counters {
    let ways = Ways::new();
    let host = ways.host();
    let early = host.dma_buf(64 << 10).expect("memory");
    let head = head(&host, url, nqn, nsid, persistent());
    in_place(&host, &ways, &head, early);
    let block = head.geometry().block_size as usize;
    let channel = || host.channel(ChannelOptions::default()).expect("a channel");

    let mut one = channel();
    let mut lengths: Vec<usize> = [1, 2, 3, 7, 8, 9, 17, 64, 129].map(|n| n * block).to_vec();
    lengths.extend([64 << 10, 512 << 10, (512 << 10) + 4096, 1 << 20, 4 << 20]);
    lengths.retain(|len| *len <= head.geometry().max_transfer);
    for (n, len) in lengths.into_iter().enumerate() {
        let pattern = Pattern { salt: nsid.into(), version: n as u64 + 1 };
        let slba = n as u64 * 5 + 1;
        one.put(&head, slba, len, pattern);
        one.check(&head, slba, len, pattern);
    }
    drop(one);

    let share = SPACE / queues as u64;
    let loads: Vec<Load> =
        (0..queues as u64).map(|n| Load::start_at(channel(), &head, 16, 8192, n * share)).collect();
    loads.iter().for_each(|load| load.wait_more(200));
    // The function is given up and opened again while what was in flight still holds its memory.
    for controller in host.controllers() {
        controller.reset("a test");
    }
    loads.iter().for_each(|load| load.wait_more(100));
    wait_until("the reset", || host.controllers().iter().all(|c| c.reconnects() > 0));
    loads.iter().for_each(|load| load.wait_more(100));
    for load in loads {
        load.stop().assert_clean();
    }
    let used = ways.counters(url);
    assert_eq!(used.cmb_queues > 0, url.contains("cmb=sq"), "{url}: queues");
    assert_eq!(used.cmb_pools > 0, url.contains("cmb=sq+data"), "{url}: data");
    drop(head);
    host.shutdown_forced(LIMIT).expect("an end");
    used
}
