//! Manifests of bundles that are in no book yet, from the nodes that say they hold their shards.
//!
//! Always holds: what is read was proved against the roots that a certificate names, so it does not matter who holds it.
//! Leaves to others: reading around nodes that are away or lie (`firn_retrieval`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, BundleNumber, NodeId};
use firn_bundle::{CodingHeader, ContentHeader};
use firn_coordinator_logic::CertifiedBundle;
use firn_retrieval::{
    BundleFacts, Directory, DirectoryError, NodeBook, PayloadReader, ReadError, ReadRangeError, ShardRange,
    ShardSource, SwarmOptions, SwarmReader, read_range,
};
use firn_wire::{NodeAddress, Pass, Signed};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use crate::shared::Shared;

/// Whoever is asked is connected: one that does not answer by then will not.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// One bundle, and those of its holders that are connected.
#[derive(Debug)]
struct Shown {
    facts: Arc<BundleFacts>,
    nodes: Arc<NodeBook>,
}

impl Directory for Shown {
    fn bundle(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>> {
        let known = (bundle == self.facts.id).then(|| Arc::clone(&self.facts));
        ready(known.ok_or(DirectoryError::UnknownBundle)).boxed()
    }

    fn numbered(&self, number: BundleNumber) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>> {
        let known = (number == self.facts.number).then(|| Arc::clone(&self.facts));
        ready(known.ok_or(DirectoryError::UnknownBundle)).boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Arc<NodeBook>, DirectoryError>> {
        ready(Ok(Arc::clone(&self.nodes))).boxed()
    }

    fn pass(&self) -> BoxFuture<'_, Result<Option<Arc<Signed<Pass>>>, DirectoryError>> {
        ready(Ok(None)).boxed()
    }

    fn refresh(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>> {
        self.bundle(bundle)
    }

    fn doubt(&self, _: BundleId) {}

    fn forget_pass(&self) {}
}

/// Reads on the connections that nodes keep to this coordinator.
#[derive(Clone)]
struct LinkSource {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LinkSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LinkSource")
    }
}

impl ShardSource for LinkSource {
    fn read<'a>(
        &'a self,
        node: &'a NodeAddress,
        _: Option<Arc<Signed<Pass>>>,
        wanted: &'a ShardRange,
    ) -> BoxFuture<'a, Result<Bytes, ReadRangeError>> {
        async move {
            let away = || ReadRangeError::Unreachable { node: node.node, cause: "it went away".to_owned() };
            let connection = self.shared.links.get(node.node).ok_or_else(away)?;
            let (offset, bytes) = (wanted.range.start, wanted.range.end.saturating_sub(wanted.range.start));
            // Coordinators need no pass.
            read_range(&connection, None, &wanted.bundle.coding, wanted.index, offset, bytes).await
        }
        .boxed()
    }
}

/// The content header of `bundle` and the bytes of its manifest.
pub(super) async fn read_manifest(
    shared: &Arc<Shared>,
    bundle: &CertifiedBundle,
) -> Result<(Arc<ContentHeader>, Bytes), String> {
    let sentence = |error: firn_bundle::HeaderError| error.to_string();
    let content = Arc::new(ContentHeader::parse(&bundle.content_header).map_err(sentence)?);
    let coding = CodingHeader::parse(&bundle.coding_header).map_err(sentence)?;
    let mut holders = vec![Vec::<NodeId>::new(); coding.roots().len()];
    let mut nodes = NodeBook::new();
    for (index, node) in &bundle.holders {
        if let (Some(own), Some(_)) = (holders.get_mut(index.position()), shared.links.get(*node)) {
            own.push(*node);
            nodes.insert(*node, NodeAddress { node: *node, address: String::new(), online: true });
        }
    }
    let facts = BundleFacts {
        number: bundle.certificate.number,
        id: bundle.certificate.bundle,
        content: Arc::clone(&content),
        coding,
        n: bundle.certificate.n,
        holders,
    };
    let (id, extent) = (facts.id, content.manifest_extent());
    let directory = Arc::new(Shown { facts: Arc::new(facts), nodes: Arc::new(nodes) });
    let options = SwarmOptions { give_up_after: GIVE_UP_AFTER, ..SwarmOptions::default() };
    let reader = SwarmReader::new(directory, Arc::new(LinkSource { shared: Arc::clone(shared) }), options);
    match reader.read(id, extent).await {
        Ok(bytes) => Ok((content, bytes)),
        Err(ReadError::Unreadable { have, need, .. }) => {
            Err(format!("{have} of its shards can be read, {need} are needed"))
        }
        Err(error) => Err(error.to_string()),
    }
}
