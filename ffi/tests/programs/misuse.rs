//! `bad_input.c`: every wrong use that can be detected, and the answers.

use std::process::Command;

use crate::bench::{STRICT, VALGRIND, c, compile, compile_static, installed, run, target};

fn play(command: &mut Command) {
    let (_target, [url, _]) = target();
    let text = run(command.arg(url));
    assert!(text.contains("good"), "{text}");
}

#[test]
fn wrong_use_is_answered() {
    play(&mut Command::new(compile("gcc", &installed().plain, &c("bad_input.c"), "bad", &STRICT)));
}

#[test]
fn a_panic_is_an_error_and_the_object_refuses_the_rest() {
    let flags = [&STRICT[..], &["-DHOOKS"]].concat();
    play(&mut Command::new(compile("gcc", &installed().hooks, &c("bad_input.c"), "panic", &flags)));
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address"]].concat();
    let program = compile_static("gcc", &installed().plain, &c("bad_input.c"), "bad-asan", &flags);
    play(&mut Command::new(program));
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let program = compile("gcc", &installed().plain, &c("bad_input.c"), "bad-valgrind", &STRICT);
    play(Command::new("valgrind").args(VALGRIND).arg(program));
}
