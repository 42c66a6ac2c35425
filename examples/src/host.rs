//! Hosts as the programs make them.

use nvme_core::nqn::Uuid;
use nvme_mpath::{Host, HostError, HostOptions};
use nvme_pci::{PciTransport, Uio, Vfio, VfioUser};
use nvme_tcp::TcpTransport;

/// A host with an identity made up for this run, and all transports: `tcp://`, `vfio://`, `uio://`,
/// `vfio-user://`.
///
/// # Errors
/// Whatever [`Host::new`] meets.
pub fn new() -> Result<Host, HostError> {
    with(TcpTransport::new())
}

/// The same, with a transport for `tcp://` of which one keeps a clone.
///
/// # Errors
/// Whatever [`Host::new`] meets.
pub fn with(tcp: TcpTransport) -> Result<Host, HostError> {
    let options = HostOptions::new(Uuid::from_random(random()))
        .transport(tcp)
        .transport(PciTransport::new(Vfio::new()))
        .transport(PciTransport::new(Uio::new()))
        .transport(PciTransport::new(VfioUser::new()));
    Host::new(options)
}

/// A number that no other run has.
#[must_use]
pub fn seed() -> u64 {
    u64::from_le_bytes(random())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let flags = rustix::rand::GetRandomFlags::empty();
    // So few bytes are never refused, nor given in part, once the system is up.
    if rustix::rand::getrandom(&mut bytes, flags).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanos = now.map_or(0, |d| d.as_nanos()).to_le_bytes();
        bytes.iter_mut().zip(nanos.iter().cycle()).for_each(|(b, n)| *b = *n);
    }
    bytes
}
