//! Servers over vfio-user that hang while something is set up with them: they hold up nobody else.

use std::path::PathBuf;
use std::time::Duration;

use nvme_core::controller::State;
use nvme_core::spec::Sqe;
use nvme_core::spec::command::FeatureSelect;
use nvme_core::transport::Data;
use nvme_e2e::{ChannelExt, LIMIT, Pattern, persistent, wait_until};
use nvme_mpath::{ChannelOptions, Controller, Event, Host};
use nvme_pci_guest::{head, host};
use nvme_target::{
    NamespaceConfig, PciConfig, PciDevice, PciFault, SubsystemConfig, Target, VfioUserServer,
};

const NQN: &str = "nqn.2026-01.org.example:silent";
const OTHER: &str = "nqn.2026-01.org.example:other";
/// Keep-alive timeout of the other controller: less than the time for which a server is waited for.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A device behind a server, and a controller over TCP that has nothing to do with it.
struct Bed {
    _target: Target,
    other: Target,
    device: PciDevice,
    server: VfioUserServer,
}

impl Bed {
    fn new(name: &str) -> Self {
        let subsystem = |nqn: &str| {
            let namespace = NamespaceConfig::memory(1, 64 << 20);
            SubsystemConfig::new(nqn).expect("a name").namespace(namespace)
        };
        let target = Target::builder().subsystem(subsystem(NQN)).start().expect("a target");
        let device = PciDevice::new(&target, NQN, PciConfig::new()).expect("a device");
        let path: PathBuf =
            std::env::temp_dir().join(format!("nvme-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let server = VfioUserServer::bind(path, &device).expect("a server");
        let other = Target::builder().subsystem(subsystem(OTHER)).listen("127.0.0.1:0");
        let other = other.start().expect("a target");
        Self { _target: target, other, device, server }
    }

    fn url(&self) -> String {
        format!("vfio-user://{}", self.server.path().display())
    }

    /// Connects to the other controller.
    fn connect_other(&self, host: &Host) -> Controller {
        let mut options = persistent();
        options.keep_alive = KEEP_ALIVE;
        let address = self.other.addr(0).expect("a port");
        let controller = host.connect(&format!("tcp://{address}/{OTHER}"), options).expect("a URL");
        controller.wait_ready(LIMIT).expect("connecting");
        controller
    }
}

/// Has the other controller answer, again and again, until `over`; it must not be lost meanwhile. How
/// often it did.
fn serve(other: &Controller, mut over: impl FnMut() -> bool) -> u64 {
    let mut answers = 0;
    wait_until("the server to be given up", || {
        let sqe = Sqe::get_features(7, FeatureSelect::Current, 0, 0);
        let answer = other.admin(sqe, Data::None, LIMIT).expect("an answer");
        assert!(answer.cqe.status().is_success());
        answers += 1;
        over()
    });
    assert_eq!((other.state(), other.reconnects()), (State::Live, 0));
    answers
}

/// A controller that cannot be set up, for its server falls silent.
fn at_connect(fault: PciFault, name: &str) {
    let bed = Bed::new(name);
    let host = host();
    let events = host.events(1 << 12);
    let other = bed.connect_other(&host);
    bed.device.add_fault(fault);
    let controller = host.connect(&bed.url(), persistent()).expect("a URL");
    wait_until("the silence", || bed.device.stats().unanswered > 0);
    assert!(serve(&other, || controller.last_error().is_some()) > 1);
    // It is tried again, and is there as soon as the server answers.
    bed.device.clear_faults();
    serve(&other, || controller.state() == State::Live);
    let lost = |e: &Event| matches!(e, Event::ControllerFailed { controller, .. } if *controller == other.id());
    while let Some(event) = events.try_next() {
        assert!(!lost(&event.event), "{:?}", event.event);
    }
    host.shutdown_forced(LIMIT).expect("an end");
}

#[test]
fn one_that_does_not_answer_for_memory_holds_up_nobody() {
    at_connect(PciFault::SilentAtMap, "silent-map");
}

#[test]
fn one_that_does_not_answer_for_an_interrupt_holds_up_nobody() {
    at_connect(PciFault::SilentAtInterrupt, "silent-interrupt");
}

/// The same for a queue of a controller that is in use, whose health is looked after meanwhile.
#[test]
fn one_that_falls_silent_when_a_channel_is_opened_holds_up_nobody() {
    let bed = Bed::new("silent-queue");
    let host = host();
    let other = bed.connect_other(&host);
    let head = head(&host, &format!("{}?irq=1", bed.url()), NQN, 1, persistent());
    let controller = host.controllers().into_iter().find(|c| c.id() != other.id());
    let controller = controller.expect("the controller behind the server");
    bed.device.add_fault(PciFault::SilentAtInterrupt);
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    wait_until("the silence", || bed.device.stats().unanswered > 0);
    assert!(serve(&other, || controller.state() != State::Live) > 1);
    bed.device.clear_faults();
    serve(&other, || controller.state() == State::Live);
    channel.put(&head, 0, 4096, Pattern { salt: 1, version: 1 });
    drop(channel);
    host.shutdown_forced(LIMIT).expect("an end");
}
