//! Commands that fill an archive: nodes, reservations, commits.
//!
//! Always holds: what a number stands for is computed from it alone, so that lookups know what to expect without a
//! list of it. Leaves to others: proposing them.

use std::ops::Range;

use firn_base::{
    BundleId, Feature, ManifestRoot, NodeId, ObjectKey, PayloadRoot, PublicKey, ReservationId, ShardIndex,
    ShardRoot, Timestamp, TokenId, shard_bytes,
};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader};
use firn_wire::{BundleCommit, Command, IndexEntry, RecordPlace};

/// Shards of a bundle, of which [`K`] are enough.
pub(crate) const SHARDS: u8 = 40;
const K: u8 = 16;

// A full bundle of ordinary paths.
const PAYLOAD_BYTES: u64 = 250 << 20;
const MANIFEST_BYTES: u64 = 100_000;
// About 64 path infos make a block.
const RECORDS_PER_BLOCK: u64 = 64;
// One key in ten is a build log, the rest are store paths.
const LOG_EVERY: u64 = 10;
// Bundles are sealed in parallel: in each, these many keys refer to one of the next bundle, and wait for it.
const WAITING: u64 = 2;
const MINUTE: u64 = 60_000;

/// The commands of one archive.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    nodes: u32,
    keys: u64,
    keys_per_bundle: u64,
    // None where nothing is told of what is like it.
    keys_per_name: Option<u64>,
}

fn bytes(kind: &str, number: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes());
    hasher.update(&number.to_le_bytes());
    *hasher.finalize().as_bytes()
}

impl Generator {
    pub(crate) const fn new(nodes: u32, keys: u64, keys_per_bundle: u64, keys_per_name: Option<u64>) -> Self {
        Self { nodes, keys, keys_per_bundle, keys_per_name }
    }

    /// The same archive with so many bundles more.
    pub(crate) const fn longer(&self, bundles: u64) -> Self {
        let keys = self.bundles().saturating_add(bundles).saturating_mul(self.keys_per_bundle);
        Self { keys, ..*self }
    }

    pub(crate) const fn nodes(&self) -> u32 {
        self.nodes
    }

    pub(crate) const fn keys(&self) -> u64 {
        self.keys
    }

    pub(crate) const fn bundles(&self) -> u64 {
        self.keys.div_ceil(self.keys_per_bundle)
    }

    /// The archive's time when a bundle is published.
    pub(crate) const fn time(bundle: u64) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000 + bundle * MINUTE)
    }

    /// Numbers of the keys of a bundle.
    pub(crate) fn keys_of(&self, bundle: u64) -> Range<u64> {
        let first = bundle * self.keys_per_bundle;
        first..(first + self.keys_per_bundle).min(self.keys)
    }

    /// The first bundle that is published at a time or later.
    pub(crate) const fn bundle_after(time: Timestamp) -> u64 {
        time.as_millis().saturating_sub(Self::time(0).as_millis()).div_ceil(MINUTE)
    }

    /// The key of a number; below [`Self::keys`] it is committed, from there on absent.
    pub(crate) fn key(number: u64) -> ObjectKey {
        let mut name = [0; 20];
        name.copy_from_slice(&bytes("key", number)[..20]);
        if number.is_multiple_of(LOG_EVERY) {
            ObjectKey::build_log(name)
        } else {
            ObjectKey::store_path(name)
        }
    }

    /// Block and entry of a key in its bundle.
    pub(crate) fn place(&self, number: u64) -> (u16, u16) {
        let within = number % self.keys_per_bundle;
        let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        (small(within / RECORDS_PER_BLOCK), small(within % RECORDS_PER_BLOCK))
    }

    /// The bundle, counted from zero, that holds a key.
    pub(crate) const fn bundle_of(&self, number: u64) -> u64 {
        number / self.keys_per_bundle
    }

    /// Every so many paths begin with one that has as many samples as an object may have.
    pub(crate) const SAMPLES_REPEAT: u64 = 1000;

    // Of 1,000 paths so many have as many sampled chunks: those of 2, 16, 32 and 48 MiB and more, if sizes lie between
    // the public cache's quantiles (70 of 100 below 64 KiB compressed, 90 below 1.1 MB, 99 below 43.5 MB) as logarithms
    // do between two points, and NARs are three times as large.
    const fn samples(number: u64) -> u64 {
        match number % Self::SAMPLES_REPEAT {
            0..37 => 4,
            37..46 => 3,
            46..63 => 2,
            63..137 => 1,
            _ => 0,
        }
    }

    /// By what a key is found: a name that other keys have too, and for some chunks that no other has.
    pub(crate) fn features(&self, number: u64) -> Vec<Feature> {
        let feature = |kind: &str, number: u64| {
            let [a, b, c, d, e, f, g, h, ..] = bytes(kind, number);
            Feature::from_bytes([a, b, c, d, e, f, g, h])
        };
        let Some(keys_per_name) = self.keys_per_name else { return Vec::new() };
        let name = feature("name", number % self.keys.div_ceil(keys_per_name));
        let chunks = (0..Self::samples(number)).map(|sample| feature("chunk", number << 2 | sample));
        [name].into_iter().chain(chunks).collect()
    }

    /// Whether anything is told of what is like it.
    pub(crate) const fn has_features(&self) -> bool {
        self.keys_per_name.is_some()
    }

    fn content_header(bundle: u64) -> Result<ContentHeader, crate::Failure> {
        let payload = (PAYLOAD_BYTES + bundle % 65_536, PayloadRoot::from_bytes(bytes("payload", bundle)));
        let manifest = (MANIFEST_BYTES, ManifestRoot::from_bytes(bytes("manifest", bundle)));
        Ok(ContentHeader::new(BundleRole::Ordinary, payload, manifest, Vec::new())?)
    }

    /// What a bundle is called once it is committed.
    pub(crate) fn bundle_id(bundle: u64) -> Result<BundleId, crate::Failure> {
        Ok(Self::content_header(bundle)?.bundle_id())
    }

    pub(crate) fn node_id(node: u64) -> NodeId {
        NodeId::from_bytes(bytes("node", node))
    }

    fn reservation(bundle: u64) -> ReservationId {
        ReservationId::from_bytes(bytes("reservation", bundle))
    }

    fn homes(&self, bundle: u64) -> Vec<(ShardIndex, NodeId)> {
        let nodes = u64::from(self.nodes);
        let mut chosen = std::collections::BTreeSet::new();
        let mut homes = Vec::with_capacity(usize::from(SHARDS));
        let mut draw = 0_u64;
        while homes.len() < usize::from(SHARDS) {
            let [one, two, three, four, ..] = bytes("home", bundle << 16 | draw);
            let node = u64::from(u32::from_le_bytes([one, two, three, four])) % nodes;
            if chosen.insert(node) {
                let index = u8::try_from(homes.len()).unwrap_or(u8::MAX);
                homes.push((ShardIndex(index), Self::node_id(node)));
            }
            draw += 1;
        }
        homes
    }

    /// Admits a node.
    pub(crate) fn join(&self, node: u32) -> Command {
        Command::JoinNode {
            node: Self::node_id(node.into()),
            operator: format!("operator-{}", node / 3),
            failure_domain: format!("domain-{node}"),
            vouched: true,
            seen_at: None,
            address: format!("[2001:db8::{node:x}]:7001"),
            quota_bytes: 1 << 60,
            token: Some(TokenId::from_bytes(bytes("token", node.into()))),
        }
    }

    /// Reserves space for a bundle.
    pub(crate) fn reserve(&self, bundle: u64) -> Result<Command, crate::Failure> {
        let content = Self::content_header(bundle)?;
        let roots =
            (0..SHARDS).map(|index| ShardRoot::from_bytes(bytes("root", bundle << 8 | u64::from(index))));
        let shard = shard_bytes(content.payload_bytes(), K);
        let coding = CodingHeader::new(content.bundle_id(), K, shard, roots.collect())?;
        Ok(Command::Reserve {
            reservation: Self::reservation(bundle),
            uploader: PublicKey::from_bytes(bytes("uploader", bundle % 8)),
            content_header: content.to_bytes(),
            coding_header: coding.to_bytes(),
            n: SHARDS,
            assignments: self.homes(bundle),
            expires: Timestamp::from_millis(Self::time(bundle).as_millis() + 60 * MINUTE),
        })
    }

    /// Tells by what the records of a bundle are found.
    pub(crate) fn remember(&self, bundle: u64) -> Result<Command, crate::Failure> {
        let records = self.keys_of(bundle).map(|number| {
            let (block, entry) = self.place(number);
            (RecordPlace { block, entry }, self.features(number))
        });
        let bundle = Self::bundle_id(bundle)?;
        Ok(Command::RememberFeatures { bundle, replaces: None, records: records.collect() })
    }

    /// Commits a bundle with receipts for all its shards.
    pub(crate) fn commit(&self, bundle: u64) -> Command {
        let Range { start: first, end: behind } = self.keys_of(bundle);
        let entries = (first..behind).map(|number| {
            let (block, entry) = self.place(number);
            let waits = match number - first < WAITING && behind < self.keys {
                true => vec![Self::key(behind + WAITING.min(self.keys - behind - 1))],
                false => Vec::new(),
            };
            IndexEntry { key: Self::key(number), block, entry, waits }
        });
        let commit = BundleCommit {
            reservation: Self::reservation(bundle),
            receipts: self.homes(bundle),
            entries: entries.collect(),
        };
        Command::Commit { bundles: vec![commit], externals: Vec::new() }
    }
}
