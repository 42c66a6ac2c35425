//! The vfio-user backend on the software target's server.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use nvme_core::spec::Sqe;
use nvme_core::spec::command::FeatureSelect;
use nvme_core::spec::registers::offset;
use nvme_e2e::ChannelExt;
use nvme_e2e::{LIMIT, Load, Pattern, persistent, wait_until};
use nvme_mpath::{ChannelOptions, HeadState, IoRequest};
use nvme_pci::{Location, Open, VfioUser};
use nvme_pci_guest::{Abilities, Admin, check, head, host, verified_io};
use nvme_target::{
    NamespaceConfig, PciConfig, PciDevice, PciFault, SubsystemConfig, Target, VfioUserServer,
};

const NQN: &str = "nqn.2026-01.org.example:vfio-user";
const SERIAL: &str = "VFIOUSER";

/// A target with a device that is offered at a path of its own.
struct Bed {
    _target: Target,
    device: PciDevice,
    server: VfioUserServer,
}

fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("nvme-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

impl Bed {
    fn new(name: &str) -> Self {
        let subsystem = SubsystemConfig::new(NQN)
            .expect("a name")
            .serial(SERIAL)
            .mdts(10)
            .namespace(NamespaceConfig::memory(1, 64 << 20).block_size(512))
            .namespace(NamespaceConfig::memory(2, 64 << 20).block_size(4096));
        let target = Target::builder().subsystem(subsystem).start().expect("a target");
        let device = PciDevice::new(&target, NQN, PciConfig::new().controller_memory(8 << 20))
            .expect("a device");
        let server = VfioUserServer::bind(path(name), &device).expect("a server");
        Self { _target: target, device, server }
    }

    fn url(&self) -> String {
        format!("vfio-user://{}", self.server.path().display())
    }
}

fn open(url: &str) -> Result<std::sync::Arc<dyn nvme_pci::Backend>, nvme_pci::BackendError> {
    let way = VfioUser::new();
    way.open(&Location::parse(way.scheme(), url).expect("a URL"))
}

#[test]
fn a_function_is_opened_used_and_given_up() {
    let bed = Bed::new("check");
    let all = Abilities { interrupts: true, maps_memory: true, resets: true };
    for _ in 0..3 {
        assert_eq!(check(open(&bed.url()).expect("a function"), SERIAL).expect("all is well"), all);
    }
    assert_eq!(bed.device.stats().dma_errors, 0);
}

#[test]
fn a_queue_that_is_new_has_doorbells_that_are_new() {
    let bed = Bed::new("doorbells");
    let backend = open(&bed.url()).expect("a function");
    backend.set_bus_master(true).expect("a function that can reach memory");
    for _ in 0..2 {
        let mut admin = Admin::new(&backend, None).expect("a controller");
        // It looks before the first command is there: what the doorbells held is forgotten.
        let before = bed.device.stats().commands;
        let _ = bed.device.step();
        assert_eq!(bed.device.stats().commands, before);
        for _ in 0..3 {
            let _ = admin.run(Sqe::get_features(7, FeatureSelect::Current, 0, 0)).expect("an end");
        }
        admin.disable().expect("a controller that obeys");
    }
}

#[test]
fn io_is_verified_by_looking_and_by_interrupt() {
    let bed = Bed::new("io");
    for (parameters, nsid, queues) in
        [("poll=1", 1, 1), ("poll=1&cmb=sq", 2, 4), ("irq=1", 1, 4), ("irq=1&cmb=sq+data", 2, 2)]
    {
        verified_io(&format!("{}?{parameters}", bed.url()), NQN, nsid, queues);
    }
    assert_eq!((bed.device.stats().dma_errors, bed.device.stats().bad_doorbells), (0, 0));
}

#[test]
fn a_reset_of_the_function_under_io_costs_no_request() {
    let bed = Bed::new("reset");
    for parameters in ["poll=1", "irq=1"] {
        let host = host();
        let head = head(&host, &format!("{}?{parameters}", bed.url()), NQN, 1, persistent());
        let channel = host.channel(ChannelOptions::default()).expect("a channel");
        let load = Load::start(channel, &head, 16, 4096);
        for n in 1..=3 {
            load.wait_more(100);
            let resets = bed.device.stats().resets;
            // It does not obey CC.EN, so that nothing but a reset of the function helps.
            bed.device.add_fault(PciFault::StuckEnabled);
            let controller = host.controllers().remove(0);
            controller.reset("a test");
            wait_until("the way back", || controller.reconnects() == n);
            assert!(bed.device.stats().resets > resets);
            bed.device.clear_faults();
            load.wait_more(100);
        }
        load.stop().assert_clean();
        host.shutdown_forced(LIMIT).expect("an end");
    }
    assert_eq!((bed.device.stats().dma_errors, bed.device.stats().bad_doorbells), (0, 0));
}

#[test]
fn a_server_that_goes_while_io_is_under_way_loses_the_path_and_no_request() {
    let bed = Bed::new("loss");
    let host = host();
    let head = head(&host, &bed.url(), NQN, 1, persistent());
    let channel = host.channel(ChannelOptions::default()).expect("a channel");
    let load = Load::start(channel, &head, 16, 4096);
    for _ in 0..3 {
        load.wait_more(100);
        // The device takes commands and ends none, so that some are under way for sure.
        bed.device.add_fault(PciFault::Stall);
        wait_until("commands to be kept", || bed.device.kept() > 0);
        let enables = bed.device.stats().enables;
        bed.server.disconnect();
        wait_until("the device to be let go", || bed.device.kept() == 0);
        bed.device.clear_faults();
        // The load goes on once the controller has been connected to again.
        load.wait_more(100);
        assert!(bed.device.stats().enables > enables);
    }
    load.stop().assert_clean();
    assert!(matches!(head.state(), HeadState::Live), "{:?}", head.state());
    host.shutdown_forced(LIMIT).expect("an end");
}

#[test]
fn a_server_that_stays_away_fails_what_was_under_way_once() {
    let bed = Bed::new("gone");
    let host = host();
    let mut options = persistent();
    options.ctrl_loss_tmo = Some(Duration::ZERO);
    let head = head(&host, &bed.url(), NQN, 1, options);
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let pattern = Pattern { salt: 1, version: 1 };
    channel.put(&head, 0, 4096, pattern);
    bed.device.add_fault(PciFault::Stall);
    for n in 0..8 {
        let data = pattern.bytes(n * 4096, 4096);
        channel.submit(&head, IoRequest::write(n * 8, data.into(), n)).expect("room");
    }
    wait_until("commands to be kept", || {
        channel.poll(&mut Vec::new());
        bed.device.kept() == 8
    });
    drop(bed.server);
    let mut done = channel.finish(8);
    done.sort_by_key(|d| d.user_data);
    for (n, completion) in (0..).zip(&done) {
        assert!(completion.result.is_err(), "{completion:?}");
        assert_eq!(completion.user_data, n);
        // The buffer is back, and is what it was.
        assert_eq!(pattern.difference(n * 4096, completion.buffer.as_slice()), None);
    }
    host.shutdown_forced(LIMIT).expect("an end");
}

#[test]
fn a_removed_function_is_noticed_at_once() {
    let bed = Bed::new("removed");
    let backend = open(&bed.url()).expect("a function");
    assert!(!backend.removal_requested());
    assert_ne!(backend.bar0().read32(offset::VS), u32::MAX);
    bed.server.disconnect();
    wait_until("the loss to be seen", || backend.removal_requested());
    assert_eq!(backend.bar0().read32(offset::VS), u32::MAX);
    assert!(backend.alloc_dma(4096, 4096).is_err());
    let error = backend.reset().expect_err("nothing to reset").to_string();
    assert!(error.contains("gone"), "{error}");
}

#[test]
fn what_is_no_server_is_told() {
    let nobody = path("nobody");
    let error = open(&format!("vfio-user://{}", nobody.display())).expect_err("nobody there");
    assert!(error.to_string().contains("connecting to the server"), "{error}");

    // A server that ends at once, and one that speaks something else.
    for answer in [&b""[..], &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 64][..]] {
        let path = path("stranger");
        let listener = UnixListener::bind(&path).expect("a socket");
        let stranger = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(answer).expect("an answer");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 1024]);
        });
        let error = open(&format!("vfio-user://{}", path.display())).expect_err("a stranger");
        assert!(error.to_string().contains("agreeing upon a version"), "{error}");
        stranger.join().expect("the stranger does not panic");
    }
}

#[test]
fn a_client_that_breaks_the_protocol_is_sent_away() {
    let bed = Bed::new("mischief");
    // A header: message, command, size, flags, error. Then what the server says to it: an answer
    // with an error, or nothing.
    let header = |command: u16, size: u32, flags: u32| {
        let mut bytes = vec![7, 0];
        bytes.extend(command.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    };
    for (request, answered) in [
        (vec![0xff; 64], false),
        (header(1, 3, 0), false),
        (header(1, u32::MAX, 0), false),
        (header(1, 16, 1), false),
        // No version's text, a command before the version, one that there is not.
        (header(1, 16, 0), true),
        (header(13, 16, 0), true),
        (header(99, 16, 0), true),
    ] {
        let mut stream = UnixStream::connect(bed.server.path()).expect("a server");
        stream.write_all(&request).expect("a request");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut answer = Vec::new();
        // A server that leaves bytes unread resets the connection.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.len(), if answered { 16 } else { 0 }, "{request:?}");
        // Bits 0 to 3 and 5 of the flags: an answer, an error.
        assert!(!answered || answer[8] & 0x2f == 0x21, "{answer:?}");
    }
    check(open(&bed.url()).expect("a function"), SERIAL).expect("all is well");
}
