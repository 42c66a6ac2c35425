//! The guest's initial file system: busybox, the modules the tests need, a few real tools, the
//! agent.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Key};
use crate::error::{Error, Result};
use crate::kernel::{self, Kernel};
use crate::linux::{HOSTID, HOSTNQN};
use crate::prereq::{self, GUEST_TOOLS};
use crate::tool;

/// Modules with everything they depend on. What a kernel has built in is skipped.
const MODULES: &[&str] = &[
    // target and Linux's own host
    "nvmet",
    "nvmet-tcp",
    "nvme",
    "nvme-tcp",
    "nvme-loop",
    "tls",
    "gcm",
    "ghash-generic",
    "crc32c-intel",
    "crc32c_generic",
    "sha256-ssse3",
    "sha512-ssse3",
    "ffdhe",
    "dh_generic",
    "hmac",
    "aesni-intel",
    "cbc",
    // what namespaces lie on
    "null_blk",
    "brd",
    "loop",
    "dm-mod",
    "dm-delay",
    "dm-flakey",
    "dm-zero",
    "ext4",
    // network and its faults
    "virtio_net",
    "tcp_diag",
    "inet_diag",
    "nf_tables",
    "nft_reject_inet",
    "nft_ct",
    "sch_netem",
    "sch_prio",
    "cls_u32",
    // user-space drivers in the guest, files of the host
    "vfio-pci",
    "vfio_iommu_type1",
    "uio_pci_generic",
    "9p",
    "9pnet_virtio",
    "overlay",
];
/// Names of [`MODULES`] that some kernels of the series do not have; the tests do without.
const OPTIONAL: &[&str] = &["ffdhe", "dh_generic", "ghash-generic", "crc32c_generic"];

const INIT: &str = include_str!("guest/init");
const TARGET: &str = include_str!("guest/target.sh");
const LINUX: &str = include_str!("guest/linux.sh");
const AGENT: &str = include_str!("bin/agent.rs");

/// What QEMU boots.
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// The image, made if this combination of kernel, tools and scripts is new.
pub(crate) fn prepare() -> Result<Image> {
    prereq::check()?;
    let cache = Cache::open()?;
    let kernel = kernel::prepare(&cache)?;
    let mut key = Key::default();
    for text in [&kernel.release, INIT, TARGET, LINUX, AGENT, include_str!("image.rs")] {
        key.add(text);
    }
    for file in programs() {
        key.add_file(&file)?;
    }
    let dir = cache.entry(&format!("image-{}", key.finish()), |dir| build(&kernel, dir))?;
    Ok(Image { kernel: kernel.vmlinux, initrd: dir.join("initrd") })
}

/// The host's programs that go into the image.
fn programs() -> Vec<PathBuf> {
    GUEST_TOOLS.iter().map(|&(name, _)| name).chain(["busybox"]).filter_map(prereq::find).collect()
}

fn build(kernel: &Kernel, dir: &Path) -> Result<()> {
    let root = dir.join("root");
    for sub in
        ["bin", "usr/bin", "usr/lib", "etc/nvme", "proc", "sys", "dev", "run", "tmp", "root", "mnt"]
    {
        make_dir(&root.join(sub))?;
    }
    // One directory of programs under all its names.
    for (link, to) in [("sbin", "bin"), ("usr/sbin", "bin"), ("lib64", "lib")] {
        symlink(to, root.join(link)).map_err(Error::io(format!("linking {link}")))?;
    }
    add_programs(&root)?;
    add_modules(kernel, &root)?;
    build_agent(dir, &root.join("bin/agent"))?;
    write(&root.join("init"), INIT, 0o755)?;
    write(&root.join("etc/target.sh"), TARGET, 0o644)?;
    write(&root.join("etc/linux.sh"), LINUX, 0o644)?;
    write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n", 0o644)?;
    write(&root.join("etc/nvme/hostnqn"), HOSTNQN, 0o644)?;
    write(&root.join("etc/nvme/hostid"), HOSTID, 0o644)?;

    // Uncompressed: unpacking would cost the emulated processor more than reading.
    let mut pack = Command::new("/bin/sh");
    let script = "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 > ../initrd";
    tool::run("packing the initial file system", pack.args(["-ec", script]).current_dir(&root))?;
    fs::remove_dir_all(&root).map_err(Error::io(format!("removing {}", root.display())))
}

fn add_programs(root: &Path) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for program in programs() {
        let name = program.file_name().unwrap_or_default();
        copy(&program, &root.join("bin").join(name))?;
        if name == "busybox" {
            continue;
        }
        libraries.extend(tool::libraries(&program)?.into_iter().map(PathBuf::from));
    }
    for library in libraries {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(parent) = to.parent() {
            make_dir(parent)?;
        }
        copy(&library, &to)?;
    }
    let applets = tool::run("listing busybox's applets", tool::command("busybox").arg("--list"))?;
    for applet in String::from_utf8_lossy(&applets).lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", &link).map_err(Error::io(format!("linking {applet}")))?;
        }
    }
    Ok(())
}

fn add_modules(kernel: &Kernel, root: &Path) -> Result<()> {
    let mut files = BTreeSet::new();
    for module in MODULES {
        let mut modprobe = tool::command("modprobe");
        modprobe.arg("-d").arg(&kernel.root).args([
            "-S",
            &kernel.release,
            "--show-depends",
            module,
        ]);
        let found = tool::run("resolving modules", &mut modprobe);
        let lines = match found {
            Err(_) if OPTIONAL.contains(module) => continue,
            found => found?,
        };
        // Lines read `insmod PATH` or `builtin NAME`; options may follow the path.
        for line in String::from_utf8_lossy(&lines).lines() {
            if let Some(path) =
                line.strip_prefix("insmod ").and_then(|rest| rest.split_ascii_whitespace().next())
            {
                files.insert(PathBuf::from(path));
            }
        }
    }
    for file in files {
        let relative = file.strip_prefix(&kernel.root).unwrap_or(&file);
        let packed = relative.extension().is_some_and(|ending| ending == "xz");
        let to =
            root.join(if packed { relative.with_extension("") } else { relative.to_path_buf() });
        if let Some(parent) = to.parent() {
            make_dir(parent)?;
        }
        if packed {
            let bytes = tool::run("unpacking a module", tool::command("xz").arg("-dc").arg(&file))?;
            fs::write(&to, bytes).map_err(Error::io(format!("writing {}", to.display())))?;
        } else {
            copy(&file, &to)?;
        }
    }
    let lists = Path::new("lib/modules").join(&kernel.release);
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        copy(&kernel.root.join(&lists).join(list), &root.join(&lists).join(list))?;
    }
    tool::run(
        "indexing the guest's modules",
        tool::command("depmod").arg("-b").arg(root).arg(&kernel.release),
    )?;
    Ok(())
}

/// Compiles the agent statically: it then needs nothing in the guest.
fn build_agent(scratch: &Path, to: &Path) -> Result<()> {
    let source = scratch.join("agent.rs");
    write(&source, AGENT, 0o644)?;
    // The compiler beside the cargo that built this crate is of the workspace's tool chain, and
    // there whatever PATH says.
    let beside = Path::new(env!("CARGO")).with_file_name("rustc");
    let rustc = if beside.is_file() { beside } else { "rustc".into() };
    let mut command = Command::new(rustc);
    command
        .args(["--edition", "2024", "--crate-name", "agent", "-O"])
        .args(["-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(to)
        .arg(&source);
    tool::run("compiling the guest's agent", &mut command).map(drop)
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(format!("making {}", path.display())))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(Error::io(format!(
        "copying {} to {}",
        from.display(),
        to.display()
    )))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(Error::io(format!("writing {}", path.display())))
}
