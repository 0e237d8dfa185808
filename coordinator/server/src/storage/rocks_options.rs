//! How RocksDB is set up for the stores, and what its errors mean.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode,
    ErrorKind, LogLevel, Options,
};

use super::{StorageError, StoreKind, Table};

// Ten bits per key: one absent key in a hundred costs a read (0.9 instead of 10 µs for the rest).
const BLOOM_BITS: f64 = 10.0;

// Blocks of 16 KiB take 0.6 bytes less for each key of the index than such of 4 KiB; a point read decompresses one.
const BLOCK_BYTES: usize = 16 << 10;

// Three pages of the feed: a lookup reads one of them, and a cold one reads one page of memory.
const FEED_BLOCK_BYTES: usize = 4 << 10;

/// Options of the whole store.
pub(super) fn store_options(kind: StoreKind) -> Options {
    let mut options = Options::default();
    // What was synced may be relied upon, so nothing but a write that a crash has cut off may be passed over. The state may
    // end earlier, at any moment that it was in: the log goes on from there, or it is found that it cannot.
    options.set_wal_recovery_mode(match kind {
        StoreKind::Log => DBRecoveryMode::TolerateCorruptedTailRecords,
        // Evidence is begun anew at each opening.
        StoreKind::State | StoreKind::Evidence => DBRecoveryMode::PointInTime,
    });
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    // Its own log says at its beginning what it was started with, and no more: on a full disk the second line that it cannot
    // write ends the process, before anybody is told that the disk is full. What fails, its errors say.
    options.set_log_level(LogLevel::Header);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    // Bounds what a start has to read again.
    options.set_max_total_wal_size(64 << 20);
    // Of all tables together, so that memory does not grow with their number.
    options.set_db_write_buffer_size(64 << 20);
    options
}

/// The tables of a store with their options, plus the `default` one that RocksDB insists on.
pub(super) fn descriptors(kind: StoreKind) -> Result<Vec<ColumnFamilyDescriptor>, StorageError> {
    let cache_bytes = match kind {
        StoreKind::Log => 8 << 20,
        StoreKind::State => 128 << 20,
        // Nodes show codings in one order, so that what one page needs lies close together.
        StoreKind::Evidence => 32 << 20,
    };
    let cache = Cache::new_lru_cache(cache_bytes).map_err(translate)?;
    let tables =
        kind.tables().map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table, &cache)));
    let mut descriptors: Vec<_> = tables.collect();
    descriptors.push(ColumnFamilyDescriptor::new("default", Options::default()));
    Ok(descriptors)
}

fn table_options(table: Table, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(match table {
        Table::Feed => FEED_BLOCK_BYTES,
        _ => BLOCK_BYTES,
    });
    blocks.set_format_version(5);
    match table {
        // Every position that anyone asks for is there, so there is no filter. The index, some 20 bytes for each 4 KiB,
        // stays in memory outside the cache (33 MB at 300 million keys): RocksDB alone took a tenth less for the two
        // reads of a lookup.
        Table::Feed => {
            blocks.set_index_type(BlockBasedIndexType::BinarySearch);
            blocks.set_cache_index_and_filter_blocks(false);
        }
        // Index and filter count against the cache, in partitions: memory stays bounded at any number of keys.
        _ => {
            blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            blocks.set_bloom_filter(BLOOM_BITS, false);
            blocks.set_partition_filters(true);
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_pin_top_level_index_and_filter(true);
        }
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(match table {
        // Written once, read rarely, soon deleted.
        Table::Log => DBCompressionType::Lz4,
        // Names of keys are hashes: nothing makes them shorter, and a lookup reads one page.
        Table::Feed => DBCompressionType::None,
        _ => DBCompressionType::Zstd,
    });
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_write_buffer_size(match table {
        Table::Log | Table::Index | Table::Feed => 16 << 20,
        _ => 4 << 20,
    });
    options
}

/// What an error of RocksDB means to us.
pub(super) fn translate(error: rocksdb::Error) -> StorageError {
    let kind = error.kind();
    let text = error.into_string();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return StorageError::Full(text);
    }
    if text.contains("lock ") && text.contains("LOCK") {
        return StorageError::Locked(text);
    }
    // Tables that only a newer program knows, or files that only a newer RocksDB writes.
    if text.contains("Column families not opened") || text.contains("nknown Footer version") {
        return StorageError::Newer(text);
    }
    match kind {
        ErrorKind::Corruption => StorageError::Corrupted(text),
        _ => StorageError::Io(text),
    }
}
