//! The directory of things made once: the kernel package, the unpacked kernel, the guest's image.
//!
//! Every entry is made aside under a temporary name and renamed into place, so an entry that exists
//! is whole. One process makes at a time.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::{Error, Result};

/// Images of older inputs that are kept: several worktrees may share one cache.
const KEPT_IMAGES: usize = 4;

/// Names the cache directory when it should not be `target/vm-cache` of the workspace.
pub const CACHE_VARIABLE: &str = "NVME_VM_CACHE";

pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache, making its directory if need be.
    pub(crate) fn open() -> Result<Self> {
        let root = env::var_os(CACHE_VARIABLE).map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/vm-cache"),
            PathBuf::from,
        );
        let debs = root.join("debs");
        fs::create_dir_all(&debs).map_err(Error::io(format!("making {}", debs.display())))?;
        // Programs are run inside other directories, and modprobe wants an absolute path.
        let root =
            root.canonicalize().map_err(Error::io(format!("resolving {}", root.display())))?;
        Ok(Self { root })
    }

    /// Where package files lie.
    pub(crate) fn debs(&self) -> PathBuf {
        self.root.join("debs")
    }

    /// The entry `name`, made by `make` in a directory of its own if it is not there.
    pub(crate) fn entry(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.root.join(name);
        if entry.is_dir() {
            return Ok(entry);
        }
        let _lock = self.lock()?;
        if entry.is_dir() {
            return Ok(entry);
        }
        // Left by a process that was killed; the lock says that nobody works in it.
        let aside = self.root.join(format!("{name}.part"));
        if aside.exists() {
            fs::remove_dir_all(&aside)
                .map_err(Error::io(format!("removing {}", aside.display())))?;
        }
        fs::create_dir(&aside).map_err(Error::io(format!("making {}", aside.display())))?;
        make(&aside)?;
        fs::rename(&aside, &entry).map_err(Error::io(format!("renaming {}", aside.display())))?;
        self.prune();
        Ok(entry)
    }

    /// Holds the cache until the file is dropped.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let what = || format!("locking {}", path.display());
        let file = File::create(&path).map_err(Error::io(what()))?;
        file.lock().map_err(Error::io(what()))?;
        Ok(file)
    }

    /// Removes all but the newest images. Failing to is no fault: the cache only stays larger.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        let mut images: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("image-"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        images.sort();
        images.reverse();
        for (_, path) in images.into_iter().skip(KEPT_IMAGES) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Collects what an entry depends on into a part of its name.
#[derive(Default)]
pub(crate) struct Key(DefaultHasher);

impl Key {
    pub(crate) fn add(&mut self, text: &str) {
        text.hash(&mut self.0);
    }

    /// Adds a file by name, size and time, which is what a package upgrade changes.
    pub(crate) fn add_file(&mut self, path: &Path) -> Result<()> {
        let meta =
            fs::metadata(path).map_err(Error::io(format!("looking at {}", path.display())))?;
        let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        (path, meta.len(), modified).hash(&mut self.0);
        Ok(())
    }

    pub(crate) fn finish(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}
