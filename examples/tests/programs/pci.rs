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
    guest
}

/// Runs `nvmeh`, which must fail with this status and these words.
fn fails(guest: &Guest, arguments: &str, code: i32, words: &str) {
    let output = guest.run_with(&format!("{PROGRAM} {arguments}"), &[], LIMIT).unwrap();
    assert_eq!(output.code, code, "nvmeh {arguments}: {}", output.text);
    assert!(output.text.contains(words), "nvmeh {arguments}: no {words:?} in {}", output.text);
}

fn nvmeh(guest: &Guest, arguments: &str) -> Value {
    let output = guest.run_with(&format!("{PROGRAM} {arguments}"), &[], LIMIT).unwrap();
    assert!(output.success(), "nvmeh {arguments}: {}", output.text);
    let last = output.text.lines().rfind(|line| line.starts_with('{')).expect(&output.text);
    serde_json::from_str(last).unwrap_or_else(|e| panic!("nvmeh {arguments}: {e}: {last}"))
}

/// The kernel's disk of the controller, once it is there; names are not the same at each boot.
fn disk(guest: &Guest) -> String {
    let find = format!(
        "cd /sys/bus/pci/devices/{PCI}/nvme/nvme*/nvme*n1 && [ -b /dev/${{PWD##*/}} ] && echo ${{PWD##*/}}"
    );
    guest.wait_for(&find, LIMIT).unwrap().trim().to_owned()
}

fn verify(guest: &Guest, url: &str) {
    let io = "--rw randrw --bs 4k --qd 16 --time 2 --size 4M --verify --write-ok --json";
    let result = nvmeh(guest, &format!("io {url} {io}"));
    for key in ["lost", "stale", "torn", "misplaced"] {
        assert_eq!(result["verify"][key].as_u64(), Some(0), "{key}: {result}");
    }
    assert_eq!(result["failed"].as_u64(), Some(0), "{result}");
    assert!(result["writes"].as_u64() > Some(0), "{result}");
}

/// One guest for all: booting it costs most.
#[test]
fn a_controller_goes_from_the_kernel_to_nvmeh_and_back() {
    let guest = boot();
    let sh = |script: &str| guest.sh(script).unwrap();
    let bind = format!("bind {PCI} --yes");

    // The kernel has it, and uses it in one way after the other.
    sh("modprobe nvme");
    let name = disk(&guest);
    let status = nvmeh(&guest, "status --json");
    let function = &status["functions"][0];
    assert_eq!(status["functions"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!((&function["address"], &function["driver"]), (&PCI.into(), &"nvme".into()));
    assert_eq!((&function["vendor"], &function["device"]), (&"1b36".into(), &"0010".into()));
    assert!(function["iommu_group"]["id"].is_u64(), "{status}");
    assert_eq!(
        (&function["disks"][0]["name"], &function["in_use"]),
        (&name.clone().into(), &false.into())
    );
    fails(&guest, &bind, 1, "modprobe vfio-pci");
    guest.prepare_for_drivers().unwrap();
    sh(&format!(
        "mke2fs /dev/{name} && modprobe ext4 && mkdir /run/m && mount -t ext4 /dev/{name} /run/m"
    ));
    fails(&guest, &bind, 1, &format!("{name} is mounted on /run/m"));
    // Another process's mount, which is not to be seen here.
    sh("umount /run/m");
    sh(&format!(
        "unshare -m sh -c 'mount -t ext4 /dev/{name} /run/m && touch /run/mounted && exec sleep 1000' >/dev/null 2>&1 &"
    ));
    guest.wait_for("[ -e /run/mounted ]", LIMIT).unwrap();
    fails(&guest, &bind, 1, &format!("{name} is claimed by somebody"));
    sh("kill $(pidof sleep)");
    guest.wait_for(&format!("mkswap /dev/{name} && swapon /dev/{name}"), LIMIT).unwrap();
    fails(&guest, &bind, 1, &format!("{name} is swapped to"));
    sh(&format!(
        "swapoff /dev/{name} && dmsetup create part --table '0 2048 linear /dev/{name} 0'"
    ));
    fails(&guest, &bind, 1, &format!("{name} is a part of dm-"));
    sh(&format!("dmsetup remove part; sleep 1000 < /dev/{name} > /dev/null 2>&1 &"));
    guest.wait_for("pidof sleep", LIMIT).unwrap();
    fails(&guest, &bind, 1, &format!("(sleep) has /dev/{name} open"));
    sh("kill $(pidof sleep)");
    guest.wait_for("! pidof sleep", LIMIT).unwrap();

    // Who may, and what is meant.
    fails(&guest, &format!("bind {PCI}"), 2, "--yes");
    fails(&guest, "bind 0000:1f:1f.0 --yes", 1, "no such PCI function");
    fails(&guest, "bind 0000:00:00.0 --yes", 1, "not an NVMe controller");
    fails(&guest, &format!("bind uio://{PCI} --driver vfio-pci --yes"), 2, "uio_pci_generic");
    let user = format!("su user -c '{PROGRAM} {bind}'");
    sh("echo user:x:1000:1000::/tmp:/bin/sh >> /etc/passwd");
    let output = guest.run(&user).unwrap();
    assert!(output.code == 1 && output.text.contains("needs root"), "{}", output.text);
    assert_eq!(disk(&guest), name, "the kernel has lost it");

    // To a program, to another kind of program, and back.
    for (scheme, bind) in [("vfio", bind.clone()), ("uio", format!("bind uio://{PCI} -y"))] {
        let status = nvmeh(&guest, &format!("{bind} --json"));
        let function = &status["functions"][0];
        let url = format!("{scheme}://{PCI}");
        assert_eq!(
            (&function["url"], &function["former_driver"]),
            (&url.clone().into(), &"nvme".into())
        );
        let listed = nvmeh(&guest, &format!("list {url} --json")).to_string();
        assert!(listed.contains("NVMEH") && listed.contains("QEMU NVMe Ctrl"), "{listed}");
        verify(&guest, &url);
        // It is not taken from a program that has it.
        sh(&format!(
            "{PROGRAM} io {url} --time 100 > /run/log 2>&1 < /dev/null & echo $! > /run/pid"
        ));
        let held = format!("{PROGRAM} status {PCI} | grep 'nvmeh) has'");
        guest.wait_for(&held, LIMIT).unwrap();
        fails(&guest, &format!("unbind {PCI} --yes"), 1, "in use");
        sh("kill -INT $(cat /run/pid)");
        guest.wait_for(&format!("! {held}"), LIMIT).unwrap();
    }
    let status = nvmeh(&guest, &format!("unbind {PCI} --yes --json"));
    let function = &status["functions"][0];
    assert_eq!((&function["driver"], &function["bound_by_nvmeh"]), (&"nvme".into(), &false.into()));
    // The kernel has its disk again, and reads what was written.
    let name = disk(&guest);
    sh(&format!("dd if=/dev/{name} of=/dev/null bs=1M count=4"));
}
