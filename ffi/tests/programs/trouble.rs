//! `trouble.c`: what C sees of requests that are overdue, held or hedged, and of a path that joins.

use std::process::Command;
use std::time::Duration;

use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{FaultAction, FaultRule};

use crate::bench::{STRICT, VALGRIND, c, compile, compile_static, installed, run, target};

fn play(command: &mut Command) {
    let (target, [a, b]) = target();
    let on_first = |action, opcode: NvmOpcode, block| {
        FaultRule::new(action).listener(0).io().opcode(opcode.0).lbas(block..block + 1)
    };
    let slow = FaultAction::Delay(Duration::from_millis(600));
    let never = FaultAction::Delay(Duration::from_secs(3600));
    target.add_fault(on_first(slow, NvmOpcode::READ, 100));
    target.add_fault(on_first(never, NvmOpcode::READ, 200));
    target.add_fault(on_first(FaultAction::CloseBefore, NvmOpcode::WRITE, 300).times(1));
    let text = run(command.arg(a).arg(b));
    assert!(text.contains("good"), "{text}");
}

#[test]
fn what_is_overdue_held_or_hedged_and_a_path_that_joins() {
    play(&mut Command::new(compile(
        "gcc",
        &installed().plain,
        &c("trouble.c"),
        "trouble",
        &STRICT,
    )));
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address"]].concat();
    let prefix = &installed().plain;
    play(&mut Command::new(compile_static("gcc", prefix, &c("trouble.c"), "trouble-asan", &flags)));
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let program = compile("gcc", &installed().plain, &c("trouble.c"), "trouble-valgrind", &STRICT);
    play(Command::new("valgrind").args(VALGRIND).arg(program));
}
