//! How long reads take, by their size: of one node smoothed mean and deviation, as TCP keeps them of round trips; of the
//! fleet what nine of ten reads do not take, which a few slow nodes do not move.
//!
//! Always holds: time and samples come from the caller. Leaves to others: whose reads they are (`node_health`).

use std::time::Duration;

// Up to 64 KiB, 256 KiB, 1 MiB, 4 MiB, and more: a line has a way there and back and a rate, and one number for both
// makes a distant node look slow or a slow one near.
const CLASSES: usize = 5;
const FIRST_CLASS_BYTES: u64 = 64 << 10;
const CLASS_FACTOR: u32 = 4;

// Weights of one sample, as in RFC 6298.
const MEAN_SHARE: u32 = 8;
const DEVIATION_SHARE: u32 = 4;

// What takes longer than the mean and four deviations is one read in some hundred.
const DEVIATIONS: u32 = 4;

/// What reads of one size took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) mean: Duration,
    pub(crate) deviation: Duration,
}

/// What reads from one node took, by size; nothing before the first one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    classes: [Option<Estimate>; CLASSES],
}

/// What nine of ten reads from all nodes do not take, by size.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FleetLatency {
    classes: [Option<Duration>; CLASSES],
}

// A quantile is followed by steps: nine parts up where a read took longer, one part down where it did not. It rests where
// nine of ten take less, however much longer the tenth takes.
const STEP_UP: u32 = 9;
const STEP_DOWN: u32 = 1;
const STEP_PARTS: u32 = 100;
// The first read is rather a quick one.
const FIRST_TIMES: u32 = 2;

impl Estimate {
    /// After this long a read is slow.
    pub(crate) fn patience(self) -> Duration {
        self.mean.saturating_add(self.deviation.saturating_mul(DEVIATIONS))
    }

    const fn scaled(self, factor: u32) -> Self {
        Self { mean: self.mean.saturating_mul(factor), deviation: self.deviation.saturating_mul(factor) }
    }
}

impl Latency {
    /// A read of so many bytes took so long.
    pub(crate) fn observe(&mut self, bytes: u64, took: Duration) {
        let known = &mut self.classes[class(bytes)];
        *known = Some(match *known {
            None => Estimate { mean: took, deviation: took / 2 },
            Some(Estimate { mean, deviation }) => Estimate {
                mean: (mean * (MEAN_SHARE - 1) + took) / MEAN_SHARE,
                deviation: (deviation * (DEVIATION_SHARE - 1) + mean.abs_diff(took)) / DEVIATION_SHARE,
            },
        });
    }

    /// What a read of so many bytes should take; none before anything was observed.
    pub(crate) fn estimate(&self, bytes: u64) -> Option<Estimate> {
        nearest(&self.classes, bytes).map(|(estimate, times)| estimate.scaled(times))
    }
}

impl FleetLatency {
    /// A read of so many bytes took so long.
    pub(crate) fn observe(&mut self, bytes: u64, took: Duration) {
        let known = &mut self.classes[class(bytes)];
        *known = Some(match *known {
            None => took.saturating_mul(FIRST_TIMES),
            Some(usual) if took > usual => usual.saturating_add(usual / STEP_PARTS * STEP_UP),
            Some(usual) => usual.saturating_sub(usual / STEP_PARTS * STEP_DOWN),
        });
    }

    /// What nine of ten reads of so many bytes do not take; none before anything was observed.
    pub(crate) fn usual(&self, bytes: u64) -> Option<Duration> {
        nearest(&self.classes, bytes).map(|(usual, times)| usual.saturating_mul(times))
    }
}

/// What is known of reads of this size, and how many times it counts: what is known of smaller ones as often as they fit
/// in, what is known of larger ones once.
fn nearest<T: Copy>(classes: &[Option<T>; CLASSES], bytes: u64) -> Option<(T, u32)> {
    let class = class(bytes);
    let mut times = 1;
    for smaller in classes[..=class].iter().rev() {
        if let Some(known) = smaller {
            return Some((*known, times));
        }
        times *= CLASS_FACTOR;
    }
    classes[class..].iter().flatten().next().map(|known| (*known, 1))
}

fn class(bytes: u64) -> usize {
    let mut most = FIRST_CLASS_BYTES;
    let mut class = 0;
    while bytes > most && class + 1 < CLASSES {
        most = most.saturating_mul(u64::from(CLASS_FACTOR));
        class += 1;
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_node_is_slow_soon_and_an_unsteady_one_late() {
        let (mut steady, mut unsteady) = (Latency::default(), Latency::default());
        for turn in 0..100 {
            steady.observe(1000, 10 * MILLI);
            unsteady.observe(1000, if turn % 2 == 0 { 4 * MILLI } else { 16 * MILLI });
        }
        let patience = |latency: &Latency| latency.estimate(1000).unwrap().patience();
        assert!(patience(&steady) < 11 * MILLI, "{:?}", patience(&steady));
        assert!(patience(&unsteady) > 30 * MILLI, "{:?}", patience(&unsteady));
    }

    #[test]
    fn sizes_are_known_apart_and_guessed_from_their_neighbours() {
        let mut latency = Latency::default();
        assert_eq!(latency.estimate(1), None);
        latency.observe(200 << 10, 40 * MILLI);
        let mean = |bytes| latency.estimate(bytes).unwrap().mean;
        assert_eq!(mean(100 << 10), 40 * MILLI);
        assert_eq!(mean(1), 40 * MILLI, "a smaller read takes no longer");
        assert_eq!(mean(1 << 20), 160 * MILLI, "a larger one takes as many of the smaller as fit in");
        assert_eq!(mean(u64::MAX), 40 * MILLI * 64);
    }

    #[test]
    fn the_fleet_is_as_quick_as_nine_of_ten_reads_whatever_the_tenth_takes() {
        let mut fleet = FleetLatency::default();
        for read in 0..2000 {
            fleet.observe(1000, if read % 20 == 0 { Duration::from_secs(9) } else { (5 + read % 6) * MILLI });
        }
        let usual = fleet.usual(1000).unwrap();
        assert!((8 * MILLI..14 * MILLI).contains(&usual), "{usual:?}");
        for _ in 0..200 {
            fleet.observe(1000, Duration::from_secs(1));
        }
        assert!(fleet.usual(1000).unwrap() > Duration::from_millis(900), "what changes for all is followed");
    }

    #[test]
    fn the_mean_follows_what_changes() {
        let mut latency = Latency::default();
        for _ in 0..50 {
            latency.observe(1, MILLI);
        }
        for _ in 0..50 {
            latency.observe(1, 100 * MILLI);
        }
        assert!(latency.estimate(1).unwrap().mean > 95 * MILLI);
    }
}
