//! A function that takes its time to be opened holds nobody up.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nvme_core::controller::State;
use nvme_core::nqn::Uuid;
use nvme_mpath::{Host, HostOptions};
use nvme_pci::mem::MemSlots;
use nvme_pci::{Backend, BackendError, Location, Open, PciTransport};
use nvme_pci_bed::{Bed, LIMIT, channel, connect, pattern, persistent, verify, wait_until};
use parking_lot::{Condvar, Mutex};

/// Opens the function `slow` only once it may.
#[derive(Clone, Debug)]
struct Slow {
    slots: MemSlots,
    may: Arc<(Mutex<bool>, Condvar)>,
    /// Times that it was begun, and is under way.
    begun: Arc<AtomicU32>,
    under_way: Arc<AtomicU32>,
}

impl Slow {
    fn let_go(&self) {
        *self.may.0.lock() = true;
        self.may.1.notify_all();
    }
}

impl Open for Slow {
    fn scheme(&self) -> &'static str {
        "mem"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        self.slots.check(location)
    }

    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        if location.device == "slow" {
            self.begun.fetch_add(1, Ordering::SeqCst);
            assert_eq!(self.under_way.fetch_add(1, Ordering::SeqCst), 0, "opened twice at once");
            let mut may = self.may.0.lock();
            while !*may {
                self.may.1.wait(&mut may);
            }
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }
        self.slots.open(location)
    }
}

fn slow_host(bed: &Bed) -> (Slow, Host) {
    let (may, begun, under_way) = (Arc::default(), Arc::default(), Arc::default());
    let slow = Slow { slots: bed.slots.clone(), may, begun, under_way };
    let options = HostOptions::new(Uuid(*b"nvme-host-tests!"));
    let host = Host::new(options.transport(PciTransport::new(slow.clone()))).unwrap();
    (slow, host)
}

#[test]
fn others_come_up_and_do_io_meanwhile() {
    let mut bed = Bed::new(512);
    let (_slow, _quick) = (bed.device("slow"), bed.device("quick"));
    let (slow, host) = slow_host(&bed);
    let first = host.connect("mem://slow", persistent()).unwrap();
    wait_until("the opening", || slow.begun.load(Ordering::SeqCst) == 1);
    let (_second, head) = connect(&host, "mem://quick", persistent());
    verify(&mut channel(&host), &head, 3, pattern(3, 8192, 1));
    assert_eq!((first.state(), slow.under_way.load(Ordering::SeqCst)), (State::Connecting, 1));
    slow.let_go();
    first.wait_ready(LIMIT).unwrap();
    wait_until("two paths", || head.paths().iter().filter(|p| p.usable).count() == 2);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn an_attempt_that_takes_too_long_is_over_before_the_next_begins() {
    let mut bed = Bed::new(512);
    let device = bed.device("slow");
    let (slow, host) = slow_host(&bed);
    let mut options = persistent();
    options.connect_timeout = Duration::from_millis(200);
    let controller = host.connect("mem://slow", options).unwrap();
    wait_until("an error", || controller.last_error().is_some());
    let error = controller.last_error().unwrap().to_string();
    assert!(error.contains("making an association took longer than 200ms"), "{error}");
    assert_eq!(slow.begun.load(Ordering::SeqCst), 1);
    slow.let_go();
    wait_until("a live controller", || controller.state() == State::Live);
    // What the first attempt opened was closed again: the function can be opened by one at a time.
    assert!(slow.begun.load(Ordering::SeqCst) >= 2);
    controller.disconnect();
    controller.wait_removed(LIMIT).unwrap();
    assert_eq!(device.stats().dma_errors, 0);
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn one_that_cannot_be_opened_is_told_why() {
    let bed = Bed::new(512);
    let (slow, host) = slow_host(&bed);
    slow.let_go();
    let controller = host.connect("mem://slow", persistent()).unwrap();
    controller.wait_removed(LIMIT).unwrap();
    let error = controller.last_error().unwrap().to_string();
    assert!(error.contains("the device is gone"), "{error}");
    host.shutdown_forced(LIMIT).unwrap();
}
