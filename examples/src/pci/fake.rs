//! A machine made of files, and a kernel that moves functions as Linux does; and the tests on it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::{Attributes, Group, Member, PciError, Tree, Use};

const SSD: &str = "0000:01:00.0";
const NIC: &str = "0000:02:00.0";

/// A controller with one disk of two partitions, and a network card in its IOMMU group.
struct Machine {
    root: PathBuf,
    kernel: Kernel,
}

/// What the fake kernel does when an attribute is written.
#[derive(Clone, Debug)]
struct Kernel {
    root: PathBuf,
    /// A driver that fails to probe.
    broken: Arc<Mutex<Option<&'static str>>>,
    /// Everything written.
    written: Arc<Mutex<Vec<String>>>,
    /// Nobody may write.
    denied: bool,
}

impl Kernel {
    fn link(&self) -> PathBuf {
        self.root.join("sys/bus/pci/devices").join(SSD).join("driver")
    }
}

impl Attributes for Kernel {
    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        if self.denied {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        self.written.lock().unwrap().push(format!("{name} {}", value.trim()));
        match name {
            "driver_override" => fs::write(path, if value == "\n" { "(null)\n" } else { value }),
            "unbind" => fs::remove_file(self.link()),
            "drivers_probe" => {
                let chosen = fs::read_to_string(
                    path.with_file_name("devices").join(SSD).join("driver_override"),
                )?;
                let driver = match chosen.trim() {
                    "(null)" | "" => "nvme",
                    chosen => chosen,
                };
                if *self.broken.lock().unwrap() == Some(driver) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                symlink(Path::new("../../../../bus/pci/drivers").join(driver), self.link())
            }
            other => panic!("{other} was written"),
        }
    }
}

impl Machine {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nvmeh-tree-{}-{count}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let (broken, written) = (Arc::default(), Arc::default());
        let kernel = Kernel { root: root.clone(), broken, written, denied: false };
        let machine = Self { root, kernel };
        for (address, class, driver) in [(SSD, "0x010802", "nvme"), (NIC, "0x020000", "e1000e")] {
            let device = format!("sys/devices/pci0000:00/{address}");
            machine.file(&format!("{device}/class"), class);
            machine.file(&format!("{device}/vendor"), "0x1b36");
            machine.file(&format!("{device}/device"), "0x0010");
            machine.file(&format!("{device}/driver_override"), "(null)");
            machine
                .link(&format!("{device}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
            machine.link(&format!("{device}/iommu_group"), "../../../kernel/iommu_groups/7");
            let to = format!("../../../devices/pci0000:00/{address}");
            machine.link(&format!("sys/bus/pci/devices/{address}"), &to);
            let to = format!("../../../../devices/pci0000:00/{address}");
            machine.link(&format!("sys/kernel/iommu_groups/7/devices/{address}"), &to);
        }
        for driver in ["nvme", "vfio-pci", "uio_pci_generic", "e1000e"] {
            machine.file(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
        }
        let controller = format!("sys/devices/pci0000:00/{SSD}/nvme/nvme0");
        machine.file(&format!("{controller}/nvme0c0n1/size"), "");
        machine.file(&format!("{controller}/power/control"), "");
        for (node, number) in [("", "259:0"), ("/nvme0n1p1", "259:1"), ("/nvme0n1p2", "259:2")] {
            let block = format!("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1{node}");
            machine.file(&format!("{block}/dev"), number);
            machine.file(&format!("{block}/holders/.keep"), "");
            fs::remove_file(machine.root.join(format!("{block}/holders/.keep"))).unwrap();
            if node.is_empty() {
                machine.file(&format!("{block}/queue/nr_requests"), "");
            } else {
                machine.file(&format!("{block}/partition"), "1");
            }
            let name = node.trim_start_matches('/');
            let name = if name.is_empty() { "nvme0n1" } else { name };
            machine.link(&format!("sys/class/block/{name}"), &format!("../../../{block}"));
        }
        machine.file("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        machine
            .file("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n");
        machine
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    fn tree(&self) -> Tree {
        Tree::at(&self.root, self.kernel.clone())
    }

    fn written(&self) -> Vec<String> {
        std::mem::take(&mut *self.kernel.written.lock().unwrap())
    }

    /// Has one thing use the controller; binding must be refused, with these words, and nothing
    /// done.
    fn must_refuse(&self, words: &str) {
        let tree = self.tree();
        let error = tree.bind(SSD, "vfio-pci").unwrap_err();
        assert!(matches!(error, PciError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(self.written(), [""; 0]);
        assert_eq!(tree.function(SSD).unwrap().noted, None);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_function_is_told_with_its_group_and_disks() {
    let machine = Machine::new();
    let all = machine.tree().functions().unwrap();
    assert_eq!(all.len(), 1, "the network card is none: {all:?}");
    let function = &all[0];
    assert_eq!((function.address.as_str(), function.vendor, function.device), (SSD, 0x1b36, 0x10));
    assert_eq!((function.driver.as_deref(), &function.driver_override), (Some("nvme"), &None));
    assert_eq!(function.url(), None);
    let nic = Member { address: NIC.into(), driver: Some("e1000e".into()) };
    assert!(nic.is_in_the_way());
    assert_eq!(function.group, Some(Group { id: 7, others: vec![nic] }));
    assert_eq!(function.controllers, ["nvme0"]);
    assert_eq!(function.disks.len(), 1);
    assert_eq!(function.disks[0].nodes, ["nvme0n1", "nvme0n1p1", "nvme0n1p2"]);
    assert_eq!(function.uses(), [""; 0]);
}

#[test]
fn a_function_goes_to_a_program_and_back() {
    let machine = Machine::new();
    let tree = machine.tree();
    tree.bind(SSD, "vfio-pci").unwrap();
    let there = [
        "driver_override vfio-pci".into(),
        format!("unbind {SSD}"),
        format!("drivers_probe {SSD}"),
    ];
    assert_eq!(machine.written(), there);
    let function = tree.function(SSD).unwrap();
    assert_eq!(function.url().as_deref(), Some("vfio://0000:01:00.0"));
    assert_eq!(function.noted, Some(Some("nvme".into())));
    // Once more changes nothing.
    tree.bind(SSD, "vfio-pci").unwrap();
    assert_eq!(machine.written(), [""; 0]);
    // From one to the other: the first driver stays noted.
    tree.bind(SSD, "uio_pci_generic").unwrap();
    assert_eq!(tree.function(SSD).unwrap().url().as_deref(), Some("uio://0000:01:00.0"));
    machine.written();
    let restored = tree.restore(SSD).unwrap();
    assert_eq!((restored.driver.as_deref(), restored.noted), (Some("nvme"), true));
    let back = ["driver_override ".into(), format!("unbind {SSD}"), format!("drivers_probe {SSD}")];
    assert_eq!(machine.written(), back);
    let function = tree.function(SSD).unwrap();
    assert_eq!((function.driver.as_deref(), function.noted), (Some("nvme"), None));
    // Nothing is noted any more: the kernel chooses, which is the same here.
    tree.bind(SSD, "vfio-pci").unwrap();
    fs::remove_dir_all(machine.root.join("run")).unwrap();
    let restored = tree.restore(SSD).unwrap();
    assert_eq!((restored.driver.as_deref(), restored.noted), (Some("nvme"), false));
}

#[test]
fn a_function_that_nobody_had_is_given_back_to_nobody() {
    let machine = Machine::new();
    fs::remove_file(machine.kernel.link()).unwrap();
    let tree = machine.tree();
    tree.bind(SSD, "vfio-pci").unwrap();
    assert_eq!(tree.function(SSD).unwrap().noted, Some(None));
    assert_eq!(tree.restore(SSD).unwrap().driver, None);
    assert_eq!(tree.function(SSD).unwrap().driver, None);
}

#[test]
fn a_function_in_use_is_refused() {
    let machine = Machine::new();
    machine.file("proc/self/mountinfo", "30 22 259:1 / /srv rw - ext4 /dev/root rw");
    machine.must_refuse("nvme0n1p1 is mounted on /srv");
    machine.file("proc/self/mountinfo", "30 22 0:40 / /data rw shared:1 - btrfs /dev/nvme0n1p2 rw");
    machine.must_refuse("nvme0n1p2 is mounted on /data");
    machine.file("proc/self/mountinfo", "");
    machine.file("proc/swaps", "Filename\n/dev/nvme0n1p2 partition 1 0 -2");
    machine.must_refuse("nvme0n1p2 is swapped to");
    machine.file("proc/swaps", "Filename");
    let holders = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/holders";
    machine.file(&format!("{holders}/md127"), "");
    machine.must_refuse("nvme0n1 is a part of md127");
    fs::remove_file(machine.root.join(holders).join("md127")).unwrap();
    machine.file("proc/77/comm", "dd");
    machine.link("proc/77/fd/3", "/dev/nvme0n1");
    machine.must_refuse("process 77 (dd) has /dev/nvme0n1 open");
    fs::remove_dir_all(machine.root.join("proc/77")).unwrap();
    machine.tree().bind(SSD, "vfio-pci").unwrap();
    machine.written();

    // Nor is one taken from a program.
    machine.file("proc/78/comm", "nvmeh");
    machine.link("proc/78/fd/5", "/dev/vfio/7");
    let error = machine.tree().restore(SSD).unwrap_err().to_string();
    assert!(error.contains("process 78 (nvmeh) has /dev/vfio/7 open"), "{error}");
    fs::remove_dir_all(machine.root.join("proc/78")).unwrap();
    let registers = machine.root.join(format!("sys/devices/pci0000:00/{SSD}/resource0"));
    let registers = registers.display();
    machine.file("proc/79/maps", &format!("7f0000000000-7f0000004000 rw-s 0 00:15 1 {registers}"));
    assert!(matches!(machine.tree().restore(SSD), Err(PciError::InUse { .. })));
    assert_eq!(machine.written(), [""; 0]);
}

#[test]
fn a_function_with_virtual_functions_keeps_its_driver() {
    let machine = Machine::new();
    let (device, vf) = (format!("sys/devices/pci0000:00/{SSD}"), "0000:01:00.1");
    machine.link(&format!("{device}/virtfn0"), &format!("../{vf}"));
    machine.must_refuse("it has the virtual function 0000:01:00.1");
    fs::remove_file(machine.root.join(&device).join("virtfn0")).unwrap();
    machine.tree().bind(SSD, "vfio-pci").unwrap();
    machine.written();
    // Nor is it given back while it has some.
    machine.link(&format!("{device}/virtfn0"), &format!("../{vf}"));
    machine.link(&format!("{device}/virtfn1"), "../0000:01:00.2");
    let error = machine.tree().restore(SSD).unwrap_err().to_string();
    assert!(error.contains("virtual functions 0000:01:00.1, 0000:01:00.2"), "{error}");
    assert_eq!(machine.written(), [""; 0]);
}

#[test]
fn uses_of_a_disk_are_told_apart() {
    let machine = Machine::new();
    machine.file("proc/swaps", "Filename\n/dev/nvme0n1p1 partition 1 0 -2");
    let function = machine.tree().function(SSD).unwrap();
    assert_eq!(function.disks[0].uses, [Use::Swap { node: "nvme0n1p1".into() }]);
}

#[test]
fn what_cannot_be_is_told() {
    let mut machine = Machine::new();
    let tree = machine.tree();
    let told = |error: PciError| error.to_string();
    let error = told(tree.bind("0000:09:00.0", "vfio-pci").unwrap_err());
    assert!(error.contains("no such PCI function"), "{error}");
    let error = told(tree.bind(NIC, "vfio-pci").unwrap_err());
    assert!(error.contains("not an NVMe controller, its class code is 020000h"), "{error}");
    fs::remove_dir_all(machine.root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    let error = told(tree.bind(SSD, "vfio-pci").unwrap_err());
    assert!(error.contains("modprobe vfio-pci"), "{error}");
    assert_eq!(machine.written(), [""; 0]);
    // Somebody else than root.
    machine.kernel.denied = true;
    let error = told(machine.tree().bind(SSD, "uio_pci_generic").unwrap_err());
    assert!(error.contains("needs root"), "{error}");
    let function = tree.function(SSD).unwrap();
    assert_eq!((function.driver.as_deref(), function.noted), (Some("nvme"), None));
}

#[test]
fn a_driver_that_fails_leaves_everything_as_it_was() {
    let machine = Machine::new();
    fs::remove_file(machine.root.join(format!("sys/devices/pci0000:00/{SSD}/iommu_group")))
        .unwrap();
    *machine.kernel.broken.lock().unwrap() = Some("vfio-pci");
    let tree = machine.tree();
    let error = tree.bind(SSD, "vfio-pci").unwrap_err().to_string();
    assert!(error.contains("no IOMMU group") && error.contains("mode is off"), "{error}");
    let function = tree.function(SSD).unwrap();
    assert_eq!(function.driver.as_deref(), Some("nvme"));
    assert_eq!((function.driver_override, function.noted), (None, None));
}
