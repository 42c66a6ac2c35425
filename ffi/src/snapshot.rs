//! How everything is at the moment, as a text.

use std::ffi::{c_char, c_int};

use crate::error::Error;
use crate::host::nvmeh_host;
use crate::object::{enter, put_text};

/// JSON: one object, with the members of the Rust structure `Snapshot`.
pub const NVMEH_SNAPSHOT_JSON: c_int = 1;
/// The text format of Prometheus, version 0.0.4.
pub const NVMEH_SNAPSHOT_PROMETHEUS: c_int = 2;

/// How everything is at the moment, as a text: controllers, heads, paths, counts, latencies, pins.
/// `format`: NVMEH_SNAPSHOT_*. Cut to `size` bytes, its end included; a text that was cut is of no use:
/// call again with more room than the answer says, since the next one may be longer. Meant for a look every
/// so often, a hundred times a second at most; takes no lock that I/O waits for.
///
/// Returns the length of the whole text; -EINVAL: no such format; -EFAULT, -EBADF, -ECHILD. Thread: any.
///
/// # Safety
/// `host` is NULL or a handle, `buf` has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_snapshot(
    host: *const nvmeh_host,
    format: c_int,
    buf: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            let text = match format {
                NVMEH_SNAPSHOT_JSON => serde_json::to_string(&h.host.snapshot())
                    .map_err(|e| Error::new(libc::EIO, format!("a snapshot as JSON: {e}")))?,
                NVMEH_SNAPSHOT_PROMETHEUS => h.host.snapshot().to_prometheus(),
                other => {
                    let text = format!("{other} is no format of a snapshot: NVMEH_SNAPSHOT_*");
                    return Err(Error::invalid(text));
                }
            };
            put_text(&text, buf, size)
        })
    }
}
