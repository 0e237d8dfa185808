//! Coordinators' stores and consensus, without the rest of the program.
//!
//! Leaves to others: what is proposed to them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_coordinator::storage::{RocksDb, StorageError, StoreKind, Table};
use firn_coordinator::{Consensus, ConsensusOptions, StateFacts, Timing};
use firn_transport::{
    Connection, ConnectionPool, Endpoint, EndpointOptions, Environment, Handler, Stream, serve,
};
use firn_wire::{COMMIT_BYTES_MAX, CoordinatorReply, CoordinatorRequest, Identity};

use crate::Failure;
use crate::lookups::Lookup;

/// Running members; the first was asked to found the group.
pub(crate) struct Members {
    running: Vec<(Consensus, Endpoint, tokio::task::JoinHandle<()>)>,
}

/// The directory of a member's state.
pub(crate) fn state_path(dir: &Path, member: u8) -> PathBuf {
    dir.join(format!("member-{member}/state"))
}

/// The directory of a member's log.
pub(crate) fn log_path(dir: &Path, member: u8) -> PathBuf {
    dir.join(format!("member-{member}/log"))
}

struct Answer(Consensus);

impl Handler for Answer {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let Ok(CoordinatorRequest::Raft(message)) = stream.receive(COMMIT_BYTES_MAX).await else { return };
        let reply = self.0.handle_raft(connection.peer(), &message).await;
        if stream.send(&CoordinatorReply::Raft(reply)).await.is_ok() {
            stream.finish();
        }
    }
}

impl Members {
    /// Starts `count` members on loopback, with stores below `dir`.
    pub(crate) async fn start(dir: &Path, count: u8) -> Result<Self, Failure> {
        let environment = Environment::real();
        let mut endpoints = Vec::new();
        let mut members = BTreeMap::new();
        for number in 1..=count {
            let identity = Identity::from_seed(&[number; 32]);
            let address = (Ipv4Addr::LOCALHOST, 0).into();
            let endpoint =
                Endpoint::bind(&environment, &identity, address, EndpointOptions::default()).await?;
            members.insert(u64::from(number), (identity.node_id(), endpoint.local_address().to_string()));
            endpoints.push((number, endpoint));
        }
        let mut running = Vec::new();
        for (number, endpoint) in endpoints {
            let options = ConsensusOptions {
                raft_id: number.into(),
                members: members.clone(),
                bootstrap: number == 1,
                log: Arc::new(open(&log_path(dir, number), StoreKind::Log)?),
                state: Arc::new(open(&state_path(dir, number), StoreKind::State)?),
                environment: environment.clone(),
                pool: ConnectionPool::new(endpoint.clone()),
                timing: Timing::default(),
            };
            let consensus = Consensus::start(options).await?;
            let (serving, handler) = (endpoint.clone(), Arc::new(Answer(consensus.clone())));
            let task = tokio::spawn(async move { serve(&serving, handler).await });
            running.push((consensus, endpoint, task));
        }
        Ok(Self { running })
    }

    /// The member that leads; waits until one does.
    pub(crate) async fn leader(&self) -> Result<Consensus, Failure> {
        let (first, ..) = self.running.first().ok_or("no member runs")?;
        let mut watch = first.watch();
        loop {
            let leading =
                self.running.iter().map(|(consensus, ..)| consensus).find(|member| member.may_write());
            if let Some(leading) = leading {
                return Ok(leading.clone());
            }
            // Heartbeats change its metrics several times a second.
            if !watch.changed().await {
                return Err("the first member ended".into());
            }
        }
    }

    /// Ends all members.
    pub(crate) async fn stop(self) {
        for (consensus, endpoint, task) in self.running {
            task.abort();
            consensus.shutdown().await;
            endpoint.close().await;
        }
    }
}

/// A store that a member of before may have had open: it ends in the background, and the lock is free soon after.
fn open(path: &Path, kind: StoreKind) -> Result<RocksDb, Failure> {
    for _ in 0..100 {
        match RocksDb::open(path, kind) {
            Err(StorageError::Locked(_)) => std::thread::sleep(std::time::Duration::from_millis(50)),
            opened => return Ok(opened?),
        }
    }
    Err(format!("{} stays locked", path.display()).into())
}

/// A state that no member runs on.
pub(crate) struct StateStore(Arc<RocksDb>);

impl StateStore {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        open(path, StoreKind::State).map(|state| Self(Arc::new(state)))
    }

    pub(crate) fn table_bytes(&self, table: Table) -> Result<u64, Failure> {
        Ok(self.0.table_bytes(table)?)
    }

    pub(crate) fn compact(&self) -> Result<(), Failure> {
        Ok(self.0.compact()?)
    }

    /// For reading.
    pub(crate) fn into_facts(self) -> StateFacts {
        StateFacts::new(self.0)
    }

    /// What finds keys in it.
    pub(crate) fn into_lookup(self) -> Box<Lookup> {
        let facts = self.into_facts();
        Box::new(move |keys| {
            let found = facts.lookup(keys)?;
            Ok(found.into_iter().map(|places| places.first().copied()).collect())
        })
    }
}
