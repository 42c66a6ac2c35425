//! What discovery controllers tell, on Linux's target and on the software target.
use nvme_core::nqn::Nqn;
use nvme_e2e::{Bed, LIMIT, Nvmet, PORTS, Session, Software, host, wait_for, wait_until};
use nvme_mpath::{ControllerOptions, DiscoveredSubsystem, Event};
use nvme_target::{NamespaceConfig, SubsystemConfig};

const NVM_SUBSYSTEM: u8 = 2;
const TCP: u8 = 3;
const IPV4: u8 = 1;

/// The NVM subsystems that the discovery controller at a port tells of.
fn found(host: &nvme_mpath::Host, bed: &impl Bed, port: u16) -> Vec<DiscoveredSubsystem> {
    for url in [
        format!("tcp://{}", bed.address(port)),
        format!("tcp://{}/{}", bed.address(port), Nqn::discovery()),
    ] {
        let all = host.discover(&url, LIMIT).expect("a discovery log");
        let subsystems: Vec<_> =
            all.into_iter().filter(|s| s.subsystem_type == NVM_SUBSYSTEM).collect();
        for subsystem in &subsystems {
            assert_eq!((subsystem.transport, subsystem.address_family), (TCP, IPV4));
            assert_eq!(subsystem.controller_id, 0xffff, "controllers are made on connection");
        }
        if url.contains("discovery") {
            return subsystems;
        }
    }
    unreachable!("the second URL names the discovery subsystem")
}

#[test]
fn nvmet_tells_of_its_ports() {
    let bed = Nvmet::new();
    let host = host();
    for port in PORTS {
        let subsystems = found(&host, &bed, port);
        let own = bed.guest.guest_addr(port).expect("a port of the guest");
        let told = subsystems.iter().find(|s| s.service == own.port().to_string());
        let told = told.unwrap_or_else(|| panic!("{own} is not among {subsystems:#?}"));
        assert_eq!(told.subnqn, bed.subnqn());
        assert_eq!(told.address, own.ip().to_string());
        assert_eq!(told.url(), Some(format!("tcp://{own}/{}", bed.subnqn())));
    }
    wait_until("the discovery controllers to be gone", || host.controllers().is_empty());
    assert!(host.heads().is_empty());
    host.shutdown().expect("nothing is pinned");
}

#[test]
fn the_software_target_tells_of_its_ports() {
    let bed = Software::new();
    let session = Session::new(&bed);
    for port in PORTS {
        let subsystems = found(&session.host, &bed, port);
        let mut urls: Vec<_> = subsystems.iter().filter_map(DiscoveredSubsystem::url).collect();
        let mut expected = PORTS.map(|port| bed.url(port));
        urls.sort();
        expected.sort();
        assert_eq!(urls, expected);
    }
    // What was found can be connected to.
    for subsystem in found(&session.host, &bed, 1) {
        let url = subsystem.url().expect("TCP");
        session.connect_url(&url, &ControllerOptions::default());
    }
    session.wait_usable(&session.head(1), 2);
    session.shutdown();
}

/// More entries than are read at once.
#[test]
fn a_long_log_is_read_in_pieces() {
    let bed = Software::new();
    let name = |i: u32| format!("nqn.2026-01.org.example:many-{i}");
    for i in 0..150 {
        let config = SubsystemConfig::new(&name(i)).expect("a subsystem");
        let _ = bed.target.add_subsystem(config).expect("another subsystem");
    }
    let host = host();
    let subsystems = found(&host, &bed, 1);
    assert_eq!(subsystems.len(), 151 * 2);
    for i in 0..150 {
        let count = subsystems.iter().filter(|s| s.subnqn.as_str() == name(i)).count();
        assert_eq!(count, 2, "{}", name(i));
    }
    host.shutdown().expect("nothing is pinned");
}

/// A discovery controller that stays connected tells of changes.
#[test]
fn a_change_is_told() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let url = format!("tcp://{}", bed.address(1));
    let controller = session.connect_url(&url, &ControllerOptions::default());
    assert!(session.host.heads().is_empty(), "a discovery controller has no namespaces");
    let config = SubsystemConfig::new("nqn.2026-01.org.example:later").expect("a subsystem");
    let config = config.namespace(NamespaceConfig::memory(1, 1 << 20));
    let _ = bed.target.add_subsystem(config).expect("another subsystem");
    let told = wait_for("the change", || {
        session.take_events().into_iter().find_map(|e| match e.event {
            Event::DiscoveryChanged { controller, .. } => Some(controller),
            _ => None,
        })
    });
    assert_eq!(told, controller.id());
    session.shutdown();
}
