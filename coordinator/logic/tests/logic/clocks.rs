//! Whose clock may lead.

use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_coordinator_logic::{
    CLOCK_BAND, ClockReading, ClockRefusal, ClockStanding, Clocks, READING_GOOD_FOR,
};
use proptest::prelude::*;

// Somewhere in the life of the steady clock, and of the world.
const AT: Duration = Duration::from_secs(500);
const NOW_MILLIS: u64 = 1_790_000_000_000;

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn time(ahead_millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW_MILLIS.saturating_add_signed(ahead_millis))
}

/// What a clock that is ahead by so much said in an exchange that began and ended so long ago, read `read` before now.
fn reading(ahead_millis: i64, asked: Duration, read: Duration, heard: Duration) -> ClockReading {
    let said = time(ahead_millis - i64::try_from(read.as_millis()).unwrap());
    ClockReading { said, asked: AT - asked, heard: AT - heard }
}

fn at_once(ahead_millis: i64) -> ClockReading {
    reading(ahead_millis, Duration::ZERO, Duration::ZERO, Duration::ZERO)
}

fn clocks(own_millis: i64, others: &[Option<ClockReading>]) -> Clocks {
    let others = others.iter().zip(2..).map(|(reading, number)| (id(number), *reading));
    Clocks::new((id(1), time(own_millis)), AT, others)
}

const YEAR: i64 = 365 * 86_400_000;
const BAND: i64 = 600_000;

#[test]
fn a_coordinator_alone_has_nobody_to_differ_from() {
    assert_eq!(clocks(-YEAR, &[]).standing(), ClockStanding::Agrees);
}

#[test]
fn a_year_is_noticed_in_either_direction_and_ten_minutes_are_allowed() {
    let right = [Some(at_once(0)), Some(at_once(5))];
    for (own, standing) in [
        (0, ClockStanding::Agrees),
        (BAND, ClockStanding::Agrees),
        (5 - BAND, ClockStanding::Agrees),
        (BAND + 6, ClockStanding::Differs),
        (-BAND - 1, ClockStanding::Differs),
        (YEAR, ClockStanding::Differs),
        (-YEAR, ClockStanding::Differs),
    ] {
        assert_eq!(clocks(own, &right).standing(), standing, "{own}");
    }
}

#[test]
fn one_wrong_clock_of_three_hinders_only_its_owner() {
    let seen_by_a_right_one = clocks(0, &[Some(at_once(1)), Some(at_once(YEAR))]);
    assert_eq!(seen_by_a_right_one.check(), Ok(()));
    let apart = seen_by_a_right_one.apart();
    assert_eq!((apart.len(), apart[0].coordinator, apart[0].ahead_millis), (1, id(3), YEAR));
    let seen_by_the_wrong_one = clocks(YEAR, &[Some(at_once(1)), Some(at_once(0))]);
    let apart = seen_by_the_wrong_one.apart();
    assert_eq!((apart.len(), apart[0].coordinator, apart[0].ahead_millis), (1, id(1), YEAR));
    let sentence = seen_by_the_wrong_one.check().unwrap_err().to_string();
    assert_eq!(
        sentence,
        "the clock of this coordinator shows 2027-09-21T14:13:20Z and is not within 10 minutes of a majority's \
         (0202020202: 2026-09-21T14:13:20Z, 0303030303: 2026-09-21T14:13:20Z): set it right; meanwhile another \
         coordinator leads"
    );
}

#[test]
fn three_clocks_that_are_all_apart_let_nobody_lead() {
    for own in [-YEAR, 0, YEAR] {
        let others: Vec<_> = [-YEAR, 0, YEAR]
            .into_iter()
            .filter(|other| *other != own)
            .map(|other| Some(at_once(other)))
            .collect();
        assert_eq!(clocks(own, &others).standing(), ClockStanding::Differs, "{own}");
    }
}

#[test]
fn nothing_is_known_before_others_were_heard_and_long_after() {
    assert_eq!(clocks(0, &[None, None]).check(), Err(ClockRefusal::Unheard));
    // Of five two more are enough, and one that is far off rules nothing out.
    let (near, far) = (Some(at_once(0)), Some(at_once(YEAR)));
    assert_eq!(clocks(0, &[near, near, None, None]).standing(), ClockStanding::Agrees);
    assert_eq!(clocks(0, &[near, far, far, None]).standing(), ClockStanding::Unknown);
    assert_eq!(clocks(0, &[near, far, far, far]).standing(), ClockStanding::Differs);
    let good = READING_GOOD_FOR;
    let old = |age: Duration| Some(reading(YEAR, age, age, age));
    assert_eq!(clocks(0, &[old(good), old(good)]).standing(), ClockStanding::Differs);
    let older = good + Duration::from_millis(1);
    assert_eq!(clocks(0, &[old(older), old(older)]).standing(), ClockStanding::Unknown);
}

#[test]
fn what_is_said_on_a_slow_way_counts_as_far_as_it_is_certain() {
    let seconds = Duration::from_secs;
    // Eight seconds under way: read at either end of it the clock is ahead by 8 s more or less.
    let slow = |ahead| Some(reading(ahead, seconds(8), seconds(4), seconds(0)));
    assert_eq!(clocks(0, &[slow(0), slow(0)]).standing(), ClockStanding::Agrees);
    assert_eq!(clocks(0, &[slow(BAND), slow(BAND)]).standing(), ClockStanding::Unknown);
    assert_eq!(clocks(0, &[slow(BAND + 5_000), slow(BAND + 5_000)]).standing(), ClockStanding::Differs);
    let slower = Some(reading(YEAR, seconds(11), seconds(4), seconds(0)));
    assert_eq!(clocks(0, &[slower, slower]).standing(), ClockStanding::Unknown);
}

fn any_ahead() -> impl Strategy<Value = i64> {
    prop_oneof![3 => -1_300_000_i64..1_300_000, 1 => -YEAR..YEAR]
}

/// A clock's true lead, and what was heard of it: asked, read and heard before now.
fn any_other() -> impl Strategy<Value = (i64, Option<ClockReading>)> {
    (any_ahead(), 0_u64..40_000, 0_u64..6_000, 0_u64..6_000, 0..5).prop_map(
        |(ahead, heard, back, there, known)| {
            let millis = Duration::from_millis;
            let (read, asked) = (heard + back, heard + back + there);
            (ahead, (known > 0).then(|| reading(ahead, millis(asked), millis(read), millis(heard))))
        },
    )
}

proptest! {
    #[test]
    fn the_verdict_is_true_of_the_clocks_themselves(
        own in any_ahead(),
        others in proptest::collection::vec(any_other(), 0..7),
    ) {
        let heard: Vec<_> = others.iter().map(|(_, reading)| *reading).collect();
        let standing = clocks(own, &heard).standing();
        let band = i64::try_from(CLOCK_BAND.as_millis()).unwrap();
        let near = 1 + others.iter().filter(|(ahead, _)| (ahead - own).abs() <= band).count();
        let voters = others.len() + 1;
        let is_near = near > voters / 2;
        match standing {
            ClockStanding::Agrees => prop_assert!(is_near),
            ClockStanding::Differs => prop_assert!(!is_near),
            ClockStanding::Unknown => {}
        }
    }

    #[test]
    fn whoever_hears_all_others_at_once_knows(own in any_ahead(), others in proptest::collection::vec(any_ahead(), 0..7)) {
        let heard: Vec<_> = others.iter().map(|ahead| Some(at_once(*ahead))).collect();
        prop_assert_ne!(clocks(own, &heard).standing(), ClockStanding::Unknown);
    }

    #[test]
    fn two_that_agree_are_at_most_twenty_minutes_apart(
        all in proptest::collection::vec(any_ahead(), 1..8),
    ) {
        let agrees = |own: usize| {
            let others = all.iter().enumerate().filter(|(other, _)| *other != own);
            let heard: Vec<_> = others.map(|(_, ahead)| Some(at_once(*ahead))).collect();
            clocks(all[own], &heard).standing() == ClockStanding::Agrees
        };
        let agreeing: Vec<i64> = (0..all.len()).filter(|own| agrees(*own)).map(|own| all[own]).collect();
        let spread = agreeing.iter().max().zip(agreeing.iter().min()).map_or(0, |(most, least)| most - least);
        prop_assert!(spread <= 2 * BAND, "{agreeing:?}");
    }

    #[test]
    fn no_answer_however_strange_breaks_it(
        said in any::<u64>(), own in any::<u64>(), asked in any::<u64>(), heard in any::<u64>(), at in any::<u64>(),
    ) {
        let millis = Duration::from_millis;
        let reading =
            ClockReading { said: Timestamp::from_millis(said), asked: millis(asked), heard: millis(heard) };
        let clocks = Clocks::new((id(1), Timestamp::from_millis(own)), millis(at), [(id(2), Some(reading))]);
        prop_assert!(clocks.apart().len() <= 1);
        prop_assert!(clocks.check().map_err(|refusal| refusal.to_string()) != Err(String::new()));
    }
}
