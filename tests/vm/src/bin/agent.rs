//! The agent inside the guest: runs scripts that come over a virtio-serial port.
//!
//! One file without dependencies, for the harness compiles it with `rustc` alone. Frames, each a
//! line of decimal numbers and then that many bytes:
//!
//! - request `ID TIMEOUT_MS SCRIPT_LEN INPUT_LEN`, the script, its standard input;
//! - reply `ID CODE OUTPUT_LEN`, standard output and standard error in the order they were written.
//!
//! `CODE` is the exit status, 128 + the signal that ended the script, or -1 when its time ran out.
//! Requests run side by side, each in a process group of its own. A first reply with ID 0 says that
//! the agent listens.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Output kept of one script; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 4 << 20;
/// How long output may still trickle in after the script's end. A background job that holds the
/// pipe open must not hold the reply.
const DRAIN: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(1);

struct Request {
    id: u64,
    timeout: Duration,
    script: Vec<u8>,
    input: Vec<u8>,
}

fn main() -> io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/dev/vport0p1".to_owned());
    let port = OpenOptions::new().read(true).write(true).open(path)?;
    let replies = Arc::new(Mutex::new(port.try_clone()?));
    reply(&replies, 0, 0, b"")?;
    let mut requests = BufReader::with_capacity(64 << 10, Patient(port));
    loop {
        let request = read_request(&mut requests)?;
        let replies = Arc::clone(&replies);
        thread::spawn(move || {
            let id = request.id;
            let (code, output) = run(request)
                .unwrap_or_else(|error| (127, format!("agent: {error}\n").into_bytes()));
            // The only reader is the harness; when it is gone QEMU is too.
            let _ = reply(&replies, id, code, &output);
        });
    }
}

/// A port that reads as empty while the other side is away, instead of ending.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf)? {
                0 => thread::sleep(Duration::from_millis(10)),
                n => return Ok(n),
            }
        }
    }
}

fn read_request(port: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    port.read_line(&mut line)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("bad request line {line:?}"));
    let fields = line.split_ascii_whitespace().map(|f| f.parse::<u64>().map_err(|_| bad()));
    let [id, timeout, script, input] =
        fields.collect::<io::Result<Vec<_>>>()?.try_into().map_err(|_| bad())?;
    let mut take = |len: u64| {
        let mut bytes = Vec::new();
        port.by_ref().take(len).read_to_end(&mut bytes).map(|_| bytes)
    };
    Ok(Request {
        id,
        timeout: Duration::from_millis(timeout),
        script: take(script)?,
        input: take(input)?,
    })
}

fn reply(port: &Mutex<File>, id: u64, code: i32, output: &[u8]) -> io::Result<()> {
    let mut frame = format!("{id} {code} {}\n", output.len()).into_bytes();
    frame.extend_from_slice(output);
    port.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)
}

fn run(request: Request) -> io::Result<(i32, Vec<u8>)> {
    let deadline = Instant::now() + request.timeout;
    let script = String::from_utf8_lossy(&request.script).into_owned();
    let (mut from_child, to_us) = io::pipe()?;
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).process_group(0).stdin(Stdio::piped());
    command.stdout(to_us.try_clone()?).stderr(to_us);
    let mut child = command.spawn()?;
    // The command holds the writing ends of the pipe; without this the pipe would never end.
    drop(command);
    let group = child.id();

    let stdin = child.stdin.take();
    let input = request.input;
    thread::spawn(move || {
        // A script need not read its input: a closed pipe is its business.
        let _ = stdin.map(|mut stdin| stdin.write_all(&input));
    });
    let output = Arc::new(Mutex::new(Vec::new()));
    let ended = Arc::new(AtomicBool::new(false));
    thread::spawn({
        let (output, ended) = (Arc::clone(&output), Arc::clone(&ended));
        move || {
            let mut buf = [0; 16 << 10];
            while let Ok(n @ 1..) = from_child.read(&mut buf) {
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                let room = OUTPUT_LIMIT.saturating_sub(output.len());
                output.extend_from_slice(&buf[..n.min(room)]);
            }
            ended.store(true, Ordering::Release);
        }
    });

    let code = loop {
        if let Some(status) = child.try_wait()? {
            break status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        }
        if Instant::now() >= deadline {
            // `kill` by name of the group: std knows only single processes.
            Command::new("/bin/busybox")
                .args(["kill", "-9", "--", &format!("-{group}")])
                .status()?;
            child.wait()?;
            break -1;
        }
        thread::sleep(TICK);
    };
    let drained = Instant::now() + DRAIN;
    while !ended.load(Ordering::Acquire) && Instant::now() < drained {
        thread::sleep(TICK);
    }
    let output = std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((code, output))
}
