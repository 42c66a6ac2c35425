//! What is known to be wrong with a device is done without: each quirk once, by what the device sees.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::{Duration, Instant};

use nvme_core::controller::{ControllerInfo, RemovedCause};
use nvme_core::nqn::Eui64;
use nvme_core::quirk::Quirks;
use nvme_core::spec::Sqe;
use nvme_core::spec::feature::{ApstEntry, fid};
use nvme_core::spec::opcode::AdminOpcode;
use nvme_mpath::{Host, HostOptions};
use nvme_pci::Counters;
use nvme_pci_bed::{
    Bed, LIMIT, NQN, SIZE, channel, connect, pattern, persistent, verify, wait_until,
};
use nvme_target::{
    NamespaceConfig, NamespaceIds, PciConfig, PciDevice, PciStats, PowerState, SubsystemConfig,
};
use zerocopy::FromBytes;

/// The identifiers of QEMU's controller.
const QEMU: [u16; 4] = [0x1b36, 0x0010, 0x1af4, 0x1100];

/// What could be seen of a device that can do everything, while it was used.
struct Seen {
    info: ControllerInfo,
    /// Admin commands of bring-up and scan.
    admin: Vec<Sqe>,
    stats: PciStats,
    counters: Counters,
    /// Identifiers of the namespace, as text.
    ids: String,
    /// Bytes of the host memory buffer.
    host_memory: u64,
    max_transfer: usize,
    deepest: Option<u8>,
}

impl Seen {
    fn has(&self, opcode: AdminOpcode, what: impl Fn(u32, u32) -> bool) -> bool {
        let fits = |s: &&Sqe| AdminOpcode(s.opcode) == opcode;
        self.admin.iter().filter(fits).any(|s| what(s.cdw10.get(), s.cdw11.get()))
    }

    /// Identify with this CNS was sent.
    fn identifies(&self, cns: u8) -> bool {
        self.has(AdminOpcode::IDENTIFY, |cdw10, _| cdw10 as u8 == cns)
    }

    /// The features that were set.
    fn sets(&self, feature: u8) -> bool {
        self.has(AdminOpcode::SET_FEATURES, |cdw10, _| cdw10 as u8 == feature)
    }
}

fn host_with(bed: &Bed, rules: &[&str]) -> Host {
    let mut options = HostOptions::new(nvme_core::nqn::Uuid(*b"nvme-host-tests!"));
    options.quirks = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Host::new(options.transport(bed.transport.clone())).unwrap()
}

fn able_bed(config: PciConfig) -> (Bed, PciDevice) {
    let state =
        |non_operational, exit_us| PowerState { power: 1, non_operational, entry_us: 1, exit_us };
    let states = [state(false, 1), state(true, 1000), state(true, 40_000)];
    let ids = NamespaceIds { eui64: Eui64([7; 8]), ..NamespaceIds::default() };
    let namespace = NamespaceConfig::memory(1, SIZE).ids(ids);
    let subsystem = SubsystemConfig::new(NQN).unwrap().mdts(0).model("Example Drive 9");
    let mut bed = Bed::with(subsystem.power_states(&states).namespace(namespace));
    let config = config.host_memory(64, 16).controller_memory(1 << 20);
    let device = bed.configured("a", config);
    (bed, device)
}

/// Uses a device with these quirks.
fn with(quirks: &str) -> Seen {
    let (bed, device) = able_bed(PciConfig::new().ids(QEMU[0], 0x0011, QEMU[2], QEMU[3]));
    let host = bed.host();
    let mut options = persistent();
    options.apst_latency = Duration::from_millis(100);
    let quirks = if quirks.is_empty() { String::new() } else { format!("&quirks={quirks}") };
    let url = format!("mem://a?irq=1&sgl=4096&cmb=sq{quirks}");
    let (controller, head) = connect(&host, &url, options);
    let mut channel = channel(&host);
    for n in 0..4 {
        verify(&mut channel, &head, n, pattern(n, 64 << 10, n));
    }
    let subsystem = bed.target.subsystem(NQN).unwrap();
    let apst = subsystem.controllers().remove(0).apst;
    let seen = Seen {
        info: (*controller.info().unwrap()).clone(),
        admin: device.take_admin_commands(),
        stats: device.stats(),
        counters: bed.transport.counters(),
        ids: head.ids().to_string(),
        host_memory: controller.host_memory(),
        max_transfer: head.geometry().max_transfer,
        deepest: apst.map(|table| {
            let entries = <[ApstEntry]>::ref_from_bytes(&table).unwrap();
            entries.iter().map(|entry| entry.state()).max().unwrap()
        }),
    };
    assert_eq!(seen.stats.dma_errors, 0);
    drop(channel);
    host.shutdown_forced(LIMIT).unwrap();
    seen
}

/// Entries of the I/O queue, and its priority.
fn queue(seen: &Seen) -> (u32, u32) {
    let create = |s: &&Sqe| AdminOpcode(s.opcode) == AdminOpcode::CREATE_IO_SQ;
    let sqe = seen.admin.iter().find(create).unwrap();
    ((sqe.cdw10.get() >> 16) + 1, sqe.cdw11.get() >> 1 & 3)
}

const DOORBELL_BUFFERS: AdminOpcode = AdminOpcode::DOORBELL_BUFFER_CONFIG;
const OWN_INTERRUPT: fn(u32, u32) -> bool = |_, cdw11| cdw11 >> 16 != 0;

#[test]
fn without_quirks_everything_is_used() {
    let seen = with("");
    assert!(seen.info.quirks.is_empty(), "{}", seen.info.quirks);
    assert_eq!(seen.info.device.unwrap().to_string(), "1b36:0011:1af4:1100");
    assert!(seen.identifies(2) && seen.identifies(3));
    assert!(seen.ids.contains("eui"), "{}", seen.ids);
    assert_eq!(seen.info.subnqn.as_str(), NQN);
    assert!(seen.info.oncs & 8 != 0);
    assert_eq!(seen.deepest, Some(2));
    assert_eq!(queue(&seen), (128, 0));
    assert!(seen.has(AdminOpcode::CREATE_IO_CQ, OWN_INTERRUPT));
    assert!(seen.stats.sgl_commands > 0 && seen.counters.sgl > 0);
    assert!(seen.has(DOORBELL_BUFFERS, |_, _| true));
    assert_eq!((seen.host_memory, seen.counters.cmb_queues), (256 << 10, 1));
    assert!(seen.max_transfer > 128 << 10);
}

#[test]
fn what_does_not_work_is_not_used() {
    let seen = with("no-namespace-list");
    assert!(!seen.identifies(2) && seen.identifies(3));
    let seen = with("no-descriptors");
    assert!(seen.identifies(2) && !seen.identifies(3));
    assert!(with("no-write-zeroes").info.oncs & 8 == 0);
    let seen = with("no-apst");
    assert!(!seen.sets(fid::AUTONOMOUS_POWER_STATE) && seen.deepest.is_none());
    assert_eq!(with("no-deepest-state").deepest, Some(1));
    assert_eq!(queue(&with("medium-priority")).1, 2);
    let seen = with("one-interrupt");
    assert!(!seen.has(AdminOpcode::CREATE_IO_CQ, OWN_INTERRUPT));
    assert_eq!(queue(&with("one-command")).0, 2);
    let seen = with("no-sgl");
    assert_eq!((seen.stats.sgl_commands, seen.counters.sgl), (0, 0));
    assert!(!with("no-shadow-doorbells").has(DOORBELL_BUFFERS, |_, _| true));
    let seen = with("no-host-memory");
    assert_eq!((seen.host_memory, seen.stats.host_memory_given), (0, 0));
    assert_eq!(with("no-controller-memory").counters.cmb_queues, 0);
    assert_eq!(with("small-transfers").max_transfer, 128 << 10);
    let seen = with("bogus-ids");
    assert!(!seen.ids.contains("eui"), "{}", seen.ids);
    assert_eq!(seen.info.quirks, Quirks::BOGUS_IDS);
}

#[test]
fn a_name_that_others_have_as_well_is_not_used() {
    let (bed, _device) = able_bed(PciConfig::new());
    let host = bed.host();
    let controller = host.connect("mem://a?quirks=bogus-nqn", persistent()).unwrap();
    controller.wait_ready(LIMIT).unwrap();
    let nqn = controller.info().unwrap().subnqn.clone();
    assert!(nqn.as_str().starts_with("nqn.2014.08.org.nvmexpress:"), "{nqn}");
    assert!(nqn.as_str().ends_with("Example Drive 9"), "{nqn}");
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_controller_is_left_alone_for_a_while_after_it_was_disabled() {
    let (bed, device) = able_bed(PciConfig::new());
    let host = bed.host();
    let (controller, _) = connect(&host, "mem://a?quirks=ready-delay", persistent());
    let (begin, enables) = (Instant::now(), device.stats().enables);
    controller.reset("a test");
    wait_until("the way back", || controller.reconnects() == 1);
    assert!(begin.elapsed() >= Duration::from_millis(2300), "{:?}", begin.elapsed());
    assert_eq!((device.stats().enables, device.stats().resets), (enables + 1, 0));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn devices_are_known_by_what_they_are_and_the_program_has_the_last_word() {
    let quirks = |url: &str, rules: &[&str]| {
        let [vendor, device, subvendor, subsystem] = QEMU;
        let (bed, _device) = able_bed(PciConfig::new().ids(vendor, device, subvendor, subsystem));
        let host = host_with(&bed, rules);
        let (controller, _) = connect(&host, url, persistent());
        let names = controller.info().unwrap().quirks.to_string();
        let snapshot = host.snapshot();
        assert_eq!(snapshot.controllers[0].quirks.join(","), names);
        assert_eq!(snapshot.controllers[0].device.as_deref(), Some("1b36:0010:1af4:1100"));
        host.shutdown_forced(LIMIT).unwrap();
        names
    };
    assert_eq!(quirks("mem://a", &[]), "bogus-ids", "the table");
    assert_eq!(quirks("mem://a", &["1b36:0010=no-sgl"]), "bogus-ids,no-sgl");
    assert_eq!(quirks("mem://a?quirks=-bogus-ids", &["1b36:0010=no-sgl"]), "no-sgl");
    let model = ["1b36:0010=-bogus-ids", "model:Example Drive*=no-sgl,one-interrupt"];
    assert_eq!(quirks("mem://a", &model), "one-interrupt,no-sgl");
}

/// What is known only once the controller has been identified holds for the driver as well.
#[test]
fn a_rule_for_a_model_reaches_the_driver() {
    let (bed, device) = able_bed(PciConfig::new());
    let host = host_with(&bed, &["model:Example*=no-sgl,no-shadow-doorbells"]);
    let (_controller, head) = connect(&host, "mem://a?sgl=4096", persistent());
    verify(&mut channel(&host), &head, 0, pattern(0, 64 << 10, 1));
    assert_eq!(device.stats().sgl_commands, 0);
    let sent = device.take_admin_commands();
    assert!(!sent.iter().any(|s| AdminOpcode(s.opcode) == DOORBELL_BUFFERS));
    host.shutdown_forced(LIMIT).unwrap();
}

#[test]
fn a_device_that_cannot_be_driven_is_refused() {
    let (bed, device) = able_bed(PciConfig::new().ids(0x106b, 0x2005, 0, 0));
    let host = bed.host();
    let controller = host.connect("mem://a", persistent()).unwrap();
    let cause = controller.wait_removed(LIMIT).unwrap();
    let RemovedCause::Refused(error) = &cause else { panic!("{cause}") };
    let text = error.to_string();
    assert!(
        text.contains("106b:2005") && text.contains("wide-entries,shared-command-ids"),
        "{text}"
    );
    assert_eq!(device.stats().enables, 0, "it was left alone");
    let error = host.connect("mem://a?quirks=no-sql", persistent()).unwrap_err().to_string();
    assert!(error.contains("no quirk \"no-sql\""), "{error}");
    host.shutdown_forced(LIMIT).unwrap();
}
