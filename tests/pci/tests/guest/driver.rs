//! The driver by every backend: verified I/O, and paths that are unplugged and plugged in.

use std::fs::File;
use std::path::PathBuf;

use nvme_vm::{Guest, Result};
use serde_json::json;

use crate::common::{LIMIT, PROGRAM, boot, plug, run, unplug};

/// The subsystem with both controllers, and where they are.
const NQN: &str = "nqn.2019-08.org.qemu:shared";
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";

/// Two files of 64 MiB, removed in the end.
struct Disks([PathBuf; 2]);

impl Disks {
    fn new(test: &str) -> Self {
        Self([0, 1].map(|n| {
            let path =
                std::env::temp_dir().join(format!("nvme-pci-{test}-{n}-{}", std::process::id()));
            let file = File::create(&path).expect("a file for a disk");
            file.set_len(64 << 20).expect("room for a disk");
            path
        }))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A guest with two controllers of one subsystem, with namespace 1 of blocks of 512 and namespace 2
/// of blocks of 4096 bytes.
fn boot_shared(disks: &Disks) -> Result<Guest> {
    let disk = |n: usize| {
        format!("file={},if=none,id=disk{n},format=raw,cache=unsafe", disks.0[n].display())
    };
    let (first, second) = (disk(0), disk(1));
    #[rustfmt::skip]
    let arguments = [
        "-drive", &first,
        "-drive", &second,
        "-device", "nvme-subsys,id=both,nqn=shared",
        "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
        "-device", "pcie-root-port,id=port1,chassis=2,slot=2,addr=11.0",
        "-device", "nvme,id=first,serial=SHARED,subsys=both,bus=port0,mdts=10",
        "-device", "nvme,id=second,serial=SHARED,subsys=both,bus=port1,mdts=10",
        "-device", "nvme-ns,drive=disk0,nsid=1,shared=on,bus=first,logical_block_size=512",
        "-device", "nvme-ns,drive=disk1,nsid=2,shared=on,bus=first,logical_block_size=4096,physical_block_size=4096",
    ];
    boot(&arguments)
}

#[test]
fn io_is_verified_on_every_backend() -> Result<()> {
    let disks = Disks::new("io");
    let guest = boot_shared(&disks)?;
    let io = |url: &str, nsid: u32, queues: u32| -> Result<()> {
        let output = run(&guest, &format!("io '{url}' {NQN} {nsid} {queues}"))?;
        assert!(output.success(), "{url} {nsid} {queues}: {}", output.text);
        Ok(())
    };
    guest.bind_function(FIRST, "vfio-pci")?;
    let vfio = format!("vfio://{FIRST}");
    for (parameters, nsid, queues) in
        [("poll=1", 1, 1), ("irq=1", 1, 4), ("irq=1&sgl=0", 2, 1), ("poll=1&sgl=4096", 2, 4)]
    {
        io(&format!("{vfio}?{parameters}"), nsid, queues)?;
    }
    guest.bind_function(SECOND, "uio_pci_generic")?;
    let uio = format!("uio://{SECOND}");
    io(&uio, 1, 1)?;
    io(&format!("{uio}?sgl=0"), 2, 4)
}

#[test]
fn a_load_survives_both_controllers_being_unplugged() -> Result<()> {
    let disks = Disks::new("failover");
    let guest = boot_shared(&disks)?;
    guest.bind_function(FIRST, "vfio-pci")?;
    guest.bind_function(SECOND, "vfio-pci")?;
    guest.sh(&format!(
        "({PROGRAM} failover {NQN} 1 vfio://{FIRST} vfio://{SECOND} /run/stop; echo status $?) \
         > /run/log 2>&1 < /dev/null &"
    ))?;
    // The last line of the log, or the end of the program, which then says why.
    let last = |line: &str| -> Result<()> {
        guest
            .wait_for(&format!("tail -n 1 /run/log | grep -qx -e '{line}' -e 'status.*'"), LIMIT)?;
        let log = guest.sh("cat /run/log")?;
        assert_eq!(log.lines().last(), Some(line), "{log}");
        Ok(())
    };
    let plug_second = || -> Result<()> {
        plug(
            &guest,
            &json!({
                "driver": "nvme", "id": "second", "serial": "SHARED", "subsys": "both",
                "bus": "port1", "mdts": 10,
            }),
        );
        guest.wait_for(&format!("[ -e /sys/bus/pci/devices/{SECOND} ]"), LIMIT)?;
        guest.bind_function(SECOND, "vfio-pci")
    };
    last("paths 2")?;
    // One path is taken away and comes back.
    unplug(&guest, "second")?;
    last("paths 1")?;
    plug_second()?;
    last("paths 2")?;
    // Both are taken away: the window opens. One comes back: it closes.
    unplug(&guest, "first")?;
    last("paths 1")?;
    unplug(&guest, "second")?;
    last("pending")?;
    plug_second()?;
    last("paths 1")?;
    guest.sh("touch /run/stop")?;
    last("clean")?;
    // Nothing comes back: the head is removed.
    unplug(&guest, "second")?;
    guest.wait_for("grep -q status /run/log", LIMIT)?;
    let log = guest.sh("cat /run/log")?;
    let end: Vec<&str> = log.lines().skip_while(|line| *line != "gone").collect();
    let story = [
        "gone",
        "scheduled LinkLost",
        "cancelled",
        "scheduled LinkLost",
        "removed delayed=true",
        "status 0",
    ];
    assert_eq!(end, story, "{log}");
    Ok(())
}
