//! What `firn stats` says of packages that are built again and again: whose bytes are whose where a later generation uses chunks
//! of an earlier one.

use crate::dependents::up;
use crate::support::cache::{Cache, Entry, info_of, nar_of, noise, store_path};
use firn_nix_format::Sha256;
use serde_json::Value;

const LARGE_BYTES: u32 = 3_000_000;
const SMALL_BYTES: u32 = 300_000;
const NAMES: [&str; 4] = ["objects", "logical", "published", "unique"];

/// Figures of a group.
fn figures(stats: &Value, group: &str) -> [u64; 4] {
    let groups = stats["groups"].as_array().unwrap();
    let row =
        groups.iter().find(|row| row["group"] == group).unwrap_or_else(|| panic!("no {group} in {stats}"));
    NAMES.map(|name| row[name].as_u64().unwrap())
}

/// Writes a path as it comes out of a build: it names its own hash.
fn add(cache: &Cache, name: &str, bytes: u32, seed: u64) {
    let noise = noise(bytes.try_into().unwrap(), seed);
    let nar = nar_of(&[store_path(name).hash_part().as_bytes(), &noise].concat());
    let info = info_of(store_path(name), Sha256::of(&nar), nar.len().try_into().unwrap());
    cache.add(Entry { info, file: Some(nar) });
}

/// Within one in a hundred, for what a NAR has besides its contents.
fn is_about(found: u64, expected: u32) -> bool {
    found.abs_diff(u64::from(expected)) * 100 <= u64::from(expected)
}

#[test]
fn a_generation_is_charged_for_what_it_brought_and_not_for_what_it_uses_of_earlier_ones() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let mut local = up(&cache.publisher());
    // The large one is rebuilt twice, and is what it was but for its own hash; of the small one each version is another.
    for generation in 1..=3 {
        add(&cache, &format!("large-1.{generation}"), LARGE_BYTES, 1);
        add(&cache, &format!("small-1.{generation}"), SMALL_BYTES, 100 + generation);
        // As few bytes as a test has never fill a quarter of a bundle.
        local.firn(&["publish", "--reuse-small-bundles", cache.path().to_str().unwrap()]).success();
    }
    local.firn(&["status", "--until", "full"]).success();

    let [by_generation, by_package, in_total] =
        ["generation", "package", "total"].map(|by| local.json(&["stats", "--by", by]));
    assert_eq!(by_generation["groups"].as_array().unwrap().len(), 3, "{by_generation}");
    for (generation, brought) in [("1", LARGE_BYTES + SMALL_BYTES), ("2", SMALL_BYTES), ("3", SMALL_BYTES)] {
        let [objects, logical, published, unique] = figures(&by_generation, generation);
        assert_eq!((objects, logical), (2, published), "{by_generation}");
        assert!(is_about(logical, LARGE_BYTES + SMALL_BYTES), "{by_generation}");
        assert!(is_about(unique, brought), "generation {generation}: {by_generation}");
    }
    assert_eq!(by_package["groups"][0]["group"], "large", "what takes most stands first: {by_package}");
    for (package, bytes, brought) in
        [("large", 3 * LARGE_BYTES, LARGE_BYTES), ("small", 3 * SMALL_BYTES, 3 * SMALL_BYTES)]
    {
        let [objects, logical, published, unique] = figures(&by_package, package);
        assert_eq!((objects, logical), (3, published), "{by_package}");
        assert!(is_about(logical, bytes) && is_about(unique, brought), "{package}: {by_package}");
    }

    // Every stored byte is somebody's, in whatever way they are grouped: twice the payload on four nodes, and padding.
    let payload = local.json(&["status"])["payload"].as_u64().unwrap();
    for stats in [&by_generation, &by_package, &in_total] {
        let groups = stats["groups"].as_array().unwrap();
        let stored: u64 = groups.iter().map(|row| row["stored"].as_u64().unwrap()).sum();
        assert_eq!(
            (&stats["total"]["stored"], &in_total["total"]["stored"]),
            (&stored.into(), &stored.into())
        );
        assert!((20 * payload..21 * payload).contains(&(stored * 10)), "{stored} of {payload}: {stats}");
        assert_eq!(stats["unread"], Value::Array(Vec::new()));
    }

    // The table says the same.
    let table = local.firn(&["stats", "--by", "generation"]).success();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let rows = by_generation["groups"].as_array().unwrap().iter().chain([&by_generation["total"]]);
    for (line, row) in lines[1..].iter().zip(rows) {
        let ratio = format!("{:.2}x", row["ratio"].as_f64().unwrap());
        assert_eq!((line.first(), line.last()), (row["group"].as_str().as_ref(), Some(&&*ratio)), "{table}");
    }
    assert_eq!(lines.len(), 5, "{table}");
    assert_eq!(local.terminate(), Some(0));
}
