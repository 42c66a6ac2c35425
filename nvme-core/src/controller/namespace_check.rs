//! One namespace as Identify tells of it: reading it, and refusing what cannot be used.

use super::action::NamespaceInfo;
use crate::identity::NamespaceIds;
use crate::spec::identify::{self, IdentifyNamespace, NamespaceSharing, csi};
use zerocopy::FromBytes;

/// Largest logical block that this library handles.
const LARGEST_BLOCK: u32 = 65_536;

/// What a namespace turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Good(NamespaceInfo),
    /// There is none under this NSID.
    Inactive,
    /// There is one that cannot be used, for this reason.
    Unusable(String),
}

/// The identifiers that the namespace identification descriptors give; `None` without descriptors.
///
/// # Errors
/// What is wrong with which byte.
pub(super) fn descriptors(bytes: &[u8]) -> Result<NamespaceIds, String> {
    let ids = identify::NamespaceIds::parse(bytes).map_err(|error| error.to_string())?;
    Ok(NamespaceIds {
        uuid: ids.uuid,
        nguid: ids.nguid,
        eui64: ids.eui64,
        csi: ids.csi.unwrap_or(csi::NVM),
    })
}

/// Checks Identify Namespace. `ids` are those of the descriptors; what they lack is taken from the
/// structure's own fields, where older controllers have them.
pub(super) fn check(nsid: u32, bytes: &[u8], mut ids: NamespaceIds) -> Outcome {
    let Ok((ns, _)) = IdentifyNamespace::ref_from_prefix(bytes) else {
        return Outcome::Unusable(format!("Identify Namespace gave only {} bytes", bytes.len()));
    };
    // An inactive namespace is all zeroes (`NVMe 2.1 §3.2.1.5`).
    if ns.ncap.get() == 0 && ns.nsze.get() == 0 {
        return Outcome::Inactive;
    }
    let blocks = ns.nsze.get();
    if blocks == 0 {
        return Outcome::Unusable("it has 0 blocks (NSZE)".into());
    }
    if ns.ncap.get() == 0 {
        return Outcome::Inactive;
    }
    let format = match (ns.format(), ns.block_size()) {
        (Ok(format), Ok(size)) if size <= LARGEST_BLOCK => (format, size),
        (_, Ok(size)) => {
            return Outcome::Unusable(format!(
                "its blocks of {size} bytes are larger than {LARGEST_BLOCK}"
            ));
        }
        (_, Err(error)) => return Outcome::Unusable(error.to_string()),
    };
    let (format, block_size) = format;
    let with_metadata = u64::from(block_size) + u64::from(format.ms.get());
    if blocks.checked_mul(with_metadata).is_none() {
        return Outcome::Unusable(format!(
            "{blocks} blocks of {with_metadata} bytes are more than 64 bits can count"
        ));
    }
    ids.nguid = ids.nguid.or(Some(ns.nguid).filter(|id| !id.is_nil()));
    ids.eui64 = ids.eui64.or(Some(ns.eui64).filter(|id| !id.is_nil()));
    Outcome::Good(NamespaceInfo {
        nsid,
        ids,
        blocks,
        block_size,
        metadata_size: format.ms.get(),
        extended_lba: ns.has_extended_metadata(),
        shared: ns.nmic.contains(NamespaceSharing::SHARED),
        ana_group: ns.anagrpid.get(),
        read_only: ns.nsattr & 1 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nqn::{Eui64, Nguid};
    use zerocopy::{FromZeros, IntoBytes};

    fn good() -> IdentifyNamespace {
        let mut ns = IdentifyNamespace::new_zeroed();
        ns.nsze = 100.into();
        ns.ncap = 100.into();
        ns.lbaf[0].lbads = 12;
        ns
    }

    fn outcome(change: impl FnOnce(&mut IdentifyNamespace)) -> Outcome {
        let mut ns = good();
        change(&mut ns);
        check(7, ns.as_bytes(), NamespaceIds::default())
    }

    fn refusal(change: impl FnOnce(&mut IdentifyNamespace)) -> String {
        match outcome(change) {
            Outcome::Unusable(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_one_is_read_and_older_identifiers_are_found() {
        let Outcome::Good(info) = outcome(|ns| {
            ns.nguid = Nguid([1; 16]);
            ns.eui64 = Eui64([2; 8]);
            ns.nsattr = 1;
            ns.anagrpid = 5.into();
        }) else {
            panic!()
        };
        assert_eq!((info.nsid, info.blocks, info.block_size), (7, 100, 4096));
        assert_eq!((info.ids.nguid, info.ids.eui64), (Some(Nguid([1; 16])), Some(Eui64([2; 8]))));
        assert!(info.read_only && !info.shared && info.ana_group == 5);
    }

    #[test]
    fn zero_capacity_is_no_namespace() {
        assert_eq!(outcome(|ns| ns.ncap = 0.into()), Outcome::Inactive);
        assert_eq!(outcome(|ns| *ns = IdentifyNamespace::new_zeroed()), Outcome::Inactive);
    }

    #[test]
    fn each_unusable_field_is_named() {
        assert!(refusal(|ns| ns.nsze = 0.into()).contains("NSZE"));
        assert!(refusal(|ns| ns.lbaf[0].lbads = 8).contains("LBADS"));
        assert!(refusal(|ns| ns.lbaf[0].lbads = 17).contains("131072"));
        assert!(refusal(|ns| ns.flbas = 1).contains("FLBAS"));
        assert!(refusal(|ns| ns.nsze = u64::MAX.into()).contains("64 bits"));
        let short = check(1, &[0; 100], NamespaceIds::default());
        assert!(matches!(short, Outcome::Unusable(reason) if reason.contains("100 bytes")));
    }
}
