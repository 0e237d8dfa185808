//! Reading a payload in the columns of another coding: the same range of each of its data shards at a time.
//!
//! Always holds: memory is one block of each new data shard, whatever the size of the bundle; every byte was proved
//! against the coding that is read; behind the payload's end there are zeros.
//! Leaves to others: reading one shard, and around one that is away (`build_sources`), what is made of it.

use bytes::Bytes;
use firn_base::{ShardIndex, shard_bytes};
use firn_bundle::{CodingHeader, ContentHeader};
use firn_erasure::Coder;

use crate::build_sources::Sources;

/// A payload that is read for another k.
#[derive(Debug)]
pub(crate) struct PayloadColumns {
    sources: Sources,
    // That of the coding which is read.
    coder: Coder,
    from: CodingHeader,
    payload_bytes: u64,
    k: u8,
    shard_bytes: u64,
}

impl PayloadColumns {
    /// Reads the payload of `content` from `sources`, shards of `from`, for data shards of a coding with `k`.
    /// An error is one sentence.
    pub(crate) fn new(
        sources: Sources,
        from: CodingHeader,
        content: &ContentHeader,
        k: u8,
    ) -> Result<Self, String> {
        from.check_belongs_to(content).map_err(|error| error.to_string())?;
        let coder = Coder::new(from.k()).map_err(|error| error.to_string())?;
        let payload_bytes = content.payload_bytes();
        Ok(Self { sources, coder, from, payload_bytes, k, shard_bytes: shard_bytes(payload_bytes, k) })
    }

    /// Bytes read from other nodes so far, proofs included.
    pub(crate) const fn bytes_read(&self) -> u64 {
        self.sources.bytes_read()
    }

    /// The `bytes` bytes at `offset` of each data shard.
    pub(crate) async fn read_block(
        &mut self,
        offset: u64,
        bytes: u64,
        failures: &mut Vec<String>,
    ) -> Result<Vec<(ShardIndex, Bytes)>, String> {
        let mut pieces = Vec::new();
        let mut counts = Vec::with_capacity(usize::from(self.k));
        for index in 0..self.k {
            let start = u64::from(index) * self.shard_bytes + offset;
            let own = self.from.locate(start..start.saturating_add(bytes).min(self.payload_bytes));
            counts.push(own.len());
            pieces.extend(own);
        }
        let mut found = self.sources.read_ranges(&self.coder, &pieces, failures).await?.into_iter();
        let length = usize::try_from(bytes).map_err(|error| error.to_string())?;
        let blocks = (0..self.k).map(ShardIndex).zip(counts);
        Ok(blocks
            .map(|(index, count)| (index, joined(found.by_ref().take(count).collect(), length)))
            .collect())
    }
}

/// One block of a shard: its pieces, and zeros where the payload has ended.
fn joined(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if let [whole] = pieces.as_slice()
        && whole.len() == length
    {
        return pieces.remove(0);
    }
    let mut block = Vec::with_capacity(length);
    pieces.iter().for_each(|piece| block.extend_from_slice(piece));
    block.resize(length, 0);
    block.into()
}
