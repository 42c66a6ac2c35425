//! The backends on QEMU's controllers, in the guest.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nvme_vm::{Config, Guest, Output, Result};
use serde_json::json;

/// Where the program lies in the guest.
const PROGRAM: &str = "/run/nvme-pci-guest";
/// The longest that one of its runs takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(100);

/// Where the controllers are, by serial number.
const FIRST: &str = "0000:01:00.0";
const SECOND: &str = "0000:02:00.0";
/// A controller in one IOMMU group with another function, and that function.
const SHARED: &str = "0000:00:12.0";
const NEIGHBOUR: &str = "0000:00:12.1";

fn boot() -> Result<Guest> {
    let disk = |n| format!("driver=null-co,node-name=disk{n},size=1073741824,read-zeroes=on");
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: &str| arguments.extend([option, value].map(str::to_owned));
    add("-device", "intel-iommu,intremap=on,caching-mode=on");
    for n in 0..3 {
        add("-blockdev", &disk(n));
    }
    add("-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0");
    add("-device", "pcie-root-port,id=port1,chassis=2,slot=2,addr=11.0");
    add("-device", "nvme,id=first,serial=FIRST,drive=disk0,bus=port0");
    add("-device", "nvme,id=second,serial=SECOND,drive=disk1,bus=port1");
    add("-device", "nvme,serial=SHARED,drive=disk2,addr=12.0,multifunction=on");
    add("-device", "virtio-rng-pci,addr=12.1");
    let guest = Guest::boot(Config {
        kernel_parameters: "intel_iommu=on iommu=pt".to_owned(),
        qemu_arguments: arguments,
        ports: 0,
        namespaces: Vec::new(),
        ..Config::default()
    })?;
    upload(&guest)?;
    guest.sh("modprobe -a nvme vfio-pci vfio_iommu_type1 uio_pci_generic")?;
    guest.sh("echo 8 > /proc/sys/vm/nr_hugepages")?;
    Ok(guest)
}

/// Brings the program into the guest, with the libraries that it is linked to.
fn upload(guest: &Guest) -> Result<()> {
    let program = env!("CARGO_BIN_EXE_nvme-pci-guest");
    let listing = Command::new("ldd").arg(program).output().expect("running ldd");
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    for library in listing.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        if !guest.run(&format!("test -e {library}"))?.success() {
            guest.upload(library, &std::fs::read(library).expect("reading a library"))?;
        }
    }
    guest.upload(PROGRAM, &std::fs::read(Path::new(program)).expect("reading the program"))
}

/// Takes a function from its driver and gives it to another; to none, if that is empty.
fn bind(guest: &Guest, pci: &str, driver: &str) -> Result<()> {
    guest.sh(&format!(
        "d=/sys/bus/pci/devices/{pci}
         [ ! -e $d/driver ] || echo {pci} > $d/driver/unbind
         echo {driver} > $d/driver_override
         [ -z '{driver}' ] || echo {pci} > /sys/bus/pci/drivers_probe"
    ))?;
    Ok(())
}

fn check(guest: &Guest, url: &str, serial: &str) -> Result<Output> {
    guest.run_with(&format!("{PROGRAM} check '{url}' {serial}"), &[], LIMIT)
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
fn unplug(guest: &Guest, url: &str, pci: &str, id: &str, serial: &str, n: u32) -> Result<()> {
    guest.sh(&format!(
        "({PROGRAM} hold {url}; echo status $?) > /run/{id}.log 2>&1 < /dev/null &"
    ))?;
    guest.wait_for(&format!("grep -q open /run/{id}.log"), LIMIT)?;
    guest.monitor("device_del", &json!({ "id": id }))?;
    guest.wait_for(&format!("grep status /run/{id}.log"), LIMIT)?;
    let log = guest.sh(&format!("cat /run/{id}.log"))?;
    assert_eq!(log, "open\nasked\nstatus 0\n", "{url}");
    guest.wait_for(&format!("[ ! -e /sys/bus/pci/devices/{pci} ]"), LIMIT)?;
    let (drive, bus) = (format!("disk{n}"), format!("port{n}"));
    let again = json!({ "driver": "nvme", "id": id, "serial": serial, "drive": drive, "bus": bus });
    // QEMU frees the name a moment after the guest has let the device go.
    let end = std::time::Instant::now() + LIMIT;
    while let Err(error) = guest.monitor("device_add", &again) {
        assert!(std::time::Instant::now() < end, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    guest.wait_for(&format!("[ -e /sys/bus/pci/devices/{pci} ]"), LIMIT)?;
    Ok(())
}

/// One guest for all: booting it costs most.
#[test]
fn functions_are_opened_used_and_given_up() -> Result<()> {
    let guest = boot()?;
    let vfio = format!("vfio://{FIRST}");
    let uio = format!("uio://{SECOND}");

    // What is in the way is named.
    fails(&guest, "vfio://0000:1f:00.0", "no PCI function 0000:1f:00.0")?;
    fails(&guest, &format!("vfio://{NEIGHBOUR}"), "not an NVMe controller")?;
    guest.wait_for(&format!("[ -e /sys/bus/pci/drivers/nvme/{FIRST} ]"), LIMIT)?;
    fails(&guest, &vfio, "bound to the driver nvme; it must be bound to vfio-pci")?;
    bind(&guest, FIRST, "")?;
    fails(&guest, &vfio, "bound to no driver; it must be bound to vfio-pci")?;
    bind(&guest, FIRST, "vfio-pci")?;
    fails(&guest, &format!("uio://{FIRST}"), "bound to the driver vfio-pci")?;
    fails(&guest, &format!("{vfio}?iommu=iommufd"), "no iommufd")?;
    bind(&guest, SHARED, "vfio-pci")?;
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
    let output = user(1024)?;
    assert_eq!((output.text.trim(), output.code), (all, 0));
    let output = user(16)?;
    assert_eq!(output.code, 1);
    let needed = "RLIMIT_MEMLOCK is 16384 bytes, at least 20480 are needed";
    assert!(output.text.contains(needed), "{}", output.text);

    // UIO, with a reset by sysfs.
    bind(&guest, SECOND, "uio_pci_generic")?;
    let some = "Abilities { interrupts: false, maps_memory: false, resets: true }";
    assert_eq!(works(&guest, &uio, "SECOND")?, some);

    // Both are removed under the program, which is asked or sees it, and come back.
    unplug(&guest, &vfio, FIRST, "first", "FIRST", 0)?;
    bind(&guest, FIRST, "vfio-pci")?;
    assert_eq!(works(&guest, &vfio, "FIRST")?, all);
    unplug(&guest, &uio, SECOND, "second", "SECOND", 1)?;
    bind(&guest, SECOND, "uio_pci_generic")?;
    assert_eq!(works(&guest, &uio, "SECOND")?, some);
    Ok(())
}
