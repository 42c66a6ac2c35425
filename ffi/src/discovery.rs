//! Discovery: what there is to connect to.

use std::ffi::{c_char, c_int};

use crate::error::Error;
use crate::host::nvmeh_host;
use crate::object::{Sizable, duration, enter, fixed, text};
use crate::pins::put_list;

/// A subsystem, and one way to reach it, as a discovery controller tells.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct nvmeh_discovered {
    /// sizeof(struct nvmeh_discovered), set by the caller in the first of an array.
    pub size: usize,
    /// Transport type: 1 RDMA, 2 Fibre Channel, 3 TCP.
    pub transport: u32,
    /// Address family: 1 IPv4, 2 IPv6.
    pub address_family: u32,
    /// Subsystem type: 1 another discovery service, 2 an NVM subsystem, 3 this discovery service.
    pub subsystem_type: u32,
    /// Port identifier.
    pub port_id: u32,
    /// Controller ID: 0xffff when controllers are made on connection.
    pub controller_id: u32,
    /// Always 0.
    pub reserved: u32,
    /// NQN of the subsystem.
    pub subnqn: [c_char; 224],
    /// Transport address.
    pub address: [c_char; 260],
    /// Transport service: for TCP the port.
    pub service: [c_char; 36],
    /// The URL for nvmeh_host_connect(); empty for another transport than TCP.
    pub url: [c_char; 544],
}

// SAFETY: `repr(C)`, numbers only, its size first.
unsafe impl Sizable for nvmeh_discovered {}

/// Connects to the discovery controller at `url`, reads its log and disconnects: at most `count` entries,
/// which lie `out[0].size` bytes apart. Each of these steps may take `timeout_ms`. Entries that make no
/// sense (a bad NQN, an address that is no text) are left out.
///
/// Returns how many there are; where that is more than `count`, ask again with more room. Or -EPROTO: a
/// log that lies, or does not hold still; whatever nvmeh_host_connect() and
/// nvmeh_controller_wait_ready() return; -EFAULT, -EINVAL (`size`), -EBADF, -ECHILD. Thread: any, but not
/// while another is in nvmeh_host_drive() on a host that the program drives.
///
/// # Safety
/// `host` is NULL or a handle, `url` NULL or a text, `out` has room for `count` entries of the size that
/// it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmeh_host_discover(
    host: *mut nvmeh_host,
    url: *const c_char,
    timeout_ms: u64,
    out: *mut nvmeh_discovered,
    count: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        enter(host, |h| {
            if count > 0 && out.is_null() {
                return Err(Error::null("array"));
            }
            let found = h.host.discover(text(url, "the URL")?, duration(timeout_ms))?;
            let entries = found.iter().map(|d| nvmeh_discovered {
                size: size_of::<nvmeh_discovered>(),
                transport: u32::from(d.transport),
                address_family: u32::from(d.address_family),
                subsystem_type: u32::from(d.subsystem_type),
                port_id: u32::from(d.port_id),
                controller_id: u32::from(d.controller_id),
                reserved: 0,
                subnqn: fixed(d.subnqn.as_str()),
                address: fixed(&d.address),
                service: fixed(&d.service),
                url: fixed(&d.url().unwrap_or_default()),
            });
            put_list(out, count, entries)?;
            Ok(found.len() as c_int)
        })
    }
}
