//! What is known to be wrong with certain devices, and what is done about it.
//!
//! A device is known by the identifiers that its bus gives it ([`DeviceIds`]), and, once Identify
//! Controller has been read, by its model and firmware. [`find`] looks it up in the table of this
//! library and in the rules of the program ([`QuirkRule`]), and applies what the program says of this
//! one device ([`QuirkChange`]). The controller layer and the transport then do without what does not
//! work.

mod rule;
mod table;

use std::fmt;

pub use rule::{QuirkChange, QuirkRule, RuleError};

/// What is wrong with a device. Each is honoured by the controller layer or by the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quirks(u32);

bitflags::bitflags! {
    impl Quirks: u32 {
        /// After `CC.EN` has been cleared, `CSTS` must not be read for 2.3 s.
        const READY_DELAY = 1 << 0;
        /// The list of active namespaces (Identify, CNS 02h) does not work: each NSID is asked for.
        const NO_NAMESPACE_LIST = 1 << 1;
        /// Namespace identification descriptors (Identify, CNS 03h) are not asked for.
        const NO_DESCRIPTORS = 1 << 2;
        /// NGUID and EUI-64 are not those of one namespace alone: they are not looked at.
        const BOGUS_IDS = 1 << 3;
        /// The subsystem's NQN is that of other subsystems as well: one is made from vendor, serial
        /// and model instead.
        const BOGUS_NQN = 1 << 4;
        /// Write Zeroes is said to be supported, and is not (`ONCS` is told without it).
        const NO_WRITE_ZEROES = 1 << 5;
        /// Autonomous power state transitions are not configured.
        const NO_APST = 1 << 6;
        /// The deepest power state is not entered by itself.
        const NO_DEEPEST_STATE = 1 << 7;
        /// I/O submission queues are created with medium priority.
        const MEDIUM_PRIORITY = 1 << 8;
        /// Only the first interrupt works.
        const ONE_INTERRUPT = 1 << 9;
        /// An I/O queue holds one command at a time.
        const ONE_COMMAND = 1 << 10;
        /// Scatter gather lists are not used, whatever `SGLS` says.
        const NO_SGL = 1 << 11;
        /// Doorbells in memory are not used.
        const NO_SHADOW_DOORBELLS = 1 << 12;
        /// The controller gets no host memory buffer.
        const NO_HOST_MEMORY = 1 << 13;
        /// The controller memory buffer is not used.
        const NO_CONTROLLER_MEMORY = 1 << 14;
        /// No command transfers more than 128 KiB, whatever `MDTS` says.
        const SMALL_TRANSFERS = 1 << 15;
        /// Submission queue entries are 128 bytes long. Such a controller is refused.
        const WIDE_ENTRIES = 1 << 16;
        /// Command identifiers are small, and common to all queues. Such a controller is refused.
        const SHARED_COMMAND_IDS = 1 << 17;
    }
}

/// The names, as rules and messages have them.
const NAMES: [(Quirks, &str); 18] = [
    (Quirks::READY_DELAY, "ready-delay"),
    (Quirks::NO_NAMESPACE_LIST, "no-namespace-list"),
    (Quirks::NO_DESCRIPTORS, "no-descriptors"),
    (Quirks::BOGUS_IDS, "bogus-ids"),
    (Quirks::BOGUS_NQN, "bogus-nqn"),
    (Quirks::NO_WRITE_ZEROES, "no-write-zeroes"),
    (Quirks::NO_APST, "no-apst"),
    (Quirks::NO_DEEPEST_STATE, "no-deepest-state"),
    (Quirks::MEDIUM_PRIORITY, "medium-priority"),
    (Quirks::ONE_INTERRUPT, "one-interrupt"),
    (Quirks::ONE_COMMAND, "one-command"),
    (Quirks::NO_SGL, "no-sgl"),
    (Quirks::NO_SHADOW_DOORBELLS, "no-shadow-doorbells"),
    (Quirks::NO_HOST_MEMORY, "no-host-memory"),
    (Quirks::NO_CONTROLLER_MEMORY, "no-controller-memory"),
    (Quirks::SMALL_TRANSFERS, "small-transfers"),
    (Quirks::WIDE_ENTRIES, "wide-entries"),
    (Quirks::SHARED_COMMAND_IDS, "shared-command-ids"),
];

/// What this library cannot do without.
const UNUSABLE: Quirks = Quirks::WIDE_ENTRIES.union(Quirks::SHARED_COMMAND_IDS);

impl Quirks {
    /// The quirk of this name, such as `no-sgl`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(quirk, _)| *quirk)
    }

    /// The names of all of these.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(quirk, _)| self.contains(*quirk)).map(|(_, name)| name)
    }

    /// Those with which a controller cannot be used.
    #[must_use]
    pub const fn unusable(self) -> Self {
        self.intersection(UNUSABLE)
    }
}

/// The names, separated by commas; nothing for none.
impl fmt::Display for Quirks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, name) in self.names().enumerate() {
            write!(f, "{}{name}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Who made a PCI function, and what it is (PCI Local Bus 3.0 §6.2.1, §6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceIds {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// As `lspci` writes them: `1b36:0010:1af4:1100`.
impl fmt::Display for DeviceIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vendor, device, subsystem_vendor, subsystem } = self;
        write!(f, "{vendor:04x}:{device:04x}:{subsystem_vendor:04x}:{subsystem:04x}")
    }
}

/// What a transport knows of the device behind an association.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// What the bus says that it is; `None` where there is no bus.
    pub ids: Option<DeviceIds>,
    /// What the program says of this one device.
    pub quirks: QuirkChange,
}

/// What Identify Controller says of who made the controller, and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// `VID`.
    pub vendor: u16,
    /// `MN`, trimmed.
    pub model: &'a str,
    /// `FR`, trimmed.
    pub firmware: &'a str,
}

/// What is wrong with a device: the table's entries for it, then the program's `rules` in their order,
/// then what the program says of this one device.
#[must_use]
pub fn find(hardware: &Hardware, identity: Option<Identity<'_>>, rules: &[QuirkRule]) -> Quirks {
    let mut quirks = table::find(hardware.ids.as_ref(), identity);
    for rule in rules.iter().filter(|rule| rule.fits(hardware.ids.as_ref(), identity)) {
        quirks = rule.change.apply(quirks);
    }
    hardware.quirks.apply(quirks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardware(vendor: u16, device: u16) -> Hardware {
        let ids = DeviceIds { vendor, device, subsystem_vendor: 0x1af4, subsystem: 0x1100 };
        Hardware { ids: Some(ids), quirks: QuirkChange::default() }
    }

    #[test]
    fn every_quirk_has_a_name_of_its_own() {
        assert_eq!(
            NAMES.iter().map(|(q, _)| *q).fold(Quirks::empty(), Quirks::union),
            Quirks::all()
        );
        for (quirk, name) in NAMES {
            assert_eq!((Quirks::named(name), quirk.to_string().as_str()), (Some(quirk), name));
        }
        assert_eq!(Quirks::named("no-such"), None);
        let both = Quirks::NO_SGL | Quirks::READY_DELAY;
        assert_eq!(both.to_string(), "ready-delay,no-sgl");
    }

    #[test]
    fn the_program_has_the_last_word() {
        let qemu = hardware(0x1b36, 0x0010);
        assert_eq!(find(&qemu, None, &[]), Quirks::BOGUS_IDS);
        let rules = ["1b36:0010=no-sgl".parse().unwrap(), "1b36:0011=no-apst".parse().unwrap()];
        assert_eq!(find(&qemu, None, &rules), Quirks::BOGUS_IDS | Quirks::NO_SGL);
        let one = Hardware { quirks: "-bogus-ids,one-command".parse().unwrap(), ..qemu };
        assert_eq!(find(&one, None, &rules), Quirks::NO_SGL | Quirks::ONE_COMMAND);
        assert_eq!(find(&Hardware::default(), None, &rules), Quirks::empty());
    }
}
