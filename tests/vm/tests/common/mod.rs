//! The first bytes of an NVMe/TCP connection, without the library under test.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For things that should come: far more than a loaded machine takes.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Connects and exchanges ICReq and ICResp (NVMe/TCP 1.1, §3.6.2.2 and §3.6.2.3).
pub fn initialize(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut request = [0; 128];
    request[2] = 128; // HLEN
    request[4] = 128; // PLEN
    stream.write_all(&request)?;
    let mut response = [0; 128];
    stream.read_exact(&mut response)?;
    let length = u32::from_le_bytes([response[4], response[5], response[6], response[7]]);
    let (kind, header, version) = (response[0], response[2], response[8]);
    if (kind, header, length, version) != (1, 128, 128, 0) {
        return Err(io::Error::other(format!("no ICResp: {response:x?}")));
    }
    Ok(stream)
}

/// Waits for the other side to end the connection.
pub fn wait_closed(stream: &mut TcpStream) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("the connection did not end: {other:?}"),
    }
}

/// Connects until the target answers.
pub fn wait_initialize(address: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + LIMIT;
    loop {
        match initialize(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "no answer at {address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
