//! `letgo.c`: what a device has of a channel that is closed.

use std::process::Command;

use nvme_target::{PciConfig, PciDevice, PciFault, VfioUserServer};

use crate::bench::{NQN, STRICT, c, compile, installed, run, target};

#[test]
fn a_closed_channel_has_let_go_of_memory_that_a_device_reaches() {
    let (target, _) = target();
    let device = PciDevice::new(&target, NQN, PciConfig::new()).expect("a device");
    device.add_fault(PciFault::Stall);
    let name = format!("nvme-{}-letgo", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&socket);
    let server = VfioUserServer::bind(&socket, &device).expect("a server");
    let program = compile("gcc", &installed().plain, &c("letgo.c"), "letgo", &STRICT);
    let text = run(Command::new(program).arg(format!("vfio-user://{}", server.path().display())));
    assert!(text.contains("good"), "{text}");
    assert_eq!(device.stats().dma_errors, 0);
}
