//! The discovery controller.

use nvme_core::nqn::DISCOVERY_NQN;
use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::identify::{ControllerType, IdentifyController, cns};
use nvme_core::spec::log::{DiscoveryLog, TransportType, lid};
use nvme_core::spec::tcp::DigestFlags;
use nvme_core::spec::{Sqe, Status};
use nvme_target::SubsystemConfig;
use zerocopy::FromBytes;

use crate::host::{Host, NQN, Queue, target};

/// Generation, and the entries as (subsystem, port).
fn listing(host: &mut Host) -> (u64, Vec<(String, String)>) {
    let page = host.log(GetLogPage::new(lid::DISCOVERY, 16 << 10)).unwrap();
    let log = DiscoveryLog::parse(&page).unwrap();
    let entries = log.entries().iter().map(|e| {
        assert_eq!(e.trtype, TransportType::TCP);
        assert_eq!(e.address().unwrap(), "127.0.0.1");
        (e.subsystem_nqn().unwrap().to_string(), e.service().unwrap().to_owned())
    });
    (log.genctr(), entries.collect())
}

#[test]
fn every_subsystem_is_listed_on_every_listener_that_is_on() {
    let target = target();
    let ports = [0, 1].map(|i| target.addr(i).unwrap().port().to_string());
    let mut host = Host::with(target.addr(1).unwrap(), DISCOVERY_NQN, DigestFlags::empty(), 30_000);
    let both: Vec<_> = ports.iter().map(|p| (NQN.to_owned(), p.clone())).collect();
    let (generation, entries) = listing(&mut host);
    assert_eq!(entries, both);

    let request = host.admin.send_transport(Sqe::async_event_request(), 0);
    target.listener(0).unwrap().disable().unwrap();
    assert_eq!(host.admin.response(request).result(), 0x70_f0_02);
    let (after, entries) = listing(&mut host);
    assert!(after > generation);
    assert_eq!(entries, both[1..]);

    let other = "nqn.2026-01.org.example:z-other";
    let request = host.admin.send_transport(Sqe::async_event_request(), 0);
    target.add_subsystem(SubsystemConfig::new(other).unwrap()).unwrap();
    assert_eq!(host.admin.response(request).result(), 0x70_f0_02);
    let (_, entries) = listing(&mut host);
    assert_eq!(entries[1], (other.to_owned(), ports[1].clone()));
    target.remove_subsystem(other).unwrap();
    assert_eq!(listing(&mut host).1, both[1..]);

    // in two reads, as hosts do: the header first, then the rest from an offset
    let header = host.log(GetLogPage::new(lid::DISCOVERY, 1024)).unwrap();
    assert_eq!(header[8], 1);
    let rest = GetLogPage { offset: 1024, ..GetLogPage::new(lid::DISCOVERY, 1024) };
    assert_eq!(host.log(rest).unwrap()[0], TransportType::TCP.0);
}

#[test]
fn a_discovery_controller_does_little_else() {
    let target = target();
    let mut host = Host::with(target.addr(0).unwrap(), DISCOVERY_NQN, DigestFlags::empty(), 0);
    let id = host.identify(cns::CONTROLLER, 0).unwrap();
    let id = IdentifyController::read_from_bytes(&id).unwrap();
    assert_eq!(id.cntrltype, ControllerType::DISCOVERY);
    assert_eq!(id.subsystem_nqn().unwrap().as_str(), DISCOVERY_NQN);
    assert_eq!((id.nn.get(), id.oaes.get()), (0, 1 << 31));
    let invalid = Status::INVALID_FIELD.with_dnr();
    assert_eq!(host.identify(cns::ACTIVE_NAMESPACES, 0), Err(invalid));
    let ana = GetLogPage::new(lid::ANA, 4096);
    assert_eq!(host.log(ana), Err(Status::INVALID_LOG_PAGE.with_dnr()));
    let abort = host.admin.run(Sqe::abort(0, 1)).status();
    assert_eq!(abort, Status::INVALID_OPCODE.with_dnr());
    let mut queue = Queue::open(host.addr, DigestFlags::empty());
    let status = queue.connect(DISCOVERY_NQN, host.cntlid, 1, 0).status();
    assert_eq!(status, Status::CONNECT_INVALID_PARAMETERS.with_dnr());
}
