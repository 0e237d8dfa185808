//! How fast hash parts are found and replaced, beside a plain copy of the same bytes in memory.
//!
//! Always holds: both work on the same NARs, decompressed in memory beforehand, on one thread, in turns; what is
//! written to was written to before.

use std::convert::Infallible;
use std::fmt;
use std::hint::black_box;
use std::time::Duration;

use firn_benches::process::{Failure, thread_time};
use firn_bundle::{PatchFinder, hash_parts};

use crate::corpus::Corpus;

// NARs that are timed as one: the kernel's clock of a thread goes in steps of milliseconds, and so many bytes take a
// tenth of a second.
const BATCH_BYTES: usize = 256 << 20;

/// What passing over all NARs of a corpus took, of each the round that took least.
#[derive(Debug, Default)]
pub(crate) struct HashPartSpeed {
    bytes: u64,
    replacing: Duration,
    copying: Duration,
}

/// NARs with their hash parts.
type Batch = Vec<(Vec<u8>, Vec<[u8; 32]>)>;

impl HashPartSpeed {
    pub(crate) fn measure(corpus: &Corpus, rounds: u32) -> Result<Self, Failure> {
        let (mut speed, mut batch, mut bytes) = (Self::default(), Batch::new(), 0);
        for path in corpus.paths.values() {
            let nar = corpus.nar(&path.info)?;
            bytes += nar.len();
            batch.push((nar, hash_parts(&path.info)));
            if bytes >= BATCH_BYTES {
                speed.add(&batch, rounds)?;
                (batch, bytes) = (Batch::new(), 0);
            }
        }
        speed.add(&batch, rounds)?;
        Ok(speed)
    }

    fn add(&mut self, batch: &Batch, rounds: u32) -> Result<(), Failure> {
        let largest = batch.iter().map(|(nar, _)| nar.len()).max().unwrap_or(0);
        let mut target = vec![1; largest];
        let (mut replacing, mut copying) = (Duration::MAX, Duration::MAX);
        for _ in 0..rounds.max(1) {
            replacing = replacing.min(timed(|| replace(batch))?);
            copying = copying.min(timed(|| copy(batch, &mut target))?);
        }
        self.bytes += batch.iter().map(|(nar, _)| nar.len() as u64).sum::<u64>();
        self.replacing += replacing;
        self.copying += copying;
        Ok(())
    }
}

impl fmt::Display for HashPartSpeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |time: Duration| self.bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9);
        let of = self.copying.as_secs_f64() / self.replacing.as_secs_f64().max(1e-9);
        writeln!(formatter, "| one thread, CPU | GB/s |")?;
        writeln!(formatter, "| --- | --- |")?;
        writeln!(formatter, "| replacing hash parts | {:.2} |", rate(self.replacing))?;
        writeln!(formatter, "| copying the same NARs in memory | {:.2} |", rate(self.copying))?;
        write!(formatter, "| replacing hash parts, of copying | {of:.2} |")
    }
}

fn timed(work: impl FnOnce()) -> Result<Duration, Failure> {
    let begun = thread_time()?;
    work();
    Ok(thread_time()?.saturating_sub(begun))
}

/// What comes out is looked at by nobody: whoever cuts chunks reads it where the finder holds it.
fn replace(batch: &Batch) {
    for (nar, hash_parts) in batch {
        let mut finder = PatchFinder::new(hash_parts);
        let mut pass_on = |piece: &[u8]| {
            black_box(piece);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = finder.push(nar, &mut pass_on);
        let Ok(patches) = finder.finish(&mut pass_on);
        black_box(patches);
    }
}

fn copy(batch: &Batch, target: &mut [u8]) {
    for (nar, _) in batch {
        let target = &mut target[..nar.len()];
        target.copy_from_slice(nar);
        black_box(target);
    }
}
