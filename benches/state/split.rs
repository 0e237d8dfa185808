//! Whose the time of a present lookup is: RocksDB's, by its own clocks, or what is around it.
//!
//! Reading clocks costs itself, so rates are measured without them (`lookups`), and both times are said here. All of it
//! is by the clock, so nothing else should run meanwhile.

use std::time::Instant;

use firn_base::ObjectKey;
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

use crate::Failure;
use crate::lookups::{Lookup, Measured};

/// What together is a read by key.
const GET: [PerfMetric; 4] = [
    PerfMetric::GetSnapshotTime,
    PerfMetric::GetFromMemtableTime,
    PerfMetric::GetFromOutputFilesTime,
    PerfMetric::GetPostProcessTime,
];

/// What of that is what.
const PARTS: [(&str, PerfMetric); 6] = [
    ("of that, reading blocks from files", PerfMetric::BlockReadTime),
    ("of that, checksums of blocks", PerfMetric::BlockChecksumTime),
    ("of that, decompressing blocks", PerfMetric::BlockDecompressTime),
    ("of that, seeking in blocks", PerfMetric::BlockSeekNanos),
    ("of that, getting blocks of filters", PerfMetric::ReadFilterBlockNanos),
    ("of that, getting blocks of indexes", PerfMetric::ReadIndexBlockNanos),
];

const COUNTS: [(&str, PerfMetric); 3] = [
    ("reads by key", PerfMetric::GetFromMemtableCount),
    ("blocks from the cache", PerfMetric::BlockCacheHitCount),
    ("blocks from files", PerfMetric::BlockReadCount),
];

/// Looks `keys` up one by one, twice; rows begin with `name`.
pub(crate) fn measure(name: &str, lookup: &Lookup, keys: &[ObjectKey]) -> Result<Vec<Measured>, Failure> {
    let look = || -> Result<f64, Failure> {
        let begun = Instant::now();
        for key in keys {
            lookup(std::slice::from_ref(key))?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6 / keys.len() as f64)
    };
    let without = look()?;
    let mut counters = PerfContext::default();
    counters.reset();
    set_perf_stats(PerfStatsLevel::EnableTimeExceptForMutex);
    let with = look();
    set_perf_stats(PerfStatsLevel::Disable);
    let with = with?;
    let each = |metric: PerfMetric| counters.metric(metric) as f64 / keys.len() as f64;
    let get: f64 = GET.iter().map(|metric| each(*metric) / 1e3).sum();
    let micros = |what: &str, micros: f64| Measured {
        what: format!("{name}: {what}, µs"),
        measured: format!("{micros:.2}"),
    };
    let mut rows = vec![
        micros("a lookup", without),
        micros("a lookup while RocksDB reads its clocks", with),
        micros("of that, in RocksDB's reads by key", get),
    ];
    rows.extend(PARTS.iter().map(|(what, metric)| micros(what, each(*metric) / 1e3)));
    rows.push(micros("of that, around RocksDB", with - get));
    rows.extend(COUNTS.iter().map(|(what, metric)| Measured {
        what: format!("{name}: {what} for a lookup"),
        measured: format!("{:.2}", each(*metric)),
    }));
    Ok(rows)
}
