//! `examples/c/plugin_host.c`: unloaded while a removal is pending.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{STRICT, example, finish, installed, pkg_config, run, target, tmp};

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

// Leaks are not looked for here: parking_lot keeps a table of 1 KiB for the life of the process, which
// nothing refers to any more when the object that had the reference is unmapped. The quickstart and
// the misuse test, where the object stays, look for leaks.

#[test]
fn no_error_by_address_sanitizer() {
    let mut command = Command::new(program("plugin-asan", &["-fsanitize=address"]));
    play(command.env("ASAN_OPTIONS", "detect_leaks=0"));
}

#[test]
fn no_error_by_valgrind() {
    let program = program("plugin-valgrind", &[]);
    play(Command::new("valgrind").args(["-q", "--error-exitcode=99"]).arg(program));
}

/// Expected to fail: the same library without its reference on itself. It dies when its code goes, or,
/// where glibc keeps the code because the library's thread has thread-local destructors, it is never
/// unmapped, because nobody closes it any more. Either way the program says that it is not good.
#[test]
fn without_its_reference_on_itself_it_does_not_live() {
    let (_target, [url, _]) = target();
    let mut command = Command::new(program("plugin-bare", &[]));
    command.arg(library(&installed().hooks)).arg(url).arg("1500");
    let good = run(&mut command);
    assert!(good.contains("good"), "{good}");
    let output = finish(command.env("NVMEH_TEST_NO_SELF_REFERENCE", "1"));
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    println!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}
