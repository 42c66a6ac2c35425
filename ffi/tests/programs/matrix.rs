//! The shutdown matrix of `README.md`: one process for each cell.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{FaultAction, FaultRule};

use crate::bench::{STRICT, c, compile, installed, run, target};

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

fn column(action: &str) {
    for state in STATES {
        let (target, [url, _]) = target();
        if state == "inflight" {
            target.add_fault(FaultRule::new(FaultAction::Drop).io().opcode(NvmOpcode::READ.0));
        }
        let text = if action == "dlclose" {
            run(Command::new(&programs().loader).arg(&programs().plugin).args([&url, state]))
        } else {
            run(Command::new(&programs().matrix).args([&url, state, action]))
        };
        println!("{state} x {action}: as documented {text}");
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
