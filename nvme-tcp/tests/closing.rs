//! A peer that goes away or stays silent, at every point where it can.

mod support;

use nvme_core::spec::Status;
use nvme_core::spec::tcp::PduFlags;
use nvme_core::transport::{Data, Queue, QueueStatus, TransportError};
use nvme_tcp::conn::Config;
use support::{OPEN_TIMEOUT, Pair, pattern};

/// A conversation: what the controller says after a read (tag 1), a write (tag 2) and a command
/// without data (tag 3) were sent. Returns the PDUs in order and the tags completed by each.
fn script(pair: &mut Pair) -> Vec<(Vec<u8>, Vec<u32>)> {
    let f = pair.format;
    let read = pair.read(6000, 1);
    let write = pair.write(6000, 2);
    let none = pair.issue(0, Data::None, 3);
    vec![
        (f.c2h(read, 0, &pattern(1000), PduFlags::empty()), vec![]),
        (f.r2t(write, 0, 0, 6000), vec![]),
        (f.c2h(read, 1000, &pattern(5000), PduFlags::LAST_PDU), vec![]),
        (f.ok(read), vec![1]),
        (f.ok(none), vec![3]),
        (f.ok(write), vec![2]),
    ]
}

fn lost(status: &QueueStatus) -> bool {
    matches!(status, QueueStatus::Failed(TransportError::Lost { .. }))
}

#[test]
fn a_close_at_any_byte_of_a_conversation_completes_everything_once() {
    for digest in [false, true] {
        let config = Config { header_digest: digest, data_digest: digest, ..Config::default() };
        let total: usize = script(&mut Pair::ready(config)).iter().map(|p| p.0.len()).sum();
        for cut in (0..total).filter(|c| c % 61 == 0 || !(100..total - 100).contains(c)) {
            let mut pair = Pair::ready(config);
            let script = script(&mut pair);
            let (mut answered, mut sent) = (vec![], 0);
            for (pdu, tags) in &script {
                let n = pdu.len().min(cut - sent);
                pair.send(&pdu[..n]);
                sent += n;
                if n == pdu.len() {
                    answered.extend(tags);
                }
            }
            assert!(matches!(pair.poll(), QueueStatus::Ready), "at {cut}");
            pair.close();
            assert!(lost(&pair.poll()), "at {cut}");
            let mut tags: Vec<_> = pair.done.iter().map(|d| d.tag).collect();
            for done in &pair.done {
                let status = done.cqe.status();
                let want = if answered.contains(&done.tag) {
                    Status::SUCCESS
                } else {
                    Status::ABORTED_BY_HOST
                };
                assert!(status.is(want), "at {cut}: {status:?}");
                assert_eq!(done.data.len(), if done.tag == 3 { 0 } else { 6000 });
            }
            tags.sort_unstable();
            assert_eq!(tags, [1, 2, 3], "at {cut}");
            assert!(lost(&pair.poll()));
            assert_eq!(pair.done.len(), 3);
        }
    }
}

#[test]
fn a_close_at_any_byte_of_set_up() {
    for cut in 0..128 {
        let mut pair = Pair::new(Config::default());
        pair.send(&pair.format.ic_resp(0, 4096)[..cut]);
        pair.close();
        let QueueStatus::Failed(error) = pair.poll() else { panic!("at {cut}") };
        assert_eq!(
            error.to_string(),
            "tcp://peer:4420: connection lost: closed by the peer before ICResp"
        );
    }
}

#[test]
fn a_peer_that_stays_silent_runs_into_the_deadline() {
    for got in [0, 1, 127] {
        let mut pair = Pair::new(Config::default());
        pair.send(&pair.format.ic_resp(0, 4096)[..got]);
        assert!(matches!(pair.poll(), QueueStatus::Opening));
        let deadline = pair.queue.deadline().unwrap();
        assert_eq!(deadline, pair.now + OPEN_TIMEOUT);
        pair.now = nvme_core::time::Instant::from_nanos(deadline.as_nanos() - 1);
        assert!(matches!(pair.poll(), QueueStatus::Opening));
        pair.now = deadline;
        let QueueStatus::Failed(error) = pair.poll() else { panic!() };
        assert_eq!(error.to_string(), "tcp://peer:4420: the answer to ICReq took longer than 10s");
        assert_eq!(pair.queue.deadline(), None);
    }
}

#[test]
fn a_broken_write_is_reported_after_what_the_peer_had_to_say() {
    let mut pair = Pair::ready(Config::default());
    let cid = pair.read(512, 1);
    pair.send(&pair.format.c2h_success(cid, &pattern(512)));
    pair.break_writes();
    let sqe = nvme_core::spec::Sqe::new(0, 1);
    pair.queue.submit(sqe, Data::None, 2).unwrap();
    pair.queue.flush();
    assert!(pair.queue.has_pending_work());
    assert!(lost(&pair.poll()));
    let ends: Vec<_> = pair.done.iter().map(|d| (d.tag, d.cqe.status())).collect();
    assert_eq!(ends, [(1, Status::SUCCESS), (2, Status::ABORTED_BY_HOST)]);
}

#[test]
fn a_cut_stream_takes_in_nothing_more() {
    let mut pair = Pair::ready(Config::default());
    let cid = pair.read(512, 1);
    pair.send(&pair.format.c2h_success(cid, &pattern(512)));
    pair.cut();
    let QueueStatus::Failed(error) = pair.poll() else { panic!() };
    assert_eq!(error.to_string(), "tcp://peer:4420: closed by this host");
    assert!(pair.done[0].cqe.status().is(Status::ABORTED_BY_HOST));
}
