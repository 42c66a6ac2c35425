//! Debian's kernel package: found, downloaded, unpacked, and its ELF image taken out of the boot
//! file.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::tool;

/// Depends on the kernel package of the newest point release.
const META_PACKAGE: &str = "linux-image-6.12-amd64";
/// How the files and packages of the series begin.
const SERIES: &str = "linux-image-6.12";

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// What `uname -r` says in the guest.
    pub(crate) release: String,
    /// The ELF image: QEMU starts it directly, which saves the guest unpacking itself.
    pub(crate) vmlinux: PathBuf,
    /// The directory that holds `lib/modules/RELEASE`.
    pub(crate) root: PathBuf,
}

/// The newest kernel package of the cache, downloaded when there is none, unpacked.
pub(crate) fn prepare(cache: &Cache) -> Result<Kernel> {
    let deb = package(cache)?;
    let stem = deb.file_stem().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
    let root = cache.entry(&format!("kernel-{stem}"), |dir| unpack(&deb, dir))?;
    let release = release(&root)?;
    Ok(Kernel { release, vmlinux: root.join("vmlinux"), root })
}

fn package(cache: &Cache) -> Result<PathBuf> {
    let debs = cache.debs();
    if let Some(deb) = newest(&debs)? {
        return Ok(deb);
    }
    let _lock = cache.lock()?;
    if let Some(deb) = newest(&debs)? {
        return Ok(deb);
    }
    download(&debs)?;
    newest(&debs)?.ok_or_else(|| Error::MissingKernel {
        why: "apt-get download left no file".to_owned(),
        debs: debs.clone(),
    })
}

fn newest(debs: &Path) -> Result<Option<PathBuf>> {
    let mut found: Option<(SystemTime, PathBuf)> = None;
    for entry in
        fs::read_dir(debs).map_err(Error::io(format!("listing {}", debs.display())))?.flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let time = entry.metadata().and_then(|meta| meta.modified());
        if let (true, Ok(time)) = (name.starts_with(SERIES) && name.ends_with(".deb"), time) {
            found = found.max(Some((time, entry.path())));
        }
    }
    Ok(found.map(|(_, path)| path))
}

/// Downloads as whoever runs the test; needs apt's package lists, which only root can renew.
fn download(debs: &Path) -> Result<()> {
    let missing = |why: String| Error::MissingKernel { why, debs: debs.to_path_buf() };
    let depends = tool::output(
        "asking apt for the kernel",
        tool::command("apt-cache").args(["depends", META_PACKAGE]),
    )?;
    let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(SERIES))
        .ok_or_else(|| {
            missing("apt's package lists do not have it; apt-get update may help".to_owned())
        })?;
    let part = debs.join("fetch.part");
    fs::create_dir_all(&part).map_err(Error::io(format!("making {}", part.display())))?;
    let mut apt = tool::command("apt-get");
    apt.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(&part);
    tool::run("downloading the kernel", &mut apt).map_err(|error| missing(error.to_string()))?;
    for entry in
        fs::read_dir(&part).map_err(Error::io(format!("listing {}", part.display())))?.flatten()
    {
        fs::rename(entry.path(), debs.join(entry.file_name()))
            .map_err(Error::io("keeping the kernel's package"))?;
    }
    fs::remove_dir(&part).map_err(Error::io(format!("removing {}", part.display())))
}

fn unpack(deb: &Path, dir: &Path) -> Result<()> {
    tool::run("unpacking the kernel", tool::command("dpkg-deb").arg("-x").arg(deb).arg(dir))?;
    let merged = dir.join("usr/lib/modules");
    if !dir.join("lib/modules").exists() && merged.exists() {
        // Newer packages have it below /usr; the module tools look in /lib.
        fs::create_dir_all(dir.join("lib")).map_err(Error::io("making lib of the kernel"))?;
        fs::rename(merged, dir.join("lib/modules"))
            .map_err(Error::io("moving the kernel's modules"))?;
    }
    let release = release(dir)?;
    tool::run(
        "indexing the kernel's modules",
        tool::command("depmod").arg("-b").arg(dir).arg(&release),
    )?;
    extract_vmlinux(&dir.join(format!("boot/vmlinuz-{release}")), &dir.join("vmlinux"))
}

fn release(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    fs::read_dir(&modules)
        .map_err(Error::io(format!("listing {}", modules.display())))?
        .flatten()
        .next()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .ok_or_else(|| Error::Malformed {
            path: modules.clone(),
            why: "holds no release".to_owned(),
        })
}

/// Takes the compressed ELF file out of a bzImage. The places are the x86 boot protocol's: number
/// of set-up sectors at 0x1f1, payload offset (from the protected-mode code) and length at 0x248
/// and 0x24c.
fn extract_vmlinux(boot: &Path, vmlinux: &Path) -> Result<()> {
    let malformed = |why: &str| Error::Malformed { path: boot.to_path_buf(), why: why.to_owned() };
    let image = fs::read(boot).map_err(Error::io(format!("reading {}", boot.display())))?;
    let word = |at: usize| {
        image.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let setup = image.get(0x1f1).map(|&sectors| (usize::from(sectors) + 1) * 512);
    let (Some(setup), Some(offset), Some(length)) = (setup, word(0x248), word(0x24c)) else {
        return Err(malformed("too short for a kernel"));
    };
    // The payload's last four bytes are its unpacked size and no part of the compressed stream.
    let payload = (setup + offset)..(setup + offset + length.saturating_sub(4));
    let payload = image.get(payload).ok_or_else(|| malformed("its payload is cut"))?;
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        _ => return Err(malformed("its payload is neither zstd nor xz")),
    };
    let output =
        fs::File::create(vmlinux).map_err(Error::io(format!("making {}", vmlinux.display())))?;
    let mut unpacker = tool::command(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(output)
        .spawn()
        .map_err(Error::io(format!("running {program}")))?;
    if let Some(mut stdin) = unpacker.stdin.take() {
        stdin.write_all(payload).map_err(Error::io(format!("feeding {program}")))?;
    }
    let status = unpacker.wait().map_err(Error::io(format!("waiting for {program}")))?;
    let elf = fs::metadata(vmlinux).is_ok_and(|meta| meta.len() > length as u64);
    if status.success() && elf { Ok(()) } else { Err(malformed("its payload does not unpack")) }
}
