//! QEMU outlives connections that are reset while its buffers are full.
mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{LIMIT, initialize, wait_closed, wait_initialize};
use nvme_vm::{Config, Guest, Result};
use socket2::SockRef;

const ROUNDS: usize = 6;

/// Writes `bytes` again and again until nothing more is taken; gives the count.
fn stuff(mut stream: &TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a limit");
    let mut count = 0;
    loop {
        match stream.write(bytes) {
            Ok(written) => count += written,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return count;
            }
        }
    }
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
}

/// A byte to a server that echoes, and back.
fn echo(mut stream: &TcpStream) {
    stream.write_all(b"x").expect("a connection");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("an echo");
    assert_eq!(byte, *b"x");
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the relay");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// The target answers an ICReq, and then waits for more of whatever a capsule has announced.
#[test]
fn resets_while_the_target_does_not_read() -> Result<()> {
    let guest = Guest::shared()?;
    for round in 0..ROUNDS {
        let streams =
            [1, 2].map(|port| initialize(guest.addr(port).expect("a port")).expect("an answer"));
        guest.freeze()?;
        for stream in &streams {
            assert!(stuff(stream, &[0; 65536]) > 0);
        }
        streams.into_iter().for_each(reset);
        guest.thaw()?;
        for port in [1, 2] {
            wait_initialize(guest.addr(port)?);
        }
        assert!(guest.is_running(), "round {round}: {}", guest.console());
    }
    Ok(())
}

/// Both directions are full: the state in which QEMU does not survive a reset.
#[test]
fn resets_while_nobody_reads() -> Result<()> {
    let guest = Guest::boot(Config { namespaces: Vec::new(), ..Config::default() })?;
    let service = |port| guest.guest_addr(port).map(|address| address.port());
    for port in [1, 2] {
        guest.disable_port(port)?;
        // A process per connection.
        guest.sh(&format!("nc -ll -p {} -e cat > /dev/null 2>&1 &", service(port)?))?;
        let listens = format!("netstat -lnt | grep -q ':{} '", service(port)?);
        guest.wait_for(&listens, LIMIT)?;
    }
    let other = connect(guest.addr(2)?);
    echo(&other);
    for round in 0..ROUNDS {
        let streams = [1, 2].map(|port| connect(guest.addr(port).expect("a port")));
        for stream in &streams {
            stuff(stream, &[0x5a; 65536]);
        }
        streams.into_iter().for_each(reset);
        echo(&other);
        assert!(guest.is_running(), "round {round}: {}", guest.console());
    }
    // The echoes of `other` and nobody else's are left: the guest has seen all the ends.
    guest.wait_for("[ $(pidof cat | wc -w) = 1 ]", LIMIT)?;
    echo(&other);
    Ok(())
}

#[test]
fn an_open_connection_lives_on_at_a_port_that_refuses() -> Result<()> {
    let guest = Guest::shared()?;
    let mut stream = initialize(guest.addr(1)?).expect("port 1");
    let address = guest.addr(1)?;
    for _ in 0..3 {
        guest.refuse_connections(1)?;
        let refused = TcpStream::connect(address).expect_err("no listener");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        initialize(guest.addr(2)?).expect("port 2");
        guest.accept_connections(1)?;
        assert_eq!(guest.addr(1)?, address);
        initialize(address).expect("port 1 again");
    }
    stream.set_nonblocking(true).expect("a socket's mode");
    let idle = (&stream).read(&mut [0; 1]).expect_err("the target has nothing to say");
    assert_eq!(idle.kind(), ErrorKind::WouldBlock);
    // The guest's reset ends it, and accepts again.
    guest.refuse_connections(1)?;
    guest.reset()?;
    stream.set_nonblocking(false).expect("a socket's mode");
    wait_closed(&mut stream);
    initialize(address).expect("port 1 after a reset");
    Ok(())
}
