//! When a node works for the archive, and when it only stays in touch.
//!
//! Always holds: a node at rest heartbeats, deletes by order, and answers coordinators that look at what it holds, so that
//! it stays counted; it takes no shards and builds none. Outside its hours it still serves readers, one at a time and
//! slowly: those who have somebody else to read from go there, and coordinators let only urgent builds read from it. During a
//! pause, and when the month's traffic is used up, it serves nobody.
//! Leaves to others: keeping to a rate (`transport`), telling the coordinators (the session).

use std::time::Duration;

use firn_base::{BitRate, Timestamp};
use firn_wire::{NodeRest, RefusalKind, RefusedRequest};

use crate::line_terms::LineTerms;
use crate::local_time::LocalTime;
use crate::traffic_book::TrafficBook;

/// How fast a node uploads outside its hours at most.
pub const REST_UPLOAD: BitRate = BitRate { bytes_per_second: 125_000 };

/// The longest pause. A node that is away for longer is better drained.
pub const PAUSE_MOST: Duration = Duration::from_secs(14 * 86_400);

/// What somebody wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It shall take a shard.
    Store,
    /// A reader whom the archive knows wants a range.
    Read,
    /// Another reader does.
    StrangerRead,
    /// A coordinator looks at what it holds.
    CoordinatorRead,
    /// It shall build shards, or read to compute.
    Build,
    /// Whoever builds wants a range.
    BuildRead,
}

/// How work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pains {
    /// As always.
    Usual,
    /// One at a time, until its last byte is sent.
    Sparing,
}

/// Whether a node rests, and why.
pub fn rest(
    terms: &LineTerms,
    traffic: &TrafficBook,
    paused_until: Option<Timestamp>,
    now: Timestamp,
    local: LocalTime,
) -> Option<NodeRest> {
    if paused_until.is_some_and(|until| is_paused(until, now)) {
        Some(NodeRest::Paused)
    } else if terms.monthly_traffic.is_some_and(|limit| traffic.has_spent(limit)) {
        Some(NodeRest::TrafficSpent)
    } else if terms.active_hours.is_some_and(|hours| !hours.contain(local.minute)) {
        Some(NodeRest::OutsideHours)
    } else {
        None
    }
}

/// Whether a node that was told to pause until then is paused. An end that is further away than any pause lasts was given
/// by another clock than the one that shows `now`: whichever of both is wrong, it will not be for long, or the pause would
/// last for years.
fn is_paused(until: Timestamp, now: Timestamp) -> bool {
    now < until && until.since(now) <= PAUSE_MOST
}

/// When a rest that was found at `now` ends by itself, as far as terms and calendar tell: a clock that is put forward for the
/// summer in between makes it an hour earlier. None for a pause without an end.
pub fn rest_until(
    rest: NodeRest,
    terms: &LineTerms,
    paused_until: Option<Timestamp>,
    now: Timestamp,
    local: LocalTime,
) -> Option<Timestamp> {
    let minute = Duration::from_secs(60);
    // The minute that shows has begun at some time within it.
    let in_minutes = |minutes: u32| now.after(minute * minutes);
    match rest {
        NodeRest::Paused => paused_until,
        NodeRest::OutsideHours => {
            terms.active_hours.map(|hours| in_minutes(u32::from(hours.minutes_until(local.minute))))
        }
        NodeRest::TrafficSpent => Some(in_minutes(local.minutes_of_month_left())),
    }
}

/// How fast a node uploads at most.
pub fn upload_rate(terms: &LineTerms, rest: Option<NodeRest>) -> Option<BitRate> {
    match (rest, terms.max_upload) {
        (Some(NodeRest::OutsideHours), Some(most)) => {
            Some(BitRate { bytes_per_second: most.bytes_per_second.min(REST_UPLOAD.bytes_per_second) })
        }
        (Some(NodeRest::OutsideHours), None) => Some(REST_UPLOAD),
        (_, most) => most,
    }
}

/// Whether a node does `work`, and how. `strangers_spent` says whether strangers have had their part of the month.
///
/// # Errors
///
/// It rests: whoever asks is better served elsewhere.
pub fn admit_work(
    rest: Option<NodeRest>,
    strangers_spent: bool,
    work: Work,
) -> Result<Pains, RefusedRequest> {
    let sentence = match (rest, work) {
        (None | Some(NodeRest::OutsideHours), Work::StrangerRead) if strangers_spent => {
            "what this node has for readers that the archive does not know is used up this month: ask another, or have the \
             archive's operators make your key known"
        }
        (None, _) | (Some(_), Work::CoordinatorRead) => return Ok(Pains::Usual),
        (Some(NodeRest::OutsideHours), Work::Read | Work::StrangerRead | Work::BuildRead) => {
            return Ok(Pains::Sparing);
        }
        (Some(NodeRest::OutsideHours), _) => "these are not the hours in which this node works: ask another",
        (Some(NodeRest::Paused), _) => "the owner of this node has paused it: ask another",
        (Some(NodeRest::TrafficSpent), _) => "this node's traffic of the month is used up: ask another",
    };
    Err(RefusedRequest::new(RefusalKind::Unavailable, sentence))
}

/// When a pause that lasts for `duration` from `now` ends.
///
/// # Errors
///
/// It would last too long; the sentence is for the owner.
pub fn pause_until(now: Timestamp, duration: Duration) -> Result<Timestamp, String> {
    if duration > PAUSE_MOST {
        let days = PAUSE_MOST.as_secs() / 86_400;
        return Err(format!(
            "a pause lasts {days} days at most: let a node that is needed for longer `leave`"
        ));
    }
    Ok(now.after(duration))
}

#[cfg(test)]
mod tests {
    use firn_base::ByteCount;

    use super::*;
    use crate::local_time::Date;

    const NOW: Timestamp = Timestamp::from_millis(1_795_383_909_000);

    fn at(hour: u16) -> LocalTime {
        LocalTime { date: Date::FIRST, minute: hour * 60 }
    }

    fn book(bytes: u64) -> TrafficBook {
        let mut book = TrafficBook::open(None, Date::FIRST);
        book.add(bytes, Date::FIRST);
        book
    }

    fn terms() -> LineTerms {
        LineTerms {
            monthly_traffic: Some(ByteCount(1000)),
            active_hours: Some("22:00-07:00".parse().unwrap()),
            ..LineTerms::default()
        }
    }

    #[test]
    fn a_node_rests_outside_its_hours_when_its_month_is_spent_and_while_it_is_paused() {
        let rest = |bytes, pause, hour| rest(&terms(), &book(bytes), pause, NOW, at(hour));
        let later = Some(NOW.after(Duration::from_millis(1)));
        assert_eq!(rest(0, None, 23), None);
        assert_eq!(rest(0, Some(NOW), 23), None);
        assert_eq!(rest(0, None, 12), Some(NodeRest::OutsideHours));
        assert_eq!(rest(1000, None, 12), Some(NodeRest::TrafficSpent));
        assert_eq!(rest(1000, later, 12), Some(NodeRest::Paused));
        // A pause of the longest kind, and an end that only a wrong clock can have given.
        let longest = NOW.after(PAUSE_MOST);
        assert_eq!(rest(0, Some(longest), 23), Some(NodeRest::Paused));
        assert_eq!(rest(0, Some(longest.after(Duration::from_millis(1))), 23), None);
        assert_eq!(super::rest(&LineTerms::default(), &book(u64::MAX), None, NOW, at(12)), None);
    }

    #[test]
    fn outside_its_hours_a_node_uploads_one_megabit_per_second_at_most() {
        let rate = |bytes_per_second| Some(BitRate { bytes_per_second });
        for (most, outside) in [(None, 125_000), (rate(1_250_000), 125_000), (rate(100_000), 100_000)] {
            let terms = LineTerms { max_upload: most, ..terms() };
            assert_eq!(upload_rate(&terms, Some(NodeRest::OutsideHours)), rate(outside));
            for rest in [None, Some(NodeRest::Paused), Some(NodeRest::TrafficSpent)] {
                assert_eq!(upload_rate(&terms, rest), most);
            }
        }
    }

    #[test]
    fn a_resting_node_stays_in_touch_and_reads_are_served_outside_hours_alone() {
        use Work::{Build, BuildRead, CoordinatorRead, Read, Store, StrangerRead};
        let admit_work = |rest, work| super::admit_work(rest, false, work);
        for work in [Store, Read, StrangerRead, CoordinatorRead, Build, BuildRead] {
            assert_eq!(admit_work(None, work), Ok(Pains::Usual));
        }
        for rest in [NodeRest::Paused, NodeRest::TrafficSpent, NodeRest::OutsideHours] {
            assert_eq!(admit_work(Some(rest), CoordinatorRead), Ok(Pains::Usual));
            for work in [Store, Build] {
                assert_eq!(admit_work(Some(rest), work).unwrap_err().kind, RefusalKind::Unavailable);
            }
        }
        for work in [Read, StrangerRead, BuildRead] {
            assert_eq!(admit_work(Some(NodeRest::OutsideHours), work), Ok(Pains::Sparing));
            for rest in [NodeRest::Paused, NodeRest::TrafficSpent] {
                assert_eq!(admit_work(Some(rest), work).unwrap_err().kind, RefusalKind::Unavailable);
            }
        }
    }

    #[test]
    fn strangers_who_have_had_their_part_of_the_month_are_refused_and_nobody_else_is() {
        use Work::{Build, BuildRead, CoordinatorRead, Read, Store, StrangerRead};
        for rest in [None, Some(NodeRest::OutsideHours)] {
            assert_eq!(admit_work(rest, true, StrangerRead).unwrap_err().kind, RefusalKind::Unavailable);
            for work in [Store, Read, CoordinatorRead, Build, BuildRead] {
                assert_eq!(admit_work(rest, true, work), admit_work(rest, false, work));
            }
        }
    }

    #[test]
    fn a_rest_ends_with_the_pause_with_the_month_or_when_the_hours_begin() {
        let until = |rest, local| rest_until(rest, &terms(), Some(NOW.after(PAUSE_MOST)), NOW, local);
        let hours = |hours: u64| Some(NOW.after(Duration::from_secs(hours * 3600)));
        assert_eq!(until(NodeRest::Paused, at(12)), Some(NOW.after(PAUSE_MOST)));
        assert_eq!(until(NodeRest::OutsideHours, at(12)), hours(10));
        assert_eq!(until(NodeRest::OutsideHours, at(7)), hours(15));
        let last_days = |month, day, hour: u16| {
            let date = Date { year: 2028, month, day };
            until(NodeRest::TrafficSpent, LocalTime { date, minute: hour * 60 })
        };
        assert_eq!(last_days(12, 31, 23), hours(1));
        assert_eq!(last_days(11, 30, 0), hours(24));
        assert_eq!(last_days(2, 28, 12), hours(36));
    }

    #[test]
    fn a_pause_lasts_two_weeks_at_most() {
        assert_eq!(pause_until(NOW, PAUSE_MOST), Ok(NOW.after(PAUSE_MOST)));
        assert!(pause_until(NOW, PAUSE_MOST + Duration::from_secs(1)).unwrap_err().contains("14 days"));
    }
}
