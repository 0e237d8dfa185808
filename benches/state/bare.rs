//! RocksDB alone: the same keys, each with the 8 bytes of a place.

use std::path::Path;

use firn_base::{BundleNumber, Location};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB,
    DBCompressionType, Options, WriteBatch,
};

use crate::Failure;
use crate::generator::Generator;
use crate::lookups::Lookup;

// As in the coordinator's store of its state.
const CACHE_BYTES: usize = 128 << 20;
const BLOCK_BYTES: usize = 16 << 10;
const BLOOM_BITS: f64 = 10.0;

/// A database of keys and places.
pub(crate) struct Bare(DB);

impl Bare {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES)?);
        blocks.set_block_size(BLOCK_BYTES);
        blocks.set_format_version(5);
        blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        blocks.set_bloom_filter(BLOOM_BITS, false);
        blocks.set_partition_filters(true);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_top_level_index_and_filter(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Zstd);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_max_background_jobs(2);
        Ok(Self(DB::open(&options, path)?))
    }

    /// Puts all keys, one batch for each bundle, and compacts.
    pub(crate) fn fill(path: &Path, generator: &Generator) -> Result<Self, Failure> {
        let bare = Self::open(path)?;
        let mut batch = WriteBatch::default();
        for number in 0..generator.keys() {
            let (block, entry) = generator.place(number);
            let bundle = BundleNumber(u32::try_from(generator.bundle_of(number))?);
            batch.put(Generator::key(number).to_bytes(), Location { bundle, block, entry }.to_bytes());
            if batch.len() >= 256 || number + 1 == generator.keys() {
                bare.0.write(std::mem::take(&mut batch))?;
            }
        }
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        bare.0.compact_range_opt::<&[u8], &[u8]>(None, None, &options);
        Ok(bare)
    }

    /// Bytes of its tables.
    pub(crate) fn bytes(&self) -> Result<u64, Failure> {
        Ok(self.0.property_int_value("rocksdb.total-sst-files-size")?.unwrap_or(0))
    }

    /// What finds keys in it.
    pub(crate) fn into_lookup(self) -> Box<Lookup> {
        Box::new(move |keys| {
            let place =
                |value: &[u8]| -> Result<Location, Failure> { Ok(Location::from_bytes(value.try_into()?)) };
            if let [key] = keys {
                let found = self.0.get_pinned(key.to_bytes())?;
                return Ok(vec![found.map(|value| place(&value)).transpose()?]);
            }
            let found = self.0.multi_get(keys.iter().map(|key| key.to_bytes()));
            found.into_iter().map(|value| value?.map(|value| place(&value)).transpose()).collect()
        })
    }
}
