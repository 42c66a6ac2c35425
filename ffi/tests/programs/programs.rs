//! What the tests of `examples/c/Makefile` and its programs have in common.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nvme_target::{NamespaceConfig, SubsystemConfig, Target};

use crate::bench::{NQN, finish, installed, repository, run, tmp};

/// Longest wait for anything: slowness of the machine is no failure.
const LIMIT: Duration = Duration::from_secs(200);

/// Headers of the fio that is installed, as `tests/vm/setup.sh` has made them, or made now.
pub fn fio_headers() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| {
        let mut query = Command::new("dpkg-query");
        let version = run(query.args(["-W", "-f", "${source:Version}", "fio"]));
        let cache = std::env::var_os("NVME_VM_CACHE")
            .map_or_else(|| repository().join("target/vm-cache"), PathBuf::from);
        let directory = cache.join(format!("fio-{version}"));
        let script = repository().join("examples/c/fio-headers.sh");
        run(Command::new("bash").arg(script).arg(&directory));
        directory
    })
}

/// Builds everything in `examples/c`; gives the directory of what was made.
pub fn make(compiler: &str, sanitize: &str) -> PathBuf {
    let out = tmp().join(format!("c-{compiler}{sanitize}"));
    std::fs::create_dir_all(&out).expect("a directory");
    let mut make = Command::new("make");
    make.arg("-B").arg("-C").arg(repository().join("examples/c")).args(["all", "fio"]);
    make.arg(format!("CC={compiler}")).arg(format!("OUT={}", out.display()));
    make.arg(format!("SANITIZE={sanitize}")).arg(format!("FIO={}", fio_headers().display()));
    run(make.env("PKG_CONFIG_PATH", installed().plain.join("lib/pkgconfig")));
    out
}

/// What gcc makes of it, once for all tests.
pub fn made() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| make("gcc", ""))
}

/// A target at two ports, one of which can go.
pub trait Ports {
    fn urls(&self) -> [String; 2];
    /// Ends the connections at the first port and takes no new ones.
    fn cut(&self);
    fn restore(&self);
    /// Waits until some I/O has gone through a port; false if the program has ended before.
    fn some_io(&self, first_port: bool, running: &dyn Fn() -> bool) -> bool;
}

/// The software target with 256 MiB.
pub fn target() -> Target {
    let namespace = NamespaceConfig::memory(1, 256 << 20).block_size(4096);
    let subsystem = SubsystemConfig::new(NQN).expect("a name").namespace(namespace);
    let builder = Target::builder().subsystem(subsystem);
    builder.listen("127.0.0.1:0").listen("127.0.0.1:0").start().expect("a target")
}

/// Waits until something is so; false if the program has ended before. (By looking again and again: what
/// is waited for are counters, of the target's and of a guest's, that tell nobody when they move.)
pub fn until(what: &str, running: &dyn Fn() -> bool, mut is: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !is() {
        if !running() {
            return false;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

impl Ports for Target {
    fn urls(&self) -> [String; 2] {
        [0, 1].map(|port| format!("tcp://{}/{NQN}", self.addr(port).expect("a port")))
    }

    fn cut(&self) {
        self.listener(0).expect("a port").disable().expect("disabling");
    }

    fn restore(&self) {
        self.listener(0).expect("a port").enable().expect("enabling");
    }

    fn some_io(&self, first_port: bool, running: &dyn Fn() -> bool) -> bool {
        // A rule that does next to nothing counts what it meets.
        use nvme_target::{FaultAction, FaultRule};
        let rule = FaultRule::new(FaultAction::Delay(Duration::from_micros(1)));
        let rule = self.add_fault(rule.io().listener(usize::from(!first_port)));
        let seen = until("I/O", running, || self.fault_hits(rule) >= Some(20));
        let _ = self.remove_fault(rule);
        seen
    }
}

/// Does something, and meanwhile takes the first path away and brings it back; then calls `back`. Also
/// gives whether there was I/O before, on the other path, and again on the first one.
pub fn cut_while<T: Send>(
    ports: &dyn Ports,
    work: impl FnOnce() -> T + Send,
    back: impl FnOnce(),
) -> (bool, T) {
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        let running = || !work.is_finished();
        let before = ports.some_io(true, &running);
        ports.cut();
        let meanwhile = before && ports.some_io(false, &running);
        ports.restore();
        let after = meanwhile && ports.some_io(true, &running);
        back();
        (after, work.join().expect("an end"))
    })
}

/// Runs a program, and meanwhile takes the first path away and brings it back. The program knows by the
/// file `$BACK` that it has seen all of it.
pub fn run_with_a_cut(ports: &dyn Ports, command: &mut Command) -> String {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let file = tmp().join(format!("back{}", RUNS.fetch_add(1, Ordering::Relaxed)));
    let _ = std::fs::remove_file(&file);
    let shown = format!("{command:?}");
    command.env("BACK", &file);
    let back = || std::fs::write(&file, "").expect("room");
    let (seen, output) = cut_while(ports, || finish(command), back);
    let text = all(&output);
    assert!(output.status.success(), "{shown}: {}\n{text}", output.status);
    assert!(seen, "{shown}: it ended before the path was back\n{text}");
    text
}

/// What a program said.
pub fn all(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn gcc_and_clang_find_nothing_to_say() {
    made();
    make("clang", "");
}

#[test]
fn without_headers_of_fio_the_makefile_says_what_to_do() {
    let mut make = Command::new("make");
    make.arg("-C").arg(repository().join("examples/c")).args(["fio", "FIO=/nonexistent"]);
    make.arg(format!("OUT={}", tmp().join("c-none").display()));
    make.env("PKG_CONFIG_PATH", installed().plain.join("lib/pkgconfig"));
    let output = finish(&mut make);
    assert!(!output.status.success());
    assert!(all(&output).contains("fio-headers.sh DIRECTORY makes one"), "{}", all(&output));
}
