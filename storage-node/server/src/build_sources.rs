//! Where a build order reads: k shards, or the wanted ones themselves where somebody has them.
//!
//! Always holds: a block is handed out only whole and proved; a source that fails is not asked again within
//! the order, and another takes its place as long as there are enough.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::ShardIndex;
use firn_bundle::{CodingHeader, decode_range_exact, encoded_range_bytes};
use firn_erasure::Coder;
use firn_retrieval::read_range;
use firn_wire::{BuildSource, Pass, Signed};
use futures::future::join_all;
use tokio::time::timeout;

use crate::build::rebuild;
use crate::shared::Shared;
use crate::store::ShardName;

// A source gives builds 30 % of its line, in turns: of 1 Mbit/s a block of 1 MiB takes 28 s alone, and four minutes
// beside seven other orders. One that sends nothing at all is given up far sooner.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(300);

/// The sources of one order.
#[derive(Debug)]
pub(crate) struct Sources {
    shared: Arc<Shared>,
    coding: CodingHeader,
    pass: Signed<Pass>,
    // Those not yet found wanting, by shard; the first of each is asked.
    candidates: BTreeMap<ShardIndex, VecDeque<BuildSource>>,
    wanted: Vec<ShardIndex>,
    bytes_read: u64,
}

impl Sources {
    pub(crate) fn new(
        shared: Arc<Shared>,
        coding: CodingHeader,
        pass: Signed<Pass>,
        sources: Vec<BuildSource>,
    ) -> Self {
        let mut candidates: BTreeMap<ShardIndex, VecDeque<BuildSource>> = BTreeMap::new();
        for source in sources.into_iter().filter(|source| coding.root(source.index).is_some()) {
            let same = candidates.entry(source.index).or_default();
            // Nothing is nearer than the own disk.
            if source.node == shared.id() { same.push_front(source) } else { same.push_back(source) }
        }
        Self { shared, coding, pass, candidates, wanted: Vec::new(), bytes_read: 0 }
    }

    /// Says which shards are to be made.
    pub(crate) fn want(&mut self, wanted: Vec<ShardIndex>) {
        self.wanted = wanted;
    }

    /// Bytes read from other nodes so far, proofs included.
    pub(crate) const fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The block at `offset` of as many shards as are needed to make the wanted ones.
    pub(crate) async fn read_block(
        &mut self,
        offset: u64,
        bytes: u64,
        failures: &mut Vec<String>,
    ) -> Result<Vec<(ShardIndex, Bytes)>, String> {
        let mut blocks: BTreeMap<ShardIndex, Bytes> = BTreeMap::new();
        loop {
            let chosen = self.choose(&blocks)?;
            let missing: Vec<&BuildSource> = chosen
                .iter()
                .filter(|index| !blocks.contains_key(index))
                .filter_map(|index| self.candidates.get(index).and_then(VecDeque::front))
                .collect();
            if missing.is_empty() {
                return Ok(chosen
                    .iter()
                    .filter_map(|index| Some((*index, blocks.get(index)?.clone())))
                    .collect());
            }
            let reads = missing
                .into_iter()
                .map(|source| async { (source.index, self.read_in_time(source, offset, bytes).await) });
            for (index, read) in join_all(reads).await {
                match read {
                    Ok((block, read_bytes)) => {
                        self.bytes_read = self.bytes_read.saturating_add(read_bytes);
                        blocks.insert(index, block);
                    }
                    Err(failure) => {
                        failures.push(format!("shard {index} was not read: {failure}"));
                        self.drop_source(index);
                    }
                }
            }
        }
    }

    /// Ranges of single shards, in their order: from the shard itself where somebody has it, else made from k others.
    pub(crate) async fn read_ranges(
        &mut self,
        coder: &Coder,
        ranges: &[(ShardIndex, Range<u64>)],
        failures: &mut Vec<String>,
    ) -> Result<Vec<Bytes>, String> {
        let mut found: BTreeMap<usize, Bytes> = BTreeMap::new();
        loop {
            let this = &*self;
            let missing = ranges.iter().enumerate().filter(|(place, _)| !found.contains_key(place));
            let reads: Vec<_> = missing
                .filter_map(|(place, (index, range))| {
                    let source = this.candidates.get(index).and_then(VecDeque::front)?;
                    Some(async move {
                        let bytes = range.end.saturating_sub(range.start);
                        (place, source.clone(), this.read_in_time(source, range.start, bytes).await)
                    })
                })
                .collect();
            if reads.is_empty() {
                break;
            }
            for (place, source, read) in join_all(reads).await {
                match read {
                    Ok((block, read_bytes)) => {
                        self.bytes_read = self.bytes_read.saturating_add(read_bytes);
                        found.insert(place, block);
                    }
                    Err(failure) => {
                        failures.push(format!("shard {} was not read: {failure}", source.index));
                        // Several ranges may have been asked of it.
                        if self.candidates.get(&source.index).and_then(VecDeque::front) == Some(&source) {
                            self.drop_source(source.index);
                        }
                    }
                }
            }
        }
        let mut all = Vec::with_capacity(ranges.len());
        for (place, (index, range)) in ranges.iter().enumerate() {
            if let Some(block) = found.remove(&place) {
                all.push(block);
                continue;
            }
            let bytes = range.end.saturating_sub(range.start);
            self.want(vec![*index]);
            let present = self.read_block(range.start, bytes, failures).await?;
            let (coder, wanted) = (coder.clone(), vec![*index]);
            let made = self.shared.environment.blocking(move || rebuild(&coder, &present, wanted, bytes));
            let made = made.await?.into_iter().next();
            all.push(made.map(|(_, block)| block).ok_or_else(|| format!("shard {index} was not made"))?);
        }
        Ok(all)
    }

    async fn read_in_time(
        &self,
        source: &BuildSource,
        offset: u64,
        bytes: u64,
    ) -> Result<(Bytes, u64), String> {
        let read = timeout(BLOCK_TIMEOUT, self.read(source, offset, bytes)).await;
        read.unwrap_or_else(|_| Err(format!("node {} is too slow", source.node.short())))
    }

    /// Which shards to read: the wanted ones if all of them can be had, else k, those already read first.
    fn choose(&self, read: &BTreeMap<ShardIndex, Bytes>) -> Result<Vec<ShardIndex>, String> {
        let available = |index: &ShardIndex| read.contains_key(index) || self.candidates.contains_key(index);
        if self.wanted.iter().all(available) {
            return Ok(self.wanted.clone());
        }
        let k = usize::from(self.coding.k());
        let mut chosen: Vec<ShardIndex> = read.keys().copied().collect();
        // A wanted shard that can be read saves making it.
        let wanted = self.wanted.iter().copied().filter(available);
        for index in wanted.chain(self.candidates.keys().copied()) {
            if chosen.len() < k && !chosen.contains(&index) {
                chosen.push(index);
            }
        }
        if chosen.len() < k {
            return Err(format!("{} sources are left, {k} are needed to make a shard", chosen.len()));
        }
        Ok(chosen)
    }

    fn drop_source(&mut self, index: ShardIndex) {
        if let Some(same) = self.candidates.get_mut(&index) {
            same.pop_front();
            if same.is_empty() {
                self.candidates.remove(&index);
            }
        }
    }

    /// One block from one source, with the bytes that came over the network.
    async fn read(&self, source: &BuildSource, offset: u64, bytes: u64) -> Result<(Bytes, u64), String> {
        let range = offset..offset.saturating_add(bytes);
        if source.node == self.shared.id() {
            let name = ShardName::new(self.coding.coding_id(), source.index);
            let (now, coding, index) = (self.shared.local_time(), self.coding.clone(), source.index);
            let read = self.shared.with_store(move |store| {
                let proof = store.read(name, &range, now).map_err(|error| error.to_string())?;
                let root = coding.root(index).ok_or_else(|| "it is not of this coding".to_owned())?;
                let block = decode_range_exact(root, coding.shard_bytes(), &range, &proof);
                block.map_err(|error| error.to_string())
            });
            return read.await.map(|block| (Bytes::from(block), 0));
        }
        let connection =
            self.shared.pool.get(source.node, &source.address).await.map_err(|error| error.to_string())?;
        let block = read_range(&connection, Some(&self.pass), &self.coding, source.index, offset, bytes)
            .await
            .map_err(|error| error.to_string())?;
        let encoded = encoded_range_bytes(self.coding.shard_bytes(), &range).unwrap_or(bytes);
        Ok((block, encoded))
    }
}
