//! The controller memory buffer of QEMU's controller, by VFIO and by UIO.

use std::fs::File;

use nvme_vm::Result;

use crate::common::{boot, run};

const FIRST: &str = "0000:01:00.0";
const NQN: &str = "nqn.2019-08.org.qemu:FIRST";

#[test]
fn queues_and_data_are_in_controller_memory() -> Result<()> {
    let path = std::env::temp_dir().join(format!("nvme-pci-cmb-{}", std::process::id()));
    File::create(&path).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    let drive = format!("file={},if=none,id=disk0,format=raw,cache=unsafe", path.display());
    #[rustfmt::skip]
    let guest = boot(&[
        "-drive", &drive,
        "-device", "pcie-root-port,id=port0,chassis=1,slot=1,addr=10.0",
        "-device", "nvme,id=first,serial=FIRST,drive=disk0,bus=port0,cmb_size_mb=16",
    ])?;
    let _ = std::fs::remove_file(&path);
    for (driver, scheme) in [("vfio-pci", "vfio"), ("uio_pci_generic", "uio")] {
        guest.bind_function(FIRST, driver)?;
        for (parameters, queues) in [("cmb=sq", 2), ("cmb=sq+data&sgl=0", 1), ("cmb=off", 1)] {
            let url = format!("{scheme}://{FIRST}?{parameters}");
            let output = run(&guest, &format!("io '{url}' {NQN} 1 {queues}"))?;
            assert!(output.success(), "{url}: {}", output.text);
        }
    }
    Ok(())
}
