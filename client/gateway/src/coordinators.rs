//! What a gateway asks of the archive's coordinators, and nothing more.
//!
//! Owns: the traits by which the core asks, and their implementation over the network. Always holds: a key is
//! named to a coordinator only after the feed said that it is archived. Leaves to others: remembering answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleId, ObjectKey};
use firn_nix_format::PublisherKey;
use firn_retrieval::{Directory, DirectoryError};
use firn_transport::{CoordinatorClient, VerifiedLedger};
use firn_wire::FeedBatch;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};

/// Where the record of an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordPlace {
    /// The bundle.
    pub bundle: BundleId,
    /// The block within its manifest.
    pub block: u16,
    /// The record within the block.
    pub entry: u16,
}

/// The coordinators gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinators cannot be asked: {cause}")]
pub struct CoordinatorsAway {
    /// What happened.
    pub cause: String,
}

impl CoordinatorsAway {
    /// No answer for this reason.
    pub fn because(cause: &impl fmt::Display) -> Self {
        Self { cause: cause.to_string() }
    }
}

/// Finds the records of a key.
pub trait KeyLocator: Send + Sync + fmt::Debug {
    /// Where the records of `key` lie, in the order of the index: several where publishers differ, none where
    /// the key is not visible.
    fn locate(&self, key: ObjectKey) -> BoxFuture<'_, Result<Vec<RecordPlace>, CoordinatorsAway>>;
}

/// Tells what became visible.
pub trait FeedSource: Send + Sync + fmt::Debug {
    /// Events from position `from`, verified; after `wait` without any, a batch without events.
    fn pull(&self, from: u64, wait: Duration) -> BoxFuture<'_, Result<FeedBatch, CoordinatorsAway>>;
}

/// Tells whose signatures the archive accepts.
pub trait PublisherSource: Send + Sync + fmt::Debug {
    /// The publishers' keys, the most preferred first. Given again what was given before if nothing changed.
    fn publishers(&self) -> BoxFuture<'_, Result<Vec<PublisherKey>, CoordinatorsAway>>;
}

/// All of the above over the network.
#[derive(Clone)]
pub struct NetworkCoordinators {
    client: CoordinatorClient,
    directory: Arc<dyn Directory>,
    ledger: Arc<tokio::sync::Mutex<Option<VerifiedLedger>>>,
}

impl fmt::Debug for NetworkCoordinators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NetworkCoordinators")
    }
}

impl NetworkCoordinators {
    /// Asks `client`, and `directory` for the bundles that index values name.
    pub fn new(client: CoordinatorClient, directory: Arc<dyn Directory>) -> Self {
        Self { client, directory, ledger: Arc::default() }
    }
}

impl KeyLocator for NetworkCoordinators {
    fn locate(&self, key: ObjectKey) -> BoxFuture<'_, Result<Vec<RecordPlace>, CoordinatorsAway>> {
        async move {
            let answers = self.client.lookup(&[key]).await;
            let answers = answers.map_err(|error| CoordinatorsAway::because(&error))?;
            let locations = answers.into_iter().next().unwrap_or_default();
            let places = locations.into_iter().map(|location| async move {
                let facts = self.directory.numbered(location.bundle).await?;
                Ok::<_, DirectoryError>(RecordPlace {
                    bundle: facts.id,
                    block: location.block,
                    entry: location.entry,
                })
            });
            try_join_all(places).await.map_err(|error| CoordinatorsAway::because(&error))
        }
        .boxed()
    }
}

impl FeedSource for NetworkCoordinators {
    fn pull(&self, from: u64, wait: Duration) -> BoxFuture<'_, Result<FeedBatch, CoordinatorsAway>> {
        async move { self.client.feed(from, wait).await.map_err(|error| CoordinatorsAway::because(&error)) }
            .boxed()
    }
}

impl PublisherSource for NetworkCoordinators {
    fn publishers(&self) -> BoxFuture<'_, Result<Vec<PublisherKey>, CoordinatorsAway>> {
        async move {
            // Coordinators come and go by the roster; the ledger is vouched for by a majority of it.
            if let Err(error) = self.client.refresh_roster().await {
                tracing::debug!("the roster was not renewed: {error}");
            }
            let mut known = self.ledger.lock().await;
            let ledger = match &*known {
                Some(before) => self.client.refresh_ledger(before).await,
                None => self.client.ledger().await,
            };
            let ledger = ledger.map_err(|error| CoordinatorsAway::because(&error))?;
            let keys = ledger
                .state
                .publishers_by_rank()
                .into_iter()
                .filter_map(|entry| PublisherKey::from_parts(&entry.name, entry.key.as_bytes()).ok());
            let keys = keys.collect();
            *known = Some(ledger);
            Ok(keys)
        }
        .boxed()
    }
}
