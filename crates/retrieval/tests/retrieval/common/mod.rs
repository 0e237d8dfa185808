//! Bundles in memory, coded, and sources that serve them well or badly.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, BundleNumber, NodeId, ObjectKey, Scheme, shard_bytes};
use firn_bundle::{
    Blob, BuilderOptions, BundleBuilder, Chunker, CodingHeader, ContentHeader, Encoding, FrameCompression,
    NewRecord, RecordPosition, ShardTree, decode_range_exact, encode_range,
};
use firn_erasure::Coder;
use firn_nix_format::{Compression, PathInfo, Sha256, StorePath};
use firn_retrieval::{
    BundleFacts, Directory, DirectoryError, ManifestOptions, ManifestReader, NodeBook, ObjectOptions,
    ObjectReader, PayloadReader, ReadError, ReadRangeError, ShardRange, ShardSource,
};
use firn_transport::{Blocking, Entropy, Environment};
use firn_wire::{NodeAddress, Pass, RefusalKind, RefusedRequest, ShardReport, Signed};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Bytes that do not compress, always the same for a seed.
pub fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

pub fn path(seed: u8, name: &str) -> StorePath {
    StorePath::from_parts([seed; 20], name).unwrap()
}

pub fn info(seed: u8, nar: &[u8], references: Vec<StorePath>) -> PathInfo {
    PathInfo {
        store_path: path(seed, &format!("package-{seed}")),
        url: format!("nar/{seed}.nar.xz"),
        compression: Compression::Xz,
        file_hash: None,
        file_size: None,
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references,
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        extra: Vec::new(),
    }
}

/// The record of a NAR, kept in chunks.
pub fn nar_record(seed: u8, nar: &[u8]) -> NewRecord {
    NewRecord::store_path(info(seed, nar, Vec::new()), Encoding::Chunked)
}

/// The record of a build log, kept in chunks.
pub fn log_record(seed: u8, log: &[u8]) -> NewRecord {
    let blob = Blob {
        url: format!("log/{seed}"),
        compression: Compression::Bzip2,
        bytes: log.len() as u64,
        sha256: Sha256::of(log),
    };
    NewRecord::blob(ObjectKey::build_log([seed; 20]), blob, Encoding::Chunked)
}

pub fn chunks(object: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut chunker = Chunker::new();
    let mut keep = |chunk: &[u8]| {
        chunks.push(chunk.to_vec());
        Ok::<(), Infallible>(())
    };
    let Ok(()) = chunker.push(object, &mut keep);
    let Ok(()) = chunker.finish(&mut keep);
    chunks
}

pub fn builder() -> BundleBuilder {
    let options = BuilderOptions {
        frame_raw_bytes: 200_000,
        frame_compression: FrameCompression::Zstd(3),
        ..BuilderOptions::default()
    };
    BundleBuilder::new(options)
}

/// A sealed bundle and its payload.
#[derive(Debug, Clone)]
pub struct Packed {
    pub content: ContentHeader,
    pub payload: Vec<u8>,
    pub positions: Vec<RecordPosition>,
}

impl Packed {
    pub fn id(&self) -> BundleId {
        self.content.bundle_id()
    }
}

pub fn pack_with(mut builder: BundleBuilder, objects: &[(NewRecord, Vec<u8>)]) -> Packed {
    let mut payload = Vec::new();
    for (record, object) in objects {
        builder.begin_object();
        for chunk in chunks(object) {
            builder.push_chunk(&chunk).unwrap();
        }
        builder.finish_object(record.clone()).unwrap();
        builder.append_pending(&mut payload).unwrap();
    }
    let sealed = builder.seal(&mut payload).unwrap();
    Packed { content: sealed.content, payload, positions: sealed.positions }
}

pub fn pack(objects: &[(NewRecord, Vec<u8>)]) -> Packed {
    pack_with(builder(), objects)
}

/// A bundle's shards, all that its k may ever use.
#[derive(Debug, Clone)]
pub struct Coded {
    pub content: ContentHeader,
    pub payload: Vec<u8>,
    pub coding: CodingHeader,
    pub shards: Vec<Vec<u8>>,
    pub trees: Vec<ShardTree>,
}

pub fn code(packed: &Packed, k: u8) -> Coded {
    let length = shard_bytes(packed.payload.len() as u64, k);
    let length = usize::try_from(length).unwrap();
    let mut shards: Vec<Vec<u8>> = (0..usize::from(k))
        .map(|index| {
            let start = (index * length).min(packed.payload.len());
            let end = (start + length).min(packed.payload.len());
            let mut shard = packed.payload[start..end].to_vec();
            shard.resize(length, 0);
            shard
        })
        .collect();
    let n_max = usize::from(Scheme::n_max(k).unwrap());
    let mut parity = vec![vec![0; length]; n_max - usize::from(k)];
    let data: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    Coder::new(k).unwrap().encode(&data, &mut outputs).unwrap();
    shards.append(&mut parity);
    let trees: Vec<ShardTree> = shards.iter().map(|shard| ShardTree::of(shard)).collect();
    let roots = trees.iter().map(|tree| tree.root).collect();
    let coding = CodingHeader::new(packed.id(), k, length as u64, roots).unwrap();
    Coded { content: packed.content.clone(), payload: packed.payload.clone(), coding, shards, trees }
}

/// Payloads in memory, counting what is read.
#[derive(Debug, Default)]
pub struct MemoryReader {
    bundles: BTreeMap<BundleId, (Arc<ContentHeader>, Bytes)>,
    pub reads: Mutex<Vec<(BundleId, Range<u64>)>>,
    pub doubted: Mutex<Vec<(BundleId, Range<u64>)>>,
}

impl MemoryReader {
    pub fn of(bundles: &[Packed]) -> Arc<Self> {
        let bundles = bundles.iter().map(|packed| {
            (packed.id(), (Arc::new(packed.content.clone()), Bytes::from(packed.payload.clone())))
        });
        Arc::new(Self { bundles: bundles.collect(), reads: Mutex::default(), doubted: Mutex::default() })
    }

    /// A reader of one bundle whose payload is another than its header says.
    pub fn with_payload(packed: &Packed, payload: Vec<u8>) -> Arc<Self> {
        Self::of(&[Packed { payload, ..packed.clone() }])
    }

    pub fn bytes_read(&self) -> u64 {
        self.reads.lock().unwrap().iter().map(|(_, range)| range.end - range.start).sum()
    }
}

impl PayloadReader for MemoryReader {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        let found = self.bundles.get(&bundle).map(|(content, _)| Arc::clone(content));
        async move { found.ok_or(ReadError::UnknownBundle { bundle }) }.boxed()
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        async move {
            let (_, payload) = self.bundles.get(&bundle).ok_or(ReadError::UnknownBundle { bundle })?;
            self.reads.lock().unwrap().push((bundle, range.clone()));
            tokio::task::yield_now().await;
            let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            Ok(payload.slice(start..end))
        }
        .boxed()
    }

    fn doubt(&self, bundle: BundleId, range: Range<u64>) {
        self.doubted.lock().unwrap().push((bundle, range));
    }
}

#[derive(Debug)]
struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// The real machine, with blocking work done at once: a paused clock stands still meanwhile.
pub fn inline() -> Environment {
    let real = Environment::real();
    Environment::new(
        Arc::clone(real.clock()),
        Arc::clone(real.sockets()),
        Arc::new(NoEntropy),
        Blocking::Inline,
    )
}

pub fn objects(payloads: Arc<dyn PayloadReader>, environment: Environment) -> ObjectReader {
    let manifests = ManifestReader::new(payloads, ManifestOptions::default());
    ObjectReader::new(manifests, environment, ObjectOptions::default())
}

/// How a node serves.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Right bytes after so long.
    Honest(Duration),
    /// Wrong bytes, at once.
    Liar,
    /// Cannot be reached.
    Gone,
    /// Never answers.
    Silent,
    /// Answers with a refusal.
    Refuses(RefusalKind),
}

/// Nodes in memory: node i holds shard i.
#[derive(Debug)]
pub struct FakeNodes {
    pub coded: Coded,
    /// The coding that was made in its place: shards of the first one are gone.
    pub replaced_by: Mutex<Option<Coded>>,
    pub behaviours: Mutex<BTreeMap<NodeId, Behaviour>>,
    pub asked: Mutex<Vec<NodeId>>,
    pub under_way: Arc<AtomicUsize>,
    pub most_under_way: AtomicUsize,
}

pub fn node(index: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(index + 1).unwrap(); 32])
}

impl FakeNodes {
    pub fn new(coded: Coded) -> Arc<Self> {
        Arc::new(Self {
            coded,
            replaced_by: Mutex::default(),
            behaviours: Mutex::default(),
            asked: Mutex::default(),
            under_way: Arc::default(),
            most_under_way: AtomicUsize::new(0),
        })
    }

    pub fn behave(&self, index: usize, behaviour: Behaviour) {
        self.behaviours.lock().unwrap().insert(node(index), behaviour);
    }

    pub fn take_asked(&self) -> Vec<NodeId> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ShardSource for FakeNodes {
    fn read<'a>(
        &'a self,
        address: &'a NodeAddress,
        _pass: Option<Arc<Signed<Pass>>>,
        wanted: &'a ShardRange,
    ) -> BoxFuture<'a, Result<Bytes, ReadRangeError>> {
        async move {
            let node = address.node;
            self.asked.lock().unwrap().push(node);
            let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_under_way.fetch_max(now, Ordering::SeqCst);
            let _under_way = UnderWay(Arc::clone(&self.under_way));
            let behaviour = self.behaviours.lock().unwrap().get(&node).cloned();
            let behaviour = behaviour.unwrap_or(Behaviour::Honest(Duration::from_millis(5)));
            let lie = match behaviour {
                Behaviour::Honest(after) => {
                    tokio::time::sleep(after).await;
                    false
                }
                Behaviour::Liar => true,
                Behaviour::Gone => {
                    return Err(ReadRangeError::Unreachable { node, cause: "it is gone".to_owned() });
                }
                Behaviour::Silent => std::future::pending().await,
                Behaviour::Refuses(kind) => {
                    let refused = RefusedRequest::new(kind, "no");
                    return Err(ReadRangeError::Refused { node, refused });
                }
            };
            let replaced_by = self.replaced_by.lock().unwrap().clone();
            let coded = replaced_by.as_ref().unwrap_or(&self.coded);
            if wanted.bundle.coding != coded.coding {
                let refused = RefusedRequest::new(RefusalKind::NotFound, "no such shard");
                return Err(ReadRangeError::Refused { node, refused });
            }
            let position = wanted.index.position();
            let (shard, tree) = (&coded.shards[position], &coded.trees[position]);
            let mut encoded = Vec::new();
            let (length, outboard) = (shard.len() as u64, tree.outboard.as_slice());
            encode_range(shard.as_slice(), outboard, tree.root, length, &wanted.range, &mut encoded).unwrap();
            if lie {
                *encoded.last_mut().unwrap() ^= 1;
            }
            decode_range_exact(tree.root, length, &wanted.range, &encoded)
                .map(Bytes::from)
                .map_err(|error| ReadRangeError::Lied { node, cause: error.to_string() })
        }
        .boxed()
    }
}

/// A directory of one bundle.
#[derive(Debug)]
pub struct FakeDirectory {
    pub facts: Mutex<Arc<BundleFacts>>,
    pub book: Mutex<Arc<NodeBook>>,
    /// What a refresh reveals.
    pub fresh: Mutex<Option<Arc<BundleFacts>>>,
    pub refreshed: AtomicUsize,
    pub doubted: AtomicUsize,
    pub reported: Mutex<Vec<ShardReport>>,
}

impl FakeDirectory {
    /// Node i holds shard i, for n shards; all online.
    pub fn new(coded: &Coded, n: u8) -> Arc<Self> {
        let mut holders = vec![Vec::new(); coded.coding.roots().len()];
        for (index, own) in holders.iter_mut().enumerate().take(usize::from(n)) {
            own.push(node(index));
        }
        let facts = BundleFacts {
            number: BundleNumber(1),
            id: coded.content.bundle_id(),
            content: Arc::new(coded.content.clone()),
            coding: coded.coding.clone(),
            n,
            holders,
        };
        let book = (0..coded.shards.len()).map(|index| (node(index), address(index, true)));
        Arc::new(Self {
            facts: Mutex::new(Arc::new(facts)),
            book: Mutex::new(Arc::new(book.collect())),
            fresh: Mutex::default(),
            refreshed: AtomicUsize::new(0),
            doubted: AtomicUsize::new(0),
            reported: Mutex::default(),
        })
    }

    pub fn set_online(&self, index: usize, online: bool) {
        let mut book = self.book.lock().unwrap();
        let mut changed = NodeBook::clone(&book);
        changed.insert(node(index), address(index, online));
        *book = Arc::new(changed);
    }
}

pub fn address(index: usize, online: bool) -> NodeAddress {
    NodeAddress { node: node(index), address: format!("node-{index}:1"), online }
}

impl Directory for FakeDirectory {
    fn bundle(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>> {
        let facts = Arc::clone(&self.facts.lock().unwrap());
        async move { if facts.id == bundle { Ok(facts) } else { Err(DirectoryError::UnknownBundle) } }.boxed()
    }

    fn numbered(&self, _number: BundleNumber) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>> {
        let facts = Arc::clone(&self.facts.lock().unwrap());
        async move { Ok(facts) }.boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Arc<NodeBook>, DirectoryError>> {
        let book = Arc::clone(&self.book.lock().unwrap());
        async move { Ok(book) }.boxed()
    }

    fn pass(&self) -> BoxFuture<'_, Result<Option<Arc<Signed<Pass>>>, DirectoryError>> {
        async { Ok(None) }.boxed()
    }

    fn refresh(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<BundleFacts>, DirectoryError>> {
        self.refreshed.fetch_add(1, Ordering::SeqCst);
        if let Some(fresh) = self.fresh.lock().unwrap().take() {
            *self.facts.lock().unwrap() = fresh;
        }
        self.bundle(bundle)
    }

    fn doubt(&self, _bundle: BundleId) {
        self.doubted.fetch_add(1, Ordering::SeqCst);
    }

    fn report(&self, report: ShardReport) {
        self.reported.lock().unwrap().push(report);
    }

    fn forget_pass(&self) {}
}
