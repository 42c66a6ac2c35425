//! The driver by every backend: verified I/O, and paths that are unplugged and plugged in.

use nvme_vm::{Config, Disks, Guest, Result, SHARED_NQN as NQN};

use crate::common::{LIMIT, PROGRAM, boot_with, run};

/// Where the controllers are.
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";

/// A guest with two controllers of one subsystem.
fn boot_shared(disks: &Disks) -> Result<Guest> {
    boot_with(Config::for_two_controllers(disks))
}

#[test]
fn io_is_verified_on_every_backend() -> Result<()> {
    let disks = Disks::new("io", 2)?;
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
        io(&format!("{vfio}?max_transfer=4194304&{parameters}"), nsid, queues)?;
    }
    guest.bind_function(SECOND, "uio_pci_generic")?;
    let uio = format!("uio://{SECOND}");
    io(&uio, 1, 1)?;
    io(&format!("{uio}?sgl=0"), 2, 4)
}

#[test]
fn a_load_survives_both_controllers_being_unplugged() -> Result<()> {
    let disks = Disks::new("failover", 2)?;
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
    last("paths 2")?;
    // One path is taken away and comes back.
    guest.unplug("second")?;
    last("paths 1")?;
    guest.plug_second("vfio-pci")?;
    last("paths 2")?;
    // Both are taken away: the window opens. One comes back: it closes.
    guest.unplug("first")?;
    last("paths 1")?;
    guest.unplug("second")?;
    last("pending")?;
    guest.plug_second("vfio-pci")?;
    last("paths 1")?;
    guest.sh("touch /run/stop")?;
    last("clean")?;
    // Nothing comes back: the head is removed.
    guest.unplug("second")?;
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
