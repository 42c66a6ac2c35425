//! `examples/c/plugin_host.c`: unloaded while a removal is pending.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nvme_target::Target;

use crate::bench::{STRICT, VALGRIND, c, example, finish, installed, pkg_config, run, target, tmp};

fn program(name: &str, more: &[&str]) -> PathBuf {
    let out = tmp().join(name);
    let mut cc = Command::new("gcc");
    cc.arg("-g").args(STRICT).args(more).args(pkg_config(&installed().plain, &["--cflags"]));
    run(cc.arg(example("plugin_host.c")).args(["-ldl", "-lpthread", "-o"]).arg(&out));
    out
}

fn library(prefix: &Path) -> PathBuf {
    prefix.join("lib/libnvmehost.so.0")
}

fn play(command: &mut Command) {
    let (_target, [url, _]) = target();
    let text = run(command.arg(library(&installed().plain)).arg(url).arg("1500"));
    assert!(text.contains("still mapped") && text.contains("good"), "{text}");
}

#[test]
fn the_library_is_unmapped_after_the_last_pin_and_not_before() {
    play(&mut Command::new(program("plugin", &[])));
}

// AddressSanitizer cannot name what was lost in code that is gone: leaks are valgrind's. parking_lot keeps a
// table of 1 KiB for the life of the process, which nothing refers to any more when the object that had the
// reference is unmapped. `parking_lot.supp` names it; nothing else may be lost.

#[test]
fn no_error_by_address_sanitizer() {
    let mut command = Command::new(program("plugin-asan", &["-fsanitize=address"]));
    play(command.env("ASAN_OPTIONS", "detect_leaks=0"));
}

#[test]
fn no_error_by_valgrind() {
    let program = program("plugin-valgrind", &[]);
    let known = format!("--suppressions={}", c("parking_lot.supp").display());
    // Of code that is gone, too.
    let arguments = [known.as_str(), "--keep-debuginfo=yes"];
    play(Command::new("valgrind").args(VALGRIND).args(arguments).arg(program));
}

/// The same library without its reference on itself.
fn bare(name: &str, part: &str) -> (Command, Target) {
    let (target, [url, _]) = target();
    let mut command = Command::new(program(name, &[]));
    command.arg(library(&installed().hooks)).arg(url).args(["1500", part]);
    let good = run(&mut command);
    assert!(good.contains("good"), "{good}");
    command.env("NVMEH_TEST_NO_SELF_REFERENCE", "1");
    (command, target)
}

/// Expected to fail: `dlclose` unmaps a library that only a pin needs, and the pin's release is a call to
/// where it was.
#[test]
fn without_its_reference_on_itself_the_program_crashes() {
    let (mut command, _target) = bare("plugin-bare", "1");
    let output = finish(&mut command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("with a pin out: unmapped"), "{text}");
    assert_eq!(output.status.signal(), Some(11), "{}: {text}", output.status);
}

/// Where a thread of the library runs, glibc (2.18 and later) keeps the code: the thread has thread-local
/// destructors in it, `dlclose` counts those, and unmaps nothing. Then nobody closes it any more.
#[test]
fn without_its_reference_on_itself_it_is_never_unmapped_where_its_thread_runs() {
    let (mut command, _target) = bare("plugin-kept", "2");
    let output = finish(&mut command);
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the library is still mapped"), "{text}");
    assert!(error.contains("was not unmapped after the deadline"), "{error}");
    assert_eq!(output.status.code(), Some(1), "{}", output.status);
}
