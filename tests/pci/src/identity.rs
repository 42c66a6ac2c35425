//! Who a device is, and what is known to be wrong with it.

use nvme_e2e::{LIMIT, persistent};

use crate::io::{head, host};

/// Prints what the bus says that the device is, its quirks, and the namespace's identifiers.
///
/// # Panics
/// If the namespace does not come.
pub fn identity(url: &str, nqn: &str, nsid: u32) {
    let host = host();
    let head = head(&host, url, nqn, nsid, persistent());
    for controller in host.controllers() {
        let info = controller.info().expect("a controller that is live");
        let device = info.device.map_or_else(|| "unknown".into(), |ids| ids.to_string());
        println!("device {device}, quirks {}, {}", info.quirks, head.ids());
    }
    drop(head);
    host.shutdown_forced(LIMIT).expect("an end");
}
