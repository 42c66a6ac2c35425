//! Connect, properties, Identify, features.

use nvme_core::spec::command::FeatureSelect;
use nvme_core::spec::fabrics::{CNTLID_DYNAMIC, ConnectInvalidParameter, PropertySize, property};
use nvme_core::spec::feature::{NumberOfQueues, fid};
use nvme_core::spec::identify::{
    IdentifyController, IdentifyNamespace, NamespaceIds, NsidList, cns,
};
use nvme_core::spec::registers::Cap;
use nvme_core::spec::tcp::DigestFlags;
use nvme_core::spec::{Sqe, Status};
use nvme_target::{NamespaceConfig, SubsystemConfig};
use zerocopy::{FromBytes, IntoBytes};

use crate::host::{HOST, Host, NQN, Queue, connect_data, start, target, until};

fn invalid_parameter(queue: &mut Queue, sqe: Sqe, data: &[u8]) -> ConnectInvalidParameter {
    let cid = queue.send_in_capsule(sqe, data);
    let cqe = queue.response(cid);
    assert_eq!(cqe.status(), Status::CONNECT_INVALID_PARAMETERS.with_dnr());
    ConnectInvalidParameter::from_cqe(&cqe)
}

#[test]
fn connect_names_the_parameter_that_is_wrong() {
    let target = target();
    let addr = target.addr(0).unwrap();
    let connect = |qid, sqsize| Sqe::connect(qid, sqsize, Default::default(), 0);
    let mut queue = Queue::open(addr, DigestFlags::empty());
    let in_data = |offset| ConnectInvalidParameter { offset, in_data: true };
    let in_command = |offset| ConnectInvalidParameter { offset, in_data: false };

    let other = connect_data("nqn.2026-01.org.example:other", CNTLID_DYNAMIC);
    assert_eq!(invalid_parameter(&mut queue, connect(0, 31), other.as_bytes()), in_data(256));
    let mut garbage = connect_data(NQN, CNTLID_DYNAMIC);
    garbage.hostnqn = [0xff; 256];
    assert_eq!(invalid_parameter(&mut queue, connect(0, 31), garbage.as_bytes()), in_data(512));
    let chosen = connect_data(NQN, 5);
    assert_eq!(invalid_parameter(&mut queue, connect(0, 31), chosen.as_bytes()), in_data(16));
    let good = connect_data(NQN, CNTLID_DYNAMIC);
    assert_eq!(invalid_parameter(&mut queue, connect(0, 0), good.as_bytes()), in_command(44));
    assert_eq!(invalid_parameter(&mut queue, connect(0, 5000), good.as_bytes()), in_command(44));
    let nobody = connect_data(NQN, 77);
    assert_eq!(invalid_parameter(&mut queue, connect(1, 31), nobody.as_bytes()), in_data(16));

    let host = Host::new(addr);
    let mine = connect_data(NQN, host.cntlid);
    assert_eq!(invalid_parameter(&mut queue, connect(200, 31), mine.as_bytes()), in_command(42));
    // after all that, the same connection still connects
    assert!(queue.connect(NQN, host.cntlid, 1, 0).status().is_success());
    // but only once, and nobody else as the same queue
    let status = queue.connect(NQN, host.cntlid, 1, 0).status();
    assert_eq!(status, Status::SEQUENCE_ERROR.with_dnr());
    let mut second = Queue::open(addr, DigestFlags::empty());
    let status = second.connect(NQN, host.cntlid, 1, 0).status();
    assert_eq!(status, Status::SEQUENCE_ERROR.with_dnr());
}

#[test]
fn hosts_are_refused_when_not_allowed_or_too_many() {
    let stranger = "nqn.2026-01.org.example:stranger".parse().unwrap();
    let config = SubsystemConfig::new(NQN).unwrap().controllers(1).allow_hosts(vec![stranger]);
    let target = start(config);
    let addr = target.addr(0).unwrap();
    let mut queue = Queue::open(addr, DigestFlags::empty());
    let cqe = queue.connect(NQN, CNTLID_DYNAMIC, 0, 0);
    assert_eq!(cqe.status(), Status::CONNECT_INVALID_HOST.with_dnr());

    target.first_subsystem().unwrap().allow_hosts(Some(vec![HOST.parse().unwrap()]));
    let host = Host::new(addr);
    let status = queue.connect(NQN, CNTLID_DYNAMIC, 0, 0).status();
    assert_eq!(status, Status::CONNECT_CONTROLLER_BUSY);
    assert_eq!(target.first_subsystem().unwrap().controllers()[0].cntlid, host.cntlid);
    drop(host);
    until("the controller goes", || target.first_subsystem().unwrap().controllers().is_empty());
    assert!(queue.connect(NQN, CNTLID_DYNAMIC, 0, 0).status().is_success());
}

#[test]
fn nothing_but_connect_comes_first() {
    let target = target();
    let mut queue = Queue::open(target.addr(0).unwrap(), DigestFlags::empty());
    for sqe in [
        Sqe::property_get(property::CAP, PropertySize::Eight),
        Sqe::keep_alive(),
        Sqe::read(1, 0, nvme_core::spec::BlockCount::ONE),
    ] {
        assert_eq!(queue.run(sqe).status(), Status::INVALID_OPCODE.with_dnr());
    }
    let status =
        queue.store(Sqe::write(1, 0, nvme_core::spec::BlockCount::ONE), &[0; 512]).status();
    assert_eq!(status, Status::INVALID_OPCODE.with_dnr());
    let connect = Sqe::connect(0, 31, Default::default(), 0);
    let cqe = queue.store(connect, connect_data(NQN, CNTLID_DYNAMIC).as_bytes());
    assert!(cqe.status().is_success(), "Connect data may be asked for by R2T");
}

#[test]
fn properties_are_those_of_the_kernels_target() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let mut get = |ofst, size| host.admin.run(Sqe::property_get(ofst, size));
    assert_eq!(get(property::CAP, PropertySize::Eight).result(), 0x0000_0820_0f00_03ff);
    assert_eq!(get(property::VS, PropertySize::Four).result(), 0x0001_0300);
    assert_eq!(get(property::CC, PropertySize::Four).result(), crate::host::CC_ENABLE);
    let cap = Cap(get(property::CAP, PropertySize::Eight).result());
    assert_eq!((cap.max_queue_entries(), cap.timeout_ms()), (1024, 7500));
    let invalid = Status::INVALID_FIELD.with_dnr();
    assert_eq!(get(property::CAP, PropertySize::Four).status(), invalid);
    assert_eq!(get(0x30, PropertySize::Eight).status(), invalid);

    // entry sizes that no I/O controller has: fatal
    let cc = |cc| Sqe::property_set(property::CC, PropertySize::Four, cc);
    host.admin.run(cc(0));
    host.admin.run(cc(1));
    let csts = host.admin.run(Sqe::property_get(property::CSTS, PropertySize::Four));
    assert_eq!(csts.result(), 2, "CFS, not ready");
}

#[test]
fn identify_tells_what_a_host_needs() {
    let target = start(SubsystemConfig::new(NQN).unwrap().serial("S1").model("M1"));
    target.add_namespace(NamespaceConfig::memory(7, 1 << 20).ana_group(2)).unwrap();
    target.add_namespace(NamespaceConfig::memory(9, 1 << 20).disabled()).unwrap();
    let mut host = Host::new(target.addr(0).unwrap());
    let id = host.identify(cns::CONTROLLER, 0).unwrap();
    let id = IdentifyController::read_from_bytes(&id).unwrap();
    assert_eq!((id.serial().as_str(), id.model().as_str()), ("S1", "M1"));
    assert_eq!(id.subsystem_nqn().unwrap().as_str(), NQN);
    assert_eq!(id.cntlid.get(), host.cntlid);
    assert_eq!((id.ioccsz.get(), id.iorcsz.get(), id.icdoff.get()), (1028, 1, 0));
    assert_eq!(id.in_capsule_len(), Some(16 << 10));
    assert_eq!((id.sqes, id.cqes, id.maxcmd.get()), (0x66, 0x44, 1024));
    assert_eq!((id.kas.get(), id.nn.get(), id.mnan.get()), (10, 16_384, 16_384));
    assert_eq!((id.sgls.get(), id.oaes.get(), id.cmic.bits()), (0x10_0001, 0x900, 0xb));
    assert_eq!((id.anacap.bits(), id.anatt), (31, 10));
    assert!(id.reports_ana() && id.has_volatile_write_cache());

    let page = host.identify(cns::ACTIVE_NAMESPACES, 0).unwrap();
    let list = NsidList::ref_from_bytes(&page).unwrap();
    assert_eq!(list.above(0).unwrap(), [1, 7]);
    let page = host.identify(cns::ACTIVE_NAMESPACES, 1).unwrap();
    let list = NsidList::ref_from_bytes(&page).unwrap();
    assert_eq!(list.above(1).unwrap(), [7]);
    let invalid_ns = Status::INVALID_NAMESPACE.with_dnr();
    assert_eq!(host.identify(cns::ACTIVE_NAMESPACES, u32::MAX - 1), Err(invalid_ns));

    let ns =
        IdentifyNamespace::read_from_bytes(&host.identify(cns::NAMESPACE, 7).unwrap()).unwrap();
    assert_eq!((ns.nsze.get(), ns.block_size().unwrap(), ns.anagrpid.get()), (256, 4096, 2));
    assert_eq!(host.identify(cns::NAMESPACE, 9).unwrap(), [0; 4096], "disabled");
    assert_eq!(host.identify(cns::NAMESPACE, 0), Err(invalid_ns));

    let ids = |host: &mut Host, nsid| {
        NamespaceIds::parse(&host.identify(cns::NAMESPACE_DESCRIPTORS, nsid).unwrap()).unwrap()
    };
    let (one, seven) = (ids(&mut host, 1), ids(&mut host, 7));
    assert!(one.uuid.is_some() && one.uuid != seven.uuid);
    assert_eq!(host.identify(cns::NAMESPACE_DESCRIPTORS, 9), Err(invalid_ns));
    assert_eq!(host.identify(0x42, 0), Err(Status::INVALID_FIELD.with_dnr()));

    let new = nvme_target::NamespaceIds {
        eui64: nvme_core::nqn::Eui64([1; 8]),
        nguid: nvme_core::nqn::Nguid([2; 16]),
        ..Default::default()
    };
    target.set_namespace_ids(1, new).unwrap();
    let changed = ids(&mut host, 1);
    assert_eq!(
        (changed.eui64, changed.nguid, changed.uuid),
        (Some(new.eui64), Some(new.nguid), None)
    );
}

#[test]
fn features_are_set_and_got() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let mut run = |sqe| host.admin.run(sqe);
    let get = |fid| Sqe::get_features(fid, FeatureSelect::Current, 0, 0);
    let set = |fid, value| Sqe::set_features(fid, false, 0, value);
    let invalid = Status::INVALID_FIELD.with_dnr();

    let asked = NumberOfQueues::pairs(4).to_dword();
    let granted = run(set(fid::NUMBER_OF_QUEUES, asked)).result() as u32;
    assert_eq!(NumberOfQueues::from_dword(granted).queue_pairs(), 128);
    target.first_subsystem().unwrap().set_queue_limit(2);
    let granted = run(set(fid::NUMBER_OF_QUEUES, asked)).result() as u32;
    assert_eq!(NumberOfQueues::from_dword(granted).queue_pairs(), 2);
    assert_eq!(run(set(fid::NUMBER_OF_QUEUES, 0xffff)).status(), invalid);

    assert!(run(set(fid::KEEP_ALIVE_TIMER, 60_000)).status().is_success());
    assert_eq!(run(get(fid::KEEP_ALIVE_TIMER)).result(), 60_000);
    assert_eq!(run(get(fid::ASYNC_EVENT_CONFIG)).result(), 0x900);
    assert_eq!(run(set(fid::ASYNC_EVENT_CONFIG, 1 << 31)).status(), invalid);
    assert!(run(set(fid::ASYNC_EVENT_CONFIG, 0x100)).status().is_success());
    assert_eq!(run(get(fid::ASYNC_EVENT_CONFIG)).result(), 0x100);
    // There is always a power state 0, and the controller is in it.
    let power = run(get(fid::POWER_MANAGEMENT));
    assert!(power.status().is_success());
    assert_eq!(power.result(), 0);
    assert_eq!(run(set(0xfe, 0)).status(), invalid);
    let saved = Sqe::set_features(fid::ARBITRATION, true, 0, 1);
    assert_eq!(run(saved).status(), Status::FEATURE_NOT_SAVEABLE.with_dnr());
    assert_eq!(run(Sqe::new(0x80, 1)).status(), Status::INVALID_OPCODE.with_dnr());

    let behavior = nvme_core::spec::feature::HostBehavior::with_command_retry();
    let set = set(fid::HOST_BEHAVIOR, 0);
    assert!(host.admin.store(set, behavior.as_bytes()).status().is_success());
    let (data, _) = host.admin.fetch(get(fid::HOST_BEHAVIOR), 512);
    assert_eq!(data, behavior.as_bytes());
}
