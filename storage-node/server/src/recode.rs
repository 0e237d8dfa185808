//! Vouching for a new coding of a bundle: computing its roots, and decoding the payload from its parity alone.
//!
//! Always holds: memory is one block of 256 KiB for each shard involved, beside 32 bytes for each 16 KiB of the payload;
//! roots are answered only for the payload that the content header names; a decoder reads parity and nothing else.
//! Leaves to others: whether two workers agree, and what follows (the leader); making the shards (`build`).

use std::sync::Arc;

use bytes::Bytes;
use firn_base::{ByteCount, PublicKey, ShardIndex, ShardRoot};
use firn_bundle::{CodingHeader, ContentHeader, PayloadTree};
use firn_erasure::{Coder, ColumnBuffers};
use firn_wire::{
    BuildSource, DecodeOrder, DecodeReport, RecodeOrder, RecodeReport, RefusalKind, RefusedRequest,
};

use crate::build::rebuild;
use crate::build_sources::Sources;
use crate::payload_columns::PayloadColumns;
use crate::shared::Shared;

// A multiple of the 16 KiB groups of proofs. 40 shards of it are 10 MiB: what a volunteer's machine hardly notices.
pub(crate) const COLUMN_BYTES: u64 = 256 << 10;

fn malformed(error: impl ToString) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Malformed, error.to_string())
}

fn unavailable(sentence: String, failures: &[String]) -> RefusedRequest {
    let sentence = match failures.last() {
        Some(last) => format!("{sentence}; the last failure: {last}"),
        None => sentence,
    };
    RefusedRequest::new(RefusalKind::Unavailable, sentence)
}

/// Reads the payload once and computes the roots of all shards that it has with another k.
///
/// # Errors
///
/// `peer` may not order it, the order contradicts itself, or too few sources are there.
pub(crate) async fn compute_roots(
    shared: &Arc<Shared>,
    peer: PublicKey,
    order: RecodeOrder,
) -> Result<RecodeReport, RefusedRequest> {
    shared.authority.admit(|grounds, gate| grounds.check_reading(order.rank, peer, gate)).await?;
    let content = ContentHeader::parse(&order.content_header).map_err(malformed)?;
    let from = CodingHeader::parse(&order.coding_header).map_err(malformed)?;
    let coder = Coder::new(order.k).map_err(malformed)?;
    let tree = PayloadTree::new(content.payload_bytes()).map_err(malformed)?;
    let sources = Sources::new(Arc::clone(shared), from.clone(), order.pass, order.sources);
    let mut columns = PayloadColumns::new(sources, from, &content, order.k).map_err(malformed)?;
    let shard_bytes = firn_base::shard_bytes(content.payload_bytes(), order.k);
    let mut sums = RootSums::new(coder, tree, content.payload_bytes(), shard_bytes);
    let mut failures = Vec::new();
    let mut offset = 0;
    let column = |offset: u64| COLUMN_BYTES.min(shard_bytes - offset);
    let mut data = columns
        .read_block(0, column(0), &mut failures)
        .await
        .map_err(|error| unavailable(error, &failures))?;
    loop {
        let next = offset + column(offset);
        // The next column is read while this one is coded.
        let coding = shared.environment.blocking(move || sums.take(offset, &data));
        if next >= shard_bytes {
            sums = coding.await.map_err(malformed)?;
            break;
        }
        let (coded, read) = tokio::join!(coding, columns.read_block(next, column(next), &mut failures));
        sums = coded.map_err(malformed)?;
        data = read.map_err(|error| unavailable(error, &failures))?;
        offset = next;
    }
    let (roots, tree) = sums.finish();
    if tree.finish().map_err(malformed)? != content.payload_root() {
        return Err(malformed(
            "the shards that were read are not of the payload that the content header names",
        ));
    }
    let coding = CodingHeader::new(content.bundle_id(), order.k, shard_bytes, roots).map_err(malformed)?;
    Ok(RecodeReport { coding_header: coding.to_bytes(), read: ByteCount(columns.bytes_read()) })
}

/// What is known of the shards behind the columns taken so far.
struct RootSums {
    coder: Coder,
    parity: ColumnBuffers,
    hashers: Vec<blake3::Hasher>,
    tree: PayloadTree,
    payload_bytes: u64,
    shard_bytes: u64,
}

impl RootSums {
    fn new(coder: Coder, tree: PayloadTree, payload_bytes: u64, shard_bytes: u64) -> Self {
        let column = usize::try_from(COLUMN_BYTES.min(shard_bytes)).expect("256 KiB at most");
        Self {
            parity: ColumnBuffers::new(coder.n_max() - coder.k(), column),
            hashers: vec![blake3::Hasher::new(); coder.n_max()],
            coder,
            tree,
            payload_bytes,
            shard_bytes,
        }
    }

    /// Takes the column at `offset` of all data shards. An error is one sentence.
    fn take(mut self, offset: u64, data: &[(ShardIndex, Bytes)]) -> Result<Self, String> {
        let blocks: Vec<&[u8]> = data.iter().map(|(_, block)| block.as_ref()).collect();
        let bytes = blocks.first().map_or(0, |block| block.len());
        let mut parity: Vec<&mut [u8]> =
            self.parity.slices_mut().map(|column| &mut column[..bytes]).collect();
        self.coder.encode(&blocks, &mut parity).map_err(|error| error.to_string())?;
        let parity = parity.iter().map(|column| &**column);
        for (hasher, column) in self.hashers.iter_mut().zip(blocks.iter().copied().chain(parity)) {
            hasher.update(column);
        }
        for (index, block) in data {
            let start = u64::from(index.0) * self.shard_bytes + offset;
            let (own, _) = split_padding(block, start, self.payload_bytes);
            if !own.is_empty() {
                self.tree.put(start, own).map_err(|error| error.to_string())?;
            }
        }
        Ok(self)
    }

    fn finish(self) -> (Vec<ShardRoot>, PayloadTree) {
        (self.hashers.iter().map(root_of).collect(), self.tree)
    }
}

fn root_of(hasher: &blake3::Hasher) -> ShardRoot {
    ShardRoot::from_bytes(*hasher.finalize().as_bytes())
}

/// The bytes of a block that belong to the payload, and the padding behind them; the block begins at `start`.
fn split_padding(block: &[u8], start: u64, payload_bytes: u64) -> (&[u8], &[u8]) {
    let own = payload_bytes.saturating_sub(start).min(block.len() as u64);
    block.split_at(usize::try_from(own).unwrap_or(block.len()))
}

/// Decodes the payload from parity shards alone, and says whether it is the one that the headers name.
///
/// # Errors
///
/// `peer` may not order it, the order contradicts itself, or too few parity shards can be read: no verdict.
pub(crate) async fn decode(
    shared: &Arc<Shared>,
    peer: PublicKey,
    order: DecodeOrder,
) -> Result<DecodeReport, RefusedRequest> {
    shared.authority.admit(|grounds, gate| grounds.check_reading(order.rank, peer, gate)).await?;
    let content = ContentHeader::parse(&order.content_header).map_err(malformed)?;
    let coding = CodingHeader::parse(&order.coding_header).map_err(malformed)?;
    coding.check_belongs_to(&content).map_err(malformed)?;
    let coder = Coder::new(coding.k()).map_err(malformed)?;
    let parity: Vec<BuildSource> =
        order.sources.into_iter().filter(|source| source.index.0 >= coding.k()).collect();
    let mut sources = Sources::new(Arc::clone(shared), coding.clone(), order.pass, parity);
    let data: Vec<ShardIndex> = (0..coding.k()).map(ShardIndex).collect();
    sources.want(data.clone());
    let tree = PayloadTree::new(content.payload_bytes()).map_err(malformed)?;
    let hashers = vec![blake3::Hasher::new(); data.len()];
    let mut decoded =
        Decoded { tree, hashers, payload_bytes: content.payload_bytes(), padding_is_zero: true };
    let mut failures = Vec::new();
    let mut offset = 0;
    while offset < coding.shard_bytes() {
        let bytes = COLUMN_BYTES.min(coding.shard_bytes() - offset);
        let present = sources.read_block(offset, bytes, &mut failures).await;
        let present = present.map_err(|error| unavailable(error, &failures))?;
        let (coder, wanted, shard_bytes) = (coder.clone(), data.clone(), coding.shard_bytes());
        let made = shared.environment.blocking(move || {
            let made = rebuild(&coder, &present, wanted, bytes)?;
            decoded.take(offset, shard_bytes, &made)
        });
        decoded = made.await.map_err(malformed)?;
        offset += bytes;
    }
    let differs = decoded.verdict(&content, &coding).map_err(malformed)?;
    Ok(DecodeReport { differs, read: ByteCount(sources.bytes_read()) })
}

/// What is known of the payload decoded so far.
struct Decoded {
    tree: PayloadTree,
    hashers: Vec<blake3::Hasher>,
    payload_bytes: u64,
    padding_is_zero: bool,
}

impl Decoded {
    /// Takes the column at `offset` of all data shards. An error is one sentence.
    fn take(mut self, offset: u64, shard_bytes: u64, made: &[(ShardIndex, Bytes)]) -> Result<Self, String> {
        for (index, block) in made {
            let start = u64::from(index.0) * shard_bytes + offset;
            let (own, padding) = split_padding(block, start, self.payload_bytes);
            if !own.is_empty() {
                self.tree.put(start, own).map_err(|error| error.to_string())?;
            }
            self.padding_is_zero &= padding.iter().all(|byte| *byte == 0);
            if let Some(hasher) = self.hashers.get_mut(index.position()) {
                hasher.update(block);
            }
        }
        Ok(self)
    }

    /// What does not fit; none if everything does.
    fn verdict(self, content: &ContentHeader, coding: &CodingHeader) -> Result<Option<String>, String> {
        let roots = coding.roots().iter();
        let wrong = self.hashers.iter().zip(roots).position(|(hasher, root)| root_of(hasher) != *root);
        if let Some(index) = wrong {
            return Ok(Some(format!("data shard {index}, decoded from parity, has another root")));
        }
        if !self.padding_is_zero {
            return Ok(Some("the padding behind the payload is not zero".to_owned()));
        }
        let root = self.tree.finish().map_err(|error| error.to_string())?;
        Ok((root != content.payload_root()).then(|| "the decoded payload has another root".to_owned()))
    }
}
