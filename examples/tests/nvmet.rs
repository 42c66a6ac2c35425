//! The programs on Linux's own target, in the guest.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nvme_vm::Guest;
use serde_json::Value;

/// Long enough for anything that should happen at all on a slow, shared machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A program that runs, and what it has said so far.
struct Program {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let output = child.stdout.take().expect("its output is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Reads on until a line has all of `words`.
    fn expect(&mut self, words: &[&str]) {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = words.iter().all(|w| line.contains(w));
                    self.said.push(line);
                    if found {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no line with {words:?} within {LIMIT:?}:\n{}", self.said.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended before a line with {words:?}:\n{}", self.said.join("\n"))
                }
            }
        }
    }

    /// Waits for its end; all that it said.
    fn end(mut self) -> (ExitStatus, Vec<String>) {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no end:\n{}", self.said.join("\n")),
            }
        }
        let status = self.child.wait().expect("its exit status");
        (status, std::mem::take(&mut self.said))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Only the one that this test started; an error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The quickstart, which cargo built as an example of this package.
fn quickstart() -> Command {
    let mut path = PathBuf::from(env!("CARGO_BIN_EXE_nvmeh"));
    path.pop();
    path.push("examples/quickstart");
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    Command::new(path)
}

fn nvmeh(arguments: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_nvmeh")).args(arguments).output().expect("nvmeh starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nvmeh {arguments:?}: {text}{errors}");
    serde_json::from_str(text.lines().last().expect("some output"))
        .unwrap_or_else(|e| panic!("nvmeh {arguments:?}: {e}: {text}"))
}

fn url(guest: &Guest, port: u16) -> String {
    format!("tcp://{}/{}", guest.addr(port).expect("a port"), guest.subnqn())
}

#[test]
fn quickstart_follows_what_happens_to_the_ports_of_nvmet() {
    let guest = Guest::shared().unwrap();
    let mut program =
        Program::start(quickstart().args(["--manual", "--json", "--window", "8"]).args([
            "--connect",
            &url(&guest, 1),
            "--connect",
            &url(&guest, 2),
        ]));
    program.expect(&["path A", "up"]);
    program.expect(&["work"]);
    guest.disable_port(1).unwrap();
    program.expect(&["path A", "down"]);
    guest.disable_port(2).unwrap();
    program.expect(&["path B", "down"]);
    program.expect(&["removal in"]);
    guest.enable_port(2).unwrap();
    program.expect(&["removal cancelled"]);
    guest.enable_port(1).unwrap();
    program.expect(&["path A", "up"]);
    guest.disable_port(1).unwrap();
    guest.disable_port(2).unwrap();
    program.expect(&["head", "removed"]);
    let (status, said) = program.end();
    let said = said.join("\n");
    let json: Value = serde_json::from_str(said.lines().last().unwrap()).expect(&said);
    let number = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}: {said}"));
    for key in ["lost", "duplicated", "stale", "torn"] {
        assert_eq!(number(key), 0, "{key}: {said}");
    }
    assert!(number("completed") > 0 && number("failovers") > 0, "{said}");
    assert_eq!(number("removals_cancelled"), 1, "{said}");
    assert_eq!(number("removals_fired"), 1, "{said}");
    assert!(number("failed_after_removal") > 0, "{said}");
    assert_eq!(number("pins_after"), number("pins_before"), "{said}");
    assert!(status.success(), "{said}");
}

#[test]
fn nvmeh_discovers_and_lists_nvmet() {
    let guest = Guest::shared().unwrap();
    let port = format!("tcp://{}", guest.addr(1).unwrap());
    let found = nvmeh(&["discover", &port, "--json"]);
    assert!(found.to_string().contains(guest.subnqn()), "{found}");
    let listed = nvmeh(&["list", &url(&guest, 1), &url(&guest, 2), "--json"]).to_string();
    for nsid in [1, 2] {
        let uuid = guest.namespace(nsid).unwrap().uuid_text();
        assert!(listed.contains(&uuid), "{uuid} in {listed}");
    }
    assert!(listed.contains("optimized"), "{listed}");
}

#[test]
fn nvmeh_verifies_io_on_nvmet_while_a_path_goes_and_comes() {
    let guest = Guest::shared().unwrap();
    let (a, b) = (url(&guest, 1), url(&guest, 2));
    let mut program = Command::new(env!("CARGO_BIN_EXE_nvmeh"));
    program.args(["io", &a, &b, "--rw", "randrw", "--bs", "4k", "--qd", "32", "--time", "8"]);
    program.args(["--verify", "--write-ok", "--json"]).stderr(Stdio::null());
    let mut child = program.stdout(Stdio::piped()).spawn().expect("nvmeh starts");
    let connected = "ss -Htn state established '( sport = :4420 )' | grep -q .";
    guest.wait_for(connected, LIMIT).unwrap();
    guest.disable_port(1).unwrap();
    guest.enable_port(1).unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    let json: Value = serde_json::from_str(said.lines().last().expect("output")).expect(&said);
    assert!(status.success(), "{json}");
    for key in ["lost", "misplaced", "stale", "torn"] {
        assert_eq!(json["verify"][key].as_u64(), Some(0), "{key}: {json}");
    }
    for key in ["lost_requests", "duplicated_completions", "failed"] {
        assert_eq!(json[key].as_u64(), Some(0), "{key}: {json}");
    }
    assert!(json["failovers"].as_u64() > Some(0), "{json}");
}
