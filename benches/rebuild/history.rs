//! A made-up archive as its nodes keep it: signed path infos in real bundles, certificates, a ledger.
//!
//! Always holds: what a number stands for is computed from it alone. Payloads hold manifests and next to nothing else,
//! which is all of a bundle that a rebuild reads. Leaves to others: showing it (`fleet`).

use std::sync::OnceLock;

use firn_base::{ArchiveId, BundleNumber, Digest, PublicKey, ShardIndex, Timestamp, TokenId, shard_bytes};
use firn_bundle::{
    BuilderOptions, BundleBuilder, CodingHeader, ContentHeader, Encoding, FrameCompression, NewRecord,
    ShardTree,
};
use firn_erasure::Coder;
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};
use firn_wire::{
    Certificate, CoordinatorEntry, Identity, LedgerAct, LedgerEntry, LedgerHead, PublisherEntry, Roster,
    Signed, VerifiedRoster,
};

use crate::Failure;

/// Shards that are enough, and that there are.
pub(crate) const K: u8 = 16;
pub(crate) const N: u8 = 40;

const BEGAN: u64 = 1_790_000_000_000;
const MINUTE: u64 = 60_000;
// Paths refer to some that came before; the median is 5.
const REFERENCES: u64 = 5;

/// One archive.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) keys: u64,
    pub(crate) keys_per_bundle: u64,
    pub(crate) nodes: u64,
}

/// A bundle with its payload.
pub(crate) struct Made {
    pub(crate) content: ContentHeader,
    pub(crate) coding: CodingHeader,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn archive_key() -> Identity {
    Identity::from_seed(&[200; 32])
}

pub(crate) fn archive() -> ArchiveId {
    archive_key().public().into()
}

/// One of the three coordinators that were lost.
fn lost(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

/// The roster of those that were lost.
pub(crate) fn roster_before() -> Result<(Signed<Roster>, VerifiedRoster), Failure> {
    let entry = |number: u8| CoordinatorEntry {
        id: lost(number).node_id(),
        raft_id: number.into(),
        address: "[2001:db8::1]:4433".into(),
    };
    let issued = Timestamp::from_millis(BEGAN);
    let coordinators = (1..=3).map(entry).collect();
    let roster = Roster { archive: archive(), generation: 1, issued, coordinators, retired: Vec::new() };
    let signed = Signed::seal(&archive_key(), archive(), &roster);
    let verified = VerifiedRoster::open(&signed, archive())?;
    Ok((signed, verified))
}

fn by_majority<T: firn_wire::Statement>(statement: &T) -> Vec<Signed<T>> {
    (1..=2).map(|number| Signed::seal(&lost(number), archive(), statement)).collect()
}

fn publisher() -> &'static PublisherSecretKey {
    static KEY: OnceLock<PublisherSecretKey> = OnceLock::new();
    KEY.get_or_init(|| PublisherSecretKey::from_seed("made-up-1", &[9; 32]).expect("a seed is a key"))
}

fn bytes(kind: &str, number: u64) -> [u8; 32] {
    *blake3::Hasher::new().update(kind.as_bytes()).update(&number.to_le_bytes()).finalize().as_bytes()
}

/// The identity of a node.
pub(crate) fn node(number: u64) -> Identity {
    Identity::from_seed(&bytes("node", number))
}

impl History {
    pub(crate) const fn bundles(&self) -> u64 {
        self.keys.div_ceil(self.keys_per_bundle)
    }

    /// Which node holds an index of a bundle.
    pub(crate) const fn home(&self, bundle: u64, index: u8) -> u64 {
        (bundle * 7 + index as u64) % self.nodes
    }

    fn store_path(number: u64) -> Result<StorePath, Failure> {
        let name = format!("made-up-package-{}.{}", number % 97, number);
        Ok(StorePath::from_parts(bytes("path", number)[..20].try_into()?, &name)?)
    }

    fn path_info(&self, number: u64) -> Result<PathInfo, Failure> {
        let store_path = Self::store_path(number)?;
        let mut references = Vec::new();
        for back in 1..=REFERENCES.min(number) {
            references.push(Self::store_path(number - (back * back * back).min(number))?);
        }
        let mut info = PathInfo {
            url: format!("nar/{}.nar.xz", Sha256::of(&number.to_le_bytes()).to_base32()),
            store_path,
            compression: Compression::Xz,
            file_hash: Some(Sha256::of(&number.to_le_bytes())),
            file_size: Some(20_000 + number % 5_000),
            nar_hash: Sha256::of(&bytes("nar", number)),
            nar_size: 32,
            references,
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        info.signatures.push(publisher().sign(&info));
        Ok(info)
    }

    /// Packs and codes a bundle.
    pub(crate) fn make(&self, bundle: u64) -> Result<Made, Failure> {
        let mut builder = BundleBuilder::new(BuilderOptions {
            frame_raw_bytes: 64 << 10,
            frame_compression: FrameCompression::Zstd(1),
            ..Default::default()
        });
        let first = bundle * self.keys_per_bundle;
        for number in first..self.keys.min(first + self.keys_per_bundle) {
            builder.begin_object();
            builder.push_chunk(&bytes("contents", number))?;
            builder.finish_object(NewRecord::store_path(self.path_info(number)?, Encoding::Chunked))?;
        }
        let mut payload = Vec::new();
        let content = builder.seal(&mut payload)?.content;
        let shards = shards_of(&payload)?;
        let roots = shards.iter().map(|shard| ShardTree::of(shard).root).collect();
        let shard = shard_bytes(content.payload_bytes(), K);
        let coding = CodingHeader::new(content.bundle_id(), K, shard, roots)?;
        Ok(Made { content, coding, payload })
    }

    /// What a majority said of a bundle.
    pub(crate) fn certificate(&self, number: u64, made: &Made) -> Result<Vec<Signed<Certificate>>, Failure> {
        Ok(by_majority(&Certificate {
            bundle: made.content.bundle_id(),
            coding: made.coding.coding_id(),
            n: N,
            number: BundleNumber(u32::try_from(number)?),
            uploader: PublicKey::from_bytes(bytes("uploader", number % 8)),
            committed_at: Timestamp::from_millis(BEGAN + (number + 1) * MINUTE),
            ledger_entries: self.nodes + 1,
            externals: Vec::new(),
        }))
    }

    /// The ledger with its signed heads: a publisher, and every node's token.
    pub(crate) fn ledger(&self) -> Result<(Vec<LedgerEntry>, Vec<Signed<LedgerHead>>), Failure> {
        let public = publisher().public_key();
        let key = PublicKey::from_bytes(*public.as_bytes());
        let mut acts =
            vec![LedgerAct::AddPublisher(PublisherEntry { name: public.name().to_owned(), key, rank: 0 })];
        acts.extend((0..self.nodes).map(|number| LedgerAct::UseToken {
            token: TokenId::from_bytes(bytes("token", number)),
            node: node(number).public(),
            operator: format!("operator-{number}"),
            failure_domain: Some(format!("domain-{number}")),
        }));
        let mut entries: Vec<LedgerEntry> = Vec::new();
        for (position, act) in (0..).zip(acts) {
            let previous = entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest);
            entries.push(LedgerEntry {
                position,
                previous,
                at: Timestamp::from_millis(BEGAN),
                by: firn_wire::Actor::Coordinators,
                act,
            });
        }
        let digest = entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest);
        let heads = by_majority(&LedgerHead { entries: u64::try_from(entries.len())?, digest });
        Ok((entries, heads))
    }
}

/// One shard of a payload: a slice of it, or made as all of them are.
pub(crate) fn shard_of(payload: &[u8], index: ShardIndex) -> Result<Vec<u8>, Failure> {
    if index.0 >= K {
        return shards_of(payload)?.into_iter().nth(index.position()).ok_or_else(|| "no such shard".into());
    }
    let length = usize::try_from(shard_bytes(u64::try_from(payload.len())?, K))?;
    let from = payload.len().min(length * index.position());
    let mut shard = payload[from..payload.len().min(from + length)].to_vec();
    shard.resize(length, 0);
    Ok(shard)
}

/// All shards of a payload.
fn shards_of(payload: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let length = usize::try_from(shard_bytes(u64::try_from(payload.len())?, K))?;
    let mut padded = payload.to_vec();
    padded.resize(length * usize::from(K), 0);
    let data: Vec<&[u8]> = padded.chunks(length).collect();
    let mut parity = vec![vec![0; length]; usize::from(N - K)];
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    Coder::new(K)?.encode(&data, &mut outputs)?;
    Ok(data.into_iter().map(<[u8]>::to_vec).chain(parity).collect())
}

/// Indexes of a bundle.
pub(crate) fn indexes() -> impl Iterator<Item = ShardIndex> {
    (0..N).map(ShardIndex)
}
