//! Linux's own NVMe/TCP host inside the guest, connected to a target that runs on the host machine.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::guest::{Guest, LIBRARIES};

/// Where the guest finds the machine that runs QEMU.
const HOST: &str = "10.0.2.2";
/// What nvme-cli finds in the guest too: the kernel refuses two names with one identifier.
pub(crate) const HOSTNQN: &str =
    "nqn.2014-08.org.nvmexpress:uuid:5c0ffee0-6f3e-4b7a-9c51-000000000003";
pub(crate) const HOSTID: &str = "5c0ffee0-6f3e-4b7a-9c51-000000000003";
/// For namespaces to appear and a round of I/O to end.
const SCAN: Duration = Duration::from_secs(30);
const VERIFY: Duration = Duration::from_secs(300);

/// A controller of Linux's host in the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinuxController {
    /// Its name, such as `nvme0`; `/dev/nvme0` takes admin commands of nvme-cli.
    pub name: String,
    /// The subsystem it is connected to.
    pub subnqn: String,
}

/// Linux as the host. All fail as [`Guest::sh`]: the error has Linux's words, and [`Guest::dmesg`]
/// often more.
impl Guest {
    /// Connects Linux's host to the subsystem `nqn` at 127.0.0.1:`port` of the machine that runs
    /// the test. The target may listen at the loopback address only.
    ///
    /// # Errors
    /// See above.
    pub fn linux_connect(&self, port: u16, nqn: &str) -> Result<LinuxController> {
        self.linux_connect_with(port, nqn, "")
    }

    /// As [`Guest::linux_connect`], with options of `/dev/nvme-fabrics`, such as
    /// `hdr_digest,data_digest` or
    /// `keep_alive_tmo=2,reconnect_delay=1,ctrl_loss_tmo=5,nr_io_queues=2`.
    ///
    /// # Errors
    /// See above.
    pub fn linux_connect_with(
        &self,
        port: u16,
        nqn: &str,
        options: &str,
    ) -> Result<LinuxController> {
        self.linux_connect_to(HOST, port, nqn, options)
    }

    /// As [`Guest::linux_connect_with`], to any IPv4 address the guest reaches: 127.0.0.1 and ports
    /// 4420, ... are its own target.
    ///
    /// # Errors
    /// See above.
    pub fn linux_connect_to(
        &self,
        address: &str,
        port: u16,
        nqn: &str,
        options: &str,
    ) -> Result<LinuxController> {
        let comma = if options.is_empty() { "" } else { "," };
        let script = format!(
            "connect 'transport=tcp,traddr={address},trsvcid={port},nqn={nqn},\
             hostnqn={HOSTNQN},hostid={HOSTID}{comma}{options}'"
        );
        let what = format!("connect Linux's host to {nqn} at {address}:{port}");
        let answer = self.ask_target(&what, &script)?;
        Ok(LinuxController { name: answer.trim().to_owned(), subnqn: nqn.to_owned() })
    }

    /// Disconnects a controller of Linux's host. One that is gone already is no error.
    ///
    /// # Errors
    /// See above.
    pub fn linux_disconnect(&self, controller: &LinuxController) -> Result<()> {
        let file = format!("/sys/class/nvme/{}/delete_controller", controller.name);
        self.sh(&format!("[ ! -e {file} ] || echo 1 > {file}")).map(drop)
    }

    /// The state of a controller of Linux's host, such as `live` or `connecting`.
    ///
    /// # Errors
    /// See above.
    pub fn linux_state(&self, controller: &LinuxController) -> Result<String> {
        Ok(self.sh(&format!("cat /sys/class/nvme/{}/state", controller.name))?.trim().to_owned())
    }

    /// Waits for a namespace of the controller's subsystem to appear; gives its block device, such
    /// as `/dev/nvme0n1`.
    ///
    /// # Errors
    /// See above; also when it does not appear in half a minute.
    pub fn linux_device(&self, controller: &LinuxController, nsid: u32) -> Result<String> {
        let script = format!("{LIBRARIES}find_device '{}' {nsid}", controller.subnqn);
        Ok(self.wait_for(&script, SCAN)?.trim().to_owned())
    }

    /// Writes random data to the first `bytes` (rounded up to whole MiB) of a block device of the
    /// guest and compares what is read back, without the page cache, at block sizes from the
    /// device's own to 1 MiB, one command at a time and then four streams side by side.
    ///
    /// # Errors
    /// See above: what differs is told as the failure of `cmp`.
    pub fn linux_verify(&self, device: &str, bytes: u64) -> Result<()> {
        let mib = bytes.div_ceil(1 << 20).max(1);
        let script = format!("{LIBRARIES}verify {device} {mib}");
        let output = self.run_with(&script, &[], VERIFY)?;
        if output.success() {
            return Ok(());
        }
        let what = format!("the comparison of data of {device}");
        Err(Error::Script { what, code: output.code, output: output.text })
    }
}
