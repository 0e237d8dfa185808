//! A storage node's shards: writing, starting with many, reading, proving, reading again, each beside what it takes
//! without a node: plain files, a bare QUIC stream.
//!
//! `cargo run --release -p firn-benches --example shards -- DIR --shards 100000` prints what RESULTS.md records. DIR is
//! empty or missing at first, and empty in the end; it is on the disk that is measured. As root the page cache is
//! emptied before what is called cold. A shard that does not come back whole ends the run with exit code 1. `--only index`
//! measures the index alone, beside RocksDB.
//!
//! Each shard is of a bundle of its own, coded 16/40, as most are on a node. All but the first thousand are written without
//! waiting for the disk, for what is measured of them is the start.

mod index;
mod line;
mod unsynced_disk;

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use firn_base::{ByteCount, CodingId, ManifestRoot, PayloadRoot, Scheme, ShardIndex, ShardRoot, Timestamp};
use firn_benches::noise;
use firn_bundle::{BundleRole, CodingHeader, ContentHeader, ShardFileHeader, ShardTree, decode_range_exact};
use firn_storage_node::{Disk, FileDisk, ShardName, ShardStore};

use crate::index::Part;
use crate::unsynced_disk::UnsyncedDisk;

type Failure = Box<dyn Error + Send + Sync>;

const K: u8 = 16;
const SYNCED: u64 = 1_000;
const GROUP_BYTES: u64 = 16 << 10;
const QUOTA: ByteCount = ByteCount(1 << 50);
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Fills a shard store and measures it.
#[derive(Debug, Parser)]
struct Options {
    /// Where the shards are made
    dir: PathBuf,
    /// How many
    #[arg(long, default_value_t = 10_000)]
    shards: u64,
    /// How long each is, in bytes; a multiple of 16384
    #[arg(long, default_value_t = 65_536)]
    shard_bytes: u64,
    /// Readers at once
    #[arg(long, default_value_t = 16)]
    readers: u64,
    /// How long they read
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Measures this part alone
    #[arg(long, value_enum)]
    only: Option<Part>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.shards == 0 || options.shard_bytes == 0 || !options.shard_bytes.is_multiple_of(16 << 10) {
        eprintln!("error: at least one shard, of a multiple of 16384 bytes");
        return ExitCode::from(2);
    }
    // What another process of this benchmark has written is there.
    let is_begun = matches!(options.only, Some(Part::FileStart | Part::DatabaseStart));
    if !is_begun && fs::read_dir(&options.dir).is_ok_and(|mut entries| entries.next().is_some()) {
        eprintln!("error: {} is not empty: choose an empty or missing directory", options.dir.display());
        return ExitCode::from(2);
    }
    match fs::create_dir_all(&options.dir).map_err(Failure::from).and_then(|()| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A shard, made up from its number.
struct MadeUp {
    header: ShardFileHeader,
    bytes: Vec<u8>,
}

impl MadeUp {
    fn new(number: u64, shard_bytes: u64) -> Result<Self, Failure> {
        let bytes = noise(number, usize::try_from(shard_bytes)?);
        let payload = (shard_bytes * u64::from(K), PayloadRoot::from_bytes(digest(number, 0)));
        let manifest = (100, ManifestRoot::from_bytes(digest(number, 1)));
        let content = ContentHeader::new(BundleRole::Ordinary, payload, manifest, Vec::new())?;
        let n_max = Scheme::n_max(K).ok_or("a rung of the ladder")?;
        let others = (1..n_max).map(|index| ShardRoot::from_bytes(digest(number, 1 + index)));
        let roots = std::iter::once(ShardTree::of(&bytes).root).chain(others).collect();
        let coding = CodingHeader::new(content.bundle_id(), K, shard_bytes, roots)?;
        Ok(Self { header: ShardFileHeader::new(content, coding, ShardIndex(0))?, bytes })
    }
}

fn digest(number: u64, part: u8) -> [u8; 32] {
    *blake3::Hasher::new().update(&number.to_le_bytes()).update(&[part]).finalize().as_bytes()
}

fn measure(options: &Options) -> Result<(), Failure> {
    match options.only {
        None => {
            measure_shards(options)?;
            index::measure(&options.dir, options.shards)
        }
        Some(Part::Index) => index::measure(&options.dir, options.shards),
        Some(part) => index::start_here(part, &options.dir, options.shards),
    }
}

fn measure_shards(options: &Options) -> Result<(), Failure> {
    let Options { shards, shard_bytes, .. } = *options;
    let directory = options.dir.join("node");
    fs::create_dir_all(&directory)?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(&directory));
    let synced = SYNCED.min(shards);
    let ready: Vec<MadeUp> =
        (0..synced).map(|number| MadeUp::new(number, shard_bytes)).collect::<Result<_, _>>()?;

    let (cpu, begun) = (cpu_time()?, Instant::now());
    let (store, _) = ShardStore::open(Arc::clone(&disk), QUOTA, NOW)?;
    for shard in &ready {
        put(&store, shard)?;
    }
    row("shards written and synced, per second", per_second(synced, begun.elapsed()));
    row("the same, MB/s", per_second(synced * shard_bytes, begun.elapsed()) / 1e6);
    let gigabytes = to_f64(synced * shard_bytes) / 1e9;
    row("the same, CPU seconds for each GB", (cpu_time()? - cpu).as_secs_f64() / gigabytes);
    let plain = options.dir.join("plain");
    fs::create_dir_all(&plain)?;
    let (cpu, begun) = (cpu_time()?, Instant::now());
    for (number, shard) in ready.iter().enumerate() {
        write_plainly(&plain, &number.to_string(), &shard.bytes)?;
    }
    row("beside it: files written, synced and renamed, per second", per_second(synced, begun.elapsed()));
    row("beside it, MB/s", per_second(synced * shard_bytes, begun.elapsed()) / 1e6);
    row("beside it, CPU seconds for each GB", (cpu_time()? - cpu).as_secs_f64() / gigabytes);
    fs::remove_dir_all(&plain)?;
    prove(&store, &ready)?;
    read_again(&store, &ready)?;
    line::measure(&options.dir, &ready, usize::try_from(options.readers)?)?;
    drop((ready, store));

    let (filling, _) = ShardStore::open(Arc::new(UnsyncedDisk(FileDisk::new(&directory))), QUOTA, NOW)?;
    for number in synced..shards {
        put(&filling, &MadeUp::new(number, shard_bytes)?)?;
    }
    drop(filling);
    // As a node does behind its start; what was written without waiting is in no directory that was synced.
    ShardStore::open(Arc::clone(&disk), QUOTA, NOW)?.0.keep_index()?;
    start(&disk, shards, "cold")?;
    start(&disk, shards, "warm")?;
    let index = directory.join("shards/index");
    row("bytes of the index for each shard", to_f64(fs::metadata(&index)?.len()) / to_f64(shards));
    fs::remove_file(&index)?;
    start(&disk, shards, "cold without its index")?;
    ShardStore::open(Arc::clone(&disk), QUOTA, NOW)?.0.keep_index()?;
    if empty_page_cache() {
        let begun = Instant::now();
        let files = read_first_pages(&directory.join("shards"))?;
        row("beside it: first 4 KiB of each file, cold, s", begun.elapsed().as_secs_f64());
        if files != shards {
            return Err(format!("{files} files instead of {shards}").into());
        }
    }
    let (store, _) = ShardStore::open(disk, QUOTA, NOW)?;
    read_at_once(&store, options)?;
    fs::remove_dir_all(&directory)?;
    Ok(())
}

fn put(store: &Arc<ShardStore>, shard: &MadeUp) -> Result<(), Failure> {
    let mut writer = store.begin(&shard.header, NOW)?;
    writer.write(&shard.bytes)?;
    writer.finish()?;
    Ok(())
}

/// One group of each shard, as audits ask for.
fn prove(store: &ShardStore, shards: &[MadeUp]) -> Result<(), Failure> {
    let (cpu, begun) = (cpu_time()?, Instant::now());
    for shard in shards {
        store.read(ShardName::new(coding_of(shard), ShardIndex(0)), &(0..GROUP_BYTES), NOW)?;
    }
    let count = shards.len() as u64;
    row("16 KiB proved, per second, one thread", per_second(count, begun.elapsed()));
    row("the same, CPU microseconds each", (cpu_time()? - cpu).as_secs_f64() * 1e6 / to_f64(count));
    Ok(())
}

/// Every shard as a scrub reads it, without its rests.
fn read_again(store: &ShardStore, shards: &[MadeUp]) -> Result<(), Failure> {
    let (cpu, begun) = (cpu_time()?, Instant::now());
    for shard in shards {
        store.verify(ShardName::new(coding_of(shard), ShardIndex(0)), NOW)?;
    }
    let bytes: u64 = shards.iter().map(|shard| shard.bytes.len() as u64).sum();
    let (took, worked) = (begun.elapsed(), (cpu_time()? - cpu).as_secs_f64());
    row("read again as a scrub does, MB/s", per_second(bytes, took) / 1e6);
    row("the same, CPU seconds for each GB", worked / (to_f64(bytes) / 1e9));
    row("share of a core while a scrub reads a tenth of the time, %", worked / took.as_secs_f64() * 10.0);
    let each_month = worked / (to_f64(bytes) / 1e9) * 1e3;
    row("share of a core for 1 TB within 30 days, %", each_month / (30.0 * 86_400.0) * 100.0);
    Ok(())
}

fn write_plainly(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// Opens the store as a node does when it starts.
fn start(disk: &Arc<dyn Disk>, shards: u64, how: &str) -> Result<(), Failure> {
    if how.starts_with("cold") && !empty_page_cache() {
        row_of_words(&format!("start, {how}"), "not measured: the page cache cannot be emptied");
        return Ok(());
    }
    let (cpu, read, begun) = (cpu_time()?, read_from_disk()?, Instant::now());
    let (store, report) = ShardStore::open(Arc::clone(disk), QUOTA, NOW)?;
    row(&format!("start, {how}, s"), begun.elapsed().as_secs_f64());
    row(&format!("start, {how}, CPU seconds"), (cpu_time()? - cpu).as_secs_f64());
    row(&format!("start, {how}, MB read from the disk"), to_f64(read_from_disk()? - read) / 1e6);
    row(&format!("start, {how}, headers read"), to_f64(report.headers_read));
    row(&format!("memory of the process after it, {how}, MB"), memory("VmRSS")?);
    if report.shards != shards || store.shards() != shards {
        return Err(format!("{} shards were found instead of {shards}", report.shards).into());
    }
    Ok(())
}

fn read_first_pages(shards: &Path) -> Result<u64, Failure> {
    let mut files = 0;
    let mut page = [0; 4096];
    for entry in fs::read_dir(shards)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(entry.path())? {
            File::open(file?.path())?.read_exact(&mut page)?;
            files += 1;
        }
    }
    Ok(files)
}

/// Whole shards drawn by lot, each checked as its reader checks it.
fn read_at_once(store: &Arc<ShardStore>, options: &Options) -> Result<(), Failure> {
    let Options { shards, shard_bytes, .. } = *options;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let reader = |mut lot: u64| -> Result<(), Failure> {
        while !stop.load(Ordering::Relaxed) {
            lot = u64::from_le_bytes(digest(lot, 99)[..8].try_into()?);
            let shard = MadeUp::new(lot % shards, shard_bytes)?;
            let name = ShardName::new(coding_of(&shard), ShardIndex(0));
            let proved = store.read(name, &(0..shard_bytes), NOW)?;
            let read = decode_range_exact(shard.header.root(), shard_bytes, &(0..shard_bytes), &proved)?;
            if read != shard.bytes {
                return Err(format!("{name} has other bytes").into());
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    // From here on the most memory is that of reading.
    fs::write("/proc/self/clear_refs", "5")?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..options.readers).map(|lot| scope.spawn(move || reader(lot))).collect();
        std::thread::sleep(Duration::from_secs(options.seconds));
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().try_for_each(|reader| reader.join().map_err(|_| "a reader panicked")?)
    })?;
    let read = count.load(Ordering::Relaxed);
    row("shards read, proved and checked, made up to compare, per second", per_second(read, begun.elapsed()));
    row("most memory of the process meanwhile, readers included, MB", memory("VmHWM")?);
    Ok(())
}

fn coding_of(shard: &MadeUp) -> CodingId {
    shard.header.coding().coding_id()
}

/// Whether the page cache was emptied, as root may.
fn empty_page_cache() -> bool {
    // What is not on the disk yet stays.
    let synced = std::process::Command::new("sync").status();
    synced.is_ok_and(|status| status.success()) && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn figure_of(file: &str, name: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| format!("no {name} in {file}").into())
}

fn memory(name: &str) -> Result<f64, Failure> {
    Ok(to_f64(figure_of("/proc/self/status", name)? * 1024) / 1e6)
}

fn read_from_disk() -> Result<u64, Failure> {
    figure_of("/proc/self/io", "read_bytes")
}

/// What this process has used of processors, in ticks of 10 ms.
fn cpu_time() -> Result<Duration, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn to_f64(count: u64) -> f64 {
    // No figure here needs more than 53 bits.
    count as f64
}

fn per_second(count: u64, took: Duration) -> f64 {
    to_f64(count) / took.as_secs_f64()
}

fn row(what: &str, figure: f64) {
    row_of_words(what, &format!("{figure:.2}"));
}

fn row_of_words(what: &str, words: &str) {
    println!("| {what} | {words} |");
}
