//! `nvmeh` on QEMU's controller over PCIe, inside the guest.

use std::path::Path;
use std::time::Duration;

use nvme_vm::{Config, Guest};
use serde_json::Value;

const PROGRAM: &str = "/run/nvmeh";
/// Where the controller is in the guest.
const PCI: &str = "0000:00:10.0";
const LIMIT: Duration = Duration::from_secs(100);

/// A guest with an IOMMU, a controller, and `nvmeh` with the libraries that it is linked to.
fn boot() -> Guest {
    let file = std::env::temp_dir().join(format!("nvmeh-pci-{}", std::process::id()));
    std::fs::File::create(&file).and_then(|f| f.set_len(64 << 20)).expect("a file for a disk");
    let drive = format!("file={},if=none,id=disk,format=raw,cache=unsafe", file.display());
    let device = "nvme,id=nvme,serial=NVMEH,drive=disk,addr=10.0";
    let arguments = ["-drive", &drive, "-device", device];
    let guest = Guest::boot(Config::for_drivers(Some(true), &arguments));
    // QEMU has it open, or there is nothing to keep it for.
    let _ = std::fs::remove_file(&file);
    let guest = guest.unwrap();
    guest.upload_program(PROGRAM, Path::new(env!("CARGO_BIN_EXE_nvmeh"))).unwrap();
    guest.prepare_for_drivers().unwrap();
    guest
}

fn nvmeh(guest: &Guest, arguments: &str) -> Value {
    let output = guest.run_with(&format!("{PROGRAM} {arguments}"), &[], LIMIT).unwrap();
    assert!(output.success(), "nvmeh {arguments}: {}", output.text);
    let last = output.text.lines().rfind(|line| line.starts_with('{')).expect(&output.text);
    serde_json::from_str(last).unwrap_or_else(|e| panic!("nvmeh {arguments}: {e}: {last}"))
}

#[test]
fn nvmeh_verifies_io_by_vfio_and_by_uio() {
    let guest = boot();
    for (scheme, driver) in [("vfio", "vfio-pci"), ("uio", "uio_pci_generic")] {
        guest.bind_function(PCI, driver).unwrap();
        guest.sh(&format!("[ -e /sys/bus/pci/devices/{PCI}/driver ]")).unwrap();
        let url = format!("{scheme}://{PCI}");
        let listed = nvmeh(&guest, &format!("list {url} --json")).to_string();
        assert!(listed.contains("NVMEH") && listed.contains("QEMU NVMe Ctrl"), "{listed}");
        let io = "--rw randrw --bs 4k --qd 16 --time 2 --verify --write-ok --json";
        let result = nvmeh(&guest, &format!("io {url} {io}"));
        for key in ["lost", "stale", "torn", "misplaced"] {
            assert_eq!(result["verify"][key].as_u64(), Some(0), "{key}: {result}");
        }
        assert_eq!(result["failed"].as_u64(), Some(0), "{result}");
        assert!(result["writes"].as_u64() > Some(0), "{result}");
    }
}
