//! A guest with NVMe controllers of QEMU's, for user-space drivers inside it.
use std::time::Duration;

use nvme_vm::{Config, Guest, Result};

#[test]
fn a_controller_can_be_given_to_vfio() -> Result<()> {
    let arguments = [
        "-blockdev",
        "driver=null-co,node-name=disk,size=1073741824,read-zeroes=on",
        "-device",
        "nvme,serial=VFIO,drive=disk",
    ];
    let guest = Guest::boot(Config::for_drivers(Some(true), &arguments))?;
    guest.prepare_for_drivers()?;
    let device = guest.sh("grep -l '^0x010802' /sys/bus/pci/devices/*/class | xargs dirname")?;
    let device = device.trim();
    guest.bind_function(device.rsplit('/').next().unwrap_or(device), "vfio-pci")?;
    let group = guest.wait_for(
        &format!(
            "n=/dev/vfio/$(basename $(readlink {device}/iommu_group)) && [ -c $n ] && echo $n"
        ),
        Duration::from_secs(30),
    )?;
    assert!(group.starts_with("/dev/vfio/"), "{group}");
    Ok(())
}
