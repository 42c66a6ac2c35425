//! `examples/c/quickstart.c` by every compiler and in every way of linking.

use std::process::Command;

use crate::bench::{STRICT, VALGRIND, c, compile, compile_static, example, installed, run, target};

fn play(program: &mut Command) {
    let (_target, [a, b]) = target();
    let text = run(program.args([&a, &b, "6000"]));
    assert!(text.contains(": good"), "{text}");
}

#[test]
fn gcc_with_the_shared_library() {
    let source = example("quickstart.c");
    play(&mut Command::new(compile("gcc", &installed().plain, &source, "qs-gcc", &STRICT)));
}

#[test]
fn gcc_with_the_library_in_it() {
    let source = example("quickstart.c");
    play(&mut Command::new(compile_static(
        "gcc",
        &installed().plain,
        &source,
        "qs-gcc-a",
        &STRICT,
    )));
}

#[test]
fn clang_with_the_shared_library() {
    let source = example("quickstart.c");
    play(&mut Command::new(compile("clang", &installed().plain, &source, "qs-clang", &STRICT)));
}

#[test]
fn clang_with_the_library_in_it() {
    let source = example("quickstart.c");
    let program = compile_static("clang", &installed().plain, &source, "qs-clang-a", &STRICT);
    play(&mut Command::new(program));
}

#[test]
fn cplusplus_can_include_the_header() {
    let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
    for compiler in ["g++", "clang++"] {
        let program = compile(
            compiler,
            &installed().plain,
            &c("header.cpp"),
            &format!("h-{compiler}"),
            &strict,
        );
        run(&mut Command::new(program));
    }
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address", "-fno-omit-frame-pointer"]].concat();
    let source = example("quickstart.c");
    let program = compile_static("gcc", &installed().plain, &source, "qs-asan", &flags);
    play(Command::new(program).env("ASAN_OPTIONS", "detect_leaks=1"));
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let source = example("quickstart.c");
    let program = compile("gcc", &installed().plain, &source, "qs-valgrind", &STRICT);
    play(Command::new("valgrind").args(VALGRIND).arg(program));
}
