//! Programs as processes, with a time limit, and targets for them in the test's own process.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_target::{NamespaceConfig, SubsystemConfig, Target};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest time that any program may take: a hang is a failure, slowness of the machine is not.
const LIMIT: Duration = Duration::from_secs(180);

pub const NQN: &str = "nqn.2026-01.org.example:programs";

/// The tool.
pub fn nvmeh() -> PathBuf {
    env!("CARGO_BIN_EXE_nvmeh").into()
}

/// The quickstart. Cargo tells nobody where an example is, and does not always build it with the
/// tests, so that it is asked to.
pub fn quickstart() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        // TARGET/PROFILE/deps/this-test
        let test = std::env::current_exe().unwrap();
        let directory = test.ancestors().nth(2).unwrap();
        let profile = match directory.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "quickstart", "--profile", profile]);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--target-dir");
        assert!(cargo.arg(directory.parent().unwrap()).status().unwrap().success());
        directory.join("examples/quickstart")
    };
    BUILT.get_or_init(build).clone()
}

/// A target with so many listeners, and 64 MiB of memory in blocks of 4 KiB as namespace 1.
pub fn target(listeners: usize) -> Target {
    let namespace = NamespaceConfig::memory(1, 64 << 20);
    let subsystem = SubsystemConfig::new(NQN).unwrap().namespace(namespace);
    let builder = Target::builder().subsystem(subsystem);
    let builder = (0..listeners).fold(builder, |b, _| b.listen("127.0.0.1:0"));
    builder.start().unwrap()
}

/// The URL of a target's listener.
pub fn url(target: &Target, listener: usize) -> String {
    format!("tcp://{}/{NQN}", target.addr(listener).unwrap())
}

/// Waits until a program has done some I/O on the target.
pub fn wait_for_io(target: &Target) {
    wait_for(target, |t| t.stats().io_commands.values().sum::<u64>() >= 2000);
}

/// Waits until something is the case. (By looking again and again: the target's counters tell nobody
/// when they move.)
pub fn wait_for(target: &Target, is_so: impl Fn(&Target) -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so(target) {
        assert!(Instant::now() < until, "it does not come: {:?}", target.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The object on the last line.
    pub fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks the exit status, and that the error says `text`.
    #[track_caller]
    pub fn must_fail(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(text), "no `{text}` in {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

/// Runs a program to its end.
pub fn run(program: PathBuf, arguments: &[&str]) -> Ended {
    Running::start(program, arguments).end()
}

/// A program that runs; ended with the value.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stdout: String,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    pub fn start(program: PathBuf, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Self { child, lines, stdout: String::new(), stderr: Some(stderr) }
    }

    /// Reads lines up to one that has all of these words. Returns it.
    pub fn until(&mut self, words: &[&str]) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {words:?} in {}", self.stdout);
            };
            self.stdout.push_str(&line);
            self.stdout.push('\n');
            if words.iter().all(|w| line.contains(w)) {
                return line;
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As Ctrl-C does.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let until = Instant::now() + LIMIT;
        // The lines end when the program does.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.stdout.push_str(&line);
                    self.stdout.push('\n');
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(_) => panic!("it hangs: {}", self.stdout),
            }
        }
        let code = self.child.wait().unwrap().code();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        Ended { code, stdout: std::mem::take(&mut self.stdout), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
