//! Blocks with metadata on QEMU's controller, which has both kinds.

use nvme_vm::{Disks, Result};

use crate::common::{boot, run};

const FIRST: &str = "0000:01:00.0";
const NQN: &str = "nqn.2019-08.org.qemu:FIRST";

#[test]
fn metadata_is_moved_with_the_data_and_beside_it() -> Result<()> {
    let disks = Disks::new("metadata", 3)?;
    let (first, second, third) = (disks.drive(0), disks.drive(1), disks.drive(2));
    #[rustfmt::skip]
    let guest = boot(&[
        "-drive", &first, "-drive", &second, "-drive", &third,
        "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
        "-device", "nvme,id=first,serial=FIRST,bus=port0",
        "-device", "nvme-ns,drive=disk0,nsid=1,bus=first,logical_block_size=512,ms=8,mset=0",
        "-device", "nvme-ns,drive=disk1,nsid=2,bus=first,logical_block_size=512,ms=8,mset=1",
        "-device", "nvme-ns,drive=disk2,nsid=3,bus=first,logical_block_size=4096,physical_block_size=4096,ms=64,mset=0",
    ])?;
    for (driver, scheme) in [("vfio-pci", "vfio"), ("uio_pci_generic", "uio")] {
        guest.bind_function(FIRST, driver)?;
        for (nsid, kind) in [(1, "beside"), (2, "after"), (3, "beside")] {
            for parameters in ["sgl=0", "sgl=4096&poll=1"] {
                let url = format!("{scheme}://{FIRST}?{parameters}");
                let output = run(&guest, &format!("metadata '{url}' {NQN} {nsid} {kind}"))?;
                assert!(output.success(), "{url}, namespace {nsid}: {}", output.text);
            }
        }
    }
    Ok(())
}
