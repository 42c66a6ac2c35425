//! The guest's NVMe/TCP target: ports, ANA states, namespaces.

use std::fmt;

use crate::config::{Config, Namespace, uuid_text};
use crate::error::{Error, Result};
use crate::guest::{Guest, SUBNQN, add_namespace};

/// The state of an ANA group at a port (NVMe Base 2.1, §8.1.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AnaState {
    /// I/O goes, and this is a good way.
    Optimized,
    /// I/O goes, and there may be better ways.
    NonOptimized,
    /// No I/O at present.
    Inaccessible,
    /// No I/O, ever again.
    PersistentLoss,
    /// The state is about to be another.
    Change,
}

impl AnaState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Optimized,
        Self::NonOptimized,
        Self::Inaccessible,
        Self::PersistentLoss,
        Self::Change,
    ];
}

/// As the target's configfs has it.
impl fmt::Display for AnaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent-loss",
            Self::Change => "change",
        })
    }
}

/// What a namespace's device does with commands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Backing {
    /// Serves them.
    Memory,
    /// Fails them.
    Errors,
}

/// Controls of the target. All fail with [`Error::Script`] when the guest's kernel refuses, and as
/// [`Guest::run`].
impl Guest {
    /// Sets the state of an ANA group (from 1) at a port (from 1). Hosts are told by an
    /// asynchronous event.
    ///
    /// # Errors
    /// See above; also [`Error::Unknown`] for numbers the guest does not have.
    pub fn set_ana(&self, port: u16, group: u32, state: AnaState) -> Result<()> {
        self.check_port(port)?;
        if group == 0 || group > self.config().groups {
            return Err(Error::Unknown { what: "ANA group", number: group });
        }
        self.target(
            "set an ANA state",
            &format!("write {state} $NVMET/ports/{port}/ana_groups/{group}/ana_state"),
        )
    }

    /// Takes the subsystem from a port: its connections there end, new ones are reset.
    ///
    /// # Errors
    /// See above.
    pub fn disable_port(&self, port: u16) -> Result<()> {
        self.check_port(port)?;
        self.target("disable a port", &format!("unlink_port {port} {SUBNQN}"))
    }

    /// Gives the subsystem back to a port.
    ///
    /// # Errors
    /// See above.
    pub fn enable_port(&self, port: u16) -> Result<()> {
        self.check_port(port)?;
        self.target("enable a port", &format!("link_port {port} {SUBNQN}"))
    }

    /// Makes a namespace vanish at all ports; its device stays.
    ///
    /// # Errors
    /// See above.
    pub fn disable_namespace(&self, nsid: u32) -> Result<()> {
        self.attribute(nsid, "enable", "0")
    }

    /// Makes a disabled namespace appear at all ports.
    ///
    /// # Errors
    /// See above.
    pub fn enable_namespace(&self, nsid: u32) -> Result<()> {
        self.attribute(nsid, "enable", "1")
    }

    /// Gives a namespace another identity. It must be disabled.
    ///
    /// # Errors
    /// See above.
    pub fn set_namespace_uuid(&self, nsid: u32, uuid: [u8; 16]) -> Result<()> {
        self.attribute(nsid, "device_uuid", &uuid_text(uuid))
    }

    /// Moves a namespace, enabled or not, to another ANA group.
    ///
    /// # Errors
    /// See above.
    pub fn set_namespace_group(&self, nsid: u32, group: u32) -> Result<()> {
        self.attribute(nsid, "ana_grpid", &group.to_string())
    }

    /// Changes the size of a namespace, in its logical blocks, while it is in use. Hosts are told
    /// by an asynchronous event. At most 4 GiB.
    ///
    /// # Errors
    /// See above.
    pub fn resize_namespace(&self, nsid: u32, blocks: u64) -> Result<()> {
        self.target(
            "resize a namespace",
            &format!(
                "reload {nsid} \"$(table linear {nsid} $(block_size {nsid}) {blocks})\"\n\
                 write 1 $NVMET/subsystems/{SUBNQN}/namespaces/{nsid}/revalidate_size"
            ),
        )
    }

    /// Adds a namespace and enables it.
    ///
    /// # Errors
    /// See above.
    pub fn add_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.target("add a namespace", &add_namespace(namespace))
    }

    /// Removes a namespace with its device and contents.
    ///
    /// # Errors
    /// See above.
    pub fn remove_namespace(&self, nsid: u32) -> Result<()> {
        self.target("remove a namespace", &format!("remove_namespace {SUBNQN} {nsid}"))
    }

    /// Holds all reads and writes of a namespace: they stay unanswered until
    /// [`Guest::resume_namespace`].
    ///
    /// # Errors
    /// See above.
    pub fn stall_namespace(&self, nsid: u32) -> Result<()> {
        self.target("stall a namespace", &format!("dmsetup suspend --nolockfs ns{nsid} || fail"))
    }

    /// Lets held reads and writes go on.
    ///
    /// # Errors
    /// See above.
    pub fn resume_namespace(&self, nsid: u32) -> Result<()> {
        self.target("resume a namespace", &format!("dmsetup resume ns{nsid} || fail"))
    }

    /// Chooses what a namespace's device does with reads and writes from now on. Contents stay.
    ///
    /// # Errors
    /// See above.
    pub fn set_namespace_backing(&self, nsid: u32, backing: Backing) -> Result<()> {
        let kind = match backing {
            Backing::Memory => "linear",
            Backing::Errors => "error",
        };
        self.target(
            "change a namespace's device",
            // The error target has no block size of its own, so the device below is asked.
            &format!(
                "size=$(block_size {nsid})\n\
                 reload {nsid} \"$(table {kind} {nsid} $size $(blocks {nsid}))\""
            ),
        )
    }

    /// Reads the contents of a namespace inside the guest, past the target: `count` bytes from
    /// `offset`.
    ///
    /// # Errors
    /// See above.
    pub fn peek(&self, nsid: u32, offset: u64, count: usize) -> Result<Vec<u8>> {
        let hex = self.ask_target(
            "read a namespace's device",
            &format!(
                "echo 1 > /proc/sys/vm/drop_caches\n\
                 dd if=/dev/mapper/ns{nsid} bs=64k iflag=skip_bytes,count_bytes \\
                    skip={offset} count={count} 2> /dev/null | hexdump -v -e '1/1 \"%02x\"'"
            ),
        )?;
        let digits = hex.trim().as_bytes();
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| {
                std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
            })
            .collect();
        bytes.filter(|bytes| bytes.len() == count).ok_or_else(|| Error::Script {
            what: format!("reading {count} bytes of namespace {nsid} at {offset}"),
            code: 0,
            output: hex.chars().take(200).collect(),
        })
    }

    fn attribute(&self, nsid: u32, name: &str, value: &str) -> Result<()> {
        self.target(
            "change a namespace",
            &format!("write {value} $NVMET/subsystems/{SUBNQN}/namespaces/{nsid}/{name}"),
        )
    }

    pub(crate) fn check_port(&self, port: u16) -> Result<u16> {
        self.addr(port).map(|_| Config::service(port))
    }
}
