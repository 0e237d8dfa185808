//! Nodes of a made-up archive, as the coordinator that rebuilds it hears them: real connections and messages, no disks.
//!
//! Owns: showing ledger and bundles, proved ranges, signs of life, inventories. Always holds: it answers as the program of a
//! storage node does, pages and bounds included.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use firn_base::{ByteCount, CodingId, ShardIndex};
use firn_bundle::{CodingHeader, ShardTree, encode_range};
use firn_coordinator::Peer;
use firn_transport::{
    Connection, ConnectionPool, Endpoint, EndpointOptions, Environment, Handler, Stream, serve_connection,
};
use firn_wire::{
    CONTROL_BYTES_MAX, Certificate, CoordinatorReply, CoordinatorRequest, DeletionRoom, INVENTORY_SHARDS_MAX,
    KEPT_NAMES_PER_PAGE_MAX, KEPT_PAGE_BYTES, KeptBundle, KeptGovernance, KeptName, NodeReply, NodeRequest,
    NodeStatus, RangeRequest, RefusalKind, RefusedRequest, Roster, Signed, encode,
};

use crate::Failure;
use crate::history::{self, History};

const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
const REPLY_WITHIN: Duration = Duration::from_secs(600);

/// A bundle as all its holders show it, and where its payload lies.
struct Kept {
    number: u64,
    content_header: Vec<u8>,
    coding_header: Vec<u8>,
    certificate: Vec<Signed<Certificate>>,
    file: usize,
    offset: u64,
    bytes: usize,
}

struct Fleet {
    history: History,
    roster: Signed<Roster>,
    kept: BTreeMap<CodingId, Kept>,
    payloads: Vec<File>,
    shown_bytes: AtomicU64,
    range_bytes: AtomicU64,
}

/// Plays all nodes until input ends.
pub(crate) async fn play(dir: &Path, history: &History, peer: &Peer) -> Result<(), Failure> {
    let begun = Instant::now();
    let fleet = Arc::new(make(dir, history)?);
    println!("{:.1}", begun.elapsed().as_secs_f64());
    std::io::stdout().flush()?;
    let environment = Environment::real();
    for number in 0..history.nodes {
        let (identity, address) = (history::node(number), (Ipv4Addr::LOCALHOST, 0).into());
        let endpoint = Endpoint::bind(&environment, &identity, address, EndpointOptions::default()).await?;
        let pool = ConnectionPool::new(endpoint);
        let connection = pool.get(peer.id, &peer.address).await?;
        let node = Arc::new(Node { number, fleet: Arc::clone(&fleet) });
        tokio::spawn(serve_connection(connection.clone(), Arc::clone(&node)));
        tokio::spawn(async move {
            let _pool = pool;
            if let Err(error) = node.live(&connection).await {
                eprintln!("node {number}: {error}");
            }
        });
    }
    tokio::task::spawn_blocking(|| {
        // Its input ends with whoever started it.
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(drop);
    })
    .await?;
    let megabytes = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed) / 1_000_000;
    println!("{}, {}", megabytes(&fleet.shown_bytes), megabytes(&fleet.range_bytes));
    Ok(())
}

/// Makes all bundles up, on two threads.
fn make(dir: &Path, history: &History) -> Result<Fleet, Failure> {
    const THREADS: u64 = 2;
    let path = |file: u64| dir.join(format!("payloads-{file}"));
    let part = |file: u64| -> Result<Vec<(CodingId, Kept)>, Failure> {
        let mut payloads = std::io::BufWriter::new(File::create(path(file))?);
        let (mut part, mut offset) = (Vec::new(), 0);
        for number in (file..history.bundles()).step_by(usize::try_from(THREADS)?) {
            let made = history.make(number)?;
            payloads.write_all(&made.payload)?;
            let kept = Kept {
                number,
                content_header: made.content.to_bytes(),
                coding_header: made.coding.to_bytes(),
                certificate: history.certificate(number, &made)?,
                file: usize::try_from(file)?,
                offset,
                bytes: made.payload.len(),
            };
            offset += u64::try_from(made.payload.len())?;
            part.push((made.coding.coding_id(), kept));
        }
        payloads.flush()?;
        Ok(part)
    };
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|file| scope.spawn(move || part(file))).collect();
        running
            .into_iter()
            .map(|part| part.join().expect("making bundles does not panic"))
            .collect::<Vec<_>>()
    });
    let mut kept = BTreeMap::new();
    for part in parts {
        kept.extend(part?);
    }
    let payloads = (0..THREADS).map(|file| File::open(path(file))).collect::<Result<_, _>>()?;
    let (roster, _) = history::roster_before()?;
    let (shown_bytes, range_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    Ok(Fleet { history: history.clone(), roster, kept, payloads, shown_bytes, range_bytes })
}

impl Fleet {
    /// A proved range of a shard.
    fn range(&self, request: &RangeRequest) -> Result<Vec<u8>, Failure> {
        let kept = self.kept.get(&request.coding).ok_or("no such coding")?;
        let mut payload = vec![0; kept.bytes];
        self.payloads[kept.file].read_exact_at(&mut payload, kept.offset)?;
        let shard = history::shard_of(&payload, request.index)?;
        let tree = ShardTree::of(&shard);
        let range = request.offset..request.offset.saturating_add(request.bytes);
        let mut proof = Vec::new();
        let length = CodingHeader::parse(&kept.coding_header)?.shard_bytes();
        encode_range(shard.as_slice(), tree.outboard.as_slice(), tree.root, length, &range, &mut proof)?;
        Ok(proof)
    }
}

struct Node {
    number: u64,
    fleet: Arc<Fleet>,
}

impl Node {
    fn holds(&self, kept: &Kept) -> Vec<ShardIndex> {
        let is_here = |index: &ShardIndex| self.fleet.history.home(kept.number, index.0) == self.number;
        history::indexes().filter(is_here).collect()
    }

    async fn live(&self, connection: &Connection) -> Result<(), Failure> {
        loop {
            let status = NodeStatus {
                address: "127.0.0.1:9".into(),
                quota: ByteCount(1 << 50),
                used: ByteCount(0),
                young_trash: ByteCount(0),
                deletion_room: DeletionRoom::default(),
                refused_deletions: 0,
                shards: 0,
                max_upload: None,
                rest: None,
                leaving: false,
                run: 1,
                erased_through: u64::MAX,
            };
            let heard: CoordinatorReply = connection
                .call(&CoordinatorRequest::Heartbeat(status), CONTROL_BYTES_MAX, REPLY_WITHIN)
                .await?;
            let CoordinatorReply::Heartbeat(heard) = heard else { return Err("not heard".into()) };
            if heard.inventory_wanted {
                self.show_inventory(connection).await?;
            }
            if tokio::time::timeout(HEARTBEAT_EVERY, connection.closed()).await.is_ok() {
                return Ok(());
            }
        }
    }

    async fn show_inventory(&self, connection: &Connection) -> Result<(), Failure> {
        let codings = self.fleet.kept.iter();
        let all: Vec<_> = codings
            .flat_map(|(coding, kept)| self.holds(kept).into_iter().map(|index| (*coding, index)))
            .collect();
        let pages = all.len().div_ceil(INVENTORY_SHARDS_MAX);
        for (number, page) in (1..).zip(all.chunks(INVENTORY_SHARDS_MAX)) {
            let request = CoordinatorRequest::Inventory { shards: page.to_vec(), more: number < pages };
            let _: CoordinatorReply = connection.call(&request, CONTROL_BYTES_MAX, REPLY_WITHIN).await?;
        }
        Ok(())
    }

    fn show_governance(&self, from: u64) -> Result<NodeReply, Failure> {
        let (entries, heads) = self.fleet.history.ledger()?;
        let entries = entries.into_iter().skip(usize::try_from(from)?).collect();
        let rosters = vec![self.fleet.roster.clone()];
        Ok(NodeReply::Governance(KeptGovernance { rosters, heads, entries, more: false }))
    }

    fn name_bundles(&self, after: Option<CodingId>) -> Result<NodeReply, Failure> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = self.fleet.kept.range((after.map_or(Unbounded, Excluded), Unbounded));
        let here = range.map(|(coding, kept)| (*coding, kept, self.holds(kept)));
        let mut here = here.filter(|(_, _, indexes)| !indexes.is_empty()).peekable();
        let (mut names, mut last) = (Vec::new(), None);
        for (coding, kept, indexes) in here.by_ref().take(KEPT_NAMES_PER_PAGE_MAX) {
            let statement = kept.certificate.first().ok_or("no certificate")?.peek()?;
            let certificate = Some(statement.digest());
            names.push(KeptName { bundle: statement.bundle, coding, certificate, indexes });
            last = Some(coding);
        }
        let more_after = here.peek().and(last);
        self.count(NodeReply::BundleNames { names, more_after })
    }

    fn show_bundles(&self, codings: &[CodingId]) -> Result<NodeReply, Failure> {
        let (mut bundles, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        for coding in codings {
            let kept = self.fleet.kept.get(coding).ok_or("no such coding")?;
            let kept = KeptBundle {
                content_header: kept.content_header.clone(),
                coding_header: kept.coding_header.clone(),
                certificate: kept.certificate.clone(),
                indexes: self.holds(kept),
            };
            bytes += encode(&kept).len();
            bundles.push(kept);
            looked_at += 1;
            if bytes >= KEPT_PAGE_BYTES {
                break;
            }
        }
        self.count(NodeReply::Bundles { bundles, looked_at })
    }

    fn count(&self, reply: NodeReply) -> Result<NodeReply, Failure> {
        self.fleet.shown_bytes.fetch_add(encode(&reply).len() as u64, Ordering::Relaxed);
        Ok(reply)
    }
}

impl Handler for Node {
    async fn handle(&self, _: &Connection, mut stream: Stream) {
        let Ok(request) = stream.receive::<NodeRequest>(CONTROL_BYTES_MAX).await else { return };
        let refusal = |error: Failure| {
            NodeReply::Refused(RefusedRequest::new(RefusalKind::NotFound, error.to_string()))
        };
        let reply = match request {
            NodeRequest::ShowGovernance { from } => self.show_governance(from).unwrap_or_else(refusal),
            NodeRequest::NameBundles { after } => self.name_bundles(after).unwrap_or_else(refusal),
            NodeRequest::ShowBundles { codings } => self.show_bundles(&codings).unwrap_or_else(refusal),
            NodeRequest::ReadRange(request) => match self.fleet.range(&request) {
                Ok(proof) => {
                    let encoded_bytes = proof.len() as u64;
                    self.fleet.range_bytes.fetch_add(encoded_bytes, Ordering::Relaxed);
                    if stream.send(&NodeReply::Range { encoded_bytes }).await.is_ok()
                        && stream.send_bytes(proof.into()).await.is_ok()
                    {
                        stream.finish();
                    }
                    return;
                }
                Err(error) => refusal(error),
            },
            _ => refusal("this is no node".into()),
        };
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }
}
