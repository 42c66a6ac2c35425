//! What the tests have in common: the installed library, compilers, a target.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use nvme_target::{NamespaceConfig, SubsystemConfig, Target};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub const NQN: &str = "nqn.2026-01.org.example:c";

/// Longest time that a program may run; it is ended then, and the test fails.
const LIMIT: Duration = Duration::from_secs(240);

/// Where the library is installed: as it is, and with the entries that only tests need.
pub struct Installed {
    pub plain: PathBuf,
    pub hooks: PathBuf,
}

pub fn tmp() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Installs the library, once for all tests.
pub fn installed() -> &'static Installed {
    static DONE: OnceLock<Installed> = OnceLock::new();
    DONE.get_or_init(|| {
        let root = tmp().join("ffi");
        let _ = std::fs::remove_dir_all(&root);
        let hooks = install(&root.join("hooks"), "test-hooks");
        Installed { plain: install(&root.join("plain"), ""), hooks }
    })
}

impl Installed {
    /// Installs the library for `prefix`, below `root`.
    pub fn stage(root: &Path, prefix: &str) {
        make(prefix, "", root);
    }
}

fn install(prefix: &Path, features: &str) -> PathBuf {
    make(&prefix.display().to_string(), features, Path::new(""));
    prefix.to_owned()
}

fn make(prefix: &str, features: &str, root: &Path) {
    let mut make = Command::new("make");
    make.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(["install", "PROFILE=dev"]);
    make.arg(format!("PREFIX={prefix}")).arg(format!("FEATURES={features}"));
    make.arg(format!("DESTDIR={}", root.display()));
    // Two levels above the room for temporary files is where cargo builds.
    let target = tmp().parent().expect("a directory above");
    make.env("CARGO_TARGET_DIR", target).env("CARGO", env!("CARGO"));
    run(&mut make);
}

/// Runs a program to its end, which must be good.
pub fn run(command: &mut Command) -> String {
    let output = finish(command);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// Runs a program to its end, or to the limit.
pub fn finish(command: &mut Command) -> Output {
    use std::process::Stdio;
    // A linker that was preloaded into cargo is none of a program's business, and AddressSanitizer must
    // come first.
    command.env_remove("LD_PRELOAD");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e} (see tests/vm/setup.sh)"));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read(out));
    let err = std::thread::spawn(move || read(err));
    if !ends_within(&child, LIMIT) {
        child.kill().expect("a child that can be ended");
    }
    let status = child.wait().expect("a child that can be waited for");
    let text = |t: std::thread::JoinHandle<Vec<u8>>| t.join().expect("a reader");
    Output { status, stdout: text(out), stderr: text(err) }
}

/// Sleeps until a child has ended, at most for so long.
fn ends_within(child: &Child, limit: Duration) -> bool {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a descriptor of it");
    let limit = Timespec::try_from(limit).expect("a limit");
    let ended = retry_on_intr(|| poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit)));
    ended.expect("a child that can be waited for") > 0
}

fn read(from: Option<impl std::io::Read>) -> Vec<u8> {
    let mut text = Vec::new();
    // What was read before an error is worth having.
    let _ = from.map(|mut from| from.read_to_end(&mut text));
    text
}

/// The strictness that every C program is built with.
pub const STRICT: [&str; 5] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"];

/// What pkg-config says of the installed library.
pub fn pkg_config(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(arguments).arg("nvmehost");
    run(&mut command).split_whitespace().map(str::to_owned).collect()
}

/// Compiles a program against the shared library and gives its path.
pub fn compile(
    compiler: &str,
    prefix: &Path,
    source: &Path,
    name: &str,
    more: &[impl AsRef<OsStr>],
) -> PathBuf {
    let out = tmp().join(name);
    let mut command = Command::new(compiler);
    command.arg("-g").args(pkg_config(prefix, &["--cflags"])).arg(source).args(more);
    command.args(pkg_config(prefix, &["--libs"])).arg("-lpthread");
    command.arg(format!("-Wl,-rpath,{}", prefix.join("lib").display())).arg("-o").arg(&out);
    run(&mut command);
    out
}

/// Compiles a program with the library in it.
pub fn compile_static(
    compiler: &str,
    prefix: &Path,
    source: &Path,
    name: &str,
    more: &[&str],
) -> PathBuf {
    let out = tmp().join(name);
    let mut command = Command::new(compiler);
    command.arg("-g").args(pkg_config(prefix, &["--cflags"])).arg(source).args(more);
    let all = pkg_config(prefix, &["--static", "--libs"]);
    // The archive itself in the place of the shared object.
    let archive = prefix.join("lib/libnvmehost.a").display().to_string();
    command.args(all.iter().map(|a| if a == "-lnvmehost" { &archive } else { a }));
    run(command.arg("-o").arg(&out));
    out
}

/// A target with two ports and a namespace of 64 MiB.
pub fn target() -> (Target, [String; 2]) {
    let namespace = NamespaceConfig::memory(1, 64 << 20).block_size(4096);
    let subsystem = SubsystemConfig::new(NQN).expect("a name").namespace(namespace);
    let builder = Target::builder().subsystem(subsystem);
    let target = builder.listen("127.0.0.1:0").listen("127.0.0.1:0").start().expect("a target");
    let url = |port| format!("tcp://{}/{NQN}", target.addr(port).expect("a port"));
    let urls = [url(0), url(1)];
    (target, urls)
}

pub fn c(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name)
}

pub fn example(name: &str) -> PathBuf {
    repository().join("examples/c").join(name)
}

/// Options of valgrind: anything that is wrong, or lost, makes the program fail.
pub const VALGRIND: [&str; 4] =
    ["-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"];

/// A program under valgrind, whose words come separately for each of its processes: [`Checked::run`].
pub struct Checked {
    logs: PathBuf,
}

impl Checked {
    /// `valgrind PROGRAM`, and what tells how it went. `known`: a file of suppressions in `tests/c`.
    pub fn new(program: &str, known: &str, name: &str) -> (Self, Command) {
        let logs = tmp().join(format!("valgrind-{name}"));
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs).expect("a directory");
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["-q", "--leak-check=full", "--keep-debuginfo=yes", "--num-callers=40"]);
        valgrind.arg(format!("--suppressions={}", c(known).display()));
        valgrind.arg(format!("--log-file={}", logs.join("%p").display())).arg(program);
        (Self { logs }, valgrind)
    }

    /// No process has made an error or lost anything, not even possibly.
    pub fn assert_clean(&self) {
        let logs: Vec<_> = std::fs::read_dir(&self.logs).expect("logs").collect();
        assert!(!logs.is_empty(), "valgrind has not run");
        for log in logs {
            let text = std::fs::read_to_string(log.expect("a log").path()).expect("a log");
            assert!(text.is_empty(), "{text}");
        }
    }
}

/// `PROGRAM` with gcc's AddressSanitizer in it, for the sake of what it loads. `options`: variables of
/// the environment, such as `LSAN_OPTIONS=...`.
pub fn with_asan(program: &str, options: &[&str]) -> Command {
    let library = run(Command::new("gcc").arg("-print-file-name=libasan.so"));
    // By `env`, because `finish` takes a preloaded library away.
    let mut env = Command::new("env");
    env.arg(format!("LD_PRELOAD={}", library.trim())).args(options).arg(program);
    env
}
