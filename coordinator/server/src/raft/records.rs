//! The bytes of the state's records.
//!
//! Always holds: a record begins with its version and is fixed little-endian behind it; a list stands behind its
//! `u32` length. Entries of the ledger keep the bytes that the digest chain covers, those of `wire`.
//! Golden bytes pin all of it. Leaves to others: the index and the feed (`key_index`, `feed_page`).

use firn_base::{
    AddressHistory, AddressPrefix, AsNumber, Availability, BundleId, BundleNumber, CodingId, Country, Digest,
    Location, NodeId, Origin, PublicKey, ReservationId, Scheme, ShardIndex, Timestamp,
};
use firn_coordinator_logic::{
    Absence, BundleRecord, CodingRecord, Counters, ErasedRecord, ErasureRecord, HeldRecord, NodeNumber,
    NodeRecord, NodeSite, PurgeRecord, RecodingRecord, ReservationRecord, SurplusRecord, Suspension,
    WithdrawnRecord,
};
use firn_wire::{
    Actor, DomainRule, LedgerEntry, LedgerHead, NodeState, OperatorEntry, OperatorRole, Policy, decode,
    encode,
};

use super::bytes::{Reader, Writer};
use super::keys;
use crate::storage::StorageError;

/// A value of a table.
pub(super) trait Record: Sized {
    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8>;
    /// Reads what [`Self::to_bytes`] wrote.
    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError>;
}

const NODE_BYTES: usize = 4;
// A node that has declared an absence.
const NODE_ABSENCE_VERSION: u8 = 2;
// One of which it is announced that it will be suspended, with or without an absence.
const NODE_SUSPENSION_VERSION: u8 = 3;
const PREFIX_SHARE_BYTES_MIN: usize = 1 + 3 + 4;
// Of a coding without header and placements.
const CODING_BYTES_MIN: usize = 32 + 2 + 8 + 8 + 4 + 4;

impl Record for Counters {
    fn to_bytes(&self) -> Vec<u8> {
        Writer::record()
            .u32(self.next_bundle)
            .u32(self.next_node)
            .u64(self.feed_head)
            .raw(self.feed_digest.as_bytes())
            .u64(self.visible_keys)
            .u64(self.held_records)
            .u64(self.externals)
            .u64(self.withdrawn)
            .u64(self.payload_bytes)
            .u64(self.stored_bytes)
            .u64(self.ledger.entries)
            .raw(self.ledger.digest.as_bytes())
            .u64(self.time.as_millis())
            .u16(self.feature_level)
            .flag(self.rebuilding)
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("counters", bytes)?;
        let counters = Self {
            next_bundle: reader.u32()?,
            next_node: reader.u32()?,
            feed_head: reader.u64()?,
            feed_digest: Digest::from_bytes(reader.array()?),
            visible_keys: reader.u64()?,
            held_records: reader.u64()?,
            externals: reader.u64()?,
            withdrawn: reader.u64()?,
            payload_bytes: reader.u64()?,
            stored_bytes: reader.u64()?,
            ledger: LedgerHead { entries: reader.u64()?, digest: Digest::from_bytes(reader.array()?) },
            time: Timestamp::from_millis(reader.u64()?),
            feature_level: reader.u16()?,
            rebuilding: reader.flag()?,
        };
        reader.finish()?;
        Ok(counters)
    }
}

const fn state_byte(state: NodeState) -> u8 {
    match state {
        NodeState::Active => 1,
        NodeState::Suspended => 2,
        NodeState::Draining => 3,
        NodeState::Gone => 4,
        NodeState::Lost => 5,
    }
}

fn read_state(reader: &mut Reader<'_>) -> Result<NodeState, StorageError> {
    let byte = reader.u8()?;
    [NodeState::Active, NodeState::Suspended, NodeState::Draining, NodeState::Gone, NodeState::Lost]
        .into_iter()
        .find(|state| state_byte(*state) == byte)
        .ok_or_else(|| reader.damaged())
}

fn read_availability(reader: &mut Reader<'_>) -> Result<Availability, StorageError> {
    Availability::from_billionths(reader.u32()?).ok_or_else(|| reader.damaged())
}

fn write_prefix(writer: Writer, prefix: AddressPrefix) -> Writer {
    match prefix {
        AddressPrefix::V4(head) => writer.u8(4).raw(&head),
        AddressPrefix::V6(head) => writer.u8(6).raw(&head),
    }
}

fn read_prefix(reader: &mut Reader<'_>) -> Result<AddressPrefix, StorageError> {
    match reader.u8()? {
        4 => Ok(AddressPrefix::V4(reader.array()?)),
        6 => Ok(AddressPrefix::V6(reader.array()?)),
        _ => Err(reader.damaged()),
    }
}

// Nobody has looked it up; then: the parts that are known.
const ORIGIN_UNSEEN: u8 = 0xff;
const ORIGIN_HAS_NETWORK: u8 = 1;
const ORIGIN_HAS_COUNTRY: u8 = 2;

fn write_origin(writer: Writer, origin: Option<Origin>) -> Writer {
    let Some(Origin { asn, country }) = origin else { return writer.u8(ORIGIN_UNSEEN) };
    let network = if asn.is_some() { ORIGIN_HAS_NETWORK } else { 0 };
    let writer = writer.u8(network | if country.is_some() { ORIGIN_HAS_COUNTRY } else { 0 });
    let writer = asn.into_iter().fold(writer, |writer, asn| writer.u32(asn.0));
    country.into_iter().fold(writer, |writer, country| writer.raw(&country.letters()))
}

fn read_origin(reader: &mut Reader<'_>) -> Result<Option<Origin>, StorageError> {
    let known = reader.u8()?;
    if known == ORIGIN_UNSEEN {
        return Ok(None);
    }
    if known & !(ORIGIN_HAS_NETWORK | ORIGIN_HAS_COUNTRY) != 0 {
        return Err(reader.damaged());
    }
    let has = |part: u8| known & part != 0;
    let asn = if has(ORIGIN_HAS_NETWORK) { Some(AsNumber(reader.u32()?)) } else { None };
    let country = match has(ORIGIN_HAS_COUNTRY) {
        true => Some(Country::try_from(reader.array::<2>()?).map_err(|_| reader.damaged())?),
        false => None,
    };
    Ok(Some(Origin { asn, country }))
}

impl Record for NodeRecord {
    fn to_bytes(&self) -> Vec<u8> {
        let is_suspended_soon = self.suspension.is_some();
        let absence = Some(self.absence).filter(|absence| absence.is_declared() || is_suspended_soon);
        let writer = match (absence, &self.suspension) {
            (None, _) => Writer::record(),
            (Some(_), None) => Writer::record_of(NODE_ABSENCE_VERSION),
            (Some(_), Some(_)) => Writer::record_of(NODE_SUSPENSION_VERSION),
        };
        let writer = writer
            .u32(self.number.0)
            .raw(self.id.as_bytes())
            .u8(state_byte(self.state))
            .u64(self.quota_bytes)
            .u64(self.assigned_bytes)
            .u64(self.shards)
            .u64(self.joined_at.as_millis())
            .u64(self.last_seen.as_millis())
            .u32(self.availability.billionths())
            .blob(self.operator.as_bytes())
            .blob(self.failure_domain.as_bytes())
            .blob(self.address.as_bytes())
            .flag(self.vouched)
            .u64(self.declared_since.as_millis())
            .u64(self.site.since.as_millis())
            .list(self.site.addresses.shares(), |writer, (prefix, share)| {
                write_prefix(writer, *prefix).u32(*share)
            });
        let writer = write_origin(writer, self.site.origin);
        let Some(Absence { until, spent_millis, as_of }) = absence else { return writer.finish() };
        let writer = writer.u64(until.as_millis()).u64(spent_millis).u64(as_of.as_millis());
        let Some(Suspension { at, by, reason }) = &self.suspension else { return writer.finish() };
        write_actor(writer.u64(at.as_millis()), by).blob(reason.as_bytes()).finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let (version, mut reader) = Reader::record_up_to(NODE_SUSPENSION_VERSION, "node", bytes)?;
        let record = Self {
            number: NodeNumber(reader.u32()?),
            id: NodeId::from_bytes(reader.array()?),
            state: read_state(&mut reader)?,
            quota_bytes: reader.u64()?,
            assigned_bytes: reader.u64()?,
            shards: reader.u64()?,
            joined_at: Timestamp::from_millis(reader.u64()?),
            last_seen: Timestamp::from_millis(reader.u64()?),
            availability: read_availability(&mut reader)?,
            operator: reader.text()?,
            failure_domain: reader.text()?,
            address: reader.text()?,
            vouched: reader.flag()?,
            declared_since: Timestamp::from_millis(reader.u64()?),
            site: {
                let since = Timestamp::from_millis(reader.u64()?);
                let shares = reader
                    .list(PREFIX_SHARE_BYTES_MIN, |reader| Ok((read_prefix(reader)?, reader.u32()?)))?;
                let addresses = AddressHistory::try_from(shares).map_err(|_| reader.damaged())?;
                NodeSite { addresses, origin: read_origin(&mut reader)?, since }
            },
            absence: match version >= NODE_ABSENCE_VERSION {
                true => Absence {
                    until: Timestamp::from_millis(reader.u64()?),
                    spent_millis: reader.u64()?,
                    as_of: Timestamp::from_millis(reader.u64()?),
                },
                false => Absence::default(),
            },
            suspension: match version >= NODE_SUSPENSION_VERSION {
                true => Some(Suspension {
                    at: Timestamp::from_millis(reader.u64()?),
                    by: read_actor(&mut reader)?,
                    reason: reader.text()?,
                }),
                false => None,
            },
        };
        reader.finish()?;
        Ok(record)
    }
}

fn write_actor(writer: Writer, by: &Actor) -> Writer {
    match by {
        Actor::Coordinators => writer.u8(0),
        Actor::Socket { coordinator } => writer.u8(1).raw(coordinator.as_bytes()),
        Actor::Operator { key, name } => writer.u8(2).raw(key.as_bytes()).blob(name.as_bytes()),
    }
}

fn read_actor(reader: &mut Reader<'_>) -> Result<Actor, StorageError> {
    match reader.u8()? {
        0 => Ok(Actor::Coordinators),
        1 => Ok(Actor::Socket { coordinator: NodeId::from_bytes(reader.array()?) }),
        2 => Ok(Actor::Operator { key: PublicKey::from_bytes(reader.array()?), name: reader.text()? }),
        _ => Err(reader.damaged()),
    }
}

fn write_scheme(writer: Writer, scheme: Scheme) -> Writer {
    writer.u8(scheme.k()).u8(scheme.n())
}

fn read_scheme(reader: &mut Reader<'_>) -> Result<Scheme, StorageError> {
    let (k, n) = (reader.u8()?, reader.u8()?);
    Scheme::new(k, n).map_err(|_| reader.damaged())
}

/// Placements, in columns: indexes, which most bundles have alike, then each byte of node numbers, the lowest first.
/// The store's compression then leaves little but the lower parts: 60 bytes less for each bundle at 16/40.
fn write_places(writer: Writer, places: &[(ShardIndex, NodeNumber)]) -> Writer {
    let writer = writer.list(places, |writer, (index, _)| writer.u8(index.0));
    (0..NODE_BYTES).fold(writer, |writer, column| {
        places.iter().fold(writer, |writer, (_, node)| writer.u8(node.0.to_le_bytes()[column]))
    })
}

fn read_places(reader: &mut Reader<'_>) -> Result<Vec<(ShardIndex, NodeNumber)>, StorageError> {
    let indexes = reader.list(1 + NODE_BYTES, |reader| Ok(ShardIndex(reader.u8()?)))?;
    let mut nodes = vec![[0; NODE_BYTES]; indexes.len()];
    for column in 0..NODE_BYTES {
        for node in &mut nodes {
            node[column] = reader.u8()?;
        }
    }
    let nodes = nodes.into_iter().map(|bytes| NodeNumber(u32::from_le_bytes(bytes)));
    Ok(indexes.into_iter().zip(nodes).collect())
}

fn write_coding(writer: Writer, coding: &CodingRecord) -> Writer {
    let writer = write_scheme(writer.raw(coding.id.as_bytes()), coding.scheme);
    let writer = writer.u64(coding.shard_bytes).u64(coding.file_bytes).blob(&coding.header);
    write_places(writer, &coding.placements)
}

fn read_coding(reader: &mut Reader<'_>) -> Result<CodingRecord, StorageError> {
    Ok(CodingRecord {
        id: CodingId::from_bytes(reader.array()?),
        scheme: read_scheme(reader)?,
        shard_bytes: reader.u64()?,
        file_bytes: reader.u64()?,
        header: reader.blob()?.to_vec(),
        placements: read_places(reader)?,
    })
}

// A bundle with a second coding: what is known of that stands behind the first version's fields.
const BUNDLE_RECODING_VERSION: u8 = 2;

impl Record for BundleRecord {
    fn to_bytes(&self) -> Vec<u8> {
        let writer = match self.recoding {
            None => Writer::record(),
            Some(_) => Writer::record_of(BUNDLE_RECODING_VERSION),
        };
        let writer = writer
            .u32(self.number.0)
            .raw(self.id.as_bytes())
            .u64(self.payload_bytes)
            .u64(self.keys)
            .raw(self.uploader.as_bytes())
            .u64(self.committed_at.as_millis())
            .u64(self.ledger_entries)
            .list(&self.externals, |writer, key| writer.raw(&key.to_bytes()))
            .blob(&self.content_header)
            .list(&self.codings, write_coding);
        match self.recoding {
            None => writer.finish(),
            Some(RecodingRecord { workers: [one, other], begun }) => {
                writer.u32(one.0).u32(other.0).u64(begun.as_millis()).finish()
            }
        }
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let (version, mut reader) = Reader::record_up_to(BUNDLE_RECODING_VERSION, "bundle", bytes)?;
        let record = Self {
            number: BundleNumber(reader.u32()?),
            id: BundleId::from_bytes(reader.array()?),
            payload_bytes: reader.u64()?,
            keys: reader.u64()?,
            uploader: PublicKey::from_bytes(reader.array()?),
            committed_at: Timestamp::from_millis(reader.u64()?),
            ledger_entries: reader.u64()?,
            externals: reader.list(firn_base::KEY_BYTES, keys::read_key)?,
            content_header: reader.blob()?.to_vec(),
            codings: reader.list(CODING_BYTES_MIN, read_coding)?,
            recoding: match version {
                BUNDLE_RECODING_VERSION => Some(RecodingRecord {
                    workers: [NodeNumber(reader.u32()?), NodeNumber(reader.u32()?)],
                    begun: Timestamp::from_millis(reader.u64()?),
                }),
                _ => None,
            },
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Record for ReservationRecord {
    fn to_bytes(&self) -> Vec<u8> {
        let writer = Writer::record()
            .raw(self.id.as_bytes())
            .raw(self.uploader.as_bytes())
            .raw(self.bundle.as_bytes())
            .raw(self.coding.as_bytes());
        let writer = write_scheme(writer, self.scheme)
            .u64(self.shard_bytes)
            .u64(self.file_bytes)
            .u64(self.expires.as_millis())
            .flag(self.committed.is_some())
            .u32(self.committed.map_or(0, |number| number.0))
            .blob(&self.content_header)
            .blob(&self.coding_header);
        write_places(writer, &self.assignments).finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("reservation", bytes)?;
        let record = Self {
            id: ReservationId::from_bytes(reader.array()?),
            uploader: PublicKey::from_bytes(reader.array()?),
            bundle: BundleId::from_bytes(reader.array()?),
            coding: CodingId::from_bytes(reader.array()?),
            scheme: read_scheme(&mut reader)?,
            shard_bytes: reader.u64()?,
            file_bytes: reader.u64()?,
            expires: Timestamp::from_millis(reader.u64()?),
            committed: {
                let (is_some, number) = (reader.flag()?, reader.u32()?);
                is_some.then_some(BundleNumber(number))
            },
            content_header: reader.blob()?.to_vec(),
            coding_header: reader.blob()?.to_vec(),
            assignments: read_places(&mut reader)?,
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Record for SurplusRecord {
    fn to_bytes(&self) -> Vec<u8> {
        Writer::record()
            .u32(self.node.0)
            .raw(self.coding.as_bytes())
            .u8(self.index.0)
            .u64(self.file_bytes)
            .u64(self.since.as_millis())
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("surplus", bytes)?;
        let record = Self {
            node: NodeNumber(reader.u32()?),
            coding: CodingId::from_bytes(reader.array()?),
            index: ShardIndex(reader.u8()?),
            file_bytes: reader.u64()?,
            since: Timestamp::from_millis(reader.u64()?),
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Record for HeldRecord {
    fn to_bytes(&self) -> Vec<u8> {
        Writer::record()
            .raw(&self.key.to_bytes())
            .raw(&self.location.to_bytes())
            .list(&self.waits, |writer, key| writer.raw(&key.to_bytes()))
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("held", bytes)?;
        let record = Self {
            key: keys::read_key(&mut reader)?,
            location: Location::from_bytes(&reader.array()?),
            waits: reader.list(firn_base::KEY_BYTES, keys::read_key)?,
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Record for WithdrawnRecord {
    fn to_bytes(&self) -> Vec<u8> {
        Writer::record()
            .raw(&self.key.to_bytes())
            .list(&self.places, |writer, place| writer.raw(&place.to_bytes()))
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("withdrawn", bytes)?;
        let record = Self {
            key: keys::read_key(&mut reader)?,
            places: reader.list(keys::LOCATION_BYTES, |reader| Ok(Location::from_bytes(&reader.array()?)))?,
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Record for PurgeRecord {
    fn to_bytes(&self) -> Vec<u8> {
        Writer::record()
            .raw(&self.key.to_bytes())
            .u64(self.since.as_millis())
            .list(&self.places, |writer, place| writer.raw(&place.to_bytes()))
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("purge", bytes)?;
        let record = Self {
            key: keys::read_key(&mut reader)?,
            since: Timestamp::from_millis(reader.u64()?),
            places: reader.list(keys::LOCATION_BYTES, |reader| Ok(Location::from_bytes(&reader.array()?)))?,
        };
        reader.finish()?;
        Ok(record)
    }
}

fn write_nodes(writer: Writer, nodes: &[NodeNumber]) -> Writer {
    writer.list(nodes, |writer, node| writer.u32(node.0))
}

fn read_nodes(reader: &mut Reader<'_>) -> Result<Vec<NodeNumber>, StorageError> {
    reader.list(NODE_BYTES, |reader| reader.u32().map(NodeNumber))
}

impl Record for ErasureRecord {
    fn to_bytes(&self) -> Vec<u8> {
        let writer = Writer::record()
            .u32(self.bundle.0)
            .raw(self.id.as_bytes())
            .u64(self.since.as_millis())
            .list(&self.keys, |writer, key| writer.raw(&key.to_bytes()))
            .list(&self.replacements, |writer, number| writer.u32(number.0))
            .flag(self.erased.is_some());
        match &self.erased {
            None => writer.finish(),
            Some(ErasedRecord { position, holders, waiting }) => {
                write_nodes(write_nodes(writer.u64(*position), holders), waiting).finish()
            }
        }
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("erasure", bytes)?;
        let record = Self {
            bundle: BundleNumber(reader.u32()?),
            id: BundleId::from_bytes(reader.array()?),
            since: Timestamp::from_millis(reader.u64()?),
            keys: reader.list(firn_base::KEY_BYTES, keys::read_key)?,
            replacements: reader.list(size_of::<u32>(), |reader| reader.u32().map(BundleNumber))?,
            erased: match reader.flag()? {
                false => None,
                true => Some(ErasedRecord {
                    position: reader.u64()?,
                    holders: read_nodes(&mut reader)?,
                    waiting: read_nodes(&mut reader)?,
                }),
            },
        };
        reader.finish()?;
        Ok(record)
    }
}

impl Record for Policy {
    fn to_bytes(&self) -> Vec<u8> {
        let domains = match self.domains {
            DomainRule::Named => 1,
            DomainRule::Public => 2,
        };
        Writer::record()
            .u8(domains)
            .flag(self.repair_at.is_some())
            .u8(self.repair_at.unwrap_or(0))
            .flag(self.repair_at_full)
            .u64(self.count_lost_after_millis)
            .flag(self.brake)
            .flag(self.trust_declared_domains)
            .finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("policy", bytes)?;
        let policy = Self {
            domains: match reader.u8()? {
                1 => DomainRule::Named,
                2 => DomainRule::Public,
                _ => return Err(reader.damaged()),
            },
            repair_at: {
                let (is_some, durable) = (reader.flag()?, reader.u8()?);
                is_some.then_some(durable)
            },
            repair_at_full: reader.flag()?,
            count_lost_after_millis: reader.u64()?,
            brake: reader.flag()?,
            trust_declared_domains: reader.flag()?,
        };
        reader.finish()?;
        Ok(policy)
    }
}

const fn role_byte(role: OperatorRole) -> u8 {
    match role {
        OperatorRole::Observer => 1,
        OperatorRole::Nodes => 2,
        OperatorRole::Content => 3,
        OperatorRole::Admin => 4,
    }
}

impl Record for OperatorEntry {
    fn to_bytes(&self) -> Vec<u8> {
        Writer::record().u8(role_byte(self.role)).blob(self.name.as_bytes()).finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let mut reader = Reader::record("operator", bytes)?;
        let byte = reader.u8()?;
        let role = OperatorRole::ALL.into_iter().find(|role| role_byte(*role) == byte);
        let entry = Self { role: role.ok_or_else(|| reader.damaged())?, name: reader.text()? };
        reader.finish()?;
        Ok(entry)
    }
}

impl Record for LedgerEntry {
    fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        decode(bytes).map_err(|error| StorageError::undecodable("an entry of the ledger", error))
    }
}

/// Numbers behind names: 4 bytes, without a version, as in the index.
pub(super) fn number_from_bytes(bytes: &[u8]) -> Result<u32, StorageError> {
    let bytes = <[u8; 4]>::try_from(bytes).map_err(|_| StorageError::corrupted("a number behind a name"))?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
