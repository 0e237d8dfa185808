//! A bundle with real codings, for tests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses another part of this, and tests may panic"
)]

pub(crate) mod fleet;
pub(crate) mod golden_directory;
pub(crate) mod life;
pub(crate) mod world;

use std::io::Write as _;

use firn_base::{CodingId, ManifestRoot, PayloadRoot, Scheme, ShardIndex};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader, ShardFileHeader, ShardTree};
use firn_erasure::Coder;
use firn_storage_node::ShardName;

/// Says that a test is skipped, and for lack of what; with `FIRN_TEST_ROOT=required` that is a failure.
#[track_caller]
pub(crate) fn skip(lacking: &str) {
    assert_ne!(std::env::var("FIRN_TEST_ROOT").as_deref(), Ok("required"), "it needs {lacking}");
    let place = std::panic::Location::caller();
    // Not by a macro: of a test that does not fail nobody would see it.
    let said = writeln!(std::io::stderr(), "NOT TESTED: what {place} looks at needs {lacking}");
    said.expect("messages can be written");
}

/// A bundle of random bytes, coded for `k`, with every shard that `k` may use.
pub(crate) struct CodedBundle {
    pub(crate) content: ContentHeader,
    pub(crate) coding: CodingHeader,
    pub(crate) shards: Vec<Vec<u8>>,
}

impl CodedBundle {
    pub(crate) fn new(seed: u8, payload_bytes: usize, k: u8) -> Self {
        let mut payload = vec![0; payload_bytes];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut payload);
        let content = ContentHeader::new(
            BundleRole::Ordinary,
            (payload_bytes as u64, PayloadRoot::from_bytes(*blake3::hash(&payload).as_bytes())),
            (100, ManifestRoot::from_bytes([seed; 32])),
            Vec::new(),
        )
        .expect("a header within the limits");
        let shard_bytes = firn_base::shard_bytes(payload_bytes as u64, k);
        let length = usize::try_from(shard_bytes).expect("fits");
        payload.resize(length * usize::from(k), 0);
        let data: Vec<&[u8]> = payload.chunks(length).collect();
        let parity_count = Scheme::n_max(k).expect("of the ladder") - k;
        let mut parity = vec![vec![0; length]; usize::from(parity_count)];
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        Coder::new(k).expect("of the ladder").encode(&data, &mut outputs).expect("lengths fit");
        let shards: Vec<Vec<u8>> = data.iter().map(|shard| shard.to_vec()).chain(parity).collect();
        let roots = shards.iter().map(|shard| ShardTree::of(shard).root).collect();
        let coding = CodingHeader::new(content.bundle_id(), k, shard_bytes, roots).expect("a coding");
        Self { content, coding, shards }
    }

    pub(crate) fn id(&self) -> CodingId {
        self.coding.coding_id()
    }

    pub(crate) fn name(&self, index: u8) -> ShardName {
        ShardName::new(self.id(), ShardIndex(index))
    }

    pub(crate) fn header(&self, index: u8) -> ShardFileHeader {
        ShardFileHeader::new(self.content.clone(), self.coding.clone(), ShardIndex(index))
            .expect("an index of the coding")
    }

    pub(crate) fn shard(&self, index: u8) -> &[u8] {
        &self.shards[usize::from(index)]
    }
}
