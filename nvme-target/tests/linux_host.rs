//! Linux's own NVMe/TCP host, in a virtual machine, uses the software target: so that the target is checked by
//! something that was not written against it.

use std::time::{Duration, Instant};

use nvme_target::{AnaState, NamespaceConfig, SubsystemConfig, Target};
use nvme_vm::{Guest, LinuxController, Shared};

const NQN: &str = "nqn.2026-01.org.example:software";
/// No test waits longer than this for anything.
const LIMIT: Duration = Duration::from_secs(60);

fn target() -> Target {
    let subsystem = SubsystemConfig::new(NQN)
        .unwrap()
        .namespace(NamespaceConfig::memory(1, 64 << 20))
        .namespace(NamespaceConfig::memory(2, 64 << 20).block_size(512).ana_group(2));
    Target::builder()
        .subsystem(subsystem)
        .listen("127.0.0.1:0")
        .listen("127.0.0.1:0")
        .start()
        .unwrap()
}

fn connect(guest: &Shared, target: &Target, listener: usize, options: &str) -> LinuxController {
    let port = target.addr(listener).unwrap().port();
    guest.linux_connect_with(port, NQN, options).unwrap_or_else(|e| {
        panic!("{e}\n{}", guest.dmesg().unwrap_or_default());
    })
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited too long: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn linux_reads_back_what_it_wrote_with_digests_and_without() {
    let guest = Guest::shared().unwrap();
    let target = target();
    for options in ["nr_io_queues=2", "hdr_digest,data_digest", "disable_sqflow,nr_io_queues=1"] {
        let controller = connect(&guest, &target, 0, options);
        assert_eq!(guest.linux_state(&controller).unwrap(), "live");
        for (nsid, block) in [(1, "4096"), (2, "512")] {
            let device = guest.linux_device(&controller, nsid).unwrap();
            guest.linux_verify(&device, 2 << 20).unwrap();
            let file = format!("cat /sys/block/{}/queue/logical_block_size", &device[5..]);
            assert_eq!(guest.sh(&file).unwrap().trim(), block);
        }
        guest.linux_disconnect(&controller).unwrap();
        until("Linux is gone", || target.stats().open == 0);
    }
    assert_eq!(target.stats().terminated, 0, "Linux did nothing that the target objects to");
}

#[test]
fn linux_follows_ana_states_and_namespaces() {
    let guest = Guest::shared().unwrap();
    let target = target();
    let controller = connect(&guest, &target, 0, "nr_io_queues=1");
    let _other = connect(&guest, &target, 1, "nr_io_queues=1");
    guest.linux_device(&controller, 1).unwrap();
    let number = &controller.name["nvme".len()..];
    let state = |nsid: u32, expected: &str| {
        let script = format!(
            "for p in /sys/class/nvme/{name}/nvme*c{number}n*; do \
             [ \"$(cat $p/nsid)\" = {nsid} ] && [ \"$(cat $p/ana_state)\" = {expected} ] && exit 0; done; exit 1",
            name = controller.name,
        );
        guest.wait_for(&script, LIMIT).unwrap();
    };
    state(1, "optimized");
    state(2, "optimized");
    target.set_ana(0, 2, AnaState::NonOptimized).unwrap();
    state(2, "non-optimized");
    target.set_ana(0, 2, AnaState::Inaccessible).unwrap();
    state(2, "inaccessible");
    state(1, "optimized");
    // the other listener still serves the group
    let device = guest.linux_device(&controller, 2).unwrap();
    guest.linux_verify(&device, 1 << 20).unwrap();

    target.add_namespace(NamespaceConfig::memory(7, 8 << 20)).unwrap();
    let seventh = guest.linux_device(&controller, 7).unwrap();
    target.resize_namespace(7, 16 << 20).unwrap();
    let size = format!("[ $(cat /sys/block/{}/size) = {} ]", &seventh[5..], (16 << 20) / 512);
    guest.wait_for(&size, LIMIT).unwrap();
    target.remove_namespace(7).unwrap();
    guest.wait_for(&format!("[ ! -e {seventh} ]"), LIMIT).unwrap();
    assert_eq!(target.stats().terminated, 0);
}

#[test]
fn linux_comes_back_when_a_listener_does() {
    let guest = Guest::shared().unwrap();
    let target = target();
    let options = "nr_io_queues=1,keep_alive_tmo=5,reconnect_delay=1,ctrl_loss_tmo=60";
    let controller = connect(&guest, &target, 0, options);
    let device = guest.linux_device(&controller, 1).unwrap();
    target.listener(0).unwrap().disable().unwrap();
    let state = format!("cat /sys/class/nvme/{}/state", controller.name);
    guest.wait_for(&format!("[ \"$({state})\" = connecting ]"), LIMIT).unwrap();
    target.listener(0).unwrap().enable().unwrap();
    guest.wait_for(&format!("[ \"$({state})\" = live ]"), LIMIT).unwrap();
    guest.linux_verify(&device, 1 << 20).unwrap();
    // idle for longer than the timeout: keep alive holds the association
    let before = target.first_subsystem().unwrap().controllers();
    guest.sh("sleep 8").unwrap();
    assert_eq!(target.first_subsystem().unwrap().controllers(), before);
}

#[test]
fn nvme_cli_understands_discovery_and_the_log_pages() {
    let guest = Guest::shared().unwrap();
    let target = target();
    let port = target.addr(1).unwrap().port();
    let listing = guest.sh(&format!("nvme discover -t tcp -a 10.0.2.2 -s {port}")).unwrap();
    assert_eq!(listing.matches(NQN).count(), 2, "{listing}");
    let controller = connect(&guest, &target, 0, "nr_io_queues=1");
    let device = format!("/dev/{}", controller.name);
    for command in ["id-ctrl", "smart-log", "error-log", "fw-log", "effects-log", "ana-log"] {
        guest.sh(&format!("nvme {command} {device}")).unwrap();
    }
    let identifiers = guest.sh(&format!("nvme ns-descs {device} -n 1")).unwrap();
    assert!(identifiers.contains("uuid"), "{identifiers}");
}
