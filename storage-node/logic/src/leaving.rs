//! How a node that leaves is getting on.
//!
//! Always holds: what is said to be left to move is what the leader said last; the time that it will take is that of the last hour's
//! pace, and nothing is said of it while nothing moves.
//! Leaves to others: moving (the coordinators), hearing of it (the shell).

use std::collections::VecDeque;
use std::time::Duration;

use firn_wire::DrainBacklog;

// A pace of more than the last hour says little of the next: a line is slower in the evening.
const LOOK_BACK: Duration = Duration::from_secs(3600);
const SAMPLE_EVERY: Duration = Duration::from_secs(60);

/// What was heard of a drain. Times are those since the program began.
#[derive(Debug, Clone, Default)]
pub struct LeaveWatch {
    most: u64,
    // When so many were left: one a minute.
    samples: VecDeque<(Duration, u64)>,
    last: Option<(Duration, DrainBacklog)>,
}

/// How far a node has come with leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaveProgress {
    /// Shards that have another home since this run heard of the drain first.
    pub moved: u64,
    /// What is left.
    pub backlog: DrainBacklog,
    /// How long that takes at the pace of late; none while nothing moves, and where nothing can.
    pub time_left: Option<Duration>,
}

impl LeaveWatch {
    /// The leader said at `now` what is left.
    pub fn told(&mut self, backlog: DrainBacklog, now: Duration) {
        if backlog.to_move > self.most {
            // More than was known: it is a new drain, or the first word of one was early.
            self.most = backlog.to_move;
            self.samples.clear();
        }
        if self.samples.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= SAMPLE_EVERY) {
            self.samples.push_back((now, backlog.to_move));
        }
        while self.samples.front().is_some_and(|(at, _)| now.saturating_sub(*at) > LOOK_BACK) {
            self.samples.pop_front();
        }
        self.last = Some((now, backlog));
    }

    /// How far it has come; none before anything was heard.
    pub fn progress(&self) -> Option<LeaveProgress> {
        let (now, backlog) = self.last?;
        let moved = self.most.saturating_sub(backlog.to_move);
        Some(LeaveProgress { moved, backlog, time_left: self.time_left(now, backlog) })
    }

    fn time_left(&self, now: Duration, backlog: DrainBacklog) -> Option<Duration> {
        let (since, then) = *self.samples.front()?;
        let moved = u32::try_from(then.checked_sub(backlog.to_move)?).ok().filter(|moved| *moved > 0)?;
        let can_move = backlog.to_move.checked_sub(backlog.without_home).filter(|can_move| *can_move > 0)?;
        let each = now.saturating_sub(since) / moved;
        Some(each.saturating_mul(u32::try_from(can_move).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(to_move: u64) -> DrainBacklog {
        DrainBacklog { to_move, ..DrainBacklog::default() }
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn the_time_left_is_that_of_the_last_hours_pace() {
        let mut watch = LeaveWatch::default();
        assert_eq!(watch.progress(), None);
        watch.told(backlog(1000), minutes(0));
        assert_eq!(watch.progress().unwrap().time_left, None);
        // Ten in a minute for an hour, then one.
        for minute in 1..=60 {
            watch.told(backlog(1000 - 10 * minute), minutes(minute));
        }
        let progress = watch.progress().unwrap();
        assert_eq!((progress.moved, progress.time_left), (600, Some(minutes(40))));
        for minute in 61..=120 {
            watch.told(backlog(400 - (minute - 60)), minutes(minute));
        }
        let progress = watch.progress().unwrap();
        assert_eq!((progress.moved, progress.backlog.to_move), (660, 340));
        assert_eq!(progress.time_left, Some(minutes(340)));
        assert!(watch.samples.len() <= 61);
    }

    #[test]
    fn nothing_is_said_of_the_time_while_nothing_moves_and_where_nothing_can() {
        let mut watch = LeaveWatch::default();
        for minute in 0..200 {
            watch.told(backlog(7), minutes(minute));
        }
        assert_eq!(watch.progress().unwrap().time_left, None);
        watch.told(DrainBacklog { to_move: 5, without_home: 5, home_unavailable: 0 }, minutes(200));
        assert_eq!(watch.progress().unwrap().time_left, None);
        watch.told(DrainBacklog { to_move: 5, without_home: 4, home_unavailable: 0 }, minutes(200));
        assert!(watch.progress().unwrap().time_left.is_some_and(|left| left > Duration::ZERO));
        // One that begins anew.
        watch.told(backlog(900), minutes(201));
        assert_eq!(
            watch.progress().unwrap(),
            LeaveProgress { moved: 0, backlog: backlog(900), time_left: None }
        );
    }
}
