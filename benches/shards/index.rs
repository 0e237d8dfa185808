//! What an index of shards costs a start: the file `shards/index` that is built, and RocksDB that holds the same.
//!
//! Always holds: what is started is a process of its own, so that the memory that it took is of that start alone; a start that
//! does not find every entry ends the run, where of the file its length says how many it has. That of the file is all that opening
//! a store is: it makes and syncs three directories, too. Leaves to others: listing the directories of shards, which a start does
//! with either.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use firn_base::ByteCount;
use firn_benches::process::output;
use firn_storage_node::{FileDisk, INDEX_RECORD_BYTES, ShardStore};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, Options, WriteBatch, WriteOptions,
};

use crate::{Failure, NOW, QUOTA, digest, empty_page_cache, memory, row, row_of_words, to_f64};

/// Parts of this benchmark that run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The index of shards, as a file and in RocksDB
    Index,
    /// Begun by the above: one start from the file
    #[value(hide = true)]
    FileStart,
    /// Begun by the above: one start from RocksDB
    #[value(hide = true)]
    DatabaseStart,
}

// Of every shard file of 64 KiB at 16/40.
const FILE_BYTES: u64 = 69_864;

// As docs/formats.md says.
const CHECKED_BYTES: usize = 72;
const CHECK_BYTES: usize = 8;
const CHECK_CONTEXT: &str = "firn shard index 1";

const BATCH: u64 = 1_000;

// Entries that are synced one by one.
const ALONE: u64 = 100;

const SECTOR_BYTES: u64 = 512;

/// What a shard's header says, as both hold it.
struct Entry {
    coding: [u8; 32],
    bundle: [u8; 32],
}

impl Entry {
    fn new(number: u64) -> Self {
        Self { coding: digest(number, 201), bundle: digest(number, 202) }
    }

    fn value(&self) -> Vec<u8> {
        [&self.bundle[..], &FILE_BYTES.to_le_bytes()].concat()
    }

    /// Its record in the file. In RocksDB blocks have a check instead.
    fn record(&self) -> Vec<u8> {
        let mut bytes = [&self.coding[..], &self.value()].concat();
        let check = blake3::derive_key(CHECK_CONTEXT, &bytes);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        bytes
    }
}

/// Measures both below `directory`, which is empty, and leaves nothing there.
pub(crate) fn measure(directory: &Path, shards: u64) -> Result<(), Failure> {
    let (file, database) = (directory.join("file"), directory.join("database"));
    write_file(&file, shards)?;
    write_database(&database, shards)?;
    // The first one of RocksDB takes over what its log holds, as after a kill.
    for how in ["cold", "cold again", "warm"] {
        for (what, part, place) in
            [("the file", Part::FileStart, &file), ("RocksDB", Part::DatabaseStart, &database)]
        {
            start(&format!("start from {what}, {how}"), how, part, place, shards)?;
        }
    }
    row("bytes that the file takes on the disk, for each coding", bytes_each(&file, shards)?);
    row("bytes that RocksDB takes on the disk, for each coding", bytes_each(&database, shards)?);
    fs::remove_dir_all(&file)?;
    fs::remove_dir_all(&database)?;
    Ok(())
}

/// The index of a node that holds nothing else.
fn write_file(node: &Path, shards: u64) -> Result<(), Failure> {
    fs::create_dir_all(node.join("shards"))?;
    let records: Vec<u8> = (0..shards).flat_map(|number| Entry::new(number).record()).collect();
    let begun = Instant::now();
    let mut file = File::create(node.join("shards/index"))?;
    file.write_all(&records)?;
    file.sync_all()?;
    row("the file: all entries written, synced in the end, s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    for number in 0..ALONE.min(shards) {
        file.write_all_at(&Entry::new(number).record(), number * INDEX_RECORD_BYTES)?;
        file.sync_all()?;
    }
    row("the file: one entry written and synced, ms", millis_each(begun.elapsed(), ALONE.min(shards)));
    // A start makes these and has them synced.
    ShardStore::open(Arc::new(FileDisk::new(node)), QUOTA, NOW)?;
    Ok(())
}

fn write_database(path: &Path, shards: u64) -> Result<(), Failure> {
    let database = open_database(path)?;
    let (mut synced, mut batch) = (WriteOptions::default(), WriteBatch::default());
    synced.set_sync(true);
    let entries: Vec<Entry> = (0..shards).map(Entry::new).collect();
    let begun = Instant::now();
    for (number, entry) in (1..).zip(&entries) {
        batch.put(entry.coding, entry.value());
        if number == shards {
            database.write_opt(std::mem::take(&mut batch), &synced)?;
        } else if number % BATCH == 0 {
            database.write(std::mem::take(&mut batch))?;
        }
    }
    row("RocksDB: all entries written, synced in the end, s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    for number in 0..ALONE.min(shards) {
        let entry = Entry::new(number);
        database.put_opt(entry.coding, entry.value(), &synced)?;
    }
    row("RocksDB: one entry written and synced, ms", millis_each(begun.elapsed(), ALONE.min(shards)));
    Ok(())
}

/// As a node would have it: little memory, a log, and no compression, for hashes have none in them.
fn open_database(path: &Path) -> Result<DB, Failure> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(1 << 20)?);
    blocks.set_block_size(16 << 10);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(2 << 20);
    options.set_max_background_jobs(1);
    options.set_max_open_files(64);
    options.set_keep_log_file_num(1);
    Ok(DB::open(&options, path)?)
}

/// Has another process start from what lies in `place`.
fn start(what: &str, how: &str, part: Part, place: &Path, shards: u64) -> Result<(), Failure> {
    if how.starts_with("cold") && !empty_page_cache() {
        row_of_words(what, "not measured: the page cache cannot be emptied");
        return Ok(());
    }
    let name = part.to_possible_value().ok_or("a part without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(place).args(["--shards", &shards.to_string(), "--only", name.get_name()]);
    let said = output(&mut command)?;
    let figures: Vec<f64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [seconds, megabytes] = figures[..] else { return Err(format!("a start that says {said}").into()) };
    row(&format!("{what}, s"), seconds);
    row(&format!("{what}, MB of memory that it took"), megabytes);
    Ok(())
}

/// One start: prints its seconds, and the megabytes that this process has grown by.
pub(crate) fn start_here(part: Part, place: &Path, shards: u64) -> Result<(), Failure> {
    let (before, begun) = (memory("VmRSS")?, Instant::now());
    // Whoever opened it has it open while memory is looked at.
    let (seconds, grown) = if part == Part::DatabaseStart {
        let database = open_database(place)?;
        let mut found = 0;
        for entry in database.iterator(IteratorMode::Start) {
            let (coding, value) = entry?;
            found += u64::from(coding.len() + value.len() == CHECKED_BYTES);
        }
        let seconds = begun.elapsed().as_secs_f64();
        expect(found, shards)?;
        (seconds, memory("VmRSS")? - before)
    } else {
        let (store, _) = ShardStore::open(Arc::new(FileDisk::new(place)), QUOTA, NOW)?;
        let seconds = begun.elapsed().as_secs_f64();
        let ByteCount(used) = store.used();
        expect(used / INDEX_RECORD_BYTES, shards)?;
        (seconds, memory("VmRSS")? - before)
    };
    println!("{seconds} {grown}");
    Ok(())
}

fn expect(found: u64, shards: u64) -> Result<(), Failure> {
    if found == shards { Ok(()) } else { Err(format!("{found} entries instead of {shards}").into()) }
}

/// What all files below `directory` take of the disk, for each of `shards`.
fn bytes_each(directory: &Path, shards: u64) -> Result<f64, Failure> {
    Ok(to_f64(bytes_below(directory)?) / to_f64(shards))
}

fn bytes_below(directory: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.blocks() * SECTOR_BYTES };
    }
    Ok(bytes)
}

fn millis_each(took: Duration, count: u64) -> f64 {
    took.as_secs_f64() * 1e3 / to_f64(count)
}
