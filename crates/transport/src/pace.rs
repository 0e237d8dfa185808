//! The pace of what may not go faster than a rate.
//!
//! Owns: when the next bytes may go. Always holds: over any time no more bytes go than the rate times that time and
//! one credit of 10 ms allow, as long as everybody waits for his turn; what goes without waiting is made up for.
//! Leaves to others: what goes where.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::BitRate;
use tokio::time::{Instant, sleep_until};

// What may go at once after a pause: timers are a millisecond late, and must not slow the line down by it.
const CREDIT: Duration = Duration::from_millis(10);

// Of a hundred who wait each has a turn within five seconds: less than any of their peers waits for a sign of life.
const PIECES_PER_SECOND: u64 = 20;

// A datagram, and what is handed to a stream at a time.
const PIECE_BYTES_LEAST: usize = 1 << 10;
const PIECE_BYTES_MOST: usize = 64 << 10;

// No bytes keep a line busy for longer, and clocks do not overflow by it.
const MOST_NANOS: u64 = 3_600_000_000_000;

// The rate of what has no bound.
const UNBOUNDED: u64 = u64::MAX;

/// A rate, and when it leaves room for more. Shared by all who send.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: AtomicU64,
    free_at: Mutex<Instant>,
}

impl Pace {
    /// A pace that leaves room now; without a rate it always does.
    pub fn new(rate: Option<BitRate>) -> Self {
        Self { bytes_per_second: AtomicU64::new(figure(rate)), free_at: Mutex::new(Instant::now()) }
    }

    /// The rate; none without a bound.
    pub fn rate(&self) -> Option<BitRate> {
        let bytes_per_second = self.bytes_per_second();
        (bytes_per_second != UNBOUNDED).then_some(BitRate { bytes_per_second })
    }

    /// Changes the rate for what goes from now on. Who waits already waits as long as he was told.
    pub fn set_rate(&self, rate: Option<BitRate>) {
        self.bytes_per_second.store(figure(rate), Ordering::Relaxed);
    }

    /// How many bytes to send at a time, so that whoever else waits gets a turn soon.
    pub fn piece(&self) -> usize {
        let bytes = self.bytes_per_second() / PIECES_PER_SECOND;
        usize::try_from(bytes).unwrap_or(PIECE_BYTES_MOST).clamp(PIECE_BYTES_LEAST, PIECE_BYTES_MOST)
    }

    /// Waits for a turn to send so many bytes. Turns come in the order in which they were asked for, so that of many
    /// who wait none is passed over; one that is given up while waiting stays unused.
    pub async fn take(&self, bytes: u64) {
        let turn = {
            let mut free_at = self.free_at();
            let turn = *free_at;
            *free_at = self.busy_until(turn, bytes, Instant::now());
            turn
        };
        sleep_until(turn).await;
    }

    /// The time to wait for; none if something may go at `now`.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        if self.bytes_per_second() == UNBOUNDED {
            return None;
        }
        let free_at = *self.free_at();
        (free_at > now).then_some(free_at)
    }

    /// Notes that so many bytes went at `now`.
    pub(crate) fn sent(&self, bytes: u64, now: Instant) {
        if self.bytes_per_second() == UNBOUNDED {
            return;
        }
        let mut free_at = self.free_at();
        *free_at = self.busy_until(*free_at, bytes, now);
    }

    fn busy_until(&self, free_at: Instant, bytes: u64, now: Instant) -> Instant {
        let from = now.checked_sub(CREDIT).map_or(free_at, |least| free_at.max(least));
        from + self.takes(bytes)
    }

    /// How long so many bytes take.
    fn takes(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second().max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(MOST_NANOS))
    }

    fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }

    fn free_at(&self) -> MutexGuard<'_, Instant> {
        self.free_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn figure(rate: Option<BitRate>) -> u64 {
    rate.map_or(UNBOUNDED, |rate| rate.bytes_per_second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(bytes_per_second: u64, now: Instant) -> Pace {
        Pace { bytes_per_second: AtomicU64::new(bytes_per_second), free_at: Mutex::new(now) }
    }

    #[test]
    fn whoever_sends_when_he_may_sends_at_the_rate_over_any_time() {
        let start = Instant::now();
        for (rate, batch) in [(1_250_000, 6_000), (125_000, 1_500), (100_000_000, 500_000)] {
            let pace = pace(rate, start);
            let (mut now, mut sent) = (start, 0);
            while now < start + Duration::from_secs(10) {
                pace.sent(batch, now);
                sent += batch;
                // The timer is up to a millisecond late.
                now = pace.wait(now).map_or(now, |until| until + Duration::from_micros(sent % 1000));
            }
            let most = rate * 10 + rate / 100 + batch;
            assert!((rate * 10 * 99 / 100..=most).contains(&sent), "{rate}: {sent}");
        }
    }

    proptest! {
        #[test]
        fn over_any_ten_seconds_no_more_than_five_per_cent_above_a_rate_from_1_1_mbit_per_second_goes(
            // Below, what may come at once is more than that: 64 KiB are half a second of 1.05 Mbit/s.
            rate in 137_500u64..1_000_000_000,
            // How much comes at once, in fractions of what a batch may be; and how long nobody wants to send.
            batches in prop::collection::vec((1u64..=100, 0u64..3_000), 1..2_000),
        ) {
            let start = Instant::now();
            let pace = pace(rate, start);
            let mut now = start;
            let mut went: Vec<(Instant, u64)> = Vec::new();
            for (fraction, pause) in batches {
                // Most want to send on at once; now and then somebody pauses.
                if pause < 300 {
                    now += Duration::from_millis(pause * 10);
                }
                now = pace.wait(now).map_or(now, |until| until + Duration::from_micros(pause));
                // What goes within 5 ms, or what the kernel hands over at once: datagrams that it has put together.
                let bytes = ((rate / 200).max(64 << 10) * fraction / 100).max(1_500);
                pace.sent(bytes, now);
                went.push((now, bytes));
            }
            let most = rate * 10 * 105 / 100;
            let (mut first, mut within) = (0, 0);
            for (at, bytes) in &went {
                within += bytes;
                while went[first].0 + Duration::from_secs(10) <= *at {
                    within -= went[first].1;
                    first += 1;
                }
                prop_assert!(within <= most, "{} of at most {}", within, most);
            }
        }
    }

    #[test]
    fn a_pause_gives_a_credit_of_ten_milliseconds_and_no_more() {
        let start = Instant::now();
        let pace = pace(1_000_000, start);
        let later = start + Duration::from_secs(3600);
        pace.sent(10_000, later);
        assert_eq!(pace.wait(later), None);
        pace.sent(1, later);
        assert_eq!(pace.wait(later), Some(later + Duration::from_micros(1)));
    }

    #[test]
    fn pieces_take_a_twentieth_of_a_second_within_reason() {
        let now = Instant::now();
        let of = |bytes_per_second| pace(bytes_per_second, now).piece();
        assert_eq!((of(0), of(37_500), of(375_000), of(u64::MAX)), (1024, 1875, 18_750, 65_536));
    }

    #[test]
    fn what_went_without_waiting_is_waited_for() {
        let start = Instant::now();
        let pace = pace(1_000_000, start);
        pace.sent(500_000, start);
        assert_eq!(pace.wait(start), Some(start + Duration::from_millis(500)));
        pace.sent(500_000, start);
        assert_eq!(pace.wait(start), Some(start + Duration::from_millis(1000)));
    }

    #[test]
    fn the_largest_figures_overflow_nothing() {
        let now = Instant::now();
        assert_eq!(pace(0, now).takes(u64::MAX), Duration::from_nanos(MOST_NANOS));
        assert_eq!(pace(u64::MAX, now).takes(u64::MAX), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_take_turns_however_many_each_needs() {
        let pace = Pace::new(Some(BitRate { bytes_per_second: 1_000_000 }));
        let order = Mutex::new(Vec::new());
        let sender = async |name: usize| {
            for _ in 0..6 {
                pace.take(12_000).await;
                order.lock().unwrap().push(name);
            }
        };
        futures::future::join_all((0..3).map(sender)).await;
        let order = order.into_inner().unwrap();
        for end in 1..=order.len() {
            let count = |name| order[..end].iter().filter(|own| **own == name).count();
            let counts = [count(0), count(1), count(2)];
            let ahead = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(ahead <= 2, "{order:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_wait_each_gets_his_turn() {
        let pace = std::sync::Arc::new(Pace::new(Some(BitRate { bytes_per_second: 1_000_000 })));
        let start = Instant::now();
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let pace = std::sync::Arc::clone(&pace);
                tokio::spawn(async move { pace.take(20_000).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        // Five turns of 20 ms have passed when the last begins, but for the credit.
        assert!(start.elapsed() >= Duration::from_millis(90), "{:?}", start.elapsed());
    }
}
