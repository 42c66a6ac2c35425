//! The backends alone, on QEMU's controllers.

use nvme_vm::{Disks, Guest, Output, Result};
use serde_json::json;

use crate::common::{LIMIT, PROGRAM, boot, boot_rebuilt, run};

/// Where the controllers are, by serial number.
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";
/// A controller in one IOMMU group with another function, and that function.
const SHARED: &str = "0000:00:12.0";
const NEIGHBOUR: &str = "0000:00:12.1";

#[rustfmt::skip]
const ARGUMENTS: &[&str] = &[
    "-blockdev", "driver=null-co,node-name=disk0,size=1073741824,read-zeroes=on",
    "-blockdev", "driver=null-co,node-name=disk1,size=1073741824,read-zeroes=on",
    "-blockdev", "driver=null-co,node-name=disk2,size=1073741824,read-zeroes=on",
    "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
    "-device", "pcie-root-port,id=port1,chassis=2,slot=2,addr=11.0",
    "-device", "nvme,id=first,serial=FIRST,drive=disk0,bus=port0",
    "-device", "nvme,id=second,serial=SECOND,drive=disk1,bus=port1",
    "-device", "nvme,serial=SHARED,drive=disk2,addr=12.0,multifunction=on",
    "-device", "virtio-rng-pci,addr=12.1",
];

fn check(guest: &Guest, url: &str, serial: &str) -> Result<Output> {
    run(guest, &format!("check '{url}' {serial}"))
}

/// Checks what must work; gives what the backend can do.
fn works(guest: &Guest, url: &str, serial: &str) -> Result<String> {
    let output = check(guest, url, serial)?;
    assert!(output.success(), "{url}: {}", output.text);
    Ok(output.text.trim().to_owned())
}

/// Checks what must not work, and must say why.
fn fails(guest: &Guest, url: &str, reason: &str) -> Result<()> {
    let output = check(guest, url, "FIRST")?;
    assert_eq!(output.code, 1, "{url}: {}", output.text);
    assert!(output.text.contains(reason), "{url}: {} has no {reason:?}", output.text);
    Ok(())
}

/// Has a controller removed while the program holds it, and plugged in again.
fn replug(guest: &Guest, url: &str, pci: &str, id: &str, serial: &str, n: u32) -> Result<()> {
    guest.sh(&format!(
        "({PROGRAM} hold {url}; echo status $?) > /run/{id}.log 2>&1 < /dev/null &"
    ))?;
    guest.wait_for(&format!("grep -q open /run/{id}.log"), LIMIT)?;
    guest.unplug(id)?;
    guest.wait_for(&format!("grep status /run/{id}.log"), LIMIT)?;
    let log = guest.sh(&format!("cat /run/{id}.log"))?;
    assert_eq!(log, "open\nasked\nstatus 0\n", "{url}");
    guest.wait_for(&format!("[ ! -e /sys/bus/pci/devices/{pci} ]"), LIMIT)?;
    let (drive, bus) = (format!("disk{n}"), format!("port{n}"));
    let again = json!({ "driver": "nvme", "id": id, "serial": serial, "drive": drive, "bus": bus });
    guest.plug(&again)?;
    guest.wait_for(&format!("[ -e /sys/bus/pci/devices/{pci} ]"), LIMIT)?;
    Ok(())
}

/// One guest for all: booting it costs most.
#[test]
fn functions_are_opened_used_and_given_up() -> Result<()> {
    let guest = boot(ARGUMENTS)?;
    guest.sh("modprobe nvme")?;
    let vfio = format!("vfio://{FIRST}");
    let uio = format!("uio://{SECOND}");

    // What is in the way is named.
    fails(&guest, "vfio://0000:1f:00.0", "no PCI function 0000:1f:00.0")?;
    fails(&guest, &format!("vfio://{NEIGHBOUR}"), "not an NVMe controller")?;
    guest.wait_for(&format!("[ -e /sys/bus/pci/drivers/nvme/{FIRST} ]"), LIMIT)?;
    fails(&guest, &vfio, "bound to the driver nvme; it must be bound to vfio-pci")?;
    guest.bind_function(FIRST, "")?;
    fails(&guest, &vfio, "bound to no driver; it must be bound to vfio-pci")?;
    guest.bind_function(FIRST, "vfio-pci")?;
    fails(&guest, &format!("uio://{FIRST}"), "bound to the driver vfio-pci")?;
    fails(&guest, &format!("{vfio}?iommu=iommufd"), "no iommufd")?;
    guest.bind_function(SHARED, "vfio-pci")?;
    let neighbour = format!("{NEIGHBOUR} (virtio-pci)");
    fails(&guest, &format!("vfio://{SHARED}"), &neighbour)?;

    // VFIO: by root, and by a user who may open the group's file and lock enough memory, or not.
    let all = "Abilities { interrupts: true, maps_memory: true, resets: true }";
    assert_eq!(works(&guest, &vfio, "FIRST")?, all);
    guest.sh(&format!(
        "echo user:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
         chmod 666 /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/{FIRST}/iommu_group))"
    ))?;
    let user = |limit: u32| {
        let line = format!("ulimit -l {limit}; exec {PROGRAM} check {vfio} FIRST");
        guest.run_with(&format!("su user -c '{line}'"), &[], LIMIT)
    };
    // A huge page is what the check maps, where there is one.
    let output = user(4096)?;
    assert_eq!((output.text.trim(), output.code), (all, 0));
    let output = user(16)?;
    assert_eq!(output.code, 1);
    let needed = "RLIMIT_MEMLOCK is 16384 bytes, at least 20480 are needed";
    assert!(output.text.contains(needed), "{}", output.text);

    // UIO, with a reset by sysfs.
    guest.bind_function(SECOND, "uio_pci_generic")?;
    let some = "Abilities { interrupts: false, maps_memory: true, resets: true }";
    assert_eq!(works(&guest, &uio, "SECOND")?, some);

    // Both are removed under the program, which is asked or sees it, and come back.
    replug(&guest, &vfio, FIRST, "first", "FIRST", 0)?;
    guest.bind_function(FIRST, "vfio-pci")?;
    assert_eq!(works(&guest, &vfio, "FIRST")?, all);
    replug(&guest, &uio, SECOND, "second", "SECOND", 1)?;
    guest.bind_function(SECOND, "uio_pci_generic")?;
    assert_eq!(works(&guest, &uio, "SECOND")?, some);
    Ok(())
}

/// A guest with one controller, and with what the kernel of the other tests does not have: iommufd,
/// and VFIO without an IOMMU.
fn boot_one(iommu: bool, disks: &Disks) -> Result<Guest> {
    let drive = disks.drive(0);
    #[rustfmt::skip]
    let arguments = [
        "-drive", &drive,
        "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
        "-device", "nvme,id=first,serial=FIRST,drive=disk0,bus=port0",
    ];
    boot_rebuilt(iommu, &arguments)
}

/// Has the driver do verified I/O.
fn moves_data(guest: &Guest, url: &str, queues: u32) -> Result<()> {
    let nqn = "nqn.2019-08.org.qemu:FIRST";
    let output = run(guest, &format!("io '{url}' {nqn} 1 {queues}"))?;
    assert!(output.success(), "{url}: {}", output.text);
    Ok(())
}

#[test]
fn a_function_is_reached_by_iommufd_and_without_interrupt_remapping() -> Result<()> {
    let disks = Disks::new("iommufd", 1)?;
    let guest = boot_one(true, &disks)?;
    guest.bind_function(FIRST, "vfio-pci")?;
    let all = "Abilities { interrupts: true, maps_memory: true, resets: true }";
    // Without interrupt remapping the kernel wants to be told that this is accepted.
    for (way, module) in [("type1", "vfio_iommu_type1"), ("iommufd", "iommufd")] {
        let url = format!("vfio://{FIRST}?iommu={way}");
        let why = format!("allow_unsafe_interrupts of the module {module} is off");
        fails(&guest, &url, &why)?;
        guest.sh(&format!("echo 1 > /sys/module/{module}/parameters/allow_unsafe_interrupts"))?;
        assert_eq!(works(&guest, &url, "FIRST")?, all, "{way}");
        moves_data(&guest, &format!("{url}&irq=1"), 2)?;
        moves_data(&guest, &format!("{url}&poll=1"), 1)?;
    }
    // By itself it takes iommufd: it works without the group's file.
    guest.sh("rm /dev/vfio/vfio")?;
    assert_eq!(works(&guest, &format!("vfio://{FIRST}"), "FIRST")?, all);
    Ok(())
}

#[test]
fn a_function_is_reached_without_an_iommu() -> Result<()> {
    let disks = Disks::new("noiommu", 1)?;
    let guest = boot_one(false, &disks)?;
    let vfio = format!("vfio://{FIRST}");
    guest.sh("echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")?;
    guest.bind_function(FIRST, "vfio-pci")?;
    let some = "Abilities { interrupts: true, maps_memory: true, resets: true }";
    assert_eq!(works(&guest, &vfio, "FIRST")?, some);
    moves_data(&guest, &format!("{vfio}?irq=1"), 2)?;
    moves_data(&guest, &format!("{vfio}?poll=1"), 1)?;
    guest.sh("echo 0 > /proc/sys/vm/nr_hugepages")?;
    fails(&guest, &vfio, "huge pages of 2 MiB")
}
