//! What a gateway asks of the archive's coordinators, and nothing more.
//!
//! Owns: the traits by which the gateway asks, and their implementation over the network. Always holds: no question names
//! a key that was looked for. Leaves to others: remembering answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, FilterId, Location, NodeId, ObjectKey, Timestamp};
use firn_bundle::CodingHeader;
use firn_nix_format::PublisherKey;
use firn_retrieval::{Directory, DirectoryError};
use firn_transport::{AskError, CoordinatorClient, FeedNews, VerifiedLedger};
use firn_wire::{
    BundleInfo, BundleName, CoordinatorReply, CoordinatorRequest, FilterList, IndexRangePage,
    IndexRangeRequest, Signed, VerifiedRoster,
};
use futures::future::{BoxFuture, try_join, try_join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::{sleep, timeout};

use crate::standings::Standings;

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

/// How a bundle stands, as coordinators say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleStanding {
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Shards that restore it.
    pub k: u8,
    /// Shards that there shall be.
    pub n: u8,
    /// Distinct shards that nodes hold.
    pub held: usize,
    /// Of these, those of which a holder is heard now.
    pub online: usize,
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

/// Shows which keys are visible, and where they lie.
pub trait KeyIndex: Send + Sync + fmt::Debug {
    /// The archive's coordinators.
    fn coordinators(&self) -> Vec<NodeId>;

    /// A page of a range of the index, by one coordinator or by whichever answers. It was checked to fit the request.
    fn page(
        &self,
        coordinator: Option<NodeId>,
        request: IndexRangeRequest,
    ) -> BoxFuture<'_, Result<IndexRangePage, CoordinatorsAway>>;

    /// The same places with the ids of their bundles, in the same order.
    fn places(&self, locations: Vec<Location>) -> BoxFuture<'_, Result<Vec<RecordPlace>, CoordinatorsAway>>;

    /// How a bundle stands now.
    fn standing(&self, bundle: BundleId) -> BoxFuture<'_, Result<BundleStanding, CoordinatorsAway>>;
}

/// Tells which filters there are over the feed, and gives their bytes.
pub trait FilterSource: Send + Sync + fmt::Debug {
    /// The roster whose coordinators are believed.
    fn roster(&self) -> VerifiedRoster;

    /// Lists of filters as coordinators signed them, as many as there are to be had soon. Whose they are is for the
    /// caller to check.
    fn lists(&self) -> BoxFuture<'_, Result<Vec<Signed<FilterList>>, CoordinatorsAway>>;

    /// Bytes of a filter from an offset on, none behind its end. Different turns may ask different sources.
    fn piece(
        &self,
        filter: FilterId,
        offset: u64,
        turn: usize,
    ) -> BoxFuture<'_, Result<Bytes, CoordinatorsAway>>;
}

/// Why the feed was not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// No coordinator is reached.
    #[error(transparent)]
    Away(#[from] CoordinatorsAway),
    /// Some are there, and none of them can say what is new: its disk fails, say.
    #[error("the coordinators that are there cannot tell what is new: {cause}")]
    Untold {
        /// What they said.
        cause: String,
    },
}

/// Tells what became visible.
pub trait FeedSource: Send + Sync + fmt::Debug {
    /// Events from position `from`, verified; after `wait` without any, a batch without events. One that is stale does not
    /// wait.
    fn pull(&self, from: u64, wait: Duration) -> BoxFuture<'_, Result<FeedNews, FeedError>>;
}

/// What a gateway needs of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Governance {
    /// The publishers' keys, the most preferred first.
    pub publishers: Vec<PublisherKey>,
    /// What was withdrawn, and why.
    pub withdrawn: BTreeMap<ObjectKey, String>,
}

/// Tells whose signatures the archive accepts, and what it serves no more.
pub trait GovernanceSource: Send + Sync + fmt::Debug {
    /// How it is now. Given again what was given before if nothing changed.
    fn governance(&self) -> BoxFuture<'_, Result<Governance, CoordinatorsAway>>;

    /// How it was at least, where no majority of the coordinators is there: for whoever knows nothing of it.
    fn governance_signed_before(&self) -> BoxFuture<'_, Option<Governance>>;
}

// Somebody looks at an empty window meanwhile.
const STANDING_WITHIN: Duration = Duration::from_secs(5);

// Someone waits for it, and others were asked as well.
const ONE_PAGE_WITHIN: Duration = Duration::from_secs(2);
const LIST_WITHIN: Duration = Duration::from_secs(5);
const LIST_GRACE: Duration = Duration::from_millis(300);
// A piece of 1 MiB takes 5 s over 2 Mbit/s.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

const OTHER_ANSWER: &str = "it answered another question";

/// All of the above over the network.
#[derive(Clone)]
pub struct NetworkCoordinators {
    client: CoordinatorClient,
    directory: Arc<dyn Directory>,
    ledger: Arc<tokio::sync::Mutex<Option<VerifiedLedger>>>,
    standings: Arc<Standings>,
}

impl fmt::Debug for NetworkCoordinators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NetworkCoordinators")
    }
}

impl NetworkCoordinators {
    /// Asks `client`, and `directory` for the bundles that index values name.
    pub fn new(client: CoordinatorClient, directory: Arc<dyn Directory>) -> Self {
        Self { client, directory, ledger: Arc::default(), standings: Arc::default() }
    }

    /// Whether any coordinator answers within so long, whatever it says. Those that fail at once are asked again: a name may
    /// not be known yet.
    pub(crate) async fn are_there(&self, within: Duration) -> bool {
        let asking = coordinators(&self.client).into_iter().map(|one| async move {
            loop {
                let asked = self.client.ask_coordinator(one, &CoordinatorRequest::GetMembers, within).await;
                if matches!(asked, Ok(_) | Err(AskError::Refused(_))) {
                    break;
                }
                sleep(ASK_AGAIN_AFTER).await;
            }
        });
        let mut asking: FuturesUnordered<_> = asking.collect();
        matches!(timeout(within, asking.next()).await, Ok(Some(())))
    }
}

impl KeyIndex for NetworkCoordinators {
    fn coordinators(&self) -> Vec<NodeId> {
        coordinators(&self.client)
    }

    fn page(
        &self,
        coordinator: Option<NodeId>,
        request: IndexRangeRequest,
    ) -> BoxFuture<'_, Result<IndexRangePage, CoordinatorsAway>> {
        async move {
            let Some(one) = coordinator else {
                let page = self.client.index_range(request).await;
                return page.map_err(|error| CoordinatorsAway::because(&error));
            };
            let asked = CoordinatorRequest::IndexRange(request);
            match self.client.ask_coordinator(one, &asked, ONE_PAGE_WITHIN).await {
                Ok(CoordinatorReply::IndexRange(page)) => Ok(page),
                Ok(_) => Err(CoordinatorsAway { cause: OTHER_ANSWER.to_owned() }),
                Err(error) => Err(CoordinatorsAway::because(&error)),
            }
        }
        .boxed()
    }

    fn places(&self, locations: Vec<Location>) -> BoxFuture<'_, Result<Vec<RecordPlace>, CoordinatorsAway>> {
        async move {
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

    fn standing(&self, bundle: BundleId) -> BoxFuture<'_, Result<BundleStanding, CoordinatorsAway>> {
        self.standings.get(bundle, self.ask_standing(bundle)).boxed()
    }
}

impl NetworkCoordinators {
    /// Coordinators say how many hold the bundle, and the addresses that reads go by who is heard.
    async fn ask_standing(&self, bundle: BundleId) -> Result<BundleStanding, CoordinatorsAway> {
        let names = [BundleName::Id(bundle)];
        let bundles = async {
            let bundles = self.client.bundles(&names).await;
            bundles.map_err(|error| CoordinatorsAway::because(&error))
        };
        let nodes = async {
            let nodes = self.directory.nodes().await;
            nodes.map_err(|error| CoordinatorsAway::because(&error))
        };
        let facts = timeout(STANDING_WITHIN, try_join(bundles, nodes)).await;
        let late = |_| CoordinatorsAway { cause: "none answered in time".to_owned() };
        let (bundles, nodes) = facts.map_err(late)??;
        let info = bundles.into_iter().next().flatten();
        let info =
            info.ok_or_else(|| CoordinatorsAway { cause: "they do not know the bundle".to_owned() })?;
        let online = nodes.values().filter(|node| node.online).map(|node| node.node).collect();
        standing(&info, &online)
    }
}

/// What a coordinator's facts of a bundle come to, with the nodes that are heard now.
fn standing(info: &BundleInfo, online: &BTreeSet<NodeId>) -> Result<BundleStanding, CoordinatorsAway> {
    let malformed = || CoordinatorsAway { cause: "its answer does not fit together".to_owned() };
    let coding = info.codings.first().ok_or_else(malformed)?;
    let header = CodingHeader::parse(&coding.header).map_err(|error| CoordinatorsAway::because(&error))?;
    let held = coding.shards.iter().filter(|copies| !copies.nodes.is_empty());
    let heard = held.clone().filter(|copies| copies.nodes.iter().any(|node| online.contains(node)));
    Ok(BundleStanding {
        committed_at: info.committed_at,
        k: header.k(),
        n: coding.n,
        held: held.count(),
        online: heard.count(),
    })
}

impl FilterSource for NetworkCoordinators {
    fn roster(&self) -> VerifiedRoster {
        self.client.roster()
    }

    fn lists(&self) -> BoxFuture<'_, Result<Vec<Signed<FilterList>>, CoordinatorsAway>> {
        async move {
            let mut asked: FuturesUnordered<_> = coordinators(&self.client)
                .into_iter()
                .map(|one| async move {
                    self.client.ask_coordinator(one, &CoordinatorRequest::ListFilters, LIST_WITHIN).await
                })
                .collect();
            let mut lists = Vec::new();
            let mut cause = "the archive has no coordinators".to_owned();
            loop {
                // Whoever is gone shall not hold up what two agree on.
                let next = match lists.len() {
                    0 | 1 => asked.next().await,
                    _ => timeout(LIST_GRACE, asked.next()).await.unwrap_or(None),
                };
                match next {
                    None => break,
                    Some(Ok(CoordinatorReply::Filters(list))) => lists.push(list),
                    Some(Ok(_)) => OTHER_ANSWER.clone_into(&mut cause),
                    Some(Err(error)) => cause = error.to_string(),
                }
            }
            if lists.is_empty() { Err(CoordinatorsAway { cause }) } else { Ok(lists) }
        }
        .boxed()
    }

    fn piece(
        &self,
        filter: FilterId,
        offset: u64,
        turn: usize,
    ) -> BoxFuture<'_, Result<Bytes, CoordinatorsAway>> {
        async move {
            let coordinators = coordinators(&self.client);
            let one = coordinators.get(turn.checked_rem(coordinators.len()).unwrap_or(0)).copied();
            let one =
                one.ok_or_else(|| CoordinatorsAway { cause: "the archive has no coordinators".into() })?;
            let asked = CoordinatorRequest::FilterPiece { filter, offset };
            match self.client.ask_coordinator(one, &asked, PIECE_WITHIN).await {
                Ok(CoordinatorReply::FilterPiece(bytes)) => Ok(bytes.into()),
                Ok(_) => Err(CoordinatorsAway { cause: OTHER_ANSWER.to_owned() }),
                Err(error) => Err(CoordinatorsAway::because(&error)),
            }
        }
        .boxed()
    }
}

fn coordinators(client: &CoordinatorClient) -> Vec<NodeId> {
    client.roster().roster().coordinators.iter().map(|entry| entry.id).collect()
}

impl FeedSource for NetworkCoordinators {
    fn pull(&self, from: u64, wait: Duration) -> BoxFuture<'_, Result<FeedNews, FeedError>> {
        async move {
            self.client.news(from, wait).await.map_err(|error| match error {
                AskError::NoAnswer { refused: false, .. } => CoordinatorsAway::because(&error).into(),
                _ => FeedError::Untold { cause: error.to_string() },
            })
        }
        .boxed()
    }
}

impl GovernanceSource for NetworkCoordinators {
    fn governance(&self) -> BoxFuture<'_, Result<Governance, CoordinatorsAway>> {
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
            let governance = governance_of(&ledger);
            *known = Some(ledger);
            Ok(governance)
        }
        .boxed()
    }

    fn governance_signed_before(&self) -> BoxFuture<'_, Option<Governance>> {
        async move { self.client.ledger_signed_before().await.map(|ledger| governance_of(&ledger)) }.boxed()
    }
}

fn governance_of(ledger: &VerifiedLedger) -> Governance {
    let keys = ledger
        .state
        .publishers_by_rank()
        .into_iter()
        .filter_map(|entry| PublisherKey::from_parts(&entry.name, entry.key.as_bytes()).ok());
    Governance { publishers: keys.collect(), withdrawn: ledger.state.withdrawn.clone() }
}
