//! The transport against the software target, whose reading of the specification is not ours.

mod support;

use std::time::{Duration, Instant as Wall};

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::command::BlockCount;
use nvme_core::spec::fabrics::{
    CNTLID_DYNAMIC, ConnectAttributes, ConnectData, ConnectResponse, PropertySize, property,
};
use nvme_core::spec::{Cqe, Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Completion, Data, Queue, QueueParams, QueueStatus, Transport as _,
};
use nvme_target::{NamespaceConfig, SubsystemConfig, SuccessFlag, Target, Transport};
use nvme_tcp::TcpTransport;
use support::{bytes, pattern};
use zerocopy::IntoBytes;

const NQN: &str = "nqn.2026-01.org.example:sub";
const LIMIT: Duration = Duration::from_secs(20);
const BLOCK: usize = 512;

/// Polls until `n` commands are done.
fn wait(queue: &mut dyn Queue, done: &mut Vec<Completion>, n: usize) {
    let start = Wall::now();
    while done.len() < n {
        let status = queue.poll(Instant::ZERO + start.elapsed(), done);
        assert!(!matches!(status, QueueStatus::Failed(_)), "{status:?}");
        assert!(start.elapsed() < LIMIT, "{} of {n} done", done.len());
        std::thread::yield_now();
    }
}

fn one(queue: &mut dyn Queue, sqe: Sqe, data: Data) -> Cqe {
    queue.submit(sqe, data, 1).unwrap();
    queue.flush();
    let mut done = Vec::new();
    wait(queue, &mut done, 1);
    assert_eq!(done[0].cqe.status(), Status::SUCCESS, "{sqe:?}");
    done[0].cqe
}

fn open(association: &mut dyn Association, qid: u16, cntlid: u16) -> (Box<dyn Queue>, u16) {
    let params = QueueParams { qid, entries: 64, open_timeout: LIMIT };
    let mut queue = association.open_queue(params, Instant::ZERO).unwrap();
    let start = Wall::now();
    loop {
        match queue.poll(Instant::ZERO + start.elapsed(), &mut Vec::new()) {
            QueueStatus::Ready => break,
            QueueStatus::Opening => std::thread::yield_now(),
            QueueStatus::Ending(error) | QueueStatus::Failed(error) => panic!("{error}"),
        }
    }
    let (subsystem, host) = (Nqn::new(NQN).unwrap(), Nqn::from_uuid(Uuid([7; 16])));
    let data = ConnectData::new(Uuid([7; 16]), cntlid, &subsystem, &host);
    let sqe = Sqe::connect(qid, 63, ConnectAttributes::empty(), 0);
    let cqe = one(queue.as_mut(), sqe, Data::Write(data.as_bytes().to_vec().into()));
    (queue, ConnectResponse::from_cqe(&cqe).cntlid)
}

/// Connects, enables the controller, and writes and reads back data of many sizes at once.
fn exercise(target: Transport, in_capsule: u32, query: &str) {
    let subsystem = SubsystemConfig::new(NQN)
        .unwrap()
        .in_capsule(in_capsule)
        .namespace(NamespaceConfig::memory(1, 16 << 20).block_size(BLOCK as u32));
    let target = Target::builder()
        .subsystem(subsystem)
        .listen("127.0.0.1:0")
        .transport(target)
        .start()
        .unwrap();
    let url = format!("tcp://{}/{NQN}{query}", target.addr(0).unwrap());
    let endpoint = TcpTransport::new().endpoint(&url).unwrap();
    let mut association = endpoint.associate(Instant::ZERO).unwrap();
    let (mut admin, cntlid) = open(association.as_mut(), 0, CNTLID_DYNAMIC);
    // I/O queue entry sizes 64 and 16, enabled.
    let enable = Sqe::property_set(property::CC, PropertySize::Four, 0x0046_0001);
    one(admin.as_mut(), enable, Data::None);
    let csts =
        one(admin.as_mut(), Sqe::property_get(property::CSTS, PropertySize::Four), Data::None);
    assert_eq!(csts.result() & 1, 1, "ready");
    // Number of queues: as many as there are.
    one(admin.as_mut(), Sqe::set_features(7, false, 0, 0x0003_0003), Data::None);

    for qid in 1..=2 {
        let (mut queue, _) = open(association.as_mut(), qid, cntlid);
        queue.set_in_capsule_data(in_capsule as usize);
        let sizes = [1, 8, 9, 33, 256, 1000, 2048, 16];
        let blocks = |i: usize| BlockCount::new(sizes[i]).unwrap();
        let lba = |i: usize| i as u64 * 2048;
        let mut done = Vec::new();
        for round in 0..3usize {
            for (i, size) in sizes.iter().enumerate() {
                let mut data = pattern(*size as usize * BLOCK);
                data[0] = round as u8;
                let sqe = Sqe::write(1, lba(i), blocks(i));
                queue.submit(sqe, Data::Write(data.into()), i as u32).unwrap();
            }
            queue.flush();
            wait(queue.as_mut(), &mut done, sizes.len());
            for (i, size) in sizes.iter().enumerate() {
                let buffer = Buffer::zeroed(*size as usize * BLOCK);
                let sqe = Sqe::read(1, lba(i), blocks(i));
                queue.submit(sqe, Data::Read(buffer), 100 + i as u32).unwrap();
            }
            queue.flush();
            wait(queue.as_mut(), &mut done, 2 * sizes.len());
            for completion in done.drain(..) {
                assert_eq!(completion.cqe.status(), Status::SUCCESS);
                let data = bytes(&completion);
                let mut want = pattern(sizes[completion.tag as usize % 100] as usize * BLOCK);
                want[0] = round as u8;
                assert!(data == want, "tag {}", completion.tag);
            }
        }
    }
}

#[test]
fn every_way_to_move_data() {
    for query in ["", "?hdgst=1", "?ddgst=1", "?hdgst=1&ddgst=1&maxr2t=4"] {
        exercise(Transport::new(), 16_384, query);
        let small = Transport::new()
            .cpda(7)
            .max_h2c_data(4096)
            .r2t_bytes(12_288)
            .c2h_bytes(4096)
            .success_flag(SuccessFlag::Always);
        exercise(small, 0, query);
    }
}

#[test]
fn a_target_that_grants_no_digests_is_refused() {
    let target = Target::builder()
        .subsystem(SubsystemConfig::new(NQN).unwrap())
        .listen("127.0.0.1:0")
        .transport(Transport::new().digests(false, false))
        .start()
        .unwrap();
    let url = format!("tcp://{}/{NQN}?hdgst=1", target.addr(0).unwrap());
    let endpoint = TcpTransport::new().endpoint(&url).unwrap();
    let mut association = endpoint.associate(Instant::ZERO).unwrap();
    let params = QueueParams { qid: 0, entries: 32, open_timeout: LIMIT };
    let mut queue = association.open_queue(params, Instant::ZERO).unwrap();
    let start = Wall::now();
    loop {
        match queue.poll(Instant::ZERO + start.elapsed(), &mut Vec::new()) {
            QueueStatus::Ending(error) | QueueStatus::Failed(error) => {
                assert!(error.to_string().contains("ICResp: DGST"), "{error}");
                return;
            }
            QueueStatus::Ready => panic!("ready without the digest asked for"),
            QueueStatus::Opening => assert!(start.elapsed() < LIMIT),
        }
        std::thread::yield_now();
    }
}
