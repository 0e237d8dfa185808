//! Whose turn is next at something that few may do at a time.
//!
//! Always holds: no turn stays free while somebody waits who may have it; of those who wait, one whose asker holds the fewest turns is
//! next, and of equals the one who has been without a turn for longest: whoever asks for much at once makes others wait for one turn
//! of his, not for all, also where there is only one.
//! Nobody holds or waits for more than his bound, so memory is bounded by the bounds.
//! Leaves to others: waiting itself, and for how long (the shell).

use std::collections::{BTreeMap, VecDeque};

/// How much is done and waited for at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnBounds {
    /// Turns in all.
    pub turns: usize,
    /// Turns of one asker.
    pub turns_each: usize,
    /// Who waits for one, in all.
    pub waiting: usize,
    /// The same of one asker.
    pub waiting_each: usize,
}

/// Turns, by who asks for them.
#[derive(Debug)]
pub struct FairTurns<K> {
    bounds: TurnBounds,
    taken: usize,
    // Nobody who holds none is in it.
    held: BTreeMap<K, usize>,
    waiting: VecDeque<Waiting<K>>,
    // Counts places, and turns that are over.
    next: u64,
}

#[derive(Debug)]
struct Waiting<K> {
    place: Place,
    who: K,
    // When he came, or a turn of his was over since.
    since: u64,
}

/// A place among those who wait.
pub type Place = u64;

/// What came of asking for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedTurn {
    /// Here it is.
    Granted,
    /// It comes when this place is called, unless [`FairTurns::give_up`] comes first.
    Waits(Place),
    /// Too many wait already.
    TooMany,
}

impl<K: Ord + Clone> FairTurns<K> {
    /// All turns are free.
    pub const fn new(bounds: TurnBounds) -> Self {
        Self { bounds, taken: 0, held: BTreeMap::new(), waiting: VecDeque::new(), next: 0 }
    }

    /// `who` asks for a turn.
    pub fn ask(&mut self, who: K) -> AskedTurn {
        if self.may_have(&who) {
            self.grant(who);
            return AskedTurn::Granted;
        }
        let own = self.waiting.iter().filter(|waits| waits.who == who).count();
        if own >= self.bounds.waiting_each || self.waiting.len() >= self.bounds.waiting {
            return AskedTurn::TooMany;
        }
        let place = self.number();
        self.waiting.push_back(Waiting { place, who, since: place });
        AskedTurn::Waits(place)
    }

    /// A turn of `who` is over. Gives the place whose turn it is now, if somebody waits.
    pub fn give_back(&mut self, who: &K) -> Option<Place> {
        let held = self.held.get_mut(who)?;
        *held -= 1;
        if *held == 0 {
            self.held.remove(who);
        }
        self.taken -= 1;
        // He comes behind all who came during his turn, whatever else he asked for before.
        let since = self.number();
        for waits in &mut self.waiting {
            if waits.who == *who {
                waits.since = since;
            }
        }
        let next = self.waiting.iter().enumerate().filter(|(_, waits)| self.may_have(&waits.who));
        let (index, _) = next.min_by_key(|(index, waits)| (self.held_by(&waits.who), waits.since, *index))?;
        let Waiting { place, who, .. } = self.waiting.remove(index)?;
        self.grant(who);
        Some(place)
    }

    /// Nobody waits at this place any more. Says whether somebody did: else it has been called, and its turn is to be given back.
    pub fn give_up(&mut self, place: Place) -> bool {
        let index = self.waiting.iter().position(|waits| waits.place == place);
        index.and_then(|index| self.waiting.remove(index)).is_some()
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }

    fn may_have(&self, who: &K) -> bool {
        self.taken < self.bounds.turns && self.held_by(who) < self.bounds.turns_each
    }

    fn held_by(&self, who: &K) -> usize {
        self.held.get(who).copied().unwrap_or_default()
    }

    fn grant(&mut self, who: K) {
        self.taken += 1;
        *self.held.entry(who).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: TurnBounds = TurnBounds { turns: 4, turns_each: 4, waiting: 64, waiting_each: 32 };

    #[test]
    fn whoever_asks_for_much_makes_others_wait_for_one_turn() {
        let mut turns = FairTurns::new(BOUNDS);
        let greedy: Vec<_> = (0..20).map(|_| turns.ask("greedy")).collect();
        assert!(greedy[..4].iter().all(|asked| *asked == AskedTurn::Granted));
        assert!(greedy[4..].iter().all(|asked| matches!(asked, AskedTurn::Waits(_))));
        let AskedTurn::Waits(modest) = turns.ask("modest") else { panic!("none is free") };
        assert_eq!(turns.give_back(&"greedy"), Some(modest));
        // Again as many: three to one, so that the next is the modest one's, too.
        let AskedTurn::Waits(again) = turns.ask("modest") else { panic!("none is free") };
        assert_eq!(turns.give_back(&"greedy"), Some(again));
        assert!(turns.give_back(&"modest").is_some_and(|place| place < modest));
    }

    #[test]
    fn where_there_is_one_turn_they_come_one_by_one() {
        let mut turns = FairTurns::new(TurnBounds { turns: 1, turns_each: 1, waiting: 64, waiting_each: 32 });
        assert_eq!(turns.ask("greedy"), AskedTurn::Granted);
        assert!((0..32).all(|_| matches!(turns.ask("greedy"), AskedTurn::Waits(_))));
        let AskedTurn::Waits(modest) = turns.ask("modest") else { panic!("none is free") };
        let AskedTurn::Waits(other) = turns.ask("other") else { panic!("none is free") };
        assert_eq!(turns.give_back(&"greedy"), Some(modest));
        // Whoever asks again is behind those who wait already.
        let AskedTurn::Waits(again) = turns.ask("modest") else { panic!("none is free") };
        assert_eq!(turns.give_back(&"modest"), Some(other));
        assert!(turns.give_back(&"other").is_some_and(|place| place < modest));
        assert_eq!(turns.give_back(&"greedy"), Some(again));
    }

    #[test]
    fn nobody_holds_or_waits_for_more_than_his_bound() {
        let bounds = TurnBounds { turns: 4, turns_each: 1, waiting: 3, waiting_each: 2 };
        let mut turns = FairTurns::new(bounds);
        let asked: Vec<_> = (0..4).map(|_| turns.ask("one")).collect();
        assert_eq!(asked, [AskedTurn::Granted, AskedTurn::Waits(0), AskedTurn::Waits(1), AskedTurn::TooMany]);
        assert_eq!(turns.ask("other"), AskedTurn::Granted);
        assert_eq!(turns.ask("other"), AskedTurn::Waits(2));
        assert_eq!(turns.ask("other"), AskedTurn::TooMany);
        assert!(turns.give_up(0) && !turns.give_up(0));
        assert_eq!(turns.give_back(&"one"), Some(1));
        assert_eq!(turns.give_back(&"nobody"), None);
    }

    proptest! {
        #[test]
        fn no_turn_is_free_while_somebody_may_have_it_and_none_is_lost(
            acts in prop::collection::vec((0u8..3, 0u8..4), 1..400),
        ) {
            let bounds = TurnBounds { turns: 3, turns_each: 2, waiting: 8, waiting_each: 4 };
            let mut turns = FairTurns::new(bounds);
            let (mut held, mut waiting) = (Vec::new(), BTreeMap::new());
            for (act, who) in acts {
                match act {
                    0 => match turns.ask(who) {
                        AskedTurn::Granted => held.push(who),
                        AskedTurn::Waits(place) => { waiting.insert(place, who); }
                        AskedTurn::TooMany => {}
                    },
                    1 => {
                        let Some(place) = held.iter().position(|other| *other == who) else { continue };
                        held.remove(place);
                        if let Some(called) = turns.give_back(&who) {
                            held.push(waiting.remove(&called).unwrap());
                        }
                    }
                    _ => {
                        let Some((place, _)) = waiting.pop_first() else { continue };
                        prop_assert!(turns.give_up(place));
                    }
                }
                let holds = |who: u8| held.iter().filter(|other| **other == who).count();
                prop_assert!(held.len() <= 3 && (0..4).all(|who| holds(who) <= 2));
                let may = |who: &u8| held.len() < 3 && holds(*who) < 2;
                prop_assert!(!waiting.values().any(may), "{held:?} {waiting:?}");
            }
        }
    }
}
