//! One connection to a server: a request, its answer, and nothing in between.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{
    CAPABILITIES, Command, FDS_MAX, FLAG_ERROR, FLAG_NO_REPLY, FLAG_TYPE, Header, REPLY_MAX,
    TYPE_REPLY, VERSION, Version,
};

/// The longest that a server takes to set something up.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest that it takes to answer for a register. They are looked at from the control plane and from
/// channels, where others wait meanwhile. A server that does not answer for so long is lost.
const QUICK: Duration = Duration::from_secs(1);

/// The longest that a request takes.
pub(super) const fn limit(command: Command) -> Duration {
    match command {
        Command::RegionRead | Command::RegionWrite => QUICK,
        _ => LIMIT,
    }
}
/// Requests of the server's that are refused while an answer is waited for, before it is given up.
const FOREIGN_MAX: u32 = 64;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused it; the connection lives.
    Refused(Errno),
    /// The connection broke, or the server does not keep to the protocol; it is over.
    Lost(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "the server refuses: {errno}"),
            Self::Lost(error) => write!(f, "connection lost: {error}"),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(errno) => errno.into(),
            Failure::Lost(error) => error,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// What follows the header.
    pub payload: Vec<u8>,
    /// Descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

/// A connection on which the version has been agreed upon.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    next_id: u16,
}

/// A peer that does not keep to the protocol.
fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Connection {
    /// Agrees upon a version on a fresh connection.
    pub(super) fn new(stream: UnixStream) -> Result<Self, Failure> {
        let mut connection = Self { stream, next_id: 0 };
        let reply =
            connection.request(Command::Version, &[VERSION.as_bytes(), CAPABILITIES], None)?;
        let (version, _) = Version::read_from_prefix(&reply.payload)
            .map_err(|_| Failure::Lost(broken("the answer to the version is cut short")))?;
        if version.major != VERSION.major {
            let text = format!("the server speaks version {}.{}", version.major, version.minor);
            return Err(Failure::Lost(broken(text)));
        }
        Ok(connection)
    }

    /// The socket, to see whether it is still connected.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    /// Sends a request, with a descriptor, and waits for its answer.
    pub(super) fn request(
        &mut self,
        command: Command,
        payload: &[&[u8]],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, Failure> {
        let deadline = Instant::now() + limit(command);
        self.exchange(command, payload, fd, deadline).unwrap_or_else(|error| {
            // What comes after cannot be told apart from what was missed. The other direction stays open:
            // by its end the server says that it has let go of the memory that it was given.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
            Err(Failure::Lost(error))
        })
    }

    /// Errors of the outer result end the connection.
    fn exchange(
        &mut self,
        command: Command,
        payload: &[&[u8]],
        fd: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> io::Result<Result<Reply, Failure>> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.send(Header::new(id, command as u16, 0, 0), payload, fd, deadline)?;
        for _ in 0..FOREIGN_MAX {
            let (header, reply) = self.receive(deadline)?;
            if header.flags & FLAG_TYPE != TYPE_REPLY {
                // A server that was given no memory file asks for the memory by messages. This
                // client always sends files.
                if header.flags & FLAG_NO_REPLY == 0 {
                    let errno = Errno::OPNOTSUPP.raw_os_error().cast_unsigned();
                    let flags = TYPE_REPLY | FLAG_ERROR;
                    let refusal = Header::new(header.id, header.command, flags, errno);
                    self.send(refusal, &[], None, deadline)?;
                }
                continue;
            }
            if (header.id, header.command) != (id, command as u16) {
                let Header { id: got, command: other, .. } = header;
                return Err(broken(format!(
                    "an answer to message {got} (command {other}) instead of {id} ({command:?})"
                )));
            }
            if header.flags & FLAG_ERROR != 0 {
                let errno = i32::try_from(header.error).ok().filter(|e| (1..4096).contains(e));
                let errno = errno.map_or(Errno::IO, Errno::from_raw_os_error);
                return Ok(Err(Failure::Refused(errno)));
            }
            return Ok(Ok(reply));
        }
        Err(broken("too many requests by the server"))
    }

    fn send(
        &self,
        mut header: Header,
        payload: &[&[u8]],
        fd: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut message = vec![0; size_of::<Header>()];
        payload.iter().for_each(|part| message.extend_from_slice(part));
        header.size = u32::try_from(message.len()).map_err(|_| broken("too long a message"))?;
        message[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        let mut fds: &[BorrowedFd<'_>] = fd.as_slice();
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let flags = SendFlags::NOSIGNAL;
            match sendmsg(&self.stream, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(timed_out(errno)),
            }
            // The descriptor has gone with the first byte.
            fds = &[];
        }
        Ok(())
    }

    fn receive(&self, deadline: Instant) -> io::Result<(Header, Reply)> {
        let mut reply = Reply { payload: Vec::new(), fds: Vec::new() };
        let mut bytes = [0; size_of::<Header>()];
        self.fill(&mut bytes, &mut reply.fds, deadline)?;
        let header = Header::read_from_bytes(&bytes).map_err(|_| broken("no header"))?;
        let size = header.size as usize;
        let size = size.checked_sub(bytes.len()).filter(|&s| s <= REPLY_MAX).ok_or_else(|| {
            broken(format!("a message of {size} bytes, which must be 16 to {REPLY_MAX} and 16"))
        })?;
        reply.payload.resize(size, 0);
        self.fill(&mut reply.payload, &mut reply.fds, deadline)?;
        Ok((header, reply))
    }

    /// Receives as much as there is room for, and the descriptors that come along.
    fn fill(&self, to: &mut [u8], fds: &mut Vec<OwnedFd>, deadline: Instant) -> io::Result<()> {
        let mut at = 0;
        while at < to.len() {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut to[at..])];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.stream, &mut parts, &mut control, flags) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(timed_out(errno)),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > FDS_MAX {
                return Err(broken(format!("more than {FDS_MAX} descriptors in a message")));
            }
            if received.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += received.bytes;
        }
        Ok(())
    }
}

impl Header {
    const fn new(id: u16, command: u16, flags: u32, error: u32) -> Self {
        Self { id, command, size: size_of::<Self>() as u32, flags, error }
    }
}

/// The time until `deadline`; an error once there is none.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A socket's time limit shows as "try again".
fn timed_out(errno: Errno) -> io::Error {
    if errno == Errno::AGAIN { io::ErrorKind::TimedOut.into() } else { errno.into() }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread::JoinHandle;

    use super::*;

    /// Agrees upon the version, and takes `late` to answer anything else, unless the client gives up
    /// before. Whether it did.
    fn server(mut stream: UnixStream, late: Duration) -> JoinHandle<bool> {
        std::thread::spawn(move || {
            let receive = |stream: &mut UnixStream| {
                let mut bytes = [0; size_of::<Header>()];
                stream.read_exact(&mut bytes).unwrap();
                let header = Header::read_from_bytes(&bytes).unwrap();
                stream.read_exact(&mut vec![0; header.size as usize - bytes.len()]).unwrap();
                header
            };
            let asked = receive(&mut stream);
            let mut answer = Header::new(asked.id, asked.command, TYPE_REPLY, 0);
            answer.size += size_of::<Version>() as u32;
            let bytes = [answer.as_bytes(), VERSION.as_bytes()].concat();
            stream.write_all(&bytes).unwrap();
            let asked = receive(&mut stream);
            stream.set_read_timeout(Some(late)).unwrap();
            if matches!(stream.read(&mut [0]), Ok(0)) {
                return true;
            }
            let answer = Header::new(asked.id, asked.command, TYPE_REPLY, 0);
            stream.write_all(answer.as_bytes()).unwrap();
            false
        })
    }

    #[test]
    fn a_register_that_does_not_answer_ends_the_connection_soon() {
        for command in [Command::RegionRead, Command::RegionWrite] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let server = server(theirs, Duration::from_secs(4));
            let mut connection = Connection::new(ours).unwrap();
            let failure = connection.request(command, &[&[0; 16]], None).unwrap_err();
            let timed_out = matches!(
                &failure,
                Failure::Lost(error) if error.kind() == io::ErrorKind::TimedOut
            );
            assert!(timed_out, "{command:?}: {failure}");
            assert!(server.join().unwrap(), "{command:?}: the client waited");
        }
    }

    #[test]
    fn what_sets_something_up_may_take_its_time() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = server(theirs, QUICK * 2);
        let mut connection = Connection::new(ours).unwrap();
        connection.request(Command::DmaMap, &[&[0; 32]], None).unwrap();
        assert!(!server.join().unwrap());
    }
}
