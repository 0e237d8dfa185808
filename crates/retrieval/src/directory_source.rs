//! What a directory asks of coordinators.

use std::fmt;

use firn_transport::CoordinatorClient;
use firn_wire::{
    BundleInfo, BundleName, CoordinatorReply, CoordinatorRequest, NodeAddress, Pass, ShardReport, Signed,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::DirectoryError;

/// Answers a directory's questions: coordinators, or a test's.
pub trait DirectorySource: Send + Sync + fmt::Debug {
    /// The bundles in the order asked for; none for an unknown one.
    fn bundles(
        &self,
        names: Vec<BundleName>,
    ) -> BoxFuture<'_, Result<Vec<Option<BundleInfo>>, DirectoryError>>;

    /// The addresses of all nodes that hold shards.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeAddress>, DirectoryError>>;

    /// A pass for our key.
    fn pass(&self) -> BoxFuture<'_, Result<Signed<Pass>, DirectoryError>>;

    /// Says what a node did.
    fn report(&self, report: ShardReport) -> BoxFuture<'_, Result<(), DirectoryError>>;
}

/// Asks coordinators, and names the reason where none answers.
#[derive(Clone)]
pub struct CoordinatorSource {
    client: CoordinatorClient,
}

impl fmt::Debug for CoordinatorSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CoordinatorSource")
    }
}

impl CoordinatorSource {
    /// A source that asks through `client`.
    pub const fn new(client: CoordinatorClient) -> Self {
        Self { client }
    }

    async fn ask(&self, request: CoordinatorRequest) -> Result<CoordinatorReply, DirectoryError> {
        self.client.ask(&request).await.map_err(|error| DirectoryError::Unavailable(error.to_string()))
    }
}

fn unexpected<T>() -> Result<T, DirectoryError> {
    Err(DirectoryError::Malformed("it answered another question than the one asked".to_owned()))
}

impl DirectorySource for CoordinatorSource {
    fn bundles(
        &self,
        names: Vec<BundleName>,
    ) -> BoxFuture<'_, Result<Vec<Option<BundleInfo>>, DirectoryError>> {
        async move {
            let asked = names.len();
            match self.ask(CoordinatorRequest::Bundles(names)).await? {
                CoordinatorReply::Bundles(bundles) if bundles.len() == asked => Ok(bundles),
                _ => unexpected(),
            }
        }
        .boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeAddress>, DirectoryError>> {
        async move {
            match self.ask(CoordinatorRequest::Nodes).await? {
                CoordinatorReply::Nodes(nodes) => Ok(nodes),
                _ => unexpected(),
            }
        }
        .boxed()
    }

    fn pass(&self) -> BoxFuture<'_, Result<Signed<Pass>, DirectoryError>> {
        async move {
            match self.ask(CoordinatorRequest::GetPass).await? {
                CoordinatorReply::Pass(pass) => Ok(pass),
                _ => unexpected(),
            }
        }
        .boxed()
    }

    fn report(&self, report: ShardReport) -> BoxFuture<'_, Result<(), DirectoryError>> {
        async move {
            match self.ask(CoordinatorRequest::ReportShard(report)).await? {
                CoordinatorReply::ReportTaken => Ok(()),
                _ => unexpected(),
            }
        }
        .boxed()
    }
}
