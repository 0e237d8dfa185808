//! Point lookups: present and absent, one by one and batched, warm and cold.
//!
//! Warm ones wait for nothing, so they are counted by the CPU time that they take; cold ones by the clock.

use std::path::Path;
use std::time::{Duration, Instant};

use firn_base::{Location, ObjectKey};
use firn_benches::process::thread_time;

use crate::Failure;
use crate::generator::Generator;
use crate::{machine, split};

/// Finds the first place of each key.
pub(crate) type Lookup = dyn Fn(&[ObjectKey]) -> Result<Vec<Option<Location>>, Failure>;

/// One figure.
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) measured: String,
}

const BATCH: usize = 64;
// A read of a cold disk each.
const COLD_SHARE: u64 = 10;

/// Measures lookups in what `open` opens; the kernel forgets the files below `path` before the cold ones.
pub(crate) fn measure(
    generator: &Generator,
    count: u64,
    path: &Path,
    open: impl Fn() -> Result<Box<Lookup>, Failure>,
) -> Result<Vec<Measured>, Failure> {
    let mut all = Vec::new();
    let cold = count.div_ceil(COLD_SHARE);
    for (name, batch) in [("one by one", 1), ("64 at a time", BATCH)] {
        let mut by_clock = |what: &str, rates: &Rates| {
            all.push(row(&format!("{what}, {name}, keys/s"), rates.clock));
        };
        // Filters and indexes are cold, too: each kind begins with a store of its own.
        for (what, present, salt) in [("cold, absent", false, 6), ("cold, present", true, 1)] {
            machine::forget_cached(path)?;
            let lookup = open()?;
            by_clock(what, &rates(generator, &lookup, cold, batch, present, salt)?);
        }
        machine::forget_cached(path)?;
        let lookup = open()?;
        rates(generator, &lookup, cold, batch, true, 1)?;
        let mut by_cpu = |what: &str, count: u64, present: bool, salt: u64| -> Result<(), Failure> {
            let rates = rates(generator, &lookup, count, batch, present, salt)?;
            all.push(row(&format!("{what}, {name}, keys per CPU second"), rates.cpu));
            Ok(())
        };
        by_cpu("first of its kind, absent", cold, false, 2)?;
        rates(generator, &lookup, count, batch, true, 3)?;
        by_cpu("warm, present", count, true, 3)?;
        by_cpu("page cache, present", count, true, 4)?;
        by_cpu("warm, absent", count, false, 5)?;
        if batch == 1 {
            let (_, keys) = drawn(generator, count, true, 3);
            // What was looked up meanwhile may have driven them out of the cache.
            keys.iter().try_for_each(|key| lookup(std::slice::from_ref(key)).map(drop))?;
            all.extend(split::measure("warm, present, one by one", &lookup, &keys)?);
        }
    }
    Ok(all)
}

fn row(what: &str, per_second: f64) -> Measured {
    Measured { what: what.to_owned(), measured: format!("{per_second:.0}") }
}

/// Keys per second.
struct Rates {
    clock: f64,
    cpu: f64,
}

/// Numbers drawn by `salt`, and their keys.
fn drawn(generator: &Generator, count: u64, present: bool, salt: u64) -> (Vec<u64>, Vec<ObjectKey>) {
    let number = |draw: u64| {
        let hash = blake3::hash(&[draw.to_le_bytes(), salt.to_le_bytes()].concat());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let drawn = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % generator.keys();
        if present { drawn } else { generator.keys() + drawn }
    };
    let numbers: Vec<u64> = (0..count).map(number).collect();
    let keys = numbers.iter().map(|number| Generator::key(*number)).collect();
    (numbers, keys)
}

/// How fast `count` lookups drawn by `salt` are; every answer is checked.
fn rates(
    generator: &Generator,
    lookup: &Lookup,
    count: u64,
    batch: usize,
    present: bool,
    salt: u64,
) -> Result<Rates, Failure> {
    let (numbers, keys) = drawn(generator, count, present, salt);
    let mut found = Vec::with_capacity(keys.len());
    let (begun, cpu) = (Instant::now(), thread_time()?);
    for some in keys.chunks(batch) {
        found.extend(lookup(some)?);
    }
    let (clock, cpu) = (begun.elapsed(), thread_time()? - cpu);
    for (number, place) in numbers.iter().zip(&found) {
        let expected = present.then(|| generator.place(*number));
        if place.map(|place| (place.block, place.entry)) != expected {
            return Err(format!("key {number} is at {place:?}, not at {expected:?}").into());
        }
    }
    let rate = |time: Duration| count as f64 / time.as_secs_f64().max(1e-9);
    Ok(Rates { clock: rate(clock), cpu: rate(cpu) })
}
