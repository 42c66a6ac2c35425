//! The namespaces that a controller has told of, across its associations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::action::NamespaceInfo;
use crate::identity::NamespaceIds;
use crate::nqn::{Eui64, Nguid, Uuid};

/// One globally unique identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UniqueId {
    Uuid(Uuid),
    Nguid(Nguid),
    Eui64(Eui64),
}

fn unique_ids(ids: &NamespaceIds) -> impl Iterator<Item = UniqueId> {
    [ids.uuid.map(UniqueId::Uuid), ids.nguid.map(UniqueId::Nguid), ids.eui64.map(UniqueId::Eui64)]
        .into_iter()
        .flatten()
}

/// What a namespace just read is to those known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Known, and told on this association, just so.
    Same,
    /// Known under these identifiers; not told on this association, or changed since.
    Update,
    /// Its NSID belonged to a namespace with other identifiers.
    OtherIdentity,
    /// Not known.
    New,
    /// Another namespace, this one, has an identifier of it.
    Duplicate(u32),
}

/// The namespaces told and not taken back.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    known: BTreeMap<u32, Arc<NamespaceInfo>>,
    /// Who has which identifier.
    owners: BTreeMap<UniqueId, u32>,
    /// Those told on the present association.
    told: BTreeSet<u32>,
}

impl Namespaces {
    pub(super) const fn known(&self) -> &BTreeMap<u32, Arc<NamespaceInfo>> {
        &self.known
    }

    /// A new association: everything is to be told again.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }

    pub(super) fn contains(&self, nsid: u32) -> bool {
        self.known.contains_key(&nsid)
    }

    pub(super) fn standing(&self, info: &NamespaceInfo) -> Standing {
        match self.known.get(&info.nsid) {
            Some(known) if known.ids != info.ids => Standing::OtherIdentity,
            Some(known) if **known == *info && self.told.contains(&info.nsid) => Standing::Same,
            Some(_) => Standing::Update,
            None => {
                let owner = unique_ids(&info.ids).find_map(|id| self.owners.get(&id));
                owner.map_or(Standing::New, |nsid| Standing::Duplicate(*nsid))
            }
        }
    }

    /// Takes a namespace in, or its new state.
    pub(super) fn insert(&mut self, info: Arc<NamespaceInfo>) {
        let nsid = info.nsid;
        for id in unique_ids(&info.ids) {
            self.owners.insert(id, nsid);
        }
        self.told.insert(nsid);
        self.known.insert(nsid, info);
    }

    /// Takes a namespace out; whether it was there.
    pub(super) fn remove(&mut self, nsid: u32) -> bool {
        let Some(info) = self.known.remove(&nsid) else { return false };
        for id in unique_ids(&info.ids) {
            self.owners.remove(&id);
        }
        self.told.remove(&nsid);
        true
    }

    /// Those that `active`, in ascending order, does not have.
    pub(super) fn missing_from(&self, active: &[u32]) -> Vec<u32> {
        self.known.keys().copied().filter(|nsid| active.binary_search(nsid).is_err()).collect()
    }
}
