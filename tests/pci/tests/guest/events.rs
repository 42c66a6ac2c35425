//! What happens to a controller while it is used: namespaces come and go, it stalls, and its
//! namespace is reached over TCP as well.

use nvme_vm::{Disks, Guest, Result, SHARED_NQN as NQN};
use serde_json::json;

use crate::common::{LIMIT, PROGRAM, boot, run};

/// The controllers of the subsystem.
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";
/// Namespace 1 has no other identifier than this one, so that nvmet can have the same.
const UUID: &str = "5b1d3c2a-7f6e-4d5c-8b9a-0123456789ab";

fn boot_all(disks: &Disks) -> Result<Guest> {
    // The third controller is the kernel's, and lies on the same file as namespace 1.
    let mirror = disks.drive(0).replace("id=disk0", "id=mirror");
    let (first, second) = (disks.drive(0), disks.drive(1));
    let shared =
        format!("nvme-ns,drive=disk0,nsid=1,shared=on,bus=first,uuid={UUID},eui64-default=off");
    #[rustfmt::skip]
    let arguments = [
        "-drive", &first, "-drive", &second, "-drive", &mirror,
        "-device", "nvme-subsys,id=both,nqn=shared",
        "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
        "-device", "pcie-root-port,id=port1,chassis=2,slot=2,addr=11.0",
        "-device", "nvme,id=first,serial=SHARED,subsys=both,bus=port0",
        "-device", "nvme,id=second,serial=SHARED,subsys=both,bus=port1",
        "-device", &shared,
        "-device", "nvme-ns,drive=disk1,nsid=3,shared=on,detached=on,bus=first",
        "-device", "nvme,serial=MIRROR,drive=mirror,addr=12.0",
    ];
    boot(&arguments)
}

/// Waits for a line in the log of a program that runs in the background, or for its end, which is
/// then shown.
fn wait_for_line(guest: &Guest, line: &str) -> Result<()> {
    let script = format!("grep -qx -e '{line}' -e 'status.*' /run/log");
    guest.wait_for(&script, LIMIT)?;
    let log = guest.sh("cat /run/log")?;
    assert!(log.lines().any(|l| l == line), "no {line:?} in {log}");
    Ok(())
}

fn start(guest: &Guest, arguments: &str) -> Result<()> {
    let line = format!("({PROGRAM} {arguments}; echo status $?) > /run/log 2>&1 < /dev/null &");
    guest.sh(&line).map(drop)
}

/// Lets namespace 1 do so many requests per second; 0: as many as it can.
fn throttle(guest: &Guest, iops: u32) -> Result<()> {
    let limits = json!({
        "device": "disk0", "bps": 0, "bps_rd": 0, "bps_wr": 0,
        "iops": iops, "iops_rd": 0, "iops_wr": 0,
    });
    guest.monitor("block_set_io_throttle", &limits).map(drop)
}

/// Has nvmet offer the mirror under the same name and identifiers.
const EXPORT: &str = "
    . /etc/target.sh
    disk=$(grep -l MIRROR /sys/class/nvme/*/serial | xargs dirname)
    disk=/dev/$(ls \"$disk\" | grep -x 'nvme[0-9]*n1')
    make_subsystem NQN SHARED
    s=$NVMET/subsystems/NQN
    write 100 $s/attr_cntlid_min
    mkdir $s/namespaces/1
    write $disk $s/namespaces/1/device_path
    write UUID $s/namespaces/1/device_uuid
    write 1 $s/namespaces/1/enable
    p=$NVMET/ports/9
    mkdir $p
    write tcp $p/addr_trtype
    write ipv4 $p/addr_adrfam
    write 127.0.0.1 $p/addr_traddr
    write 4429 $p/addr_trsvcid
    ln -s $s $p/subsystems/NQN";

#[test]
fn namespaces_come_a_device_stalls_and_paths_of_two_transports_are_one_head() -> Result<()> {
    let disks = Disks::new("events", 2)?;
    let guest = boot_all(&disks)?;
    guest.sh("modprobe nvme")?;
    guest.bind_function(FIRST, "vfio-pci")?;
    guest.bind_function(SECOND, "vfio-pci")?;

    let output = run(&guest, &format!("attach vfio://{FIRST} {NQN} 1 3"))?;
    assert!(output.success(), "{}", output.text);

    start(&guest, &format!("stall vfio://{FIRST} {NQN} 1 /run/go"))?;
    wait_for_line(&guest, "ready")?;
    throttle(&guest, 1)?;
    guest.sh("touch /run/go")?;
    // It is noticed and told, the controller is reset, and the reads are done in the end.
    guest.wait_for("grep -q -e 'not answered in time' -e status /run/log", LIMIT)?;
    throttle(&guest, 0)?;
    wait_for_line(&guest, "ended")?;
    guest.sh("rm /run/go")?;
    wait_for_line(&guest, "clean")?;
    wait_for_line(&guest, "status 0")?;
    let log = guest.sh("cat /run/log")?;
    assert!(log.contains("overdue Aborting"), "{log}");
    assert!(log.contains("reconnects") && !log.contains("reconnects 0"), "{log}");

    // One head with a path over PCIe and one over TCP.
    guest.sh(&EXPORT.replace("UUID", UUID).replace("NQN", NQN))?;
    let tcp = format!("tcp://127.0.0.1:4429/{NQN}");
    start(&guest, &format!("failover {NQN} 1 vfio://{FIRST} {tcp} /run/stop"))?;
    let last = |line: &str| -> Result<()> {
        let script = format!("tail -n 1 /run/log | grep -qx -e '{line}' -e 'status.*'");
        guest.wait_for(&script, LIMIT)?;
        let log = guest.sh("cat /run/log")?;
        assert_eq!(log.lines().last(), Some(line), "{log}");
        Ok(())
    };
    let port = format!("/sys/kernel/config/nvmet/ports/9/subsystems/{NQN}");
    let link = || guest.sh(&format!("ln -s /sys/kernel/config/nvmet/subsystems/{NQN} {port}"));
    let unlink = || guest.sh(&format!("rm {port}"));
    last("paths 2")?;
    unlink()?;
    last("paths 1")?;
    link()?;
    last("paths 2")?;
    guest.unplug("first")?;
    last("paths 1")?;
    unlink()?;
    last("pending")?;
    link()?;
    last("paths 1")?;
    guest.sh("touch /run/stop")?;
    last("clean")?;
    unlink()?;
    wait_for_line(&guest, "gone")?;
    wait_for_line(&guest, "status 0")
}
