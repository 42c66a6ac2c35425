//! Functions that another process offers on a Unix socket: `vfio-user:///path/to/socket`.
//!
//! Control goes by messages; doorbells are in memory that both processes map where the server offers
//! that, and DMA memory is in files that the server maps, so that no message is sent per I/O.
//!
//! So a server that does not answer any more may still carry out what it has. A register access that is
//! not answered for a second ends the connection: it is closed for writing, which a server that goes on
//! notices, and is lost for the layers above. But nothing of what the server has is given back, and nothing
//! is sent elsewhere, before the server has closed its end: because it has noticed, or because its process
//! has ended, of which all threads have let go of the memory before the kernel closes the socket.
//!
//! A server must therefore stop its device and unmap the client's memory before it closes the socket. This
//! project's does, and so does libvfio-user, which SPDK and QEMU are built on: when the client has gone it
//! quiesces the device, removes all DMA regions, resets the device, and then closes the connection. What a
//! kernel, or a device below, goes on with for a server that was killed (reads by io_uring into pinned
//! pages, say) is not seen from here.

mod config;
mod connection;
mod device;
mod wire;

use std::path::Path;
use std::sync::Arc;

use nvme_core::memory::MemoryKind;

use crate::backend::{Backend, BackendError, Open};
use crate::system::unusable;
use crate::url::Location;
use device::Device;

/// Opens functions of vfio-user servers.
///
/// The device of a URL is the absolute path of the server's socket; there are no parameters. Of the
/// caller's memory the server reaches what is in a file that can be shared, which what the library
/// allocates is. The server is trusted to leave the files that it shares as long as they are.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct VfioUser;

impl VfioUser {
    /// The way to open functions by vfio-user.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Open for VfioUser {
    fn scheme(&self) -> &'static str {
        "vfio-user"
    }

    fn check(&self, location: &Location) -> Result<String, String> {
        if let Some((key, _)) = location.parameters.first() {
            return Err(format!("parameter {key:?} is not known"));
        }
        if !location.device.starts_with('/') {
            return Err(format!("{:?} is not the absolute path of a socket", location.device));
        }
        Ok(location.device.clone())
    }

    fn memory_kind(&self) -> MemoryKind {
        MemoryKind::Shared
    }

    fn open(&self, location: &Location) -> Result<Arc<dyn Backend>, BackendError> {
        let address = format!("vfio-user://{}", location.device);
        let path = self.check(location).map_err(|reason| unusable(&address, reason))?;
        Ok(Arc::new(Device::open(&address, Path::new(&path))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_checked() {
        let check = |url| VfioUser.check(&Location::parse("vfio-user", url)?);
        assert_eq!(check("vfio-user:///run/a/socket").unwrap(), "/run/a/socket");
        assert!(check("vfio-user://socket").unwrap_err().contains("absolute path"));
        assert!(check("vfio-user:///a?iommu=type1").unwrap_err().contains("\"iommu\""));
    }
}
