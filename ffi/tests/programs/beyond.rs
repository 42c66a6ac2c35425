//! `beyond.c`: snapshots, passthrough, power states, metadata, driving, what becomes of a cancelled command.

use std::process::Command;
use std::time::Duration;

use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{
    FaultAction, FaultRule, Metadata, NamespaceConfig, PowerState, SubsystemConfig, Target,
};

use crate::bench::{NQN, STRICT, VALGRIND, c, compile, compile_static, installed, run};

fn play(command: &mut Command) {
    let states = [
        PowerState { power: 800, non_operational: false, entry_us: 0, exit_us: 0 },
        PowerState { power: 5, non_operational: true, entry_us: 1000, exit_us: 2000 },
    ];
    let plain = NamespaceConfig::memory(1, 16 << 20).block_size(4096);
    let extended = NamespaceConfig::memory(2, 16 << 20).block_size(4096);
    let subsystem = SubsystemConfig::new(NQN).expect("a name").power_states(&states);
    let subsystem = subsystem.namespace(plain).namespace(extended.metadata(Metadata::Extended(8)));
    let builder = Target::builder().subsystem(subsystem).listen("127.0.0.1:0");
    let target = builder.start().expect("a target");
    let never = FaultAction::Delay(Duration::from_secs(3600));
    target.add_fault(FaultRule::new(never).io().opcode(NvmOpcode::COMPARE.0));
    let url = format!("tcp://{}/{NQN}", target.addr(0).expect("a port"));
    let text = run(command.arg(url));
    assert!(text.contains("good"), "{text}");
}

#[test]
fn snapshots_passthrough_power_metadata_driving_and_abort() {
    play(&mut Command::new(compile("gcc", &installed().plain, &c("beyond.c"), "beyond", &STRICT)));
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address"]].concat();
    let prefix = &installed().plain;
    play(&mut Command::new(compile_static("gcc", prefix, &c("beyond.c"), "beyond-asan", &flags)));
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let program = compile("gcc", &installed().plain, &c("beyond.c"), "beyond-valgrind", &STRICT);
    play(Command::new("valgrind").args(VALGRIND).arg(program));
}
