//! What the device needs of the machine it is in.

use std::fmt;

/// Memory that the device reads and writes by bus address.
pub trait HostMemory: Send + Sync + fmt::Debug {
    /// Reads from `address` on; false if any of it is no memory, and `to` is then worthless.
    fn read(&self, address: u64, to: &mut [u8]) -> bool;

    /// Writes from `address` on; false if any of it is no memory.
    fn write(&self, address: u64, from: &[u8]) -> bool;

    /// Writes 8 bytes at `address`, a multiple of 8, at once, and after everything that was written
    /// before; false if that is no memory. In the machine's byte order.
    fn store(&self, address: u64, value: u64) -> bool;

    /// Reads 4 bytes at `address`, a multiple of 4, at once, and before everything that is read
    /// after; `None` if that is no memory. In the machine's byte order.
    fn load32(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes).then(|| u32::from_ne_bytes(bytes))
    }

    /// Writes 4 bytes at `address`, a multiple of 4, at once, before everything that is read after;
    /// false if that is no memory. In the machine's byte order.
    fn store32(&self, address: u64, value: u32) -> bool {
        let stored = self.write(address, &value.to_ne_bytes());
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        stored
    }
}

/// Where interrupts go.
pub trait Interrupts: Send + Sync + fmt::Debug {
    /// Raises interrupt `vector`.
    fn raise(&self, vector: u16);
}

/// Doorbells that the host writes in memory it shares with the device, which looks at them in every
/// [step](crate::PciDevice::step). Offsets are those from the first doorbell, in bytes.
pub trait Doorbells: Send + Sync + fmt::Debug {
    /// What the host has written last, or the device has set.
    fn load(&self, offset: usize) -> u32;

    /// Sets a doorbell: to 0 when its queue is new, and to the value before when the host has
    /// written one that cannot be.
    fn store(&self, offset: usize, value: u32);
}
