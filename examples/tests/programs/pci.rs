//! `nvmeh` on QEMU's controller over PCIe, inside the guest.

use std::process::Command;
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
    let iommu = "intel-iommu,intremap=on,caching-mode=on";
    let arguments = ["-device", iommu, "-drive", &drive, "-device", device];
    let guest = Guest::boot(Config {
        kernel_parameters: "intel_iommu=on iommu=pt".to_owned(),
        qemu_arguments: arguments.into_iter().map(str::to_owned).collect(),
        ports: 0,
        namespaces: Vec::new(),
        ..Config::default()
    });
    // QEMU has it open, or there is nothing to keep it for.
    let _ = std::fs::remove_file(&file);
    let guest = guest.unwrap();
    let program = env!("CARGO_BIN_EXE_nvmeh");
    let listing = Command::new("ldd").arg(program).output().expect("ldd runs");
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    for library in listing.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        if !guest.run(&format!("test -e {library}")).unwrap().success() {
            guest.upload(library, &std::fs::read(library).expect("a library")).unwrap();
        }
    }
    guest.upload(PROGRAM, &std::fs::read(program).expect("the program")).unwrap();
    guest.sh("modprobe -a vfio-pci vfio_iommu_type1 uio_pci_generic").unwrap();
    guest.sh("echo 64 > /proc/sys/vm/nr_hugepages").unwrap();
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
        guest
            .sh(&format!(
                "d=/sys/bus/pci/devices/{PCI}
                 [ ! -e $d/driver ] || echo {PCI} > $d/driver/unbind
                 echo {driver} > $d/driver_override
                 echo {PCI} > /sys/bus/pci/drivers_probe
                 [ -e $d/driver ]"
            ))
            .unwrap();
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
