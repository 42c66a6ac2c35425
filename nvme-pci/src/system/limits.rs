//! The process's limit on locked memory.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::backend::BackendError;
use crate::system::io_error;

/// Bytes that this library has had locked by mapping them for devices.
static LOCKED: AtomicU64 = AtomicU64::new(0);

/// Counts `len` bytes as locked.
pub(crate) fn add(len: u64) {
    LOCKED.fetch_add(len, Ordering::Relaxed);
}

/// Counts `len` bytes as locked no longer.
pub(crate) fn subtract(len: u64) {
    LOCKED.fetch_sub(len, Ordering::Relaxed);
}

/// Why mapping `len` bytes failed: the kernel answers `ENOMEM` both for want of memory and for the
/// limit, so what the limit would have to be is counted here.
pub(crate) fn map_error(address: &str, len: u64, errno: Errno) -> BackendError {
    let needed = LOCKED.load(Ordering::Relaxed).saturating_add(len);
    match getrlimit(Resource::Memlock).current {
        Some(limit) if errno == Errno::NOMEM && needed > limit => {
            BackendError::LockedMemory { address: address.into(), needed, limit }
        }
        _ => io_error(address, format!("mapping {len} bytes for the device"))(errno),
    }
}
