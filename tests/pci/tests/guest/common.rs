//! What tests in the guest have in common.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nvme_vm::{CACHE_VARIABLE, Config, Guest, Output, Result};

/// Where the program lies in the guest.
pub const PROGRAM: &str = "/run/nvme-pci-guest";
/// The longest that one of its runs takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(100);

/// Boots a guest with an IOMMU and these QEMU arguments besides, option and value in turn, and
/// brings the program into it.
pub fn boot(arguments: &[&str]) -> Result<Guest> {
    boot_with(Config::for_drivers(Some(true), arguments))
}

/// Boots such a guest and brings the program into it.
pub fn boot_with(config: Config) -> Result<Guest> {
    let guest = Guest::boot(config)?;
    upload(&guest)?;
    guest.prepare_for_drivers()?;
    Ok(guest)
}

/// Boots a guest whose vfio modules have what Debian's leave out, with an IOMMU or without one.
pub fn boot_rebuilt(iommu: bool, arguments: &[&str]) -> Result<Guest> {
    let guest = Guest::boot(Config::for_drivers(iommu.then_some(false), arguments))?;
    upload(&guest)?;
    let release = guest.sh("uname -r")?;
    let cache = std::env::var_os(CACHE_VARIABLE).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/vm-cache"),
        PathBuf::from,
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/vfio-modules.sh");
    let built = Command::new(script).arg(&cache).status().expect("running a script");
    assert!(built.success(), "{script} failed");
    let modules = cache.join(format!("vfio-modules-{}", release.trim()));
    guest.sh("modprobe irqbypass")?;
    for module in ["iommufd", "vfio", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci"] {
        let bytes = std::fs::read(modules.join(format!("{module}.ko"))).expect("reading a module");
        guest.upload(&format!("/run/{module}.ko"), &bytes)?;
        guest.sh(&format!("insmod /run/{module}.ko"))?;
    }
    guest.set_huge_pages_aside()?;
    Ok(guest)
}

fn upload(guest: &Guest) -> Result<()> {
    guest.upload_program(PROGRAM, Path::new(env!("CARGO_BIN_EXE_nvme-pci-guest")))
}

/// Runs the program with these arguments.
pub fn run(guest: &Guest, arguments: &str) -> Result<Output> {
    guest.run_with(&format!("{PROGRAM} {arguments}"), &[], LIMIT)
}
