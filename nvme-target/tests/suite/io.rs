//! Blocks go in and come out: by capsule, by R2T, with digests and without; and what cannot be done is refused.

use nvme_core::spec::command::{DsmAttributes, DsmRange};
use nvme_core::spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectResponse, PropertySize, property,
};
use nvme_core::spec::tcp::DigestFlags;
use nvme_core::spec::{BlockCount, Sqe, Status};
use nvme_target::{AnaState, NamespaceConfig, SubsystemConfig, Target, Transport};
use zerocopy::IntoBytes;

use crate::host::{CC_ENABLE, Host, NQN, Queue, target};

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i as u8) ^ seed).collect()
}

fn blocks(bytes: usize) -> BlockCount {
    BlockCount::new(bytes as u32 / 512).unwrap()
}

fn write_and_read(queue: &mut Queue, bytes: usize, seed: u8) {
    let data = pattern(bytes, seed);
    let cqe = queue.store(Sqe::write(1, 3, blocks(bytes)), &data);
    assert!(cqe.status().is_success(), "{bytes}: {:?}", cqe.status());
    let (back, cqe) = queue.fetch(Sqe::read(1, 3, blocks(bytes)), bytes as u32);
    assert!(cqe.unwrap().status().is_success());
    assert!(back == data, "{bytes} bytes by R2T came back different");

    if bytes <= 16 << 10 {
        let data = pattern(bytes, !seed);
        let cid = queue.send_in_capsule(Sqe::write(1, 3, blocks(bytes)), &data);
        assert!(queue.response(cid).status().is_success());
        let (back, _) = queue.fetch(Sqe::read(1, 3, blocks(bytes)), bytes as u32);
        assert!(back == data, "{bytes} bytes by capsule came back different");
    }
}

#[test]
fn what_was_written_is_read_with_every_choice_of_digests() {
    let target = target();
    for digests in 0..4 {
        let digests = DigestFlags::from_bits_retain(digests);
        let host = Host::with(target.addr(0).unwrap(), NQN, digests, 0);
        let mut queue = host.queue(1);
        let sizes = [512, 1024, 4096, 16 << 10, 64 << 10, 512 << 10];
        for (seed, bytes) in sizes.into_iter().enumerate() {
            write_and_read(&mut queue, bytes, seed as u8);
        }
    }
}

#[test]
fn small_r2ts_small_h2c_pdus_and_small_c2h_pdus_carry_the_same_data() {
    let transport =
        Transport::new().max_h2c_data(4096).r2t_bytes(10_000).c2h_bytes(8192).digests(false, true);
    let subsystem = SubsystemConfig::new(NQN)
        .unwrap()
        .namespace(NamespaceConfig::memory(1, 1 << 20).block_size(512));
    let target = Target::builder()
        .subsystem(subsystem)
        .transport(transport)
        .threads(2)
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let both = DigestFlags::HEADER | DigestFlags::DATA;
    let host = Host::with(target.addr(0).unwrap(), NQN, both, 0);
    let mut queues = [host.queue(1), host.queue(2), host.queue(3)];
    assert_eq!(queues[0].digests, DigestFlags::DATA, "only what is granted");
    for (seed, queue) in queues.iter_mut().enumerate() {
        write_and_read(queue, 200 << 10, seed as u8);
        write_and_read(queue, 512, seed as u8);
    }
}

#[test]
fn without_flow_control_reads_end_with_the_success_flag() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = Queue::open(host.addr, DigestFlags::empty());
    let attributes = ConnectAttributes::DISABLE_SQ_FLOW_CONTROL;
    let cqe = queue.connect_with(NQN, host.cntlid, 1, 0, attributes);
    assert!(cqe.status().is_success());
    assert_eq!(cqe.sqhd.get(), 0xffff);
    let (data, cqe) = queue.fetch(Sqe::read(1, 0, blocks(4096)), 4096);
    assert_eq!(data, [0; 4096]);
    assert!(cqe.is_none(), "a response came in spite of the flag");

    let mut with_flow_control = host.queue(2);
    for expected in 2..=4 {
        let (_, cqe) = with_flow_control.fetch(Sqe::read(1, 0, BlockCount::ONE), 512);
        assert_eq!(cqe.unwrap().sqhd.get(), expected, "Connect was the first");
    }
}

#[test]
fn zeroes_compare_deallocate_and_flush() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let data = pattern(4096, 1);
    assert!(queue.store(Sqe::write(1, 0, blocks(4096)), &data).status().is_success());
    assert!(queue.run(Sqe::flush(1)).status().is_success());
    assert!(queue.store(Sqe::compare(1, 0, blocks(4096)), &data).status().is_success());
    let other = pattern(4096, 2);
    let status = queue.store(Sqe::compare(1, 0, blocks(4096)), &other).status();
    assert!(status.is(Status::COMPARE_FAILURE), "{status}");

    assert!(queue.run(Sqe::write_zeroes(1, 1, BlockCount::ONE)).status().is_success());
    let ranges = [DsmRange::new(3, 2), DsmRange::new(7, 1)];
    let dsm = Sqe::dataset_management(1, ranges.len(), DsmAttributes::DEALLOCATE).unwrap();
    // with room for 256 ranges, as Linux's host sends it
    let mut room = ranges.as_bytes().to_vec();
    room.resize(4096, 0xff);
    assert!(queue.store(dsm, &room).status().is_success());
    assert!(queue.store(dsm, ranges.as_bytes()).status().is_success());
    let status = queue.store(dsm, &ranges.as_bytes()[..16]).status();
    assert_eq!(status, Status::SGL_INVALID_DATA_LENGTH.with_dnr());
    let (back, _) = queue.fetch(Sqe::read(1, 0, blocks(4096)), 4096);
    for (block, (back, data)) in back.chunks(512).zip(data.chunks(512)).enumerate() {
        let zeroed = matches!(block, 1 | 3 | 4 | 7);
        assert_eq!(back == [0; 512], zeroed, "block {block}");
        assert_eq!(back == data, !zeroed, "block {block}");
    }
}

#[test]
fn commands_that_cannot_run_fail_as_the_kernel_fails_them() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let end = (1 << 20) / 512;
    let mut check = |what: &str, sqe: Sqe, len: u32, expected: Status| {
        let (_, cqe) = queue.fetch(sqe, len);
        assert_eq!(cqe.unwrap().status(), expected, "{what}");
    };
    let dnr = |status: Status| status.with_dnr();
    let one = BlockCount::ONE;
    check("past the end", Sqe::read(1, end, one), 512, dnr(Status::LBA_OUT_OF_RANGE));
    check("over the end", Sqe::read(1, end - 1, blocks(1024)), 1024, dnr(Status::LBA_OUT_OF_RANGE));
    check("far past", Sqe::read(1, u64::MAX, one), 512, dnr(Status::LBA_OUT_OF_RANGE));
    check("namespace", Sqe::read(2, 0, one), 512, dnr(Status::INVALID_NAMESPACE));
    check("namespace 0", Sqe::read(0, 0, one), 512, dnr(Status::INVALID_NAMESPACE));
    check("opcode", Sqe::new(0x7e, 1), 0, dnr(Status::INVALID_OPCODE));
    check("length", Sqe::read(1, 0, one), 1024, dnr(Status::SGL_INVALID_DATA_LENGTH));
    check("zeroes past the end", Sqe::write_zeroes(1, end, one), 0, dnr(Status::LBA_OUT_OF_RANGE));
    let mut fused = Sqe::read(1, 0, one);
    fused.flags |= 1;
    check("fused", fused, 512, dnr(Status::INVALID_FIELD));
    let mut prp = Sqe::read(1, 0, one);
    prp.set_prp(4096, 0);
    let cid = queue.send(prp, &[]);
    assert_eq!(queue.response(cid).status(), dnr(Status::INVALID_FIELD));

    // an R2T is not sent for a write that cannot succeed
    let status = queue.store(Sqe::write(1, end, one), &[0; 512]).status();
    assert_eq!(status, dnr(Status::LBA_OUT_OF_RANGE));

    let log = nvme_core::spec::command::GetLogPage::new(nvme_core::spec::log::lid::ERROR, 64);
    let entry = host.log(log).unwrap();
    assert_eq!(entry[0], 11, "each failure is in the error log");
    assert_eq!(u16::from_le_bytes([entry[8], entry[9]]), 1, "of queue 1");
}

#[test]
fn transfers_are_limited_by_mdts() {
    let subsystem =
        SubsystemConfig::new(NQN).unwrap().mdts(1).namespace(NamespaceConfig::memory(1, 1 << 20));
    let target = Target::builder().subsystem(subsystem).listen("127.0.0.1:0").start().unwrap();
    let host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let read = |blocks| Sqe::read(1, 0, BlockCount::new(blocks).unwrap());
    assert!(queue.fetch(read(2), 8192).1.unwrap().status().is_success());
    let status = queue.fetch(read(3), 12288).1.unwrap().status();
    assert_eq!(status, Status::INVALID_FIELD.with_dnr());
}

#[test]
fn ana_states_fail_io_on_their_listener_only() {
    let target = target();
    let hosts = [0, 1].map(|listener| Host::new(target.addr(listener).unwrap()));
    let mut queues = hosts.each_ref().map(|host| host.queue(1));
    for (state, expected) in [
        (AnaState::NonOptimized, Status::SUCCESS),
        (AnaState::Inaccessible, Status::ANA_INACCESSIBLE),
        (AnaState::PersistentLoss, Status::ANA_PERSISTENT_LOSS),
        (AnaState::Change, Status::ANA_TRANSITION),
        (AnaState::Optimized, Status::SUCCESS),
    ] {
        target.set_ana(1, 1, state).unwrap();
        let read = Sqe::read(1, 0, BlockCount::ONE);
        assert!(queues[0].fetch(read, 512).1.unwrap().status().is_success());
        assert_eq!(queues[1].fetch(read, 512).1.unwrap().status(), expected, "{state:?}");
    }
}

#[test]
fn io_needs_an_enabled_controller() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let set_cc = |cc| Sqe::property_set(property::CC, PropertySize::Four, cc);
    host.admin.run(set_cc(CC_ENABLE & !1));
    let status = queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512).1.unwrap().status();
    assert_eq!(status, Status::SEQUENCE_ERROR.with_dnr());
    let status = host.identify(1, 0).unwrap_err();
    assert_eq!(status, Status::SEQUENCE_ERROR.with_dnr());
    let mut third = Queue::open(host.addr, DigestFlags::empty());
    let status = third.connect(NQN, host.cntlid, 2, 0).status();
    assert_eq!(status, Status::SEQUENCE_ERROR.with_dnr());

    host.admin.run(set_cc(CC_ENABLE));
    let status = queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512).1.unwrap().status();
    assert!(status.is_success());
    // shutdown
    host.admin.run(set_cc(CC_ENABLE | 1 << 14));
    let csts = host.admin.run(Sqe::property_get(property::CSTS, PropertySize::Four)).result();
    assert_eq!(csts, 2 << 2, "shut down, and not ready");
}

#[test]
fn a_lost_admin_queue_takes_the_association_along() {
    let target = target();
    let host = Host::new(target.addr(0).unwrap());
    let cntlid = host.cntlid;
    let mut queue = host.queue(1);
    drop(host);
    queue.expect_close();
    let mut late = Queue::open(target.addr(0).unwrap(), DigestFlags::empty());
    let status = late.connect(NQN, cntlid, 1, 0).status();
    assert_eq!(status, Status::CONNECT_INVALID_PARAMETERS.with_dnr());

    let mut again = Queue::open(target.addr(0).unwrap(), DigestFlags::empty());
    let next = ConnectResponse::from_cqe(&again.connect(NQN, CNTLID_DYNAMIC, 0, 0)).cntlid;
    assert_ne!(next, cntlid, "an identifier does not come back at once");
}
