//! What one node shows of a lost archive: asked page by page.
//!
//! Owns: in which order it is asked, and bounds of what it says. Always holds: a node names what it has, and is asked
//! for the rest of what nobody has shown yet: what 40 nodes hold crosses the network once. Nodes that are asked at one
//! time begin at different places, else each of them would be the first. Leaves to others: what is believed and new
//! (`Evidence`), when a node is asked and for how long (`rebuilding`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{CodingId, NodeId};
use firn_coordinator_logic::Evidence;
use firn_transport::Connection;
use firn_wire::{
    CONTROL_BYTES_MAX, KEPT_NAMES_PER_PAGE_MAX, KEPT_PER_REQUEST_MAX, KeptGovernance, KeptName, NodeReply,
    NodeRequest,
};

use crate::evidence_store::StoreBook;
use crate::rebuild::{SharedEvidence, UnderWay, lock_evidence};
use crate::shared::Shared;
use crate::storage::StorageError;

const PAGE_WITHIN: Duration = Duration::from_secs(60);
/// Entries of a ledger that a node may show: a hundred a day for 27 years.
const LEDGER_ENTRIES_MAX: usize = 1_000_000;
/// Names that are weighed before the unknown ones among them are asked for. Meanwhile other nodes show what comes behind
/// them: 16 nodes whose names all fit one page would else show all of it 16 times.
const NAMES_AT_ONCE: usize = 64;
/// Pages of names that a node may give: 1,024 codings each, more than the largest disk has.
const PAGES_MAX: usize = 1 << 14;

/// Asks `node` for all that it has to show; says why not all of it came.
pub(super) async fn ask_node(
    shared: &Shared,
    evidence: &SharedEvidence,
    node: NodeId,
    connection: &Connection,
) -> Result<(), String> {
    let listener = Listener { shared, evidence, node, connection };
    listener.ask_governance().await?;
    // Both are hashes: no two nodes begin at one place.
    let begin = CodingId::from_bytes(*node.as_bytes());
    listener.ask_bundles(Some(begin), None).await?;
    listener.ask_bundles(None, Some(begin)).await?;
    listener.weigh(move |evidence| evidence.all_shown(node)).await
}

struct Listener<'a> {
    shared: &'a Shared,
    evidence: &'a SharedEvidence,
    node: NodeId,
    connection: &'a Connection,
}

impl Listener<'_> {
    async fn call(&self, request: NodeRequest) -> Result<NodeReply, String> {
        let reply = self.connection.call::<_, NodeReply>(&request, CONTROL_BYTES_MAX, PAGE_WITHIN).await;
        match reply.map_err(|error| error.to_string())? {
            NodeReply::Refused(refusal) => Err(refusal.to_string()),
            reply => Ok(reply),
        }
    }

    async fn ask_governance(&self) -> Result<(), String> {
        let mut governance = KeptGovernance { rosters: vec![], heads: vec![], entries: vec![], more: true };
        while governance.more {
            let from = u64::try_from(governance.entries.len()).unwrap_or(u64::MAX);
            let NodeReply::Governance(page) = self.call(NodeRequest::ShowGovernance { from }).await? else {
                return Err(unfit());
            };
            if page.entries.len() + governance.entries.len() > LEDGER_ENTRIES_MAX {
                return Err("its ledger is endless".to_owned());
            }
            governance.more = page.more && !page.entries.is_empty();
            if from == 0 {
                (governance.rosters, governance.heads) = (page.rosters, page.heads);
            }
            governance.entries.extend(page.entries);
        }
        let KeptGovernance { rosters, heads, entries, .. } = governance;
        let node = self.node;
        self.weigh(move |evidence| evidence.show_governance(node, &rosters, &heads, entries)).await
    }

    /// Has something weighed that the node has shown, off the async threads; what was new in it puts off the end of
    /// listening.
    async fn weigh<T: Send + 'static>(
        &self,
        weigh: impl FnOnce(&mut Evidence<StoreBook>) -> T + Send + 'static,
    ) -> Result<T, String> {
        let evidence = Arc::clone(self.evidence);
        let look = move || {
            let mut evidence = lock_evidence(&evidence);
            let before = evidence.news();
            let weighed = weigh(&mut evidence);
            (weighed, (evidence.news() != before).then(|| evidence.named()))
        };
        let (weighed, news) = self.shared.environment.blocking(look).await;
        if let Some(named) = news {
            let now = self.shared.environment.now();
            let heard = |under_way: &mut UnderWay| under_way.listening.hear_news(self.node, &named, now);
            self.shared.rebuild.with(heard).map_err(|refusal| refusal.to_string())?;
        }
        Ok(weighed)
    }

    /// Asks for bundles whose codings lie behind `after`, up to `until`.
    async fn ask_bundles(&self, mut after: Option<CodingId>, until: Option<CodingId>) -> Result<(), String> {
        for _ in 0..PAGES_MAX {
            let NodeReply::BundleNames { mut names, more_after } =
                self.call(NodeRequest::NameBundles { after }).await?
            else {
                return Err(unfit());
            };
            if names.len() > KEPT_NAMES_PER_PAGE_MAX {
                return Err(unfit());
            }
            names.retain(|name| until.is_none_or(|until| name.coding <= until));
            for some in names.chunks(NAMES_AT_ONCE) {
                let unknown = self.name(some.to_vec()).await?;
                self.ask_unknown(unknown).await?;
            }
            match more_after {
                Some(next) if until.is_none_or(|until| next < until) => {
                    if after >= Some(next) {
                        return Err("it names the same bundles again and again".to_owned());
                    }
                    after = Some(next);
                }
                _ => return Ok(()),
            }
        }
        Err("it names an endless number of bundles".to_owned())
    }

    /// Weighs names; gives the codings of which the rest is to be shown.
    async fn name(&self, names: Vec<KeptName>) -> Result<Vec<CodingId>, String> {
        let node = self.node;
        let weigh = move |evidence: &mut Evidence<StoreBook>| -> Result<Vec<CodingId>, StorageError> {
            let mut unknown = BTreeSet::new();
            for name in names {
                let coding = name.coding;
                if evidence.name_bundle(node, name)? {
                    unknown.insert(coding);
                }
            }
            Ok(unknown.into_iter().collect())
        };
        self.weigh(weigh).await?.map_err(|error| error.to_string())
    }

    /// Asks for all of `codings`, a page at a time.
    async fn ask_unknown(&self, codings: Vec<CodingId>) -> Result<(), String> {
        let mut rest = codings.as_slice();
        while !rest.is_empty() {
            let asked = &rest[..rest.len().min(KEPT_PER_REQUEST_MAX)];
            let request = NodeRequest::ShowBundles { codings: asked.to_vec() };
            let NodeReply::Bundles { bundles, looked_at } = self.call(request).await? else {
                return Err(unfit());
            };
            let looked_at = usize::try_from(looked_at).unwrap_or(usize::MAX);
            if looked_at == 0 || looked_at > asked.len() || bundles.len() > looked_at {
                return Err(unfit());
            }
            let node = self.node;
            let show = move |evidence: &mut Evidence<StoreBook>| {
                evidence.not_shown(node, looked_at - bundles.len());
                bundles.into_iter().try_for_each(|bundle| evidence.show_bundle(node, bundle))
            };
            self.weigh(show).await?.map_err(|error| error.to_string())?;
            rest = &rest[looked_at..];
        }
        Ok(())
    }
}

fn unfit() -> String {
    "its answer does not fit".to_owned()
}
