//! Who uses the disks that the kernel made of a controller, and the controller itself.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Tree;
use super::tree::{names, text};

/// A namespace as the kernel offers it: a disk and its partitions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Disk {
    /// Its name, such as `nvme0n1`.
    pub name: String,
    /// The disk and its partitions, by name.
    pub nodes: Vec<String>,
    /// Who uses any of them.
    pub uses: Vec<Use>,
}

/// One use of a disk or a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Use {
    /// A file system is mounted.
    Mounted {
        /// The disk or partition.
        node: String,
        /// Where.
        at: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The disk or partition.
        node: String,
    },
    /// Another block device is made of it, such as `dm-0` or `md127`.
    Held {
        /// The disk or partition.
        node: String,
        /// The other device.
        by: String,
    },
    /// Something has it for itself that is none of the others: a mount that is not visible here, a
    /// file system of several disks, another program.
    Claimed {
        /// The disk or partition.
        node: String,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { node, at } => write!(f, "{node} is mounted on {at}"),
            Self::Swap { node } => write!(f, "{node} is swapped to"),
            Self::Held { node, by } => write!(f, "{node} is a part of {by}"),
            Self::Claimed { node } => write!(f, "{node} is claimed by somebody"),
        }
    }
}

impl Use {
    fn node(&self) -> &str {
        match self {
            Self::Mounted { node, .. }
            | Self::Swap { node }
            | Self::Held { node, .. }
            | Self::Claimed { node } => node,
        }
    }
}

impl Disk {
    /// The disks of these controllers of a function.
    pub(super) fn find(tree: &Tree, directory: &Path, controllers: &[String]) -> Vec<Self> {
        let mut disks: Vec<Self> = Vec::new();
        for controller in controllers {
            for entry in names(&directory.join("nvme").join(controller)).unwrap_or_default() {
                if let Some(name) = disk_name(&entry)
                    && !disks.iter().any(|disk| disk.name == name)
                {
                    disks.push(Self::read(tree, name));
                }
            }
        }
        disks
    }

    fn read(tree: &Tree, name: String) -> Self {
        let directory = tree.path("/sys/class/block").join(&name);
        let mut nodes = vec![name.clone()];
        for entry in names(&directory).unwrap_or_default() {
            if directory.join(&entry).join("partition").exists() {
                nodes.push(entry);
            }
        }
        let mut uses = Vec::new();
        for node in &nodes {
            find_uses(tree, node, &mut uses);
        }
        // A partition in use claims its disk, too, which would say nothing new.
        if uses.iter().any(|u| !matches!(u, Use::Claimed { node } if *node == name)) {
            uses.retain(|u| !matches!(u, Use::Claimed { node } if *node == name));
        }
        Self { name, nodes, uses }
    }
}

/// `nvme0n1` of `nvme0n1`, and of `nvme0c1n1`, which is one path of that disk.
fn disk_name(entry: &str) -> Option<String> {
    let rest = entry.strip_prefix("nvme")?;
    let (instance, nsid) = rest.split_once('n')?;
    let subsystem = instance.split_once('c').map_or(instance, |(subsystem, _)| subsystem);
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(subsystem) && number(nsid)).then(|| format!("nvme{subsystem}n{nsid}"))
}

fn find_uses(tree: &Tree, node: &str, uses: &mut Vec<Use>) {
    let directory = tree.path("/sys/class/block").join(node);
    let (file, number) = (format!("/dev/{node}"), text(&directory.join("dev")));
    let before = uses.len();
    let mounts = fs::read_to_string(tree.path("/proc/self/mountinfo")).unwrap_or_default();
    for line in mounts.lines() {
        // Number, parent, device, root, mount point, options, ... - type, source, options. File
        // systems of several disks have a device number of their own, and the source tells.
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(device), Some(at)) = (words.get(2), words.get(4)) else { continue };
        let source = words.iter().position(|w| *w == "-").and_then(|dash| words.get(dash + 2));
        if (!number.is_empty() && *device == number) || source.is_some_and(|s| *s == file) {
            uses.push(Use::Mounted { node: node.into(), at: (*at).to_owned() });
        }
    }
    let swaps = fs::read_to_string(tree.path("/proc/swaps")).unwrap_or_default();
    if swaps.lines().any(|line| line.split_whitespace().next() == Some(&file)) {
        uses.push(Use::Swap { node: node.into() });
    }
    for by in names(&directory.join("holders")).unwrap_or_default() {
        uses.push(Use::Held { node: node.into(), by });
    }
    if uses[before..].iter().all(|u| u.node() != node) && is_claimed(&tree.path(&file)) {
        uses.push(Use::Claimed { node: node.into() });
    }
}

/// Whether the kernel refuses a claim of our own, whoever has one.
fn is_claimed(file: &Path) -> bool {
    let excl = rustix::fs::OFlags::EXCL.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(excl).open(file);
    opened.is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy)
}

/// A program that has a file open by which a function is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The file.
    pub file: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, file } = self;
        write!(f, "process {pid} ({name}) has {file} open")
    }
}

impl Process {
    /// Who has any of these files open or mapped. Only root can look at everybody.
    pub(super) fn find(tree: &Tree, files: &[String]) -> Vec<Self> {
        let proc = tree.path("/proc");
        let mut found = Vec::new();
        for (pid, directory) in names(&proc)
            .unwrap_or_default()
            .iter()
            .filter_map(|name| Some((name.parse::<u32>().ok()?, proc.join(name))))
        {
            let links = directory.join("fd");
            let open = names(&links).unwrap_or_default().into_iter().filter_map(|fd| {
                fs::read_link(links.join(fd)).ok().map(|file| file.display().to_string())
            });
            let maps = fs::read_to_string(directory.join("maps")).unwrap_or_default();
            let mapped = maps.lines().filter_map(|l| l.find('/').map(|at| l[at..].to_owned()));
            if let Some(file) = open.chain(mapped).find(|file| files.contains(file)) {
                found.push(Self { pid, name: text(&directory.join("comm")), file });
            }
        }
        found
    }
}
