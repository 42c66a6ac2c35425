//! What a guest is made of.

use std::fmt::Write;

/// A namespace of the guest's target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Namespace {
    /// Namespace identifier, from 1.
    pub nsid: u32,
    /// Bytes in a logical block: a power of two from 512 to 4096.
    pub block_size: u32,
    /// Size in logical blocks; at most 4 GiB. Memory is taken only for what is written.
    pub blocks: u64,
    /// ANA group, from 1 to [`Config::groups`].
    pub group: u32,
    /// The UUID in the namespace identification descriptors.
    pub uuid: [u8; 16],
}

impl Namespace {
    /// The UUID as Linux writes it.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        uuid_text(self.uuid)
    }
}

pub(crate) fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The guest's machine and the pristine state of its target. The default is what
/// [`Guest::shared`](crate::Guest::shared) boots.
#[derive(Clone, Debug)]
pub struct Config {
    /// Emulated processors. Default 1, which boots fastest.
    pub processors: u32,
    /// Memory in MiB; namespaces lie in it. Default 768.
    pub memory_mib: u32,
    /// Ports of the target, numbered from 1, on the guest's TCP ports 4420, 4421, ... Default 2.
    pub ports: u16,
    /// ANA groups of every port, numbered from 1. Default 2.
    pub groups: u32,
    /// The namespaces. Default: nsid 1, 512-byte blocks, group 1; nsid 2, 4096-byte blocks, group
    /// 2; 128 MiB each.
    pub namespaces: Vec<Namespace>,
    /// Kernel parameters besides the harness's own, such as `intel_iommu=on`.
    pub kernel_parameters: String,
    /// QEMU arguments besides the harness's own, such as devices.
    pub qemu_arguments: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            processors: 1,
            memory_mib: 768,
            ports: 2,
            groups: 2,
            namespaces: vec![
                Namespace {
                    nsid: 1,
                    block_size: 512,
                    blocks: 128 << 11,
                    group: 1,
                    uuid: 0x11d1_a3c0_6f3e_4b7a_9c51_0000_0000_0001_u128.to_be_bytes(),
                },
                Namespace {
                    nsid: 2,
                    block_size: 4096,
                    blocks: 128 << 8,
                    group: 2,
                    uuid: 0x22d2_b3c0_6f3e_4b7a_9c51_0000_0000_0002_u128.to_be_bytes(),
                },
            ],
            kernel_parameters: String::new(),
            qemu_arguments: Vec::new(),
        }
    }
}

impl Config {
    /// The guest's TCP port of a target's port.
    pub(crate) fn service(port: u16) -> u16 {
        4419 + port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_in_five_groups() {
        let uuid = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes();
        assert_eq!(uuid_text(uuid), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
