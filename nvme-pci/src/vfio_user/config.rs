//! What the client sets in configuration space, where no kernel does it on its behalf.

use std::io;

use crate::system::bar::Calls;
use crate::vfio::device::COMMAND;

/// Command register: no interrupts by wire (PCI Local Bus 3.0 §6.2.2).
const NO_WIRE: u16 = 1 << 10;
/// Status register, and its bit for a list of capabilities; where the list begins (ibid. §6.2.3,
/// §6.7).
const STATUS: u64 = 6;
const HAS_LIST: u16 = 1 << 4;
const LIST: u64 = 0x34;
/// Message control, in both capabilities (ibid. §6.8.1.3, §6.8.2.3).
const CONTROL: u64 = 2;
/// The capabilities that there is room for, so that a list in a circle ends.
const CAPABILITIES_MAX: usize = 48;

/// A kind of message signalled interrupt: its capability, and the bit of message control that turns
/// it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    Msi,
    MsiX,
}

impl Messages {
    const fn capability(self) -> (u8, u16) {
        match self {
            Self::Msi => (0x05, 1 << 0),
            Self::MsiX => (0x11, 1 << 15),
        }
    }
}

fn read(config: &impl Calls, offset: u64) -> io::Result<u16> {
    let mut bytes = [0; 2];
    config.read(offset, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

fn set(config: &impl Calls, offset: u64, bits: u16, on: bool) -> io::Result<()> {
    let value = read(config, offset)?;
    let wanted = if on { value | bits } else { value & !bits };
    if value != wanted {
        config.write(offset, &wanted.to_le_bytes())?;
    }
    Ok(())
}

/// Forbids all interrupts: those by wire, which this client never takes, and messages until they are
/// set up. What a client before has left is of no concern to this one, and a server that raises an
/// interrupt that nobody waits for may take that for a failure of its own.
pub(super) fn silence(config: &impl Calls) -> io::Result<()> {
    set(config, COMMAND, NO_WIRE, true)?;
    switch(config, Messages::Msi, false)?;
    switch(config, Messages::MsiX, false)
}

/// Turns message signalled interrupts on or off, if there is the capability for it.
pub(super) fn switch(config: &impl Calls, kind: Messages, on: bool) -> io::Result<()> {
    if read(config, STATUS)? & HAS_LIST == 0 {
        return Ok(());
    }
    let (wanted, bit) = kind.capability();
    let mut at = read(config, LIST)? & 0xfc;
    for _ in 0..CAPABILITIES_MAX {
        if at < 0x40 {
            return Ok(());
        }
        let [id, next] = read(config, at.into())?.to_le_bytes();
        if id == wanted {
            return set(config, u64::from(at) + CONTROL, bit, on);
        }
        at = u16::from(next) & 0xfc;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Debug)]
    struct Space(Mutex<[u8; 256]>);

    impl Space {
        /// Capabilities at these places with these identifiers; the last one names the first again.
        fn with(capabilities: &[(u8, u8)]) -> Self {
            let mut bytes = [0; 256];
            if let Some((first, _)) = capabilities.first() {
                (bytes[6], bytes[0x34]) = (HAS_LIST as u8, *first);
            }
            for (i, (at, id)) in capabilities.iter().enumerate() {
                let (next, _) = capabilities[(i + 1) % capabilities.len()];
                (bytes[usize::from(*at)], bytes[usize::from(*at) + 1]) = (*id, next);
            }
            Self(Mutex::new(bytes))
        }

        fn half(&self, at: u64) -> u16 {
            read(self, at).unwrap()
        }
    }

    impl Calls for Space {
        fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            to.copy_from_slice(&bytes[offset as usize..offset as usize + to.len()]);
            Ok(())
        }

        fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
            let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            bytes[offset as usize..offset as usize + from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    #[test]
    fn the_capability_is_found_and_only_its_bit_is_set() {
        let space = Space::with(&[(0x40, 1), (0x60, 5), (0x80, 0x11)]);
        switch(&space, Messages::MsiX, true).unwrap();
        assert_eq!((space.half(0x62), space.half(0x82)), (0, 1 << 15));
        switch(&space, Messages::Msi, true).unwrap();
        assert_eq!((space.half(0x62), space.half(0x82)), (1, 1 << 15));
        assert_eq!(space.half(4), 0);
        silence(&space).unwrap();
        assert_eq!((space.half(0x62), space.half(0x82), space.half(4)), (0, 0, NO_WIRE));
    }

    #[test]
    fn a_list_without_it_ends_even_in_a_circle() {
        for list in [&[][..], &[(0x40, 1)], &[(0x40, 1), (0x50, 5)], &[(0x10, 0x11)]] {
            let space = Space::with(list);
            let before = *space.0.lock().unwrap();
            switch(&space, Messages::MsiX, true).unwrap();
            assert_eq!(*space.0.lock().unwrap(), before);
        }
    }
}
