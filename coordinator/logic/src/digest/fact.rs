//! What each record of the state adds to its digest.
//!
//! Always holds: every field of every record is in some fact, in full or by the digest of what holds it: records are
//! taken apart by name, so that a new field does not compile before it is counted. Each field of variable length stands
//! behind its length. Leaves to others: sums (`set_sum`).

use firn_base::{AddressPrefix, BundleId, Location, ObjectKey, ShardIndex, TokenId};
use firn_wire::{Actor, DomainRule, LedgerEntry, LedgerHead, Policy};

use super::set_sum::{SUM_BYTES, Stretched};
use crate::absence::Absence;
use crate::state::{
    BundleRecord, CodingRecord, Counters, ErasedRecord, ErasureRecord, FeatureRecord, HeldRecord, NodeNumber,
    NodeRecord, NodeSite, PurgeRecord, RecodingRecord, ReservationRecord, SurplusRecord, WithdrawnRecord,
};
use crate::suspension::Suspension;

// Sets these hashes apart from all others of the archive.
const CONTEXT: &[u8] = b"firn/fact/1\0";

/// Which sum a fact belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Content,
    Governance,
    Rest,
}

/// One record, or a part of one.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    Node(&'a NodeRecord),
    Bundle(&'a BundleRecord),
    Reservation(&'a ReservationRecord),
    Surplus(&'a SurplusRecord),
    /// A place of a visible key, the first or a further one, in the bundle of that id.
    Place(ObjectKey, BundleId, Location),
    /// A place that is not the first.
    Variant(ObjectKey, Location),
    Held(&'a HeldRecord, BundleId),
    External(ObjectKey),
    /// With the bundle of each of its places.
    Withdrawn(&'a WithdrawnRecord, &'a [BundleId]),
    Purge(&'a PurgeRecord),
    Erasure(&'a ErasureRecord),
    Feature(&'a FeatureRecord),
    UsedToken(TokenId),
    Policy(&'a Policy),
    Ledger(&'a LedgerEntry),
    Counters(&'a Counters),
}

/// Fields on their way into a sum.
pub(super) struct Fact {
    hasher: blake3::Hasher,
}

impl Fact {
    fn new(kind: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTEXT);
        Self { hasher }.bytes(kind.as_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
        self
    }

    fn number(mut self, number: impl Into<u64>) -> Self {
        self.hasher.update(&number.into().to_le_bytes());
        self
    }

    fn place(self, location: Location) -> Self {
        self.number(location.block).number(location.entry)
    }

    fn copies(self, copies: &[(ShardIndex, NodeNumber)]) -> Self {
        let counted = self.number(copies.len() as u64);
        copies.iter().fold(counted, |fact, (index, node)| fact.number(index.0).number(node.0))
    }

    fn head(self, head: LedgerHead) -> Self {
        let LedgerHead { entries, digest } = head;
        self.number(entries).bytes(digest.as_bytes())
    }

    pub(super) fn expand(&self) -> Stretched {
        let mut stretched = [0; SUM_BYTES];
        self.hasher.finalize_xof().fill(&mut stretched);
        stretched
    }
}

impl Entry<'_> {
    /// Hands each of its facts to `visit`.
    pub(super) fn facts(&self, mut visit: impl FnMut(Part, Fact)) {
        match self {
            Self::Node(record) => visit(Part::Rest, node(record)),
            Self::Bundle(record) => {
                // Of one that was erased no shard file tells.
                if !record.codings.is_empty() {
                    visit(Part::Content, bundle_content(record));
                }
                visit(Part::Rest, bundle(record));
            }
            Self::Reservation(record) => visit(Part::Rest, reservation(record)),
            Self::Surplus(record) => visit(Part::Rest, surplus(record)),
            Self::Place(key, bundle, location) => {
                let fact = Fact::new("place").bytes(&key.to_bytes()).bytes(bundle.as_bytes());
                visit(Part::Content, fact.place(*location));
            }
            Self::Variant(key, location) => {
                let fact = Fact::new("variant").bytes(&key.to_bytes()).number(location.bundle.0);
                visit(Part::Rest, fact.place(*location));
            }
            Self::Held(record, bundle) => {
                let HeldRecord { key, location, waits } = record;
                let fact = Fact::new("held").bytes(&key.to_bytes()).bytes(bundle.as_bytes()).place(*location);
                let fact = fact.number(waits.len() as u64);
                visit(Part::Content, waits.iter().fold(fact, |fact, key| fact.bytes(&key.to_bytes())));
            }
            Self::External(key) => visit(Part::Content, Fact::new("external").bytes(&key.to_bytes())),
            Self::Withdrawn(record, bundles) => {
                let WithdrawnRecord { key, places } = record;
                let key = key.to_bytes();
                visit(Part::Content, Fact::new("withdrawn").bytes(&key));
                for (location, bundle) in places.iter().zip(*bundles) {
                    let fact = Fact::new("withdrawn place").bytes(&key).bytes(bundle.as_bytes());
                    visit(Part::Content, fact.place(*location));
                }
                // Their order is the order of commits.
                let order = Fact::new("withdrawn order").bytes(&key).number(places.len() as u64);
                let add = |fact: Fact, location: &Location| fact.number(location.bundle.0).place(*location);
                visit(Part::Rest, places.iter().fold(order, add));
            }
            Self::Purge(record) => visit(Part::Rest, purge(record)),
            Self::Erasure(record) => visit(Part::Rest, erasure(record)),
            Self::Feature(record) => visit(Part::Rest, feature(record)),
            Self::UsedToken(token) => visit(Part::Governance, Fact::new("token").bytes(token.as_bytes())),
            Self::Policy(record) => visit(Part::Governance, policy(record)),
            // The digest covers all of an entry, its position included.
            Self::Ledger(entry) => {
                visit(Part::Governance, Fact::new("ledger").bytes(entry.digest().as_bytes()));
            }
            Self::Counters(record) => visit(Part::Rest, counters(record)),
        }
    }
}

fn node(record: &NodeRecord) -> Fact {
    let NodeRecord {
        number,
        id,
        operator,
        failure_domain,
        vouched,
        declared_since,
        site: NodeSite { addresses, origin, since },
        address,
        quota_bytes,
        assigned_bytes,
        shards,
        state,
        joined_at,
        last_seen,
        availability,
        absence,
        suspension,
    } = record;
    let seen = |fact: Fact, (prefix, share): &(AddressPrefix, u32)| {
        fact.bytes(prefix.to_string().as_bytes()).number(*share)
    };
    let fact = Fact::new("node")
        .number(number.0)
        .bytes(id.as_bytes())
        .bytes(operator.as_bytes())
        .bytes(failure_domain.as_bytes())
        .bytes(address.as_bytes())
        .number(*quota_bytes)
        .number(*assigned_bytes)
        .number(*shards)
        .bytes(state.to_string().as_bytes())
        .number(joined_at.as_millis())
        .number(last_seen.as_millis())
        .number(availability.billionths())
        .number(*vouched)
        .number(declared_since.as_millis())
        .bytes(origin.map_or_else(String::new, |origin| origin.to_string()).as_bytes())
        .number(since.as_millis());
    let fact = addresses.shares().iter().fold(fact, seen);
    // Of a node that never declared one it is what it was before there were absences.
    let fact = if absence.is_declared() {
        let Absence { until, spent_millis, as_of } = absence;
        fact.bytes(b"absence").number(until.as_millis()).number(*spent_millis).number(as_of.as_millis())
    } else {
        fact
    };
    // The same of one without an announced suspension.
    let Some(Suspension { at, by, reason }) = suspension else { return fact };
    actor(fact.bytes(b"suspension").number(at.as_millis()).bytes(reason.as_bytes()), by)
}

fn actor(fact: Fact, by: &Actor) -> Fact {
    match by {
        Actor::Coordinators => fact.number(0_u8),
        Actor::Socket { coordinator } => fact.number(1_u8).bytes(coordinator.as_bytes()),
        Actor::Operator { key, name } => fact.number(2_u8).bytes(key.as_bytes()).bytes(name.as_bytes()),
    }
}

/// What shard files say of a bundle. Its id covers the content header, a coding's id the coding header.
fn bundle_content(record: &BundleRecord) -> Fact {
    let fact = Fact::new("content").bytes(record.id.as_bytes()).number(record.codings.len() as u64);
    let mut codings: Vec<_> = record.codings.iter().map(|coding| coding.id).collect();
    codings.sort_unstable();
    codings.iter().fold(fact, |fact, id| fact.bytes(id.as_bytes()))
}

fn bundle(record: &BundleRecord) -> Fact {
    let BundleRecord {
        number,
        id,
        content_header,
        payload_bytes,
        codings,
        recoding,
        keys,
        uploader,
        committed_at,
        ledger_entries,
        externals,
    } = record;
    let fact = Fact::new("bundle")
        .number(number.0)
        .bytes(id.as_bytes())
        .bytes(content_header)
        .number(*payload_bytes)
        .number(*keys)
        .bytes(uploader.as_bytes())
        .number(committed_at.as_millis())
        .number(*ledger_entries)
        .number(externals.len() as u64);
    let fact = externals.iter().fold(fact, |fact, key| fact.bytes(&key.to_bytes()));
    let fact = codings.iter().fold(fact.number(codings.len() as u64), coding);
    match recoding {
        None => fact.number(0_u8),
        Some(RecodingRecord { workers: [one, other], begun }) => {
            fact.number(1_u8).number(one.0).number(other.0).number(begun.as_millis())
        }
    }
}

fn coding(fact: Fact, record: &CodingRecord) -> Fact {
    let CodingRecord { id, header, scheme, shard_bytes, file_bytes, placements } = record;
    fact.bytes(id.as_bytes())
        .bytes(header)
        .number(scheme.k())
        .number(scheme.n())
        .number(*shard_bytes)
        .number(*file_bytes)
        .copies(placements)
}

fn reservation(record: &ReservationRecord) -> Fact {
    let ReservationRecord {
        id,
        uploader,
        bundle,
        content_header,
        coding,
        coding_header,
        scheme,
        shard_bytes,
        file_bytes,
        assignments,
        expires,
        committed,
    } = record;
    let fact = Fact::new("reservation")
        .bytes(id.as_bytes())
        .bytes(uploader.as_bytes())
        .bytes(bundle.as_bytes())
        .bytes(content_header)
        .bytes(coding.as_bytes())
        .bytes(coding_header)
        .number(scheme.k())
        .number(scheme.n())
        .number(*shard_bytes)
        .number(*file_bytes)
        .copies(assignments)
        .number(expires.as_millis());
    match committed {
        None => fact.number(0_u8),
        Some(number) => fact.number(1_u8).number(number.0),
    }
}

fn surplus(record: &SurplusRecord) -> Fact {
    let SurplusRecord { node, coding, index, file_bytes, since } = record;
    Fact::new("surplus")
        .number(node.0)
        .bytes(coding.as_bytes())
        .number(index.0)
        .number(*file_bytes)
        .number(since.as_millis())
}

fn purge(record: &PurgeRecord) -> Fact {
    let PurgeRecord { key, since, places } = record;
    let fact = Fact::new("purge").bytes(&key.to_bytes()).number(since.as_millis());
    let add = |fact: Fact, location: &Location| fact.number(location.bundle.0).place(*location);
    places.iter().fold(fact.number(places.len() as u64), add)
}

fn erasure(record: &ErasureRecord) -> Fact {
    let ErasureRecord { bundle, id, keys, replacements, since, erased } = record;
    let fact = Fact::new("erasure").number(bundle.0).bytes(id.as_bytes()).number(since.as_millis());
    let fact = keys.iter().fold(fact.number(keys.len() as u64), |fact, key| fact.bytes(&key.to_bytes()));
    let fact = fact.number(replacements.len() as u64);
    let fact = replacements.iter().fold(fact, |fact, number| fact.number(number.0));
    match erased {
        None => fact.number(0_u8),
        Some(ErasedRecord { position, holders, waiting }) => {
            let list = |fact: Fact, nodes: &[NodeNumber]| {
                nodes.iter().fold(fact.number(nodes.len() as u64), |fact, node| fact.number(node.0))
            };
            list(list(fact.number(1_u8).number(*position), holders), waiting)
        }
    }
}

fn feature(record: &FeatureRecord) -> Fact {
    let FeatureRecord { feature, places } = record;
    let fact = Fact::new("feature").bytes(feature.as_bytes()).number(places.len() as u64);
    places.iter().fold(fact, |fact, location| fact.number(location.bundle.0).place(*location))
}

fn policy(record: &Policy) -> Fact {
    let Policy { domains, repair_at, repair_at_full, count_lost_after_millis, brake, trust_declared_domains } =
        record;
    let domains: u8 = match domains {
        DomainRule::Named => 1,
        DomainRule::Public => 2,
    };
    Fact::new("policy")
        .number(domains)
        .number(*repair_at_full)
        .number(*count_lost_after_millis)
        .number(*brake)
        .number(*trust_declared_domains)
        .number(repair_at.is_some())
        .number(repair_at.unwrap_or_default())
}

fn counters(record: &Counters) -> Fact {
    let Counters {
        next_bundle,
        next_node,
        feed_head,
        feed_digest,
        visible_keys,
        held_records,
        externals,
        withdrawn,
        payload_bytes,
        stored_bytes,
        ledger,
        time,
        feature_level,
        rebuilding,
    } = record;
    Fact::new("counters")
        .number(*next_bundle)
        .number(*next_node)
        .number(*feed_head)
        .bytes(feed_digest.as_bytes())
        .number(*visible_keys)
        .number(*held_records)
        .number(*externals)
        .number(*withdrawn)
        .number(*payload_bytes)
        .number(*stored_bytes)
        .head(*ledger)
        .number(time.as_millis())
        .number(*feature_level)
        .number(*rebuilding)
}
