//! A guest with NVMe controllers of QEMU's, for user-space drivers inside it.
use std::time::Duration;

use nvme_vm::{Config, Guest, Result};

#[test]
fn a_controller_can_be_given_to_vfio() -> Result<()> {
    let arguments = [
        "-device",
        "intel-iommu,intremap=on,caching-mode=on",
        "-blockdev",
        "driver=null-co,node-name=disk,size=1073741824,read-zeroes=on",
        "-device",
        "nvme,serial=VFIO,drive=disk",
    ];
    let guest = Guest::boot(Config {
        kernel_parameters: "intel_iommu=on iommu=pt".to_owned(),
        qemu_arguments: arguments.map(str::to_owned).to_vec(),
        ports: 0,
        namespaces: Vec::new(),
        ..Config::default()
    })?;
    guest.sh("modprobe -a vfio-pci vfio_iommu_type1")?;
    let device = guest.sh("grep -l '^0x010802' /sys/bus/pci/devices/*/class | xargs dirname")?;
    let device = device.trim();
    guest.sh(&format!("echo vfio-pci > {device}/driver_override"))?;
    guest.sh(&format!("basename {device} > /sys/bus/pci/drivers_probe"))?;
    let group = guest.wait_for(
        &format!(
            "n=/dev/vfio/$(basename $(readlink {device}/iommu_group)) && [ -c $n ] && echo $n"
        ),
        Duration::from_secs(30),
    )?;
    assert!(group.starts_with("/dev/vfio/"), "{group}");
    Ok(())
}
