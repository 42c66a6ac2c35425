//! The status field of a completion.

mod codes;

use core::fmt;

/// Status field of a completion, 15 bits, without the phase tag (NVMe 2.1 §4.2.3).
///
/// The associated constants carry type and code only. Compare with them through [`Status::is`] (or
/// [`Status::code`]), since `==` compares the retry bits as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(u16);

/// Status code type: generic command status.
pub const SCT_GENERIC: u8 = 0;
/// Status code type: command specific status.
pub const SCT_COMMAND_SPECIFIC: u8 = 1;
/// Status code type: media and data integrity errors.
pub const SCT_MEDIA: u8 = 2;
/// Status code type: path related status.
pub const SCT_PATH: u8 = 3;
/// Status code type: vendor specific.
pub const SCT_VENDOR: u8 = 7;

const CODE_MASK: u16 = 0x7ff;
const CRD_SHIFT: u32 = 11;
const MORE: u16 = 1 << 13;
const DNR: u16 = 1 << 14;

impl Status {
    /// A status of type `sct` (0 to 7) and code `sc`, retry bits clear.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct & 0x7) as u16) << 8 | sc as u16)
    }

    /// The 15 bits as they stand above the phase tag; bit 15 of `raw` is dropped.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw & 0x7fff)
    }

    /// The 15 bits, right aligned.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Status code type, 0 to 7.
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 0x7
    }

    /// Status code; its meaning depends on the type.
    #[must_use]
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Type and code alone, retry bits cleared.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & CODE_MASK)
    }

    /// Whether type and code are those of `other`, whatever the retry bits say.
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        self.0 & CODE_MASK == other.0 & CODE_MASK
    }

    /// Command Retry Delay index: 0 retry at once, 1 to 3 after CRDT1 to CRDT3 of Identify Controller.
    #[must_use]
    pub const fn crd(self) -> u8 {
        (self.0 >> CRD_SHIFT) as u8 & 0x3
    }

    /// More information waits in the error log page.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Do Not Retry: the same command would fail again on any controller of the subsystem.
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// The same status with Do Not Retry set.
    #[must_use]
    pub const fn with_dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// The same status with a Command Retry Delay index of 0 to 3.
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Self {
        Self(self.0 & !(0x3 << CRD_SHIFT) | ((crd & 0x3) as u16) << CRD_SHIFT)
    }

    /// The command completed without error.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & CODE_MASK == 0
    }

    /// The path, not the command, is at fault: another path may succeed (NVMe 2.1 §4.2.3.4).
    #[must_use]
    pub const fn is_path_related(self) -> bool {
        self.sct() == SCT_PATH
    }

    /// An ANA state prevented the command, so the ANA log page is worth reading again (NVMe 2.1 §8.1.1).
    #[must_use]
    pub const fn is_ana(self) -> bool {
        self.is_path_related() && matches!(self.sc(), 0x01..=0x03)
    }

    /// Name of the status code type.
    #[must_use]
    pub const fn sct_name(self) -> &'static str {
        match self.sct() {
            SCT_GENERIC => "Generic",
            SCT_COMMAND_SPECIFIC => "Command Specific",
            SCT_MEDIA => "Media and Data Integrity",
            SCT_PATH => "Path Related",
            SCT_VENDOR => "Vendor Specific",
            _ => "Reserved Type",
        }
    }

    /// Name of the status; of a command specific code with two meanings, that of the I/O command sets.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self.sct() {
            SCT_GENERIC => codes::generic(self.sc()),
            SCT_COMMAND_SPECIFIC => match codes::command_specific(self.sc()) {
                Some(name) => Some(name),
                None => match codes::io_command_specific(self.sc()) {
                    Some(name) => Some(name),
                    None => codes::fabrics_specific(self.sc()),
                },
            },
            SCT_MEDIA => codes::media(self.sc()),
            SCT_PATH => codes::path(self.sc()),
            _ => None,
        }
    }

    /// Name of the status when it answers a fabrics command.
    #[must_use]
    pub const fn fabrics_name(self) -> Option<&'static str> {
        if self.sct() == SCT_COMMAND_SPECIFIC
            && let Some(name) = codes::fabrics_specific(self.sc())
        {
            return Some(name);
        }
        self.name()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / ", self.sct_name())?;
        match (self.name(), self.fabrics_name()) {
            (Some(io), Some(fabrics)) if io != fabrics => write!(f, "{io} or {fabrics}")?,
            (Some(name), _) => f.write_str(name)?,
            (None, _) => f.write_str("unknown")?,
        }
        write!(f, " (SCT {:X}h SC {:02X}h", self.sct(), self.sc())?;
        if self.crd() != 0 {
            write!(f, " CRD {}", self.crd())?;
        }
        if self.dnr() {
            f.write_str(" DNR")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#06x}, {self})", self.0)
    }
}
