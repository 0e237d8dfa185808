//! What clients were told, and whether one ledger can have told it.
//!
//! Owns: the history of a run and the checker. Always holds: the checker sees no clock, process or network; times are
//! nanoseconds of one clock, given by whoever records. Leaves to others: making the history (`clients`).

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::{CLOCK_BAND, CLOCKS_SETTLE};

/// What an entry of the ledger says: each act of a run has one of its own.
pub(crate) type Key = [u8; 32];

/// What ends the name of an act of nobody who writes here: of those who replace and readmit coordinators, as often as they do.
/// Before that it is the digest of its entry, and so of all before it.
pub(crate) const OTHERS_END: u8 = 0xfd;

/// Whether an entry is none of a writer.
pub(crate) const fn is_of_others(key: &Key) -> bool {
    key[31] == OTHERS_END
}

/// What a writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is done.
    Acknowledged,
    /// It was not done and will not be.
    Refused,
    /// Nobody knows: the answer was lost, or was that it may be done or not.
    Unknown,
}

/// One act that a writer asked for.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) answer: Answer,
}

/// One look at the ledger of a replica: all that it has from the entry `from` on, or a page of it.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) replica: usize,
    pub(crate) from: usize,
    pub(crate) entries: Vec<Key>,
}

/// What a replica said of whether a key is archived.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) replica: usize,
    pub(crate) key: Key,
    pub(crate) there: bool,
}

/// What happened in a run. The reads of a replica stand in the order in which they were made, one after the other.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
    /// Acts of others that are known to be done.
    pub(crate) administered: BTreeSet<Key>,
    /// What the right clock showed when the times of writes began to count, in milliseconds.
    pub(crate) began_millis: u64,
}

/// What no sound archive lets happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    /// It was acknowledged, and is not there at the end.
    Lost(Key),
    /// It was refused, and is there.
    DoneThoughRefused(Key),
    /// It was asked for once and done twice.
    Twice(Key),
    /// Nobody asked for it.
    Foreign(Key),
    /// The first was acknowledged before the second was asked for, and comes behind it.
    OutOfOrder(Key, Key),
    /// Replicas end with different ledgers.
    Apart { one: usize, other: usize },
    /// A replica showed an entry that is not in the ledger at that place.
    Differs { replica: usize, position: usize },
    /// A replica showed less than it had shown before.
    WentBack { replica: usize, before: usize, after: usize },
    /// A replica showed a key, and later said that it is not archived.
    Vanished { replica: usize, key: Key },
    /// The archive's time of an act is so many seconds earlier (if negative) or later than any that a clock which is right
    /// to ten minutes could give it.
    OutOfTime { key: Key, seconds: i64 },
}

/// Everything in `history` that cannot be, if the replicas' ledgers are `last` once all faults have ended. The first
/// `founding` entries are those of the time before.
pub(crate) fn check(history: &History, last: &[Vec<Key>], founding: usize) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(ledger) = last.first() else { return found };
    for (other, theirs) in last.iter().enumerate().skip(1) {
        if theirs != ledger {
            found.push(Violation::Apart { one: 0, other });
        }
    }
    let (places, twice) = places(ledger, founding);
    found.extend(twice);
    found.extend(check_writes(&history.writes, &places));
    found.extend(check_others(&history.administered, &places));
    found.extend(check_order(&history.writes, &places));
    found.extend(check_reads(&history.reads, ledger));
    found
}

fn places(ledger: &[Key], founding: usize) -> (BTreeMap<Key, usize>, Vec<Violation>) {
    let (mut places, mut twice) = (BTreeMap::new(), Vec::new());
    for (place, key) in ledger.iter().enumerate().skip(founding) {
        if places.insert(*key, place).is_some() {
            twice.push(Violation::Twice(*key));
        }
    }
    (places, twice)
}

fn check_writes(writes: &[Write], places: &BTreeMap<Key, usize>) -> Vec<Violation> {
    let asked: BTreeSet<Key> = writes.iter().map(|write| write.key).collect();
    let foreign = places.keys().filter(|key| !asked.contains(*key) && !is_of_others(key));
    let foreign = foreign.map(|key| Violation::Foreign(*key));
    let wrong = writes.iter().filter_map(|write| match (write.answer, places.contains_key(&write.key)) {
        (Answer::Acknowledged, false) => Some(Violation::Lost(write.key)),
        (Answer::Refused, true) => Some(Violation::DoneThoughRefused(write.key)),
        _ => None,
    });
    foreign.chain(wrong).collect()
}

/// What others did is there, and nothing else of theirs.
fn check_others(administered: &BTreeSet<Key>, places: &BTreeMap<Key, usize>) -> Vec<Violation> {
    let there: BTreeSet<Key> = places.keys().filter(|key| is_of_others(key)).copied().collect();
    let lost = administered.difference(&there).map(|key| Violation::Lost(*key));
    lost.chain(there.difference(administered).map(|key| Violation::Foreign(*key))).collect()
}

/// Each act must come behind all that were acknowledged before it was asked for.
fn check_order(writes: &[Write], places: &BTreeMap<Key, usize>) -> Vec<Violation> {
    let done = |write: &&Write| places.contains_key(&write.key);
    let mut by_answer: Vec<&Write> =
        writes.iter().filter(|write| write.answer == Answer::Acknowledged).filter(done).collect();
    by_answer.sort_by_key(|write| write.answered);
    let mut by_question: Vec<&Write> = writes.iter().filter(done).collect();
    by_question.sort_by_key(|write| write.asked);
    let mut earlier = by_answer.into_iter().peekable();
    let mut furthest: Option<(usize, Key)> = None;
    let mut found = Vec::new();
    for write in by_question {
        while let Some(before) = earlier.next_if(|before| before.answered < write.asked) {
            furthest = furthest.max(Some((places[&before.key], before.key)));
        }
        if let Some((place, key)) = furthest
            && place > places[&write.key]
        {
            found.push(Violation::OutOfOrder(key, write.key));
        }
    }
    found
}

fn check_reads(reads: &[Read], ledger: &[Key]) -> Vec<Violation> {
    let mut shown: BTreeMap<usize, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for read in reads {
        let Read { replica, from, entries } = read;
        let differs = entries.iter().enumerate().find(|(place, key)| ledger.get(from + place) != Some(key));
        if let Some((place, _)) = differs {
            found.push(Violation::Differs { replica: *replica, position: from + place });
        }
        let (after, before) = (from + entries.len(), shown.entry(*replica).or_default());
        if after < *before {
            found.push(Violation::WentBack { replica: *replica, before: *before, after });
        }
        *before = after.max(*before);
    }
    found
}

/// Keys that a replica showed and later did not: nobody withdraws any. What each replica said stands in the order in which it
/// said so.
pub(crate) fn check_shown(shown: &[Shown]) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for Shown { replica, key, there } in shown {
        match there {
            true => drop(seen.insert((replica, key))),
            false if seen.contains(&(replica, key)) => {
                found.push(Violation::Vanished { replica: *replica, key: *key });
            }
            false => {}
        }
    }
    found
}

/// Acts whose time in the ledger no clock gave that is within ten minutes of the right one, which the writers have: so
/// whatever clocks were wrong, none of them was believed. `times` are those of the ledger, in milliseconds.
pub(crate) fn check_times(history: &History, times: &BTreeMap<Key, u64>) -> Vec<Violation> {
    let millis = |nanos: u64| i128::from(history.began_millis) + i128::from(nanos / 1_000_000);
    let band = i128::try_from((CLOCK_BAND + CLOCKS_SETTLE).as_millis()).unwrap();
    let out_of_time = |write: &Write| {
        let at = i128::from(*times.get(&write.key)?);
        let (earliest, latest) = (millis(write.asked) - band, millis(write.answered) + band);
        let off = (at - earliest).min(0) + (at - latest).max(0);
        let seconds = i64::try_from(off / 1000).unwrap_or(i64::MAX);
        (off != 0).then_some(Violation::OutOfTime { key: write.key, seconds })
    };
    // Nobody knows when an act was done whose answer was lost, nor of probes when they were asked for.
    let known = |write: &&Write| write.answer == Answer::Acknowledged && write.asked != u64::MAX;
    history.writes.iter().filter(known).filter_map(out_of_time).collect()
}

/// A checker that finds nothing has to be able to.
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        [number; 32]
    }

    fn write(number: u8, asked: u64, answered: u64, answer: Answer) -> Write {
        Write { key: key(number), asked, answered, answer }
    }

    fn read(replica: usize, from: usize, entries: &[u8]) -> Read {
        Read { replica, from, entries: entries.iter().map(|number| key(*number)).collect() }
    }

    fn ledger(numbers: &[u8]) -> Vec<Key> {
        numbers.iter().map(|number| key(*number)).collect()
    }

    /// A founding entry 100, then 1 and 2 one after the other, 3 beside both and without an answer, 4 refused.
    fn sound() -> History {
        History {
            writes: vec![
                write(1, 0, 10, Answer::Acknowledged),
                write(2, 20, 30, Answer::Acknowledged),
                write(3, 5, 40, Answer::Unknown),
                write(4, 0, 1, Answer::Refused),
            ],
            reads: vec![read(0, 0, &[100]), read(0, 0, &[100, 1]), read(1, 0, &[]), read(0, 1, &[1])],
            administered: BTreeSet::new(),
            began_millis: 1_000_000_000,
        }
    }

    fn check_one(history: &History, numbers: &[u8]) -> Vec<Violation> {
        check(history, &[ledger(numbers), ledger(numbers)], 1)
    }

    #[test]
    fn a_sound_history_is_sound_whatever_became_of_what_nobody_knows() {
        for numbers in [&[100, 1, 2][..], &[100, 1, 2, 3], &[100, 1, 3, 2]] {
            assert_eq!(check_one(&sound(), numbers), []);
        }
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_lost() {
        assert_eq!(check_one(&sound(), &[100, 1]), [Violation::Lost(key(2))]);
    }

    #[test]
    fn what_was_refused_and_is_there_was_done() {
        assert_eq!(check_one(&sound(), &[100, 1, 2, 4]), [Violation::DoneThoughRefused(key(4))]);
    }

    #[test]
    fn what_is_there_twice_or_was_never_asked_for_is_found() {
        let found = check_one(&sound(), &[100, 1, 2, 2, 9]);
        assert_eq!(found, [Violation::Twice(key(2)), Violation::Foreign(key(9))]);
    }

    #[test]
    fn an_act_of_others_that_is_lost_or_that_nobody_knows_of_is_found() {
        let other = |number: u8| {
            let mut key = key(number);
            key[31] = OTHERS_END;
            key
        };
        let mut history = sound();
        history.administered = [other(50), other(51)].into();
        let with = |others: &[Key]| [&ledger(&[100, 1]), others, &ledger(&[2])].concat();
        let found = |others: &[Key]| check(&history, &[with(others), with(others)], 1);
        assert_eq!(found(&[other(50), other(51)]), []);
        assert_eq!(found(&[other(51)]), [Violation::Lost(other(50))]);
        let foreign = found(&[other(50), other(51), other(52)]);
        assert_eq!(foreign, [Violation::Foreign(other(52))]);
        // One that came to stand elsewhere has another name, and so has every one behind it.
        assert_eq!(
            found(&[other(50), other(60)]),
            [Violation::Lost(other(51)), Violation::Foreign(other(60))]
        );
    }

    #[test]
    fn an_act_before_one_that_was_acknowledged_earlier_is_out_of_order() {
        let mut history = sound();
        history.reads.clear();
        assert_eq!(check_one(&history, &[100, 2, 1]), [Violation::OutOfOrder(key(1), key(2))]);
    }

    #[test]
    fn replicas_that_end_apart_are_found() {
        let found = check(&sound(), &[ledger(&[100, 1, 2]), ledger(&[100, 1, 2, 3])], 1);
        assert_eq!(found, [Violation::Apart { one: 0, other: 1 }]);
    }

    #[test]
    fn a_replica_that_shows_what_is_not_in_the_ledger_differs() {
        let mut history = sound();
        history.reads.push(read(1, 1, &[1, 3]));
        let found = check_one(&history, &[100, 1, 2]);
        assert_eq!(found, [Violation::Differs { replica: 1, position: 2 }]);
    }

    #[test]
    fn a_replica_that_shows_less_than_before_went_back() {
        let mut history = sound();
        history.reads.extend([read(1, 0, &[100, 1, 2]), read(0, 2, &[]), read(1, 2, &[])]);
        let found = check_one(&history, &[100, 1, 2]);
        assert_eq!(found, [Violation::WentBack { replica: 1, before: 3, after: 2 }]);
    }

    #[test]
    fn a_key_that_a_replica_showed_and_shows_no_more_vanished() {
        let shown = |replica, number, there| Shown { replica, key: key(number), there };
        let sound = [shown(0, 1, false), shown(0, 1, true), shown(1, 1, false), shown(0, 2, false)];
        assert_eq!(check_shown(&sound), []);
        let found = check_shown(&[&sound[..], &[shown(0, 1, false)]].concat());
        assert_eq!(found, [Violation::Vanished { replica: 0, key: key(1) }]);
    }

    #[test]
    fn an_act_with_the_time_of_a_clock_that_was_wrong_is_found() {
        let year: i64 = 365 * 86_400;
        let at = |seconds: i64| 1_000_000_000_u64.saturating_add_signed(seconds * 1000);
        let found = |first, second| {
            let times = [(key(1), at(first)), (key(2), at(second)), (key(3), at(year))].into();
            check_times(&sound(), &times)
        };
        assert_eq!(found(0, 602), []);
        assert_eq!(found(-602, 0), []);
        assert_eq!(found(0, year), [Violation::OutOfTime { key: key(2), seconds: year - 602 }]);
        assert_eq!(found(-900, 0), [Violation::OutOfTime { key: key(1), seconds: -298 }]);
    }
}
