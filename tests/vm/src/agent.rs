//! The host's side of the agent in the guest (`bin/agent.rs` tells the frames).

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// More than the agent ever sends in one reply.
const REPLY_LIMIT: u64 = 8 << 20;

/// The end of a script in the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub struct Output {
    /// The exit status; 128 + the number of the signal that ended the script; -1 when its time ran
    /// out.
    pub code: i32,
    /// Standard output and standard error in the order they were written, cut at 4 MiB.
    pub text: String,
}

impl Output {
    /// Whether the script ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Whether the script was killed because its time ran out.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.code == -1
    }
}

/// Why a request has no reply.
pub(crate) enum Lost {
    /// The guest or QEMU has ended.
    Gone,
    /// No reply in the time given.
    Late,
}

type Waiting = Option<HashMap<u64, mpsc::Sender<Output>>>;

/// The connection; usable from several threads at once.
pub(crate) struct Agent {
    port: Mutex<UnixStream>,
    /// Who waits for which reply; `None` once the connection has ended.
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    ready: Mutex<mpsc::Receiver<Output>>,
}

impl Agent {
    pub(crate) fn new(port: UnixStream) -> io::Result<Self> {
        let (hello, ready) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(Some(HashMap::from([(0, hello)]))));
        let replies = BufReader::new(port.try_clone()?);
        thread::Builder::new().name("agent".to_owned()).spawn({
            let waiting = Arc::clone(&waiting);
            move || {
                receive(replies, &waiting);
                lock(&waiting).take();
            }
        })?;
        Ok(Self {
            port: Mutex::new(port),
            waiting,
            next: AtomicU64::new(1),
            ready: Mutex::new(ready),
        })
    }

    /// Waits until the agent says that it listens.
    pub(crate) fn wait_ready(&self, limit: Duration) -> Result<(), Lost> {
        wait(&lock(&self.ready), limit).map(drop)
    }

    /// Runs `script` in the guest, which gives it `timeout`; waits `grace` longer for the reply.
    pub(crate) fn run(
        &self,
        script: &str,
        input: &[u8],
        timeout: Duration,
        grace: Duration,
    ) -> Result<Output, Lost> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        lock(&self.waiting).as_mut().ok_or(Lost::Gone)?.insert(id, sender);
        let mut frame =
            format!("{id} {} {} {}\n", timeout.as_millis(), script.len(), input.len()).into_bytes();
        frame.extend_from_slice(script.as_bytes());
        frame.extend_from_slice(input);
        lock(&self.port).write_all(&frame).map_err(|_| Lost::Gone)?;
        let output = wait(&receiver, timeout + grace);
        if let Some(waiting) = lock(&self.waiting).as_mut() {
            waiting.remove(&id);
        }
        output
    }
}

fn wait(receiver: &mpsc::Receiver<Output>, limit: Duration) -> Result<Output, Lost> {
    receiver.recv_timeout(limit).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Lost::Late,
        mpsc::RecvTimeoutError::Disconnected => Lost::Gone,
    })
}

/// Hands replies to those who wait, until the connection ends or stops making sense.
fn receive(mut replies: impl BufRead, waiting: &Mutex<Waiting>) {
    while let Some((id, output)) = read_reply(&mut replies) {
        let sender = lock(waiting).as_mut().and_then(|waiting| waiting.remove(&id));
        // Nobody waits any more for what came too late.
        let _ = sender.map(|sender| sender.send(output));
    }
}

fn read_reply(replies: &mut impl BufRead) -> Option<(u64, Output)> {
    let mut line = String::new();
    replies.read_line(&mut line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let id = fields.next()?.parse().ok()?;
    let code = fields.next()?.parse().ok()?;
    let length: u64 = fields.next()?.parse().ok().filter(|&length| length <= REPLY_LIMIT)?;
    let mut bytes = Vec::new();
    let read = replies.take(length).read_to_end(&mut bytes).ok()?;
    (read as u64 == length)
        .then(|| (id, Output { code, text: String::from_utf8_lossy(&bytes).into_owned() }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
