//! Whether a coordinator's clock is right enough for it to lead: within ten minutes of a majority's, its own counted.
//!
//! Always holds: a coordinator agrees only if a majority of the clocks certainly are that near, whatever time their answers
//! were under way; it differs only if no majority can be. So of two that agree at one moment the clocks are at most twenty
//! minutes apart. Leaves to others: reading clocks and asking for them (the shell), what follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_wire::ClockDifference;

/// How far a leader's clock may be from a majority's. Reservations, passes and orders are good for minutes to hours; a clock
/// that is set by NTP, however badly, is right to a second.
pub const CLOCK_BAND: Duration = Duration::from_secs(600);

/// What was heard of another clock counts this long. Within it a clock gains or loses nothing to speak of, but it may
/// have been set anew. Three rounds of asking and an answer that is late fit into it.
pub const READING_GOOD_FOR: Duration = Duration::from_secs(35);

// An answer that was under way for longer says too little; one that follows at once says more.
const UNDER_WAY_MAX: Duration = Duration::from_secs(10);

/// What another clock showed, some time between a question and its answer. Both are times of the asker's steady clock,
/// which nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// What it showed.
    pub said: Timestamp,
    /// When it was asked for.
    pub asked: Duration,
    /// When the answer was here.
    pub heard: Duration,
}

/// How a coordinator's clock stands beside those of the voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockStanding {
    /// It is within [`CLOCK_BAND`] of a majority's.
    Agrees,
    /// Too few were heard lately.
    Unknown,
    /// It cannot be within [`CLOCK_BAND`] of a majority's.
    Differs,
}

/// What one coordinator knows of all clocks at one moment.
#[derive(Debug, Clone)]
pub struct Clocks {
    own: (NodeId, Timestamp),
    at: Duration,
    others: BTreeMap<NodeId, Option<ClockReading>>,
}

/// Why a coordinator proposes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClockRefusal {
    /// Too few others were heard to know whether the clock is right.
    #[error("no majority of the coordinators has said yet what time it is there: try again in a moment")]
    Unheard,
    /// The clock is wrong.
    #[error(
        "the clock of this coordinator shows {own} and is not within {} minutes of a majority's ({}): set it right; meanwhile \
         another coordinator leads",
        CLOCK_BAND.as_secs() / 60,
        Readings(others)
    )]
    Differs {
        /// What it shows.
        own: Timestamp,
        /// What the others' show, as far as they were heard lately.
        others: Vec<(NodeId, Timestamp)>,
    },
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Within,
    Outside,
    Unknown,
}

impl ClockReading {
    /// Whether it says enough to be kept at `at` of the steady clock.
    pub fn is_good(&self, at: Duration) -> bool {
        self.heard.saturating_sub(self.asked) <= UNDER_WAY_MAX
            && at.saturating_sub(self.heard) <= READING_GOOD_FOR
    }

    /// The earliest and the latest that the other clock can show at `at`, if nobody has set it since.
    fn bounds(&self, at: Duration) -> (Timestamp, Timestamp) {
        let since = |moment: Duration| self.said.after(at.saturating_sub(moment));
        (since(self.heard), since(self.asked))
    }

    fn middle(&self, at: Duration) -> Timestamp {
        let (earliest, latest) = self.bounds(at);
        earliest.after(latest.since(earliest) / 2)
    }

    fn side(&self, own: Timestamp, at: Duration) -> Side {
        let (earliest, latest) = self.bounds(at);
        let farther = apart(own, earliest).max(apart(own, latest));
        let is_between = earliest <= own && own <= latest;
        let nearer = if is_between { Duration::ZERO } else { apart(own, earliest).min(apart(own, latest)) };
        match () {
            () if farther <= CLOCK_BAND => Side::Within,
            () if nearer > CLOCK_BAND => Side::Outside,
            () => Side::Unknown,
        }
    }
}

impl Clocks {
    /// Coordinator `own.0`, whose clock shows `own.1`, and all others that vote, with what was heard of each: at `at` of
    /// the steady clock by which that was heard.
    pub fn new(
        own: (NodeId, Timestamp),
        at: Duration,
        others: impl IntoIterator<Item = (NodeId, Option<ClockReading>)>,
    ) -> Self {
        let good = |(id, reading): (NodeId, Option<ClockReading>)| {
            (id, reading.filter(|reading| reading.is_good(at)))
        };
        let others = others.into_iter().filter(|(id, _)| *id != own.0).map(good).collect();
        Self { own, at, others }
    }

    /// How the own clock stands. One that is alone agrees.
    pub fn standing(&self) -> ClockStanding {
        let voters = self.others.len() + 1;
        let majority = voters / 2 + 1;
        let (mut within, mut possible) = (1, 1);
        for reading in self.others.values() {
            match reading.map_or(Side::Unknown, |reading| reading.side(self.own.1, self.at)) {
                Side::Within => (within, possible) = (within + 1, possible + 1),
                Side::Unknown => possible += 1,
                Side::Outside => {}
            }
        }
        match () {
            () if within >= majority => ClockStanding::Agrees,
            () if possible < majority => ClockStanding::Differs,
            () => ClockStanding::Unknown,
        }
    }

    /// Refuses to propose with a clock that does not agree.
    pub fn check(&self) -> Result<(), ClockRefusal> {
        match self.standing() {
            ClockStanding::Agrees => Ok(()),
            ClockStanding::Unknown => Err(ClockRefusal::Unheard),
            ClockStanding::Differs => {
                Err(ClockRefusal::Differs { own: self.own.1, others: self.heard().collect() })
            }
        }
    }

    /// Whose clocks are wrong: its own beside the middle one of the others, if that is what differs, else those that are
    /// more than [`CLOCK_BAND`] from its own.
    pub fn apart(&self) -> Vec<ClockDifference> {
        let (id, own) = self.own;
        if self.standing() == ClockStanding::Differs {
            let mut heard: Vec<_> = self.heard().map(|(_, time)| time).collect();
            heard.sort_unstable();
            let middle = heard.get(heard.len().saturating_sub(1) / 2).copied();
            return middle.map(|middle| difference(id, own, middle)).into_iter().collect();
        }
        let is_outside = |reading: &ClockReading| matches!(reading.side(own, self.at), Side::Outside);
        let others = self.others.iter().filter_map(|(id, reading)| Some((*id, reading.as_ref()?)));
        others
            .filter(|(_, reading)| is_outside(reading))
            .map(|(id, reading)| difference(id, reading.middle(self.at), own))
            .collect()
    }

    fn heard(&self) -> impl Iterator<Item = (NodeId, Timestamp)> + '_ {
        self.others.iter().filter_map(|(id, reading)| Some((*id, reading.as_ref()?.middle(self.at))))
    }
}

/// For the sentence of a refusal.
struct Readings<'a>(&'a [(NodeId, Timestamp)]);

impl fmt::Display for Readings<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (id, time)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(formatter, "{comma}{}: {time}", id.short())?;
        }
        Ok(())
    }
}

fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

fn difference(coordinator: NodeId, time: Timestamp, others: Timestamp) -> ClockDifference {
    let millis = i128::from(time.as_millis()) - i128::from(others.as_millis());
    let ahead_millis = i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX });
    ClockDifference { coordinator, ahead_millis }
}
