//! What apply changes, as a batch of the state's tables.

use firn_coordinator_logic::{Change, FeedRecord};

use super::records::Record;
use super::{key_index, keys};
use crate::storage::{Batch, Read, StorageError, Table};

const NOTHING: [u8; 0] = [];

/// Adds to `batch` what `changes` do to `store`.
pub(super) fn record(store: &dyn Read, batch: &mut Batch, changes: &[Change]) -> Result<(), StorageError> {
    let (mut feed, mut variants): (Vec<(u64, FeedRecord)>, Vec<_>) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::PutFeed(position, record) => feed.push((*position, *record)),
            other => {
                if let Change::PutVariant(key, _) = other {
                    variants.push(*key);
                }
                put(batch, other);
            }
        }
    }
    key_index::write(store, batch, &feed, &variants)
}

fn put(batch: &mut Batch, change: &Change) {
    match change {
        Change::PutCounters(counters) => batch.put(Table::Meta, keys::COUNTERS, counters.to_bytes()),
        Change::PutPolicy(policy) => batch.put(Table::Meta, keys::POLICY, policy.to_bytes()),
        Change::PutNode(record) => batch.put(Table::Nodes, keys::node(record.number), record.to_bytes()),
        Change::NameNode(id, number) => {
            batch.put(Table::NodeNames, *id.as_bytes(), number.0.to_le_bytes());
        }
        Change::PutBundle(record) => {
            batch.put(Table::Bundles, keys::bundle(record.number), record.to_bytes());
        }
        Change::NameBundle(id, number) => {
            batch.put(Table::BundleNames, *id.as_bytes(), number.0.to_le_bytes());
        }
        Change::NameCoding(id, number) => {
            batch.put(Table::CodingNames, *id.as_bytes(), number.0.to_le_bytes());
        }
        Change::PutReservation(record) => {
            batch.put(Table::Reservations, *record.id.as_bytes(), record.to_bytes());
        }
        Change::RemoveReservation(id) => batch.delete(Table::Reservations, *id.as_bytes()),
        Change::PutReservationOf(coding, id) => {
            batch.put(Table::ReservationsOf, keys::reservation_of(*coding, *id), NOTHING);
        }
        Change::RemoveReservationOf(coding, id) => {
            batch.delete(Table::ReservationsOf, keys::reservation_of(*coding, *id));
        }
        Change::PutSurplus(record) => {
            let key = keys::surplus(record.node, record.coding, record.index);
            batch.put(Table::Surplus, key, record.to_bytes());
        }
        Change::RemoveSurplus(node, coding, index) => {
            batch.delete(Table::Surplus, keys::surplus(*node, *coding, *index));
        }
        Change::PutVariant(key, location) => {
            batch.put(Table::Variants, keys::placed(*key, *location), NOTHING);
        }
        Change::RemoveVariant(key, location) => {
            batch.delete(Table::Variants, keys::placed(*key, *location));
        }
        Change::PutHeld(record) => {
            batch.put(Table::Held, keys::placed(record.key, record.location), record.to_bytes());
        }
        Change::RemoveHeld(key, location) => batch.delete(Table::Held, keys::placed(*key, *location)),
        Change::PutWaiter { awaited, key, location } => {
            batch.put(Table::Waiters, keys::waiter(*awaited, *key, *location), NOTHING);
        }
        Change::RemoveWaiter { awaited, key, location } => {
            batch.delete(Table::Waiters, keys::waiter(*awaited, *key, *location));
        }
        Change::PutExternal(key) => batch.put(Table::Externals, key.to_bytes(), NOTHING),
        Change::PutWithdrawn(record) => {
            batch.put(Table::Withdrawn, record.key.to_bytes(), record.to_bytes());
        }
        Change::RemoveWithdrawn(key) => batch.delete(Table::Withdrawn, key.to_bytes()),
        Change::PutPurge(record) => batch.put(Table::Purges, record.key.to_bytes(), record.to_bytes()),
        Change::PutErasure(record) => {
            batch.put(Table::Erasures, keys::bundle(record.bundle), record.to_bytes());
        }
        Change::PutOperator(key, entry) => batch.put(Table::Operators, *key.as_bytes(), entry.to_bytes()),
        Change::RemoveOperator(key) => batch.delete(Table::Operators, *key.as_bytes()),
        Change::PutUsedToken(token) => batch.put(Table::UsedTokens, *token.as_bytes(), NOTHING),
        Change::PutFeature(record) => {
            batch.put(Table::Features, *record.feature.as_bytes(), keys::locations(&record.places));
        }
        Change::PutLedger(entry) => {
            batch.put(Table::Ledger, keys::position(entry.position), entry.to_bytes());
        }
        // Written together, by `key_index`.
        Change::PutFeed(..) => {}
    }
}
