//! The programs the harness uses and the Debian packages they come from.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Programs that run on the host.
const HOST_TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("ldd", "libc-bin"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("cc", "gcc"),
];

/// Programs that are copied into the guest, with their libraries.
pub(crate) const GUEST_TOOLS: &[(&str, &str)] = &[
    ("nvme", "nvme-cli"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("dmsetup", "dmsetup"),
];

/// Where programs are looked for besides `PATH`: a user's `PATH` seldom has the directories for
/// administrators.
const MORE_DIRECTORIES: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Finds a program as a shell would, and in the administrators' directories.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(MORE_DIRECTORIES.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Checks that everything the harness runs is installed.
///
/// # Errors
/// [`Error::MissingPackages`] names every package that is missing, not only the first.
pub fn check() -> Result<()> {
    let mut packages: Vec<&'static str> = HOST_TOOLS
        .iter()
        .chain(GUEST_TOOLS)
        .filter(|(program, _)| find(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    if !find("busybox").is_some_and(|file| is_static(&file)) {
        packages.push("busybox-static");
    }
    // The agent is linked statically, which takes the C library's archive.
    if !Path::new("/usr/include/stdlib.h").exists() {
        packages.push("libc6-dev");
    }
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() { Ok(()) } else { Err(Error::MissingPackages { packages }) }
}

/// Whether a file is an ELF program that asks for no interpreter. Debian's plain `busybox` package
/// installs a dynamic program under the same name.
fn is_static(program: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(elf) = fs::read(program) else { return false };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let half =
        |at: usize| elf.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let word =
        |at: usize| elf.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    // e_phoff, e_phentsize and e_phnum of the 64-bit header; program headers follow the ELF header
    // in practice, so the low half of e_phoff is enough.
    let (Some(start), Some(size), Some(count)) = (word(0x20), half(0x36), half(0x38)) else {
        return false;
    };
    (0..count).all(|n| word(start as usize + n * size).is_some_and(|kind| kind != PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_not_static() {
        let this = env::current_exe().expect("the test's own program");
        assert!(!is_static(&this));
        assert!(!is_static(Path::new("/etc/hostname")));
        assert!(!is_static(Path::new("/nonexistent")));
    }

    #[test]
    fn the_error_names_packages_and_the_way_to_get_them() {
        let text = Error::MissingPackages { packages: vec!["cpio", "qemu-system-x86"] }.to_string();
        assert!(
            text.contains("apt-get install -y --no-install-recommends cpio qemu-system-x86"),
            "{text}"
        );
        assert!(text.contains("tests/vm/setup.sh"), "{text}");
    }
}
