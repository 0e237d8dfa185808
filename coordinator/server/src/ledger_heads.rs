//! What the other coordinators signed of the ledger, kept so that each of them alone can show a ledger that a majority
//! signed.
//!
//! Always holds: a head is kept only if its coordinator signed it and the entries that are here come to it, and gives
//! way only to a later one, unless other entries are here by now; what is kept is on disk, in the log's store. Nobody
//! is asked of whom the last head is kept. Leaves to others: whether heads are enough of them (whoever reads the
//! ledger), the own one (`serve`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::NodeId;
use firn_coordinator_logic::Facts;
use firn_transport::Environment;
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorEntry, CoordinatorReply, CoordinatorRequest, LedgerHead, RefusedRequest,
    Signed, decode, encode,
};
use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::shared::{Shared, disk};
use crate::storage::{Batch, Durability, KeyValue, StorageError, Table};

const HEADS: &[u8] = b"ledger-heads";

/// An act is in force long before: this is only for those who look when too few coordinators are left to ask.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The last head of each other coordinator.
#[derive(Debug)]
pub(crate) struct LedgerHeads {
    log: Arc<dyn KeyValue>,
    environment: Environment,
    kept: Mutex<BTreeMap<NodeId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    head: LedgerHead,
    signed: Signed<LedgerHead>,
}

impl LedgerHeads {
    /// What `log` remembers. Blocks on the disk.
    pub(crate) fn open(log: Arc<dyn KeyValue>, environment: Environment) -> Result<Self, StorageError> {
        let bytes = log.get(Table::LogMeta, HEADS)?;
        // What cannot be read is asked for again.
        let signed: Vec<Signed<LedgerHead>> = bytes.and_then(|bytes| decode(&bytes).ok()).unwrap_or_default();
        let kept = signed.into_iter().filter_map(|signed| {
            let head = signed.peek().ok()?;
            Some((NodeId::from(signed.signer()), Kept { head, signed }))
        });
        Ok(Self { log, environment, kept: Mutex::new(kept.collect()) })
    }

    /// The heads of these coordinators, as far as there are some.
    pub(crate) fn of(&self, coordinators: impl Iterator<Item = NodeId>) -> Vec<Signed<LedgerHead>> {
        let kept = self.lock();
        coordinators.filter_map(|id| kept.get(&id).map(|kept| kept.signed.clone())).collect()
    }

    fn last(&self, coordinator: NodeId) -> Option<LedgerHead> {
        self.lock().get(&coordinator).map(|kept| kept.head)
    }

    /// Keeps `heard` in the place of what was kept of their coordinators.
    async fn keep(&self, heard: Vec<(NodeId, Kept)>) -> Result<(), StorageError> {
        let signed: Vec<Signed<LedgerHead>> = {
            let mut kept = self.lock();
            kept.extend(heard);
            kept.values().map(|kept| kept.signed.clone()).collect()
        };
        let log = Arc::clone(&self.log);
        let write = move || {
            let mut batch = Batch::new();
            batch.put(Table::LogMeta, HEADS, encode(&signed));
            log.write(batch, Durability::Synced)
        };
        self.environment.blocking(write).await
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut rounds = interval(LOOK_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Err(refusal) = look(&shared).await {
            tracing::debug!(%refusal, "what other coordinators signed of the ledger is not kept");
        }
    }
}

/// Asks those of whom something else is kept than the head that is here.
async fn look(shared: &Shared) -> Result<(), RefusedRequest> {
    let here = shared.facts()?.counters().map_err(|error| disk(&error))?.ledger;
    let (own, in_force) = (shared.identity.node_id(), shared.standing.in_force());
    let others = in_force.roster.roster().coordinators.iter().filter(|entry| entry.id != own);
    let behind = others.filter(|entry| shared.ledger_heads.last(entry.id) != Some(here));
    let heard = join_all(behind.map(|entry| ask(shared, entry))).await;
    // Behind the answers: what they tell of may have come meanwhile.
    let facts = shared.facts()?;
    let mut better = Vec::new();
    for (coordinator, heard) in heard.into_iter().flatten() {
        let kept = shared.ledger_heads.last(coordinator);
        if is_better(&facts, heard.head, kept).map_err(|error| disk(&error))? {
            better.push((coordinator, heard));
        }
    }
    if better.is_empty() {
        return Ok(());
    }
    shared.ledger_heads.keep(better).await.map_err(|error| disk(&error))
}

async fn ask(shared: &Shared, entry: &CoordinatorEntry) -> Option<(NodeId, Kept)> {
    // Who does not answer shows as offline elsewhere.
    let dialled = timeout(ANSWER_WITHIN, shared.pool.get(entry.id, &entry.address)).await;
    let connection = dialled.ok()?.ok()?;
    // Of its entries none is wanted.
    let request = CoordinatorRequest::GetLedger { from: u64::MAX };
    let call = connection.call::<_, CoordinatorReply>(&request, CONTROL_BYTES_MAX, ANSWER_WITHIN);
    let CoordinatorReply::Ledger(page) = call.await.ok()? else { return None };
    let verified = page.signed_head.open(shared.archive).ok()?;
    let is_its_own = NodeId::from(verified.signer()) == entry.id;
    is_its_own.then(|| (entry.id, Kept { head: *verified, signed: page.signed_head.clone() }))
}

/// Whether the entries that are here come to `heard`, and it says more than what is kept of its coordinator.
fn is_better<F: Facts>(facts: &F, heard: LedgerHead, kept: Option<LedgerHead>) -> Result<bool, F::Error> {
    if !is_here(facts, heard)? {
        return Ok(false);
    }
    match kept {
        Some(kept) if is_here(facts, kept)? => Ok(heard.entries > kept.entries),
        // Of nothing, or of a ledger of before the archive was begun anew.
        _ => Ok(true),
    }
}

/// Whether the first entries that are here come to `head`.
fn is_here<F: Facts>(facts: &F, head: LedgerHead) -> Result<bool, F::Error> {
    let Some(last) = head.entries.checked_sub(1) else { return Ok(false) };
    Ok(facts.ledger_entry(last)?.is_some_and(|entry| entry.digest() == head.digest))
}

#[cfg(test)]
mod tests {
    use firn_base::{Digest, ObjectKey, Timestamp};
    use firn_coordinator_logic::{Change, MemoryState};
    use firn_wire::{Actor, Identity, LedgerAct, LedgerEntry};

    use super::*;
    use crate::storage::{Memory, StoreKind};

    /// Entries of which each withdraws one of these keys.
    fn entries(keys: &[u8]) -> Vec<LedgerEntry> {
        let mut entries: Vec<LedgerEntry> = Vec::new();
        for (position, key) in (0..).zip(keys) {
            entries.push(LedgerEntry {
                position,
                previous: entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest),
                at: Timestamp::from_millis(1),
                by: Actor::Coordinators,
                act: LedgerAct::Withdraw { key: ObjectKey::store_path([*key; 20]), reason: "law".into() },
            });
        }
        entries
    }

    fn head(keys: &[u8]) -> LedgerHead {
        let digest = entries(keys).last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest);
        LedgerHead { entries: keys.len() as u64, digest }
    }

    #[test]
    fn only_a_later_head_of_the_entries_that_are_here_takes_the_place_of_one() {
        let mut facts = MemoryState::new();
        facts.absorb(entries(&[1, 2, 3]).into_iter().map(Change::PutLedger));
        let is_better =
            |heard: &[u8], kept: Option<&[u8]>| is_better(&facts, head(heard), kept.map(head)).unwrap();
        assert!(is_better(&[1, 2], None) && is_better(&[1, 2, 3], Some(&[1, 2])));
        assert!(!is_better(&[1, 2], Some(&[1, 2])) && !is_better(&[1], Some(&[1, 2])));
        // It says nothing of what is here: it is ahead, or another ledger's.
        assert!(!is_better(&[1, 2, 3, 4], None) && !is_better(&[1, 7], None) && !is_better(&[], None));
        // What is kept is of a ledger that is here no more.
        assert!(is_better(&[1], Some(&[7, 7, 7])) && is_better(&[1], Some(&[1, 2, 3, 4])));
    }

    #[tokio::test]
    async fn what_others_signed_outlives_a_loss_of_power() {
        let log = Memory::new(StoreKind::Log);
        let open = || LedgerHeads::open(Arc::new(log.opened()), Environment::real()).unwrap();
        let archive = Identity::from_seed(&[100; 32]).public().into();
        let kept = |byte: u8, keys: &[u8]| {
            let coordinator = Identity::from_seed(&[byte; 32]);
            let signed = Signed::seal(&coordinator, archive, &head(keys));
            (coordinator.node_id(), Kept { head: head(keys), signed })
        };
        let heads = open();
        heads.keep(vec![kept(1, &[1]), kept(2, &[1])]).await.unwrap();
        heads.keep(vec![kept(2, &[1, 2])]).await.unwrap();
        drop(heads);
        log.crash(0);
        let heads = open();
        let [one, two, three] = [1, 2, 3].map(|byte| Identity::from_seed(&[byte; 32]).node_id());
        assert_eq!((heads.last(one), heads.last(two)), (Some(head(&[1])), Some(head(&[1, 2]))));
        let told = heads.of([two, three].into_iter());
        assert_eq!(told.len(), 1, "of one that was never heard there is none");
        assert_eq!(*told[0].open(archive).unwrap(), head(&[1, 2]));
    }
}
