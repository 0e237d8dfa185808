//! What nodes can have in common, each name a number.
//!
//! Owns: failure domain, operator, address prefix, network and country of a node, as numbers that are quickly compared.
//! Always holds: equal names have equal numbers within one table; what is unknown has a number of its own, so that
//! nodes of which it is unknown have it in common. Leaves to others: how many may have what in common (`caps`).

use std::collections::BTreeMap;

use firn_base::{AddressPrefix, AsNumber, Country, Timestamp};

use crate::state::NodeRecord;

/// What a node can have in common with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeNames {
    pub(crate) domain: u32,
    pub(crate) operator: u32,
    pub(crate) prefix: u32,
    /// None while no leader with a table has looked it up.
    pub(crate) origin: Option<OriginNames>,
    /// An operator's token gave it its failure domain.
    pub(crate) vouched: bool,
    /// Since when it has its failure domain.
    pub(crate) declared_since: Timestamp,
    /// Since when it counts as being where it is.
    pub(crate) seen_since: Timestamp,
}

/// Network and country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OriginNames {
    pub(crate) network: u32,
    pub(crate) country: u32,
}

impl OriginNames {
    /// The number of what is unknown.
    pub(crate) const NONE: u32 = 0;
    /// Both unknown.
    pub(crate) const UNKNOWN: Self = Self { network: Self::NONE, country: Self::NONE };

    /// Whether a part of it is unknown.
    pub(crate) const fn is_unknown(self) -> bool {
        self.network == Self::NONE || self.country == Self::NONE
    }
}

/// Numbers for names, counted up as they come.
#[derive(Debug, Clone)]
pub(crate) struct NameTable {
    domains: BTreeMap<String, u32>,
    operators: BTreeMap<String, u32>,
    prefixes: BTreeMap<Option<AddressPrefix>, u32>,
    networks: BTreeMap<Option<AsNumber>, u32>,
    countries: BTreeMap<Option<Country>, u32>,
}

impl NameTable {
    /// No names but that of the unknown.
    pub(crate) fn new() -> Self {
        Self {
            domains: BTreeMap::new(),
            operators: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            networks: BTreeMap::from([(None, OriginNames::NONE)]),
            countries: BTreeMap::from([(None, OriginNames::NONE)]),
        }
    }

    /// The numbers of a node's names.
    pub(crate) fn names(&mut self, record: &NodeRecord) -> NodeNames {
        let origin = record.site.origin.map(|origin| OriginNames {
            network: number(&mut self.networks, origin.asn),
            country: number(&mut self.countries, origin.country),
        });
        NodeNames {
            domain: number_of(&mut self.domains, &record.failure_domain),
            operator: number_of(&mut self.operators, &record.operator),
            prefix: number(&mut self.prefixes, record.site.addresses.counted()),
            origin,
            vouched: record.vouched,
            declared_since: record.declared_since,
            seen_since: record.site.since,
        }
    }
}

fn number<K: Ord>(names: &mut BTreeMap<K, u32>, name: K) -> u32 {
    let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
    *names.entry(name).or_insert(next)
}

fn number_of(names: &mut BTreeMap<String, u32>, name: &str) -> u32 {
    match names.get(name) {
        Some(known) => *known,
        None => number(names, name.to_owned()),
    }
}
