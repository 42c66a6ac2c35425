//! `reach.c`: whatever the Rust API can do beside plain I/O.

use std::process::Command;

use nvme_target::Target;

use crate::bench::{STRICT, VALGRIND, c, compile, compile_static, installed, run, target};

fn play(command: &mut Command) {
    let (target, [a, b]) = target();
    let text = run(command.arg(a).arg(b).arg(discovery(&target)));
    assert!(text.contains("good"), "{text}");
}

/// The discovery controller behind the first port.
fn discovery(target: &Target) -> String {
    format!("tcp://{}/nqn.2014-08.org.nvmexpress.discovery", target.addr(0).expect("a port"))
}

#[test]
fn policies_hedging_fences_limits_latencies_admin_discovery_memory() {
    play(&mut Command::new(compile("gcc", &installed().plain, &c("reach.c"), "reach", &STRICT)));
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address"]].concat();
    let program = compile_static("gcc", &installed().plain, &c("reach.c"), "reach-asan", &flags);
    play(&mut Command::new(program));
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let program = compile("gcc", &installed().plain, &c("reach.c"), "reach-valgrind", &STRICT);
    play(Command::new("valgrind").args(VALGRIND).arg(program));
}
