//! The devices that are known. What is told here are facts that were found by those who had the
//! devices, as public drivers and bug reports record them; nothing of it was tried here but QEMU's
//! controller.

use super::{DeviceIds, Identity, Quirks};

const BOGUS_IDS: Quirks = Quirks::BOGUS_IDS;
const BOGUS_NQN: Quirks = Quirks::BOGUS_NQN;
const NO_APST: Quirks = Quirks::NO_APST;
const NO_DEEPEST_STATE: Quirks = Quirks::NO_DEEPEST_STATE;
const NO_DESCRIPTORS: Quirks = Quirks::NO_DESCRIPTORS;
const NO_NAMESPACE_LIST: Quirks = Quirks::NO_NAMESPACE_LIST;
const NO_WRITE_ZEROES: Quirks = Quirks::NO_WRITE_ZEROES;
const READY_DELAY: Quirks = Quirks::READY_DELAY;

/// Vendor, device, what is wrong.
#[rustfmt::skip]
const FUNCTIONS: &[(u16, u16, &[Quirks])] = &[
    // QEMU: machines of versions 6.1 to 7.0 number the EUI-64s of the namespaces that were given none
    // through from their start. Other machines have the same ones, and a namespace that is plugged in
    // anew has another.
    (0x1b36, 0x0010, &[BOGUS_IDS]),
    // Its older identity.
    (0x8086, 0x5845, &[NO_NAMESPACE_LIST, NO_WRITE_ZEROES, BOGUS_IDS]),

    // Intel P4500, P4600; 600p; 760p.
    (0x8086, 0x0a54, &[BOGUS_NQN, BOGUS_IDS]),
    (0x8086, 0xf1a5, &[Quirks::MEDIUM_PRIORITY, NO_WRITE_ZEROES]),
    (0x8086, 0xf1a6, &[BOGUS_NQN]),
    // Seagate Nytro; HGST; WDC SN200; Memblaze Pblaze 4.
    (0x1bb1, 0x0100, &[READY_DELAY, NO_DESCRIPTORS]),
    (0x1c58, 0x0003, &[READY_DELAY]),
    (0x1c58, 0x0023, &[READY_DELAY]),
    (0x1c5f, 0x0540, &[READY_DELAY]),
    // Samsung SM953, PM981a and alike, PM9B1, PM1725, PM1725a.
    (0x144d, 0xa802, &[BOGUS_IDS]),
    (0x144d, 0xa809, &[NO_WRITE_ZEROES]),
    (0x144d, 0xa80b, &[NO_WRITE_ZEROES, BOGUS_IDS]),
    (0x144d, 0xa821, &[READY_DELAY]),
    (0x144d, 0xa822, &[READY_DELAY, NO_WRITE_ZEROES, BOGUS_NQN]),
    // Micron.
    (0x1344, 0x5407, &[BOGUS_NQN]),
    (0x1344, 0x6001, &[BOGUS_IDS]),
    // SK Hynix PC400, P31, BC901; Sandisk Skyhawk.
    (0x1c5c, 0x1504, &[NO_WRITE_ZEROES]),
    (0x1c5c, 0x174a, &[BOGUS_IDS]),
    (0x1c5c, 0x1d59, &[NO_WRITE_ZEROES]),
    (0x15b7, 0x2001, &[NO_WRITE_ZEROES]),
    // Kingston's with controllers of others.
    (0x2646, 0x5016, &[NO_WRITE_ZEROES]),
    (0x2646, 0x5018, &[NO_WRITE_ZEROES]),
    (0x2646, 0x501a, &[NO_WRITE_ZEROES]),
    (0x2646, 0x501b, &[NO_WRITE_ZEROES]),
    (0x2646, 0x501e, &[NO_WRITE_ZEROES]),
    // Controllers that many makers put into drives: Silicon Motion, Phison, Realtek, Maxio, Innogrit.
    (0x126f, 0x1001, &[BOGUS_NQN]),
    (0x126f, 0x2262, &[BOGUS_IDS]),
    (0x126f, 0x2263, &[NO_DESCRIPTORS, BOGUS_IDS]),
    (0x1987, 0x5012, &[BOGUS_IDS]),
    (0x1987, 0x5016, &[BOGUS_NQN, BOGUS_IDS]),
    (0x1987, 0x5019, &[NO_WRITE_ZEROES]),
    (0x1987, 0x5021, &[NO_WRITE_ZEROES]),
    (0x10ec, 0x5762, &[BOGUS_NQN, BOGUS_IDS]),
    (0x10ec, 0x5763, &[BOGUS_IDS]),
    (0x10ec, 0x5765, &[BOGUS_IDS]),
    (0x1e4b, 0x1001, &[BOGUS_IDS]),
    (0x1e4b, 0x1002, &[BOGUS_IDS]),
    (0x1e4b, 0x1202, &[BOGUS_IDS]),
    (0x1e4b, 0x1602, &[BOGUS_IDS]),
    (0x1dbe, 0x5216, &[BOGUS_IDS]),
    (0x1dbe, 0x5236, &[BOGUS_IDS]),
    // Drives of ADATA, Lexar, Netac, Crucial, UMIS.
    (0x1cc1, 0x33f8, &[BOGUS_IDS]),
    (0x1cc1, 0x5350, &[BOGUS_IDS]),
    (0x1cc1, 0x8201, &[BOGUS_NQN]),
    (0x1b4b, 0x1092, &[NO_DESCRIPTORS, BOGUS_NQN]),
    (0x1d97, 0x1d97, &[BOGUS_IDS]),
    (0x1d97, 0x2263, &[NO_WRITE_ZEROES, BOGUS_IDS]),
    (0x1d97, 0x2269, &[BOGUS_NQN, BOGUS_IDS]),
    (0x1f40, 0x1202, &[BOGUS_IDS]),
    (0x1f40, 0x5236, &[BOGUS_IDS]),
    (0xc0a9, 0x540a, &[BOGUS_IDS]),
    (0x1cc4, 0x6302, &[NO_WRITE_ZEROES]),
    (0x1cc4, 0x6303, &[NO_WRITE_ZEROES]),
    // Apple's first, and the one of the machines with a T2 chip.
    (0x106b, 0x2001, &[Quirks::ONE_INTERRUPT, Quirks::ONE_COMMAND]),
    (0x106b, 0x2005, &[Quirks::ONE_INTERRUPT, Quirks::WIDE_ENTRIES, Quirks::SHARED_COMMAND_IDS, NO_NAMESPACE_LIST]),
];

/// Vendor and model as Identify Controller tells them, what is wrong: drives that have the bus
/// identifiers of others which are sound.
const MODELS: &[(u16, &str, &[Quirks])] = &[
    (0x1179, "THNSF5256GPUK TOSHIBA", &[NO_APST]),
    (0x1e0f, "KCD6XVUL6T40", &[NO_APST]),
    (0x144d, "Samsung Portable SSD X5", &[READY_DELAY, NO_DEEPEST_STATE, BOGUS_NQN]),
];

fn all(quirks: &[Quirks]) -> Quirks {
    quirks.iter().fold(Quirks::empty(), |all, quirk| all | *quirk)
}

/// What the table has.
pub(super) fn find(ids: Option<&DeviceIds>, identity: Option<Identity<'_>>) -> Quirks {
    let function = |(vendor, device, _): &&(u16, u16, _)| {
        ids.is_some_and(|ids| (ids.vendor, ids.device) == (*vendor, *device))
    };
    let model = |(vendor, model, _): &&(u16, &str, _)| {
        identity.is_some_and(|id| (id.vendor, id.model) == (*vendor, *model))
    };
    let by_function = FUNCTIONS.iter().filter(function).map(|(_, _, quirks)| all(quirks));
    let by_model = MODELS.iter().filter(model).map(|(_, _, quirks)| all(quirks));
    by_function.chain(by_model).fold(Quirks::empty(), |all, quirks| all | quirks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_models_are_found() {
        let ids = |vendor, device| DeviceIds { vendor, device, subsystem_vendor: 0, subsystem: 0 };
        let by_ids = |vendor, device| find(Some(&ids(vendor, device)), None);
        assert_eq!(by_ids(0x144d, 0xa821), READY_DELAY);
        assert_eq!(by_ids(0x144d, 0xa820), Quirks::empty());
        assert!(by_ids(0x106b, 0x2005).unusable().contains(Quirks::WIDE_ENTRIES));
        let identity = Identity { vendor: 0x144d, model: "Samsung Portable SSD X5", firmware: "" };
        let sound = ids(0x144d, 0xa808);
        assert_eq!(find(Some(&sound), None), Quirks::empty());
        let found = find(Some(&sound), Some(identity));
        assert_eq!(found, READY_DELAY | NO_DEEPEST_STATE | BOGUS_NQN);
        let other = Identity { vendor: 0x144e, ..identity };
        assert_eq!(find(None, Some(other)), Quirks::empty());
    }

    #[test]
    fn no_function_stands_in_the_table_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for (vendor, device, _) in FUNCTIONS {
            assert!(seen.insert((vendor, device)), "{vendor:04x}:{device:04x}");
        }
    }
}
