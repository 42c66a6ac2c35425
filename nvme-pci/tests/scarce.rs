//! A function for which no more memory can be mapped once its queues are there, or less than is asked for.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nvme_core::buffer::Buffer;
use nvme_core::memory::Memory;
use nvme_core::nqn::Uuid;
use nvme_mpath::{Host, HostOptions, IoRequest};
use nvme_pci::mem::MemSlots;
use nvme_pci::{Backend, BackendError, DmaMapping, DmaMemory, Location, Mmio, Open, PciTransport};
use nvme_pci_bed::{Bed, LIMIT, channel, connect, finish, persistent};

/// Opens devices that are given no more than `most` bytes of memory at a time, and none if that is 0.
#[derive(Clone, Debug)]
struct Scarce {
    slots: MemSlots,
    most: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct ScarceBackend {
    inner: Arc<dyn Backend>,
    most: Arc<AtomicUsize>,
}

impl Open for Scarce {
    fn scheme(&self) -> &'static str {
        self.slots.scheme()
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        self.slots.check(location)
    }

    fn is_prompt(&self) -> bool {
        true
    }

    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        let (inner, most) = (self.slots.open(location)?, Arc::clone(&self.most));
        Ok(Arc::new(ScarceBackend { inner, most }))
    }
}

impl Backend for ScarceBackend {
    fn address(&self) -> &str {
        self.inner.address()
    }

    fn bar0(&self) -> &dyn Mmio {
        self.inner.bar0()
    }

    fn alloc_dma(&self, len: usize, align: usize) -> Result<DmaMemory, BackendError> {
        match self.most.load(Ordering::Relaxed) {
            0 => {
                let address = self.address().to_owned();
                Err(BackendError::LockedMemory { address, needed: len as u64, limit: 0 })
            }
            most => self.inner.alloc_dma(len.min(most), align),
        }
    }

    fn map_dma(&self, memory: &Arc<Memory>) -> Result<DmaMapping, BackendError> {
        self.inner.map_dma(memory)
    }

    fn interrupt(&self, vector: u16) -> Result<Option<OwnedFd>, BackendError> {
        self.inner.interrupt(vector)
    }

    fn reset(&self) -> Result<(), BackendError> {
        self.inner.reset()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), BackendError> {
        self.inner.set_bus_master(on)
    }

    fn removal_requested(&self) -> bool {
        self.inner.removal_requested()
    }

    fn close(&self) {
        self.inner.close();
    }
}

const COUNT: usize = 48;

/// Two kinds of data in turn, where after the queues no more than `most` bytes come at a time.
fn all_ends_with(most: usize) {
    let mut bed = Bed::new(512);
    bed.device("a");
    let scarce = Scarce { slots: bed.slots.clone(), most: Arc::new(usize::MAX.into()) };
    let left = Arc::clone(&scarce.most);
    let transport = PciTransport::new(scarce);
    let options = HostOptions::new(Uuid(*b"nvme-host-tests!"));
    let host = Host::new(options.transport(transport.clone())).unwrap();
    let (_controller, head) = connect(&host, "mem://a", persistent());
    let mut channel = channel(&host);
    let memory = nvme_pci_bed::Memory::new(COUNT);
    let registration = memory.register(&transport);
    let _ = channel.read(&head, 0, memory.buffer(0, 4096)).unwrap();
    left.store(most, Ordering::Relaxed);
    // Where the device reaches the data itself, more commands go at once than there are lists for.
    for at in 0..COUNT {
        let buffer = memory.buffer(at * 4096, 4096);
        channel.submit(&head, IoRequest::read(0, buffer, at as u64)).unwrap();
    }
    assert!(finish(&mut channel, COUNT).iter().all(|done| done.result.is_ok()));
    // Then other memory, once and many times at once.
    for count in [1, COUNT] {
        for at in 0..count {
            let buffer = Buffer::zeroed(64 << 10);
            channel.submit(&head, IoRequest::read(0, buffer, at as u64)).unwrap();
        }
        assert!(finish(&mut channel, count).iter().all(|done| done.result.is_ok()));
    }
    drop(registration);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn copies_find_a_slot_with_a_list_behind_those_that_need_none() {
    all_ends_with(0);
}

#[test]
fn a_backend_that_gives_less_than_was_asked_for_is_not_asked_for_ever() {
    all_ends_with(4096);
}
