//! Two ways to keep each key once, in RocksDB alone: bytes per key, lookups, and reading the feed.
//!
//! - `index`: whole key → place; the feed holds short names (6 bytes), so whoever reads it seeks each key in the index.
//! - `feed`: the feed holds keys and places in pages of 64; short name → position (5 bytes) is the index, so whoever looks
//!   a key up reads a page too.
//!
//! `cargo run --release -p firn-benches --example state_layouts -- DIR --keys 10000000`
//!
//! Leaves to others: what the coordinator makes of it (`state`).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB,
    DBCompressionType, Direction, IteratorMode, Options, WriteBatch,
};

type Failure = Box<dyn Error>;

/// Compares two layouts of index and feed.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the databases are made
    dir: PathBuf,
    /// Keys
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Lookups of each kind
    #[arg(long, default_value_t = 100_000)]
    lookups: u64,
}

const CACHE_BYTES: usize = 128 << 20;
const PAGE: u64 = 64;
const SHORT_BYTES: usize = 6;
const KEYS_PER_BUNDLE: u64 = 200;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    std::fs::create_dir_all(&arguments.dir)?;
    println!(
        "| layout | table | block, codec | bytes per key | present/s | absent/s | events of the feed/s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (kib, codec) in [
        (4, DBCompressionType::None),
        (4, DBCompressionType::Zstd),
        (16, DBCompressionType::Lz4),
        (16, DBCompressionType::Zstd),
        (64, DBCompressionType::Zstd),
    ] {
        let table =
            Table::make(arguments, "index", kib, codec, |number| (key(number).to_vec(), place(number)))?;
        let feed = table.read_feed_by_seeks(arguments)?;
        table.report("index", "key → place", Some(feed), |number| key(number).to_vec())?;
        let table = Table::make(arguments, "feed", kib, codec, |number| (short(number), position(number)))?;
        table.report("feed", "short name → position", None, short)?;
    }
    for (kib, codec) in
        [(4, DBCompressionType::None), (16, DBCompressionType::None), (16, DBCompressionType::Zstd)]
    {
        let pages = |width: usize| {
            move |page: u64| {
                let names =
                    (page * PAGE..(page + 1) * PAGE).flat_map(|number| key(number)[21 - width..].to_vec());
                (page.to_be_bytes().to_vec(), [vec![0; 17], names.collect()].concat())
            }
        };
        let of_pages =
            Arguments { keys: arguments.keys.div_ceil(PAGE), dir: arguments.dir.clone(), ..*arguments };
        let table = Table::make(&of_pages, "names", kib, codec, pages(SHORT_BYTES))?;
        table.report_pages("index", "feed, short names", arguments.keys)?;
        let table = Table::make(&of_pages, "keys", kib, codec, pages(20))?;
        table.report_pages("feed", "feed, keys and places", arguments.keys)?;
    }
    std::fs::remove_dir_all(&arguments.dir)?;
    Ok(())
}

fn key(number: u64) -> [u8; 21] {
    let mut key = [1; 21];
    key[1..].copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..20]);
    key
}

fn short(number: u64) -> Vec<u8> {
    key(number)[..SHORT_BYTES].to_vec()
}

fn position(number: u64) -> Vec<u8> {
    number.to_be_bytes()[3..].to_vec()
}

fn place(number: u64) -> Vec<u8> {
    let (bundle, within) = (number / KEYS_PER_BUNDLE, number % KEYS_PER_BUNDLE);
    let [bundle, block, entry] = [bundle, within / 64, within % 64].map(|number| number.to_le_bytes());
    [&bundle[..4], &block[..2], &entry[..2]].concat()
}

struct Table {
    db: DB,
    path: PathBuf,
    entries: u64,
    lookups: u64,
    options: String,
}

impl Table {
    fn make(
        arguments: &Arguments,
        name: &str,
        kib: usize,
        codec: DBCompressionType,
        entry: impl Fn(u64) -> (Vec<u8>, Vec<u8>),
    ) -> Result<Self, Failure> {
        let path = arguments.dir.join(name);
        let db = open(&path, kib, codec)?;
        let mut batch = WriteBatch::default();
        for number in 0..arguments.keys {
            let (key, value) = entry(number);
            batch.put(key, value);
            if batch.len() >= 1024 || number + 1 == arguments.keys {
                db.write(std::mem::take(&mut batch))?;
            }
        }
        let mut compact = CompactOptions::default();
        compact.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        db.compact_range_opt::<&[u8], &[u8]>(None, None, &compact);
        let options = format!("{kib} KiB, {codec:?}");
        Ok(Self { db, path, entries: arguments.keys, lookups: arguments.lookups, options })
    }

    fn bytes(&self) -> Result<f64, Failure> {
        Ok(self.db.property_int_value("rocksdb.total-sst-files-size")?.unwrap_or(0) as f64)
    }

    fn rate(&self, key: impl Fn(u64) -> Vec<u8>, present: bool) -> Result<f64, Failure> {
        let base = if present { 0 } else { 1 << 50 };
        // A stride that is prime to every number of keys in use visits them in no order of theirs.
        let number = |draw: u64| base + draw.wrapping_mul(6_364_136_223_846_793_005) % self.entries;
        let keys: Vec<_> = (0..self.lookups).map(|draw| key(number(draw))).collect();
        let mut rates = Vec::new();
        for _ in 0..2 {
            let begun = Instant::now();
            for key in &keys {
                if self.db.get_pinned(key)?.is_some() != present {
                    return Err("a key was found that is not there, or the other way round".into());
                }
            }
            rates.push(self.lookups as f64 / begun.elapsed().as_secs_f64());
        }
        Ok(rates.into_iter().fold(0.0, f64::max))
    }

    /// Events per second of a feed of short names, each completed from the index.
    fn read_feed_by_seeks(&self, arguments: &Arguments) -> Result<f64, Failure> {
        let begun = Instant::now();
        let count = arguments.lookups.min(arguments.keys);
        for number in 0..count {
            let name = short(number);
            let mut found = self.db.iterator(IteratorMode::From(&name, Direction::Forward));
            let (whole, _) = found.next().ok_or("the index lacks a key of the feed")??;
            if !whole.starts_with(&name) {
                return Err("the index lacks a key of the feed".into());
            }
        }
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }

    fn report(
        self,
        layout: &str,
        name: &str,
        feed: Option<f64>,
        key: impl Fn(u64) -> Vec<u8>,
    ) -> Result<(), Failure> {
        let (present, absent) = (self.rate(&key, true)?, self.rate(&key, false)?);
        let feed = feed.map_or(String::new(), |rate| format!("{rate:.0}"));
        let (bytes, options) = (self.bytes()? / self.entries as f64, &self.options);
        println!("| {layout} | {name} | {options} | {bytes:.2} | {present:.0} | {absent:.0} | {feed} |");
        self.remove()
    }

    fn report_pages(self, layout: &str, name: &str, keys: u64) -> Result<(), Failure> {
        let present = self.rate(|page| page.to_be_bytes().to_vec(), true)?;
        let begun = Instant::now();
        let pages = self.db.iterator(IteratorMode::Start).count();
        let feed = pages as f64 * PAGE as f64 / begun.elapsed().as_secs_f64();
        let (bytes, options) = (self.bytes()? / keys as f64, &self.options);
        println!("| {layout} | {name} | {options} | {bytes:.2} | {present:.0} | | {feed:.0} |");
        self.remove()
    }

    fn remove(self) -> Result<(), Failure> {
        drop(self.db);
        Ok(std::fs::remove_dir_all(&self.path)?)
    }
}

fn open(path: &Path, kib: usize, codec: DBCompressionType) -> Result<DB, Failure> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES)?);
    blocks.set_block_size(kib << 10);
    blocks.set_format_version(5);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_partition_filters(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(codec);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    Ok(DB::open(&options, path)?)
}
