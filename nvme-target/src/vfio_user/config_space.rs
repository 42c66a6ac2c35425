//! The function's configuration space (PCI Local Bus 3.0 §6.1): a header without capabilities.

/// Bytes of configuration space.
pub(super) const LEN: usize = 256;
/// Where the command register is, and the bits of it that can be set: memory space, bus master,
/// interrupts disabled.
const COMMAND: usize = 4;
const COMMAND_BITS: u16 = 1 << 1 | 1 << 2 | 1 << 10;
const BUS_MASTER: u16 = 1 << 2;
/// Vendor, a number that is nobody's, and device.
const IDS: [u8; 4] = [0xfe, 0xff, 0x01, 0x00];
/// Revision 0 and the class of an NVMe I/O controller, lowest byte first.
const CLASS: [u8; 4] = [0x00, 0x02, 0x08, 0x01];
/// BAR 0 is a 64-bit one.
const BAR0_TYPE: u8 = 0b100;

#[derive(Debug)]
pub(super) struct ConfigSpace {
    command: u16,
}

impl ConfigSpace {
    pub const fn new() -> Self {
        Self { command: 0 }
    }

    pub const fn bus_master(&self) -> bool {
        self.command & BUS_MASTER != 0
    }

    /// All of it.
    pub fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&IDS);
        bytes[COMMAND..COMMAND + 2].copy_from_slice(&self.command.to_le_bytes());
        bytes[8..12].copy_from_slice(&CLASS);
        bytes[0x10] = BAR0_TYPE;
        bytes
    }

    /// Writes at `offset`; what cannot be written stays as it is.
    pub fn write(&mut self, offset: usize, from: &[u8]) {
        let mut command = self.command.to_le_bytes();
        for (at, &byte) in (offset..).zip(from) {
            if let Some(slot) = at.checked_sub(COMMAND).and_then(|n| command.get_mut(n)) {
                *slot = byte;
            }
        }
        self.command = u16::from_le_bytes(command) & COMMAND_BITS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_register_can_be_written() {
        let mut space = ConfigSpace::new();
        let before = space.bytes();
        space.write(0, &[0xff; 4]);
        space.write(8, &[0xff; 200]);
        assert_eq!(space.bytes(), before);
        space.write(3, &[0xff; 3]);
        assert!(space.bus_master());
        assert_eq!(space.bytes()[4..6], [0x06, 0x04]);
    }
}
