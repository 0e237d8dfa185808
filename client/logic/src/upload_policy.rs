//! How patient an upload is.

use std::time::Duration;

/// The numbers of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadPolicy {
    /// Shards on their way at once, over all bundles of the upload.
    pub sends_in_flight_max: usize,
    /// Bundles of one upload between reservation and readiness at once.
    pub open_bundles_max: usize,
    /// How long slow nodes are waited for once enough shards are durable to commit.
    pub grace: Duration,
    /// The pause before the first retry; each further one is twice as long.
    pub retry_first: Duration,
    /// The longest pause.
    pub retry_most: Duration,
    /// How often one shard is offered to its node.
    pub attempts_max: u32,
    /// How often space is reserved for one bundle.
    pub reservations_max: u32,
    /// How often the bundles are coded anew because the fleet changed.
    pub recodings_max: u32,
    /// An upload that gets nowhere for so long is given up.
    pub give_up_after: Duration,
}

impl Default for UploadPolicy {
    fn default() -> Self {
        Self {
            // A line is full with a few; more would only make each slower and more of them wasted when it breaks.
            sends_in_flight_max: 8,
            open_bundles_max: 2,
            // Longer than a home line's hiccup, shorter than a publisher's patience. Later receipts count too.
            grace: Duration::from_secs(5),
            retry_first: Duration::from_millis(500),
            retry_most: Duration::from_secs(10),
            attempts_max: 4,
            reservations_max: 5,
            recodings_max: 5,
            // A new leader stands within seconds; a coordinator is restarted within a minute.
            give_up_after: Duration::from_secs(120),
        }
    }
}

impl UploadPolicy {
    /// The pause before retry number `retry`, counted from 0.
    pub(crate) fn pause(&self, retry: u32) -> Duration {
        let factor = 1_u32.checked_shl(retry.min(16)).unwrap_or(u32::MAX);
        self.retry_first.saturating_mul(factor).min(self.retry_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = UploadPolicy::default();
        let pauses: Vec<_> = (0..7).map(|retry| policy.pause(retry).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(policy.pause(u32::MAX), policy.retry_most);
    }
}
