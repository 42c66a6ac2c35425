//! A queue: a [`Connection`] on a [`Stream`].

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use nvme_core::spec::Sqe;
use nvme_core::time::{Duration, Instant};
use nvme_core::transport::{
    Data, Queue, QueueSetup, QueueStatus, RejectReason, Sink, Tag, TransportError,
};

use crate::conn::{Config, Connection, LIST, ProtocolError, State};
use crate::stream::Stream;

/// Slices in one write: 63 commands with data, or any number without. Twice as many make 4 KiB writes no faster,
/// half as many a tenth slower.
const SLICES: usize = 128;

/// Slices for one command, or for commands without data.
const FEW_SLICES: usize = 3;

/// Reads in one poll.
const READ_BUDGET: usize = 64;

/// Bytes taken in one poll, after which completions are handed out.
const BYTE_BUDGET: usize = 2 << 20;

/// One submission and completion queue pair over one stream.
#[derive(Debug)]
pub struct TcpQueue<S: Stream> {
    stream: S,
    conn: Connection,
    open_timeout: Duration,
    open: bool,
    /// The stream takes no more until it says so; tried again by the next poll.
    blocked: bool,
    write_error: Option<io::Error>,
    pending: bool,
    failure: Option<TransportError>,
}

/// Why a poll ends the queue.
enum End {
    /// The peer broke the protocol.
    Protocol(ProtocolError),
    /// Anything else.
    Transport(TransportError),
}

impl<S: Stream> TcpQueue<S> {
    /// A queue on `stream`, to be [`QueueStatus::Ready`] within `open_timeout` from `now`.
    pub fn new(stream: S, config: Config, open_timeout: Duration, now: Instant) -> Self {
        Self {
            stream,
            conn: Connection::new(config, now + open_timeout),
            open_timeout,
            open: false,
            blocked: false,
            write_error: None,
            // The first poll is not waited for: it starts the connection.
            pending: true,
            failure: None,
        }
    }

    /// Sends until nothing is left or the stream takes no more.
    fn send(&mut self) {
        if !self.open || self.blocked || self.write_error.is_some() {
            return;
        }
        while self.conn.has_output() {
            let written = match self.conn.is_brief() {
                true => self.write::<FEW_SLICES>(),
                false => self.write::<SLICES>(),
            };
            let Some(written) = written else { return };
            match written {
                Ok(0) => {
                    self.write_error = Some(io::ErrorKind::WriteZero.into());
                    return;
                }
                Ok(n) => self.conn.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.write_error = Some(e);
                    return;
                }
            }
        }
    }

    /// Sends once, from at most `N` slices; `None` if there is nothing.
    fn write<const N: usize>(&mut self) -> Option<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); N];
        let used = self.conn.gather(&mut slices);
        let slices = slices.get(..used).filter(|s| !s.is_empty())?;
        Some(self.stream.write(slices))
    }

    /// Receives once; how much was asked for, and what came.
    fn read(&mut self) -> (usize, io::Result<usize>) {
        if self.conn.has_list() {
            let mut slices: [IoSliceMut<'_>; LIST] =
                std::array::from_fn(|_| IoSliceMut::new(&mut []));
            let used = self.conn.read_list(&mut slices);
            if let Some(slices) = slices.get_mut(..used).filter(|s| !s.is_empty()) {
                let want = slices.iter().map(|s| s.len()).sum();
                return (want, self.stream.read(slices));
            }
        }
        let (direct, staged) = self.conn.read_targets();
        let want = direct.len() + staged.len();
        let result = if direct.is_empty() {
            self.stream.read(&mut [IoSliceMut::new(staged)])
        } else {
            self.stream.read(&mut [IoSliceMut::new(direct), IoSliceMut::new(staged)])
        };
        (want, result)
    }

    /// Receives until the stream is empty or the budget is used up.
    fn receive(&mut self, sink: &mut dyn Sink) -> Result<(), End> {
        let mut bytes = 0;
        for _ in 0..READ_BUDGET {
            let (want, result) = self.read();
            match result {
                Ok(0) => return Err(self.lost("closed by the peer")),
                Ok(n) => {
                    self.conn.received(n, sink).map_err(End::Protocol)?;
                    bytes += n;
                    // A short read has emptied the stream, as far as data goes. An end of stream
                    // behind it raises no second event, so the caller has to come back for it. Nor is
                    // more to be expected when everything has been answered.
                    let short = n < want || self.conn.in_flight() == 0;
                    if (short && self.write_error.is_none()) || bytes >= BYTE_BUDGET {
                        self.pending = true;
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.pending = false;
                    return match self.write_error.take() {
                        // Whatever the peer had to say has been read.
                        Some(e) => Err(self.lost(&e.to_string())),
                        None => Ok(()),
                    };
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.lost(&e.to_string())),
            }
        }
        self.pending = true;
        Ok(())
    }

    #[cold]
    fn lost(&self, reason: &str) -> End {
        if self.stream.is_cut() {
            return self.closed();
        }
        let doing = if self.conn.state() == State::SettingUp { " before ICResp" } else { "" };
        End::Transport(TransportError::Lost {
            address: self.stream.address().to_owned(),
            reason: format!("{reason}{doing}"),
        })
    }

    fn closed(&self) -> End {
        End::Transport(TransportError::Closed { address: self.stream.address().to_owned() })
    }

    /// Goes on connecting; false while that takes time.
    fn open(&mut self, now: Instant) -> Result<bool, End> {
        if !self.open && self.stream.poll_open().map_err(End::Transport)? {
            self.open = true;
        }
        if self.conn.expired(now) {
            return Err(End::Transport(TransportError::Timeout {
                address: self.stream.address().to_owned(),
                what: if self.open { "the answer to ICReq" } else { "connecting" },
                limit: self.open_timeout,
            }));
        }
        if !self.open {
            self.pending = false;
        }
        Ok(self.open)
    }

    fn progress(&mut self, now: Instant, sink: &mut dyn Sink) -> Result<(), End> {
        if self.stream.is_cut() {
            return Err(self.closed());
        }
        if self.conn.state() == State::SettingUp && !self.open(now)? {
            return Ok(());
        }
        self.blocked = false;
        self.send();
        let received = self.receive(sink);
        self.conn.put_aside();
        received?;
        self.send();
        self.conn.reap(sink);
        Ok(())
    }

    /// Completes everything and remembers why.
    #[cold]
    fn fail(&mut self, end: End, sink: &mut dyn Sink) -> TransportError {
        let error = match end {
            End::Transport(error) => error,
            End::Protocol(error) => {
                // One try: a peer that breaks the protocol is not waited for.
                self.conn.terminate(&error);
                self.blocked = false;
                self.send();
                let address = self.stream.address().to_owned();
                TransportError::Protocol { address, reason: error.to_string() }
            }
        };
        self.stream.cut();
        self.conn.abort(sink);
        self.pending = false;
        self.failure = Some(error.clone());
        error
    }
}

impl<S: Stream> Queue for TcpQueue<S> {
    fn submit_from(&mut self, sqe: Sqe, data: &mut Data, tag: Tag) -> Result<(), RejectReason> {
        if self.failure.is_some() {
            return Err(RejectReason::NotReady);
        }
        match self.conn.submit(sqe, std::mem::take(data), tag) {
            Ok(()) => Ok(()),
            Err(rejected) => {
                *data = rejected.data;
                Err(rejected.reason)
            }
        }
    }

    fn flush(&mut self) {
        self.send();
    }

    fn poll(&mut self, now: Instant, sink: &mut dyn Sink) -> QueueStatus {
        if let Some(error) = &self.failure {
            return QueueStatus::Failed(error.clone());
        }
        match self.progress(now, sink) {
            Ok(()) if self.conn.state() == State::Ready => QueueStatus::Ready,
            Ok(()) => QueueStatus::Opening,
            Err(end) => QueueStatus::Failed(self.fail(end, sink)),
        }
    }

    fn has_pending_work(&self) -> bool {
        self.pending || self.write_error.is_some()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.conn.deadline()
    }

    fn setup(&self) -> QueueSetup {
        QueueSetup::Connect
    }

    fn capacity(&self) -> usize {
        self.conn.capacity()
    }

    fn in_flight(&self) -> usize {
        self.conn.in_flight()
    }

    fn command_id(&self, tag: Tag) -> Option<u16> {
        self.conn.command_id(tag)
    }

    fn set_in_capsule_data(&mut self, bytes: usize) {
        self.conn.set_in_capsule_data(bytes);
    }
}
