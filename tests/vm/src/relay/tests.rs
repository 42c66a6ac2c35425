//! The relay's rules, with a listener of the test's in QEMU's place.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use socket2::{Domain, SockRef, Socket, Type};

use super::Relay;
use super::connection::{Connection, Seen};

const LIMIT: Duration = Duration::from_secs(60);

/// A relay to a listener.
fn relay() -> (Relay, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let relay = Relay::start(&[listener.local_addr().expect("its address")]).expect("a relay");
    (relay, listener)
}

/// Both ends of a relayed connection, the client's first.
fn connect(relay: &Relay, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(relay.address(0).expect("a port")).expect("the relay");
    let (qemu, _) = listener.accept().expect("the relay's connection");
    for stream in [&client, &qemu] {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    }
    (client, qemu)
}

/// Writes until nothing is taken for a while, which the relay's buffers bound; gives the count.
fn stuff(mut stream: &TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a limit");
    let mut count = 0;
    loop {
        match stream.write(&[0x5a; 65536]) {
            Ok(written) => count += written,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return count;
            }
        }
    }
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// Reads to the end of the stream, which must be in order; gives the count.
fn read_all(mut stream: &TcpStream) -> usize {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an end in order")
}

#[test]
fn bytes_go_both_ways_and_an_end_comes_after_them() {
    let (relay, listener) = relay();
    let (client, qemu) = connect(&relay, &listener);
    let data: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    for (mut from, mut to) in [(&client, &qemu), (&qemu, &client)] {
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(&data).expect("room"));
            let mut received = vec![0; data.len()];
            to.read_exact(&mut received).expect("all of it");
            assert!(received == data);
        });
    }
    // The client's stream ends first: the other direction goes on.
    (&client).write_all(b"last").expect("room");
    client.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(read_all(&qemu), 4);
    (&qemu).write_all(b"answer").expect("room");
    drop(qemu);
    assert_eq!(read_all(&client), 6);
}

#[test]
fn a_reset_of_the_client_is_the_end_of_a_stream_and_drops_what_was_not_taken() {
    let (relay, listener) = relay();
    let (client, qemu) = connect(&relay, &listener);
    // Nobody reads: all buffers are full, in both directions.
    let sent = stuff(&client);
    stuff(&qemu);
    reset(client);
    // Whatever was for the client goes, without an error and although nothing is read here.
    qemu.set_write_timeout(Some(LIMIT)).expect("a limit");
    (&qemu).write_all(&vec![0; 16 << 20]).expect("the relay discards");
    let received = read_all(&qemu);
    assert!(received < sent, "{received} of {sent} bytes arrived");
    // The connection still has not ended towards QEMU, until QEMU ends it.
    (&qemu).write_all(&[0; 65536]).expect("the relay discards");
    assert!(SockRef::from(&qemu).take_error().expect("an option").is_none());
}

/// What `poll` finds is given by hand: the end of a stream reaches the system only when there is
/// room for all that is before it.
#[test]
fn a_client_that_ends_in_order_does_not_wait_for_ever_to_be_read() {
    let [front, back] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a listener"));
    let mut client = TcpStream::connect(front.local_addr().expect("its address")).expect("room");
    client.set_nonblocking(true).expect("a mode");
    let (accepted, _) = front.accept().expect("the client");
    let target = back.local_addr().expect("its address");
    let mut connection = Connection::open(accepted, target, Arc::default()).expect("a connection");
    let (qemu, _) = back.accept().expect("the relay's connection");
    qemu.set_read_timeout(Some(LIMIT)).expect("a limit");

    let now = Instant::now();
    let ready = Seen { client: PollFlags::IN, qemu: PollFlags::OUT };
    let (mut sent, mut blocked) = (0, 0);
    while blocked < 20 {
        match client.write(&[0x5a; 65536]) {
            Ok(count) => (sent, blocked) = (sent + count, 0),
            Err(_) => blocked += 1,
        }
        assert!(connection.advance(ready, now));
    }
    assert_eq!(connection.deadline(), None);
    let end = Seen { client: PollFlags::RDHUP, qemu: PollFlags::empty() };
    assert!(connection.advance(end, now));
    let limit = connection.deadline().expect("a limit");
    assert!(connection.advance(Seen::default(), limit - Duration::from_nanos(1)));
    let open = client.read(&mut [0; 1]).expect_err("nothing to read");
    assert_eq!(open.kind(), io::ErrorKind::WouldBlock);
    assert!(connection.advance(Seen::default(), limit));
    // Closed with bytes unread.
    let closed = client.read(&mut [0; 1]).expect_err("no answer");
    assert_eq!(closed.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(connection.deadline(), None);
    let received = read_all(&qemu);
    assert!(received < sent, "{received} of {sent} bytes arrived");
}

#[test]
fn a_reset_by_qemu_is_a_reset_for_the_client() {
    let (relay, listener) = relay();
    for full in [false, true] {
        let (client, qemu) = connect(&relay, &listener);
        if full {
            stuff(&qemu);
        }
        reset(qemu);
        let error = io::copy(&mut &client, &mut io::sink()).expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    drop(listener);
    let mut client = TcpStream::connect(relay.address(0).expect("a port")).expect("the relay");
    client.set_read_timeout(Some(LIMIT)).expect("a limit");
    let error = client.read(&mut [0; 1]).expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_port_that_does_not_listen_is_refused_and_stays_the_relays() {
    let (relay, listener) = relay();
    let (mut client, mut qemu) = connect(&relay, &listener);
    let address = relay.address(0).expect("a port");
    for _ in 0..3 {
        relay.listen(0, false).expect("a port");
        relay.listen(0, false).expect("a port");
        let refused = TcpStream::connect(address).expect_err("no listener");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        stranger.bind(&address.into()).expect_err("the port is taken");
        client.write_all(b"on").expect("a connection");
        qemu.read_exact(&mut [0; 2]).expect("a connection");
        relay.listen(0, true).expect("a port");
        relay.listen(0, true).expect("a port");
        connect(&relay, &listener);
    }
    relay.listen(1, true).expect_err("only port 0");
    drop(relay);
    assert_eq!(read_all(&qemu), 0);
    TcpStream::connect(address).expect_err("the relay is gone");
}
