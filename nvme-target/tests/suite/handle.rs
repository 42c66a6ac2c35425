//! What the handle does to a running target.

use std::net::TcpStream;

use nvme_core::spec::{BlockCount, Sqe, Status};
use nvme_target::{AnaState, Backing, NamespaceConfig, SubsystemConfig, Target, TargetError};

use crate::host::{Host, NQN, start, target, until};

#[test]
fn a_disabled_listener_refuses_and_comes_back_on_its_port() {
    let target = target();
    let addr = target.addr(0).unwrap();
    let mut host = Host::new(addr);
    let mut queue = host.queue(1);
    let mut other = Host::new(target.addr(1).unwrap());
    for round in 0..3 {
        target.listener(0).unwrap().disable().unwrap();
        assert_eq!(target.stats().open, 1, "round {round}: only the other listener's");
        host.admin.expect_close();
        queue.expect_close();
        let refused = TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(other.admin.run(Sqe::keep_alive()).status().is_success());

        target.listener(0).unwrap().enable().unwrap();
        assert_eq!(target.listener(0).unwrap().addr().unwrap(), addr);
        host = Host::new(addr);
        queue = host.queue(1);
    }
    // enabling an enabled listener leaves its connections alone
    target.listener(0).unwrap().enable().unwrap();
    assert!(host.admin.run(Sqe::keep_alive()).status().is_success());
    drop(queue);
}

#[test]
fn killed_connections_can_be_made_anew_at_once() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    target.kill_connections(0).unwrap();
    host.admin.expect_close();
    let mut host = Host::new(target.addr(0).unwrap());
    let subsystem = target.first_subsystem().unwrap();
    assert!(subsystem.close_controller(host.cntlid));
    assert!(!subsystem.close_controller(host.cntlid));
    host.admin.expect_close();

    let mut host = Host::new(target.addr(0).unwrap());
    assert!(subsystem.fail_controller(host.cntlid));
    let csts = nvme_core::spec::fabrics::property::CSTS;
    let four = nvme_core::spec::fabrics::PropertySize::Four;
    assert_eq!(host.admin.run(Sqe::property_get(csts, four)).result() & 2, 2, "CFS");
}

#[test]
fn what_io_sees_of_a_namespace_follows_the_handle() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let mut read = |nsid, lba| {
        let (_, cqe) = queue.fetch(Sqe::read(nsid, lba, BlockCount::ONE), 512);
        cqe.unwrap().status()
    };
    assert!(read(1, 2047).is_success());
    target.resize_namespace(1, 1 << 19).unwrap();
    assert_eq!(read(1, 2047), Status::LBA_OUT_OF_RANGE.with_dnr());
    target.resize_namespace(1, 0).unwrap();
    assert_eq!(read(1, 0), Status::LBA_OUT_OF_RANGE.with_dnr(), "a namespace of no blocks");
    target.resize_namespace(1, 1 << 20).unwrap();
    target.enable_namespace(1, false).unwrap();
    assert_eq!(read(1, 0), Status::INTERNAL_PATH_ERROR);
    target.enable_namespace(1, true).unwrap();
    assert!(read(1, 0).is_success());
    target.add_namespace(NamespaceConfig::null(4, 1 << 40).block_size(512)).unwrap();
    assert!(read(4, (1 << 31) - 1).is_success());
    target.first_subsystem().unwrap().set_namespace_group(4, 9).unwrap();
    target.set_ana(0, 9, AnaState::Inaccessible).unwrap();
    assert_eq!(read(4, 0), Status::ANA_INACCESSIBLE);
    target.remove_namespace(4).unwrap();
    assert_eq!(read(4, 0), Status::INVALID_NAMESPACE.with_dnr());
}

#[test]
fn a_file_keeps_what_was_written_when_the_target_is_gone() {
    let path = std::env::temp_dir().join(format!("nvme-target-file-{}", std::process::id()));
    std::fs::write(&path, vec![0; 64 << 10]).unwrap();
    let run = |write: bool| {
        let namespace = NamespaceConfig::file(1, &path, None).unwrap().block_size(512);
        let subsystem = SubsystemConfig::new(NQN).unwrap().namespace(namespace);
        let target = Target::builder().subsystem(subsystem).listen("127.0.0.1:0").start().unwrap();
        let host = Host::new(target.addr(0).unwrap());
        let mut queue = host.queue(1);
        if write {
            let sqe = Sqe::write(1, 127, BlockCount::ONE);
            assert!(queue.store(sqe, &[0xa5; 512]).status().is_success());
            assert!(queue.run(Sqe::flush(1)).status().is_success());
        }
        queue.fetch(Sqe::read(1, 127, BlockCount::ONE), 512).0
    };
    run(true);
    assert_eq!(run(false), [0xa5; 512]);
    let Backing::File(file) = Backing::file(&path).unwrap() else { panic!("no file") };
    assert_eq!(file.metadata().unwrap().len(), 64 << 10);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_not_possible_is_refused_with_a_reason() {
    let target = target();
    let error = |result: Result<(), TargetError>| result.unwrap_err().to_string();
    assert_eq!(
        error(target.add_namespace(NamespaceConfig::memory(1, 1))),
        "namespace 1 is there already"
    );
    assert_eq!(
        error(target.add_namespace(NamespaceConfig::memory(0, 1))),
        "namespace identifier 0: 1 to 16384 are possible"
    );
    let odd = NamespaceConfig::memory(2, 1).block_size(1000);
    assert_eq!(
        error(target.add_namespace(odd)),
        "namespace 2: blocks of 1000 bytes; 512 and 4096 are possible"
    );
    let ana = target.set_ana(0, 129, AnaState::Optimized);
    assert_eq!(error(ana), "ANA group 129: 1 to 128 are possible");
    assert_eq!(error(target.remove_namespace(3)), "no namespace 3 in this subsystem");
    assert_eq!(error(target.kill_connections(2)), "no listener 2 in this target");
    assert!(target.subsystem("nqn.2026-01.org.example:none").is_err());
    assert!(target.add_subsystem(SubsystemConfig::new(NQN).unwrap()).is_err());
    assert!(SubsystemConfig::new("").is_err());
    let taken = Target::builder().listen(&target.addr(0).unwrap().to_string()).start();
    assert!(matches!(taken, Err(TargetError::Listen { .. })));
    assert!(Target::builder().listen("nonsense").start().is_err());
}

#[test]
fn dropping_the_target_closes_everything() {
    let target = start(SubsystemConfig::new(NQN).unwrap());
    let addr = target.addr(0).unwrap();
    let mut host = Host::new(addr);
    drop(target);
    host.admin.expect_close();
    until("the port is free", || TcpStream::connect(addr).is_err());
}

#[test]
fn commands_connections_and_bytes_are_counted() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let before = target.stats();
    assert_eq!((before.accepted, before.open, before.terminated), (2, 2, 0));
    assert_eq!(before.admin_commands[&0x7f], 4);
    queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512);
    host.identify(1, 0).unwrap();
    let after = target.stats();
    assert_eq!(after.io_commands[&0x02], 1);
    assert_eq!(after.admin_commands[&0x06], 1);
    assert_eq!(after.bytes_received - before.bytes_received, 2 * 72);
    let connecting = 2 * 128 + 2 * 24 + 2 * 24;
    let sent = connecting + (24 + 512 + 24) + (24 + 4096 + 24);
    until("all is counted", || target.stats().bytes_sent == sent);
    drop((host, queue));
    until("all is closed", || target.stats().open == 0);
}
