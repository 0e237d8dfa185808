//! What goes wrong in a run, and when: drawn from its seed.
//!
//! Always holds: the same seed gives the same script. Leaves to others: who leads when a fault begins (`run`), carrying
//! it out (`members`).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::{CLOCK_BAND, CLOCKS_SETTLE};

/// Faults begin within this time, and have ended a little later.
const STORM: Duration = Duration::from_secs(7);

/// In seconds.
const YEAR: i64 = 86_400 * 365;

/// A member, by name or by what it does when the fault begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Leader,
    Number(usize),
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing gets to it or from it.
    Isolated(Who),
    /// Nothing gets to it.
    Deaf(Who),
    /// Nothing gets from it.
    Mute(Who),
    /// These hear each other, and the others each other.
    Split(BTreeSet<usize>),
    /// The first two hear each other and the third, the last two each other and the third.
    Bridge([usize; 5]),
    /// It is killed, and started again when the fault ends.
    Killed(Who),
    /// All are killed.
    AllKilled,
    /// One after the other is ended and started.
    RollingRestart,
    /// It does nothing.
    Paused(Who),
    /// Whoever writes to its disk waits until the fault ends.
    DiskStalls(Who),
    /// Its disk works for a moment only, again and again.
    DiskIsSlow(Who),
    /// Its time of day is another by so many seconds.
    ClockIsOff(Who, i64),
}

/// A fault with its time.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) begins: Duration,
    pub(crate) ends: Duration,
    pub(crate) fault: Fault,
}

/// A run to be.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) members: usize,
    pub(crate) events: Vec<Event>,
}

/// Numbers by lot, the same for the same seed.
struct Chance(blake3::OutputReader);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(b"faults").update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }

    fn position(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end.try_into().unwrap())).unwrap()
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_millis()).unwrap();
        from + Duration::from_millis(self.below(span.max(1)))
    }

    fn shuffled<const N: usize>(&mut self) -> [usize; N] {
        let mut all = std::array::from_fn(|number| number);
        for place in (1..N).rev() {
            all.swap(place, self.position(place + 1));
        }
        all
    }
}

impl Script {
    /// The run of `seed`.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let members = if chance.below(3) == 0 { 5 } else { 3 };
        let count = 3 + chance.below(4);
        let mut events: Vec<Event> = (0..count).map(|_| event(&mut chance, members)).collect();
        events.sort_by_key(|event| event.begins);
        keep_a_majority_in_time(&mut events);
        Self { members, events }
    }
}

/// Leaves one clock at a time so wrong that its owner must not lead: of two of three nobody could say who is right.
fn keep_a_majority_in_time(events: &mut [Event]) {
    let mut wrong_until = Duration::ZERO;
    for event in events {
        if let Fault::ClockIsOff(_, seconds) = &mut event.fault
            && seconds.unsigned_abs() > CLOCK_BAND.as_secs()
        {
            match event.begins < wrong_until {
                true => *seconds = seconds.signum() * 2,
                false => wrong_until = event.ends + CLOCKS_SETTLE,
            }
        }
    }
}

fn event(chance: &mut Chance, members: usize) -> Event {
    let begins = chance.between(Duration::from_millis(200), STORM);
    let lasts = chance.between(Duration::from_millis(100), Duration::from_millis(3500));
    Event {
        begins,
        ends: (begins + lasts).min(STORM + Duration::from_secs(1)),
        fault: fault(chance, members),
    }
}

fn fault(chance: &mut Chance, members: usize) -> Fault {
    // Leaders have more to lose.
    let who = match chance.below(2) {
        0 => Who::Leader,
        _ => Who::Number(chance.position(members)),
    };
    match chance.below(26) {
        0..=2 => Fault::Isolated(who),
        3 => Fault::Deaf(who),
        4 => Fault::Mute(who),
        5 | 6 => Fault::Split((0..members).filter(|_| chance.below(2) == 0).collect()),
        7..=9 if members == 5 => Fault::Bridge(chance.shuffled()),
        7..=11 => Fault::Killed(who),
        12 | 13 => Fault::AllKilled,
        14 => Fault::RollingRestart,
        15..=17 => Fault::Paused(who),
        18 | 19 => Fault::DiskStalls(who),
        20 | 21 => Fault::DiskIsSlow(who),
        // From the blink of a bad NTP server to a battery that was empty.
        _ => Fault::ClockIsOff(who, [-YEAR, YEAR, YEAR, -3_600, 3_600, -2, 540][chance.position(7)]),
    }
}

/// The ways that are cut by `fault`, if it is one of the network and `who` is whom it names.
pub(crate) fn cut_ways(fault: &Fault, who: Option<usize>, members: usize) -> BTreeSet<(usize, usize)> {
    let all = (0..members).flat_map(|from| (0..members).map(move |to| (from, to)));
    let is_cut = |(from, to): &(usize, usize)| match fault {
        Fault::Isolated(_) => who == Some(*from) || who == Some(*to),
        Fault::Deaf(_) => who == Some(*to),
        Fault::Mute(_) => who == Some(*from),
        Fault::Split(one_side) => one_side.contains(from) != one_side.contains(to),
        Fault::Bridge(order) => {
            let side = |number: &usize| order.iter().position(|other| other == number).unwrap_or(2);
            (side(from) < 2 && side(to) > 2) || (side(from) > 2 && side(to) < 2)
        }
        _ => false,
    };
    all.filter(|(from, to)| from != to).filter(is_cut).collect()
}

#[test]
fn the_same_seed_is_the_same_script_and_all_kinds_of_faults_come_up() {
    let told = |seed| format!("{:?}", Script::draw(seed));
    assert_eq!(told(7), told(7));
    assert_ne!(told(7), told(8));
    let all: String = (0..200).map(told).collect();
    for kind in [
        "Isolated",
        "Deaf",
        "Mute",
        "Split",
        "Bridge",
        "Killed",
        "AllKilled",
        "RollingRestart",
        "Paused",
        "DiskStalls",
        "DiskIsSlow",
        "ClockIsOff",
        "members: 5",
    ] {
        assert!(all.contains(kind), "{kind}");
    }
}

#[test]
fn never_are_two_clocks_so_wrong_at_once_that_a_majority_may_be() {
    let mut wrong = 0;
    for seed in 0..500 {
        let mut until = Duration::ZERO;
        for event in Script::draw(seed).events {
            if let Fault::ClockIsOff(_, seconds) = event.fault
                && seconds.unsigned_abs() > CLOCK_BAND.as_secs()
            {
                assert!(event.begins >= until, "seed {seed}");
                until = event.ends + CLOCKS_SETTLE;
                wrong += 1;
            }
        }
    }
    assert!(wrong > 100, "{wrong} of 500");
}

#[test]
fn a_bridge_hears_both_sides_and_they_do_not_hear_each_other() {
    let ways = cut_ways(&Fault::Bridge([4, 3, 2, 1, 0]), None, 5);
    assert_eq!(ways.len(), 8);
    assert!(
        ways.contains(&(4, 0))
            && ways.contains(&(0, 3))
            && !ways.contains(&(2, 0))
            && !ways.contains(&(4, 3))
    );
    assert_eq!(cut_ways(&Fault::Mute(Who::Leader), Some(1), 3), [(1, 0), (1, 2)].into());
}
