//! Lookups of features, as an uploader asks for them.

use std::time::Duration;

use firn_base::Feature;
use firn_benches::process::thread_time;
use firn_coordinator::StateFacts;
use firn_coordinator_logic::{GoingContent, find_similar};

use crate::Failure;
use crate::generator::Generator;

// What an uploader asks for at once.
const BATCH: usize = 512;

/// Features per CPU second, of names and of chunks; every answer about a chunk is checked, for it has one place.
pub(crate) fn measure(
    generator: &Generator,
    count: u64,
    facts: &StateFacts,
) -> Result<[(&'static str, f64); 2], Failure> {
    let going = GoingContent::read(facts)?;
    // Once to read the disk, once to count.
    let mut measured = [("names", 0.0), ("chunks", 0.0)];
    for (position, (_, rate)) in measured.iter_mut().enumerate() {
        let numbers: Vec<u64> = (0..count).map(|draw| drawn(draw, generator, position == 1)).collect();
        let features: Result<Vec<Feature>, Failure> = numbers
            .iter()
            .map(|number| {
                generator.features(*number).get(position).copied().ok_or_else(|| "it has no chunk".into())
            })
            .collect();
        let features = features?;
        let mut time = Duration::ZERO;
        for _ in 0..2 {
            let begun = thread_time()?;
            for (some, numbers) in features.chunks(BATCH).zip(numbers.chunks(BATCH)) {
                let found = find_similar(facts, &going, some)?;
                for (records, number) in found.iter().zip(numbers) {
                    let first = records.first().ok_or_else(|| format!("key {number} has no like"))?;
                    let place = (first.place.block, first.place.entry);
                    if position == 1 && place != generator.place(*number) {
                        return Err(format!("the chunk of key {number} is at {place:?}").into());
                    }
                }
            }
            time = thread_time()? - begun;
        }
        *rate = count as f64 / time.as_secs_f64().max(1e-9);
    }
    Ok(measured)
}

fn drawn(draw: u64, generator: &Generator, sampled: bool) -> u64 {
    let [a, b, c, d, ..] = *blake3::hash(&draw.to_le_bytes()).as_bytes();
    let number = u64::from(u32::from_le_bytes([a, b, c, d])) % generator.keys();
    if sampled { number - number % Generator::SAMPLES_REPEAT } else { number }
}
