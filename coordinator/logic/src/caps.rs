//! How many shards of one bundle may lie together: the domain caps.
//!
//! Owns: the numbers, and which caps are in force. Always holds: they follow from the policy and from what is committed
//! of the nodes that count, so that every leader has the same; a network or country that is unknown is one, in which
//! all are of which it is unknown: being unknown escapes no cap.
//! Leaves to others: counting what a bundle's holders take (`taken`).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{Scheme, Timestamp};
use firn_wire::{DomainRule, Policy};

use crate::names::{NodeNames, OriginNames};

/// A breach of caps that lasts shorter is not mended: machines move, providers renumber, tables err for a day, and
/// each shard that moves costs its bytes. New shards keep clear of it at once.
pub const BREACH_MENDED_AFTER: Duration = Duration::from_secs(3 * 86_400);

/// While fewer networks are known two shards of a bundle may lie in one: of 59 networks two each are still more than
/// the 40 shards of the widest scheme, of 60 one each is, too.
const NETWORKS_FOR_ONE_EACH: usize = 60;

/// A country may have a fifth of a bundle's shards.
const COUNTRY_PART: u8 = 5;

/// The caps in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caps {
    rule: DomainRule,
    trust_declared: bool,
    origins: Origins,
}

/// How networks and countries count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origins {
    /// Nobody has looked them up.
    Unseen,
    /// Nodes that were not looked up are in one unknown network and country.
    Capped {
        per_network: u8,
        /// Since when so many networks are known that it is no more.
        since: Timestamp,
    },
    /// Nodes that were not looked up have none: for who sees only the nodes of one bundle, and cannot tell whether
    /// that is so of all.
    CappedWhereSeen { per_network: u8 },
}

impl Caps {
    /// The caps in a fleet whose nodes that count are `nodes`.
    pub(crate) fn of_fleet(policy: &Policy, nodes: impl Iterator<Item = NodeNames>) -> Self {
        let mut caps = Self {
            rule: policy.domains,
            trust_declared: policy.trust_declared_domains,
            origins: Origins::Unseen,
        };
        if policy.domains == DomainRule::Named {
            return caps;
        }
        // Each network with the earliest time since when a node is known to be in it.
        let (mut is_seen, mut networks) = (false, BTreeMap::new());
        for names in nodes {
            let Some(origin) = names.origin else { continue };
            is_seen = true;
            if origin.network != OriginNames::NONE {
                let since = networks.entry(origin.network).or_insert(names.seen_since);
                *since = names.seen_since.min(*since);
            }
        }
        if is_seen {
            let mut since: Vec<Timestamp> = networks.into_values().collect();
            since.sort_unstable();
            caps.origins = match since.get(NETWORKS_FOR_ONE_EACH - 1) {
                Some(since) => Origins::Capped { per_network: 1, since: *since },
                None => Origins::Capped { per_network: 2, since: Timestamp::from_millis(0) },
            };
        }
        caps
    }

    /// Caps that hold in any fleet: what a replica refuses whatever the leader has planned.
    pub(crate) const fn of_any_fleet(policy: &Policy) -> Self {
        let origins = match policy.domains {
            DomainRule::Named => Origins::Unseen,
            DomainRule::Public => Origins::CappedWhereSeen { per_network: 2 },
        };
        Self { rule: policy.domains, trust_declared: policy.trust_declared_domains, origins }
    }

    /// The same as if no failure domain parted nodes because it was declared.
    pub(crate) const fn trusting_nobody(self) -> Self {
        Self { trust_declared: false, ..self }
    }

    /// Whether more than the failure domain counts.
    pub(crate) const fn is_public(self) -> bool {
        matches!(self.rule, DomainRule::Public)
    }

    /// Shards of one bundle that may lie in one network; none where networks and countries do not count.
    pub(crate) const fn per_network(self) -> Option<u8> {
        match self.origins {
            Origins::Unseen => None,
            Origins::Capped { per_network, .. } | Origins::CappedWhereSeen { per_network } => {
                Some(per_network)
            }
        }
    }

    /// Since when no more may.
    pub(crate) const fn per_network_since(self) -> Timestamp {
        match self.origins {
            Origins::Capped { since, .. } => since,
            Origins::Unseen | Origins::CappedWhereSeen { .. } => Timestamp::from_millis(0),
        }
    }

    /// Shards of a bundle of n that may lie in one country: 20 %, and one in any case.
    pub(crate) const fn per_country(n: u8) -> u8 {
        let part = n / COUNTRY_PART;
        if part == 0 { 1 } else { part }
    }

    /// The same where countries count; none where they do not.
    pub(crate) fn most_in_country(self, n: u8) -> Option<u8> {
        self.per_network().map(|_| Self::per_country(n))
    }

    /// Network and country of a node as they count; none where they do not.
    pub(crate) const fn origin(self, names: NodeNames) -> Option<OriginNames> {
        match (self.origins, names.origin) {
            (Origins::Unseen, _) | (Origins::CappedWhereSeen { .. }, None) => None,
            (Origins::Capped { .. }, None) => Some(OriginNames::UNKNOWN),
            (_, Some(origin)) => Some(origin),
        }
    }

    /// Whether two nodes have nothing in common of which a cap counts how often it is had, but perhaps a country.
    pub(crate) fn are_strangers(self, one: &NodeNames, other: &NodeNames) -> bool {
        let network = |names: &NodeNames| self.origin(*names).map(|origin| origin.network);
        one.domain != other.domain
            && (!self.is_public()
                || (one.operator != other.operator
                    && one.prefix != other.prefix
                    && (network(one).is_none() || network(one) != network(other))))
    }

    /// Whether a node's failure domain keeps it apart from others of its prefix and network which are apart by the
    /// same right.
    pub(crate) const fn is_vouched(self, names: NodeNames) -> bool {
        names.vouched || self.trust_declared
    }
}

/// The n that bundles of a scheme's k may come to have: what a replica measures countries by, for a bundle gets more
/// parity one shard after the other.
pub(crate) fn n_most(scheme: Scheme) -> u8 {
    Scheme::n_max(scheme.k()).unwrap_or(scheme.n())
}

/// Whether a breach that began at `since` is to be mended.
pub(crate) fn is_due(since: Timestamp, now: Timestamp) -> bool {
    now.since(since) >= BREACH_MENDED_AFTER
}
