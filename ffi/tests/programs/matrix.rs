//! The shutdown matrix of `README.md`: one process for each cell.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{FaultAction, FaultRule};

use crate::bench::{STRICT, VALGRIND, c, compile, compile_static, installed, run, target};

const STATES: [&str; 7] = ["idle", "inflight", "parked", "pending", "callback", "eventfd", "pin"];

struct Programs {
    matrix: PathBuf,
    plugin: PathBuf,
    loader: PathBuf,
}

fn programs() -> &'static Programs {
    static MADE: OnceLock<Programs> = OnceLock::new();
    MADE.get_or_init(|| {
        let prefix = &installed().plain;
        let shared =
            [&STRICT[..], &["-DPLUGIN", "-Wno-unused-function", "-shared", "-fPIC"]].concat();
        let bare = [&STRICT[..], &["-ldl", "-Wl,--as-needed"]].concat();
        Programs {
            matrix: compile("gcc", prefix, &c("matrix.c"), "matrix", &STRICT),
            plugin: compile("gcc", prefix, &c("matrix.c"), "matrix.so", &shared),
            loader: compile("gcc", prefix, &c("loader.c"), "loader", &bare),
        }
    })
}

/// One cell, in a process that is `program` with what it is given.
fn cell(program: &mut Command, state: &str, action: &str) {
    let (target, [url, _]) = target();
    if state == "inflight" {
        target.add_fault(FaultRule::new(FaultAction::Drop).io().opcode(NvmOpcode::READ.0));
    }
    let text = match action {
        "dlclose" => run(program.args([&url, state])),
        _ => run(program.args([&url, state, action])),
    };
    println!("{state} x {action}: as documented {text}");
}

fn column(action: &str) {
    for state in STATES {
        let mut program = Command::new(&programs().matrix);
        if action == "dlclose" {
            program = Command::new(&programs().loader);
            program.arg(&programs().plugin);
        }
        cell(&mut program, state, action);
    }
}

/// The actions after which nothing may be left.
const CLEAN: [&str; 3] = ["shutdown", "forced", "drop"];

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address"]].concat();
    let prefix = &installed().plain;
    let program = compile_static("gcc", prefix, &c("matrix.c"), "matrix-asan", &flags);
    for action in CLEAN {
        STATES.iter().for_each(|state| cell(&mut Command::new(&program), state, action));
    }
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    for action in CLEAN {
        for state in STATES {
            let mut valgrind = Command::new("valgrind");
            cell(valgrind.args(VALGRIND).arg(&programs().matrix), state, action);
        }
    }
}

#[test]
fn shutdown() {
    column("shutdown");
}

#[test]
fn forced_shutdown() {
    column("forced");
}

#[test]
fn drop_of_every_handle_in_any_order() {
    column("drop");
}

#[test]
fn dlclose() {
    column("dlclose");
}

#[test]
fn fork_then_use_in_the_child() {
    column("fork");
}

#[test]
fn exit_without_shutdown() {
    column("exit");
}
