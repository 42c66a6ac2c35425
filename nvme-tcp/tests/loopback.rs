//! The transport over real sockets on the loopback interface.

mod support;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant as Wall};

use nvme_core::buffer::Buffer;
use nvme_core::spec::command::SUBTYPE_OFFSET;
use nvme_core::spec::tcp::{CapsuleCmd, CommonHeader, PduType};
use nvme_core::spec::{Sqe, Status};
use nvme_core::time::Instant;
use nvme_core::transport::{
    Association, Completion, Data, Endpoint, Queue, QueueParams, QueueStatus, Transport,
    TransportError, TransportKind,
};
use nvme_tcp::TcpTransport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::wire::Format;
use support::{READ, WRITE, bytes, pattern};
use zerocopy::FromBytes;

const NQN: &str = "nqn.2026-01.org.example:sub";
const LIMIT: Duration = Duration::from_secs(20);

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}/{NQN}", listener.local_addr().unwrap());
    (listener, url)
}

fn endpoint(url: &str) -> Arc<dyn Endpoint> {
    TcpTransport::new().endpoint(url).unwrap()
}

fn params(qid: u16) -> QueueParams {
    QueueParams { qid, entries: 64, open_timeout: Duration::from_secs(30) }
}

/// The present, on a time line that began with the test.
fn now(start: Wall) -> Instant {
    Instant::ZERO + start.elapsed()
}

/// Polls, sleeping on the descriptor, until `until` says so.
fn drive(
    queue: &mut dyn Queue,
    done: &mut Vec<Completion>,
    mut until: impl FnMut(&QueueStatus, &[Completion]) -> bool,
) -> QueueStatus {
    let start = Wall::now();
    loop {
        let status = queue.poll(now(start), done);
        if until(&status, done) {
            return status;
        }
        assert!(start.elapsed() < LIMIT, "{status:?}, {} done", done.len());
        if queue.has_pending_work() {
            continue;
        }
        if let Some(fd) = queue.fd() {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            poll(&mut fds, Some(&wait)).unwrap();
        }
    }
}

fn until_ready(queue: &mut dyn Queue) {
    let status = drive(queue, &mut Vec::new(), |s, _| !matches!(s, QueueStatus::Opening));
    assert!(matches!(status, QueueStatus::Ready), "{status:?}");
}

fn until_failed(queue: &mut dyn Queue, done: &mut Vec<Completion>) -> TransportError {
    match drive(queue, done, |s, _| matches!(s, QueueStatus::Failed(_))) {
        QueueStatus::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

fn read_pdu(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut pdu = vec![0; 8];
    stream.read_exact(&mut pdu).ok()?;
    let len = CommonHeader::read_from_prefix(&pdu).unwrap().0.plen.get() as usize;
    pdu.resize(len, 0);
    stream.read_exact(&mut pdu[8..]).ok()?;
    Some(pdu)
}

/// A controller that keeps to the rules: every read gets its LBA's pattern, every write is taken.
fn serve(mut stream: TcpStream, format: Format) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(read_pdu(&mut stream).unwrap()[0], PduType::IC_REQ.0);
    stream.write_all(&format.ic_resp(0, 32_768)).unwrap();
    // Commands that came while the data of another was awaited.
    let mut waiting = VecDeque::new();
    while let Some(pdu) = waiting.pop_front().or_else(|| read_pdu(&mut stream)) {
        let sqe = CapsuleCmd::read_from_prefix(&pdu).unwrap().0.sqe;
        let (cid, len) = (sqe.cid.get(), sqe.sgl().length.get());
        let answer = match sqe.opcode {
            READ => format.c2h_success(cid, &pattern(len as usize)),
            WRITE if sqe.sgl().subtype() != SUBTYPE_OFFSET => {
                stream.write_all(&format.r2t(cid, 1, 0, len)).unwrap();
                let mut got = 0;
                while got < len {
                    let data = read_pdu(&mut stream).unwrap();
                    if data[0] == PduType::CAPSULE_CMD.0 {
                        waiting.push_back(data);
                        continue;
                    }
                    assert_eq!(data[0], PduType::H2C_DATA.0);
                    got += u32::from_le_bytes(data[16..20].try_into().unwrap());
                }
                format.ok(cid)
            }
            _ => format.ok(cid),
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

#[test]
fn reads_and_writes_on_several_queues() {
    for query in ["", "?hdgst=1&ddgst=1&tos=8&priority=1&maxr2t=4&user_timeout_ms=60000"] {
        let (listener, url) = listener();
        let format =
            Format { header_digest: !query.is_empty(), data_digest: !query.is_empty(), align: 4 };
        let server = std::thread::spawn(move || {
            let peers: Vec<_> = (0..3)
                .map(|_| {
                    let stream = listener.accept().unwrap().0;
                    std::thread::spawn(move || serve(stream, format))
                })
                .collect();
            peers.into_iter().for_each(|p| p.join().unwrap());
        });
        let endpoint = endpoint(&format!("{url}{query}"));
        assert_eq!(endpoint.subsystem_nqn(), Some(NQN));
        assert_eq!(endpoint.address(), url.strip_suffix(&format!("/{NQN}")).unwrap());
        let mut association = endpoint.associate(Instant::ZERO).unwrap();
        assert_eq!(association.kind(), TransportKind::Fabrics);
        assert!(association.registers().is_none() && association.max_transfer().is_none());
        let mut queues: Vec<_> =
            (0..3).map(|qid| association.open_queue(params(qid), Instant::ZERO).unwrap()).collect();
        for queue in &mut queues {
            until_ready(queue.as_mut());
            let mut done = Vec::new();
            let sizes = [512usize, 4096, 100_000, 1 << 20];
            for (tag, len) in sizes.iter().enumerate() {
                let read = Data::Read(Buffer::zeroed(*len));
                queue.submit(Sqe::new(READ, 1), read, tag as u32).unwrap();
                let write = Data::Write(pattern(*len).into());
                queue.submit(Sqe::new(WRITE, 1), write, 10 + tag as u32).unwrap();
            }
            queue.flush();
            drive(queue.as_mut(), &mut done, |_, d| d.len() == 8);
            for d in &done {
                assert_eq!(d.cqe.status(), Status::SUCCESS);
                assert_eq!(bytes(d), pattern(sizes[d.tag as usize % 10]));
            }
        }
        drop(queues);
        server.join().unwrap();
    }
}

/// The error of opening a queue, which may be known at once or not.
fn open_fails(url: &str) -> TransportError {
    let mut association = endpoint(url).associate(Instant::ZERO).unwrap();
    match association.open_queue(params(0), Instant::ZERO) {
        Ok(mut queue) => until_failed(queue.as_mut(), &mut Vec::new()),
        Err(error) => error,
    }
}

#[test]
fn nobody_listens() {
    let (listener, url) = listener();
    drop(listener);
    let error = open_fails(&url);
    assert!(matches!(error, TransportError::Connect { .. }), "{error}");
    assert!(error.to_string().starts_with("connecting to tcp://127.0.0.1:"), "{error}");
}

#[test]
fn a_host_name_is_resolved_without_blocking() {
    let (listener, _) = listener();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().0, Format::plain()));
    let endpoint = endpoint(&format!("tcp://localhost:{port}/{NQN}?host_traddr=127.0.0.1"));
    let mut association = endpoint.associate(Instant::ZERO).unwrap();
    let mut queue = association.open_queue(params(0), Instant::ZERO).unwrap();
    assert!(queue.fd().is_some());
    until_ready(queue.as_mut());
    drop(queue);
    server.join().unwrap();
}

#[test]
fn a_name_that_does_not_exist() {
    let error = open_fails(&format!("tcp://does-not-exist.invalid/{NQN}")).to_string();
    assert!(error.contains("resolving the name"), "{error}");
}

#[test]
fn the_local_address_and_interface_can_be_chosen() {
    let (listener, url) = listener();
    let mut association =
        endpoint(&format!("{url}?host_traddr=127.0.0.2")).associate(Instant::ZERO).unwrap();
    let _queue = association.open_queue(params(0), Instant::ZERO).unwrap();
    let (_, from) = listener.accept().unwrap();
    assert_eq!(from.ip().to_string(), "127.0.0.2");

    let mut association =
        endpoint(&format!("{url}?host_iface=nonesuch")).associate(Instant::ZERO).unwrap();
    let error = association.open_queue(params(0), Instant::ZERO).err().unwrap().to_string();
    assert!(error.contains("interface nonesuch"), "{error}");
    let mut association =
        endpoint(&format!("{url}?host_traddr=192.0.2.9")).associate(Instant::ZERO).unwrap();
    let error = association.open_queue(params(0), Instant::ZERO).err().unwrap().to_string();
    assert!(error.contains("binding to 192.0.2.9"), "{error}");
}

#[test]
fn a_silent_peer_runs_into_the_deadline() {
    let (_listener, url) = listener();
    let mut association = endpoint(&url).associate(Instant::ZERO).unwrap();
    let mut queue = association.open_queue(params(0), Instant::ZERO).unwrap();
    assert!(matches!(queue.poll(Instant::ZERO, &mut Vec::new()), QueueStatus::Opening));
    let deadline = queue.deadline().unwrap();
    assert_eq!(deadline, Instant::ZERO + Duration::from_secs(30));
    let status = queue.poll(deadline, &mut Vec::new());
    assert!(matches!(status, QueueStatus::Failed(TransportError::Timeout { .. })), "{status:?}");
}

/// A queue with a read in flight, the association it belongs to, and the peer's end.
fn one_in_flight() -> (Box<dyn Association>, Box<dyn Queue>, TcpStream) {
    let (listener, url) = listener();
    let mut association = endpoint(&url).associate(Instant::ZERO).unwrap();
    let mut queue = association.open_queue(params(1), Instant::ZERO).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    drive(queue.as_mut(), &mut Vec::new(), |_, _| {
        // The request is out once it can be read.
        peer.set_nonblocking(true).unwrap();
        let ready = peer.peek(&mut [0; 128]).is_ok_and(|n| n == 128);
        peer.set_nonblocking(false).unwrap();
        ready
    });
    read_pdu(&mut peer).unwrap();
    peer.write_all(&Format::plain().ic_resp(0, 4096)).unwrap();
    until_ready(queue.as_mut());
    queue.submit(Sqe::new(READ, 1), Data::Read(Buffer::zeroed(4096)), 1).unwrap();
    queue.flush();
    read_pdu(&mut peer).unwrap();
    (association, queue, peer)
}

#[test]
fn killing_an_association_wakes_its_queues_and_fails_them() {
    let (mut association, mut queue, mut peer) = one_in_flight();
    let waiter = std::thread::spawn(move || {
        let mut done = Vec::new();
        let start = Wall::now();
        // Only the descriptor can end this sleep in time.
        while !matches!(queue.poll(now(start), &mut done), QueueStatus::Failed(_)) {
            if !queue.has_pending_work() {
                let mut fds = [PollFd::from_borrowed_fd(queue.fd().unwrap(), PollFlags::IN)];
                let wait = Timespec { tv_sec: 20, tv_nsec: 0 };
                let n = poll(&mut fds, Some(&wait)).unwrap();
                assert!(n > 0, "nothing woke the queue");
            }
        }
        (queue, done)
    });
    association.kill();
    association.kill();
    let (mut queue, done) = waiter.join().unwrap();
    assert_eq!(done.len(), 1);
    assert!(done[0].cqe.status().is(Status::ABORTED_BY_HOST));
    let status = queue.poll(Instant::ZERO, &mut Vec::new());
    assert!(matches!(status, QueueStatus::Failed(TransportError::Closed { .. })), "{status:?}");
    let again = association.open_queue(params(2), Instant::ZERO).err().unwrap();
    assert!(matches!(again, TransportError::Closed { .. }));
    // The peer sees the end though the queue still exists.
    let end = peer.read(&mut [0; 16]);
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn what_was_not_sent_when_an_association_is_killed_is_never_sent() {
    let (mut association, mut queue, mut peer) = one_in_flight();
    queue.set_in_capsule_data(usize::MAX);
    // More than the peer's and this host's socket buffers hold, so that some is left in them.
    let len = 32 << 20;
    queue.submit(Sqe::new(WRITE, 1), Data::Write(Buffer::zeroed(len)), 2).unwrap();
    queue.flush();
    association.kill();
    // What the peer has already taken over may still be read; then comes the end, not the rest.
    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    let end = loop {
        match peer.read(&mut buffer) {
            Ok(0) => break "closed",
            Ok(n) => got += n,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break "reset",
            Err(e) => panic!("{e}"),
        }
    };
    assert!(got < len, "{got} bytes, then {end}");
    assert_eq!(end, "reset", "an orderly end would have sent all that the host's buffer held");
}

#[test]
fn dropping_an_association_or_a_queue_ends_its_connection() {
    let (association, mut queue, _peer) = one_in_flight();
    drop(association);
    let error = until_failed(queue.as_mut(), &mut Vec::new());
    assert!(matches!(error, TransportError::Closed { .. }), "{error}");

    let (_association, queue, mut peer) = one_in_flight();
    drop(queue);
    let end = peer.read(&mut [0; 16]);
    assert!(matches!(&end, Ok(0)) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn an_end_right_behind_the_last_answer_is_not_missed() {
    let (_association, mut queue, mut peer) = one_in_flight();
    // Slot 0 of 63, first generation.
    let answer = Format::plain().c2h_success(1 << 6, &pattern(4096));
    peer.write_all(&answer).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut done = Vec::new();
    let error = until_failed(queue.as_mut(), &mut done);
    assert!(matches!(error, TransportError::Lost { .. }), "{error}");
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].cqe.status(), Status::SUCCESS);
    assert_eq!(bytes(&done[0]), pattern(4096));
}

#[test]
fn killing_while_a_name_is_resolved() {
    let (listener, _) = listener();
    let port = listener.local_addr().unwrap().port();
    let endpoint = endpoint(&format!("tcp://localhost:{port}/{NQN}?host_traddr=127.0.0.1"));
    let mut association = endpoint.associate(Instant::ZERO).unwrap();
    let mut queue = association.open_queue(params(0), Instant::ZERO).unwrap();
    association.kill();
    let status = queue.poll(Instant::ZERO, &mut Vec::new());
    assert!(matches!(status, QueueStatus::Failed(TransportError::Closed { .. })), "{status:?}");
}
