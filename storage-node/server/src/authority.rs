//! Whose word counts here and now: the roster in force, archive time, and the highest order heard.
//!
//! Always holds: an order is followed only after a gate that rose by it was written down, so a restart never
//! makes the node obey an older leader.
//! Leaves to others: the checks themselves (`storage-node/logic`), fetching rosters (`link`).

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use firn_base::{NodeId, PublicKey, Timestamp};
use firn_storage_node_logic::{AdmissionError, ArchiveTime, Grounds, OrderGate, ReadRight};
use firn_transport::{CoordinatorClient, Environment};
use firn_wire::{OrderRank, Pass, PassPurpose, RefusalKind, RefusedRequest, Signed};
use lru::LruCache;
use tokio::sync::Mutex as AsyncMutex;

use crate::store::{Disk, read_small, replace_small};

const ORDERS_FILE: &str = "orders";
const ORDERS_BYTES_MAX: u64 = 256;

// Readers whose passes need no second signature check; a gateway shows the same pass for a day.
const PASSES_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Whose word counts here and now.
#[derive(Debug)]
pub(crate) struct Authority {
    environment: Environment,
    node: NodeId,
    disk: Arc<dyn Disk>,
    client: CoordinatorClient,
    time: Mutex<ArchiveTime>,
    gate: AsyncMutex<Gate>,
    passes: Mutex<LruCache<PublicKey, RememberedPass>>,
}

#[derive(Debug)]
struct Gate {
    gate: OrderGate,
    written: OrderRank,
}

#[derive(Debug)]
struct RememberedPass {
    pass: Signed<Pass>,
    right: ReadRight,
    generation: u64,
}

impl Authority {
    /// Reads the highest rank heard from `disk`.
    pub(crate) fn open(
        environment: Environment,
        node: NodeId,
        disk: Arc<dyn Disk>,
        client: CoordinatorClient,
    ) -> io::Result<Self> {
        let none = OrderRank { generation: 0, epoch: 0 };
        let written = match read_small(disk.as_ref(), ORDERS_FILE, ORDERS_BYTES_MAX)? {
            None => none,
            // Never guess: a gate that opened too far would follow a leader that was deposed.
            Some(bytes) => parse_rank(&bytes).ok_or_else(|| {
                io::Error::other("the file `orders` is damaged: restore it, or remove it if no coordinator was restored from a backup")
            })?,
        };
        Ok(Self {
            environment,
            node,
            disk,
            client,
            time: Mutex::default(),
            gate: AsyncMutex::new(Gate { gate: OrderGate::new(written), written }),
            passes: Mutex::new(LruCache::new(PASSES_REMEMBERED)),
        })
    }

    /// Archive time.
    pub(crate) fn now(&self) -> Timestamp {
        self.time().at(self.environment.now())
    }

    /// By how many milliseconds the archive's clock is ahead of the node's.
    pub(crate) fn clock_offset_millis(&self) -> i64 {
        self.time().offset_millis()
    }

    /// Takes note of what a coordinator said the time was.
    pub(crate) fn learn_time(&self, coordinator: NodeId, theirs: Timestamp, asked: Timestamp) {
        let roster = self.client.roster();
        let mut time = self.time();
        time.learn(coordinator, theirs, asked, self.environment.now());
        time.retain(|id| roster.has_coordinator(id.into()));
    }

    /// Takes note of the rank that a coordinator's heartbeat gave.
    pub(crate) async fn hear(&self, rank: OrderRank) {
        let generation = self.client.roster().roster().generation;
        let mut gate = self.gate.lock().await;
        gate.gate.hear(rank, generation);
        if let Err(error) = self.write_down(&mut gate).await {
            tracing::error!(%error, "cannot write down that there is a new leader");
        }
    }

    /// Checks an order, and writes the gate down if it rose, before the order is handed out to be followed.
    pub(crate) async fn admit<T>(
        &self,
        check: impl FnOnce(&Grounds<'_>, &mut OrderGate) -> Result<T, AdmissionError>,
    ) -> Result<T, RefusedRequest> {
        let roster = self.client.roster();
        let grounds = Grounds { node: self.node, roster: &roster, now: self.now() };
        let mut gate = self.gate.lock().await;
        let order = check(&grounds, &mut gate.gate)?;
        self.write_down(&mut gate).await.map_err(|error| {
            RefusedRequest::new(RefusalKind::Disk, format!("the node's disk failed: {error}"))
        })?;
        Ok(order)
    }

    /// Checks that `reader` may read, and says what for.
    pub(crate) fn admit_reader(
        &self,
        pass: Option<&Signed<Pass>>,
        reader: PublicKey,
    ) -> Result<PassPurpose, RefusedRequest> {
        let roster = self.client.roster();
        let (now, generation) = (self.now(), roster.roster().generation);
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = passes.get(&reader).filter(|known| {
            known.generation == generation && now < known.right.expires && Some(&known.pass) == pass
        });
        if let Some(known) = known {
            return Ok(known.right.purpose);
        }
        drop(passes);
        let right = Grounds { node: self.node, roster: &roster, now }.check_pass(pass, reader)?;
        if let Some(pass) = pass.filter(|_| !roster.has_coordinator(reader)) {
            let remembered = RememberedPass { pass: pass.clone(), right, generation };
            self.passes.lock().unwrap_or_else(PoisonError::into_inner).put(reader, remembered);
        }
        Ok(right.purpose)
    }

    /// Whether `key` is a coordinator of the roster in force.
    pub(crate) fn is_coordinator(&self, key: PublicKey) -> bool {
        self.client.roster().has_coordinator(key)
    }

    async fn write_down(&self, gate: &mut Gate) -> io::Result<()> {
        let highest = gate.gate.highest();
        if highest == gate.written {
            return Ok(());
        }
        let disk = Arc::clone(&self.disk);
        let text = format!("{} {}\n", highest.generation, highest.epoch);
        let written =
            self.environment.blocking(move || replace_small(disk.as_ref(), "", ORDERS_FILE, text.as_bytes()));
        written.await?;
        gate.written = highest;
        Ok(())
    }

    fn time(&self) -> std::sync::MutexGuard<'_, ArchiveTime> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_rank(bytes: &[u8]) -> Option<OrderRank> {
    let (generation, epoch) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once(' ')?;
    Some(OrderRank { generation: generation.parse().ok()?, epoch: epoch.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_orders_file_gives_no_rank() {
        let rank = OrderRank { generation: 3, epoch: 17 };
        assert_eq!(parse_rank(b"3 17\n"), Some(rank));
        for bytes in [&b""[..], b"3 17", b"3\n", b"3 x\n", b"\xff\n"] {
            assert_eq!(parse_rank(bytes), None);
        }
    }
}
