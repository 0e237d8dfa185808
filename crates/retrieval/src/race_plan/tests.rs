//! Races in a world of nodes that are quick, slow, silent or gone, without any clock.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn terms(need: usize) -> RaceTerms {
    RaceTerms { wanted: ShardIndex(0), need, surplus: 3, give_up_after: Duration::from_secs(20) }
}

fn candidate(index: u8, promising: bool) -> Candidate {
    Candidate { index: ShardIndex(index), promising, expected: 10 * MILLI, patience: 20 * MILLI }
}

fn fleet(n: u8) -> Vec<Candidate> {
    (0..n).map(|index| candidate(index, true)).collect()
}

/// What a node does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Answers(Duration),
    Fails(Duration),
    Silent,
}

/// How a race ended.
#[derive(Debug)]
struct Outcome {
    step: Step,
    took: Duration,
    asked: Vec<usize>,
    around: Option<Around>,
}

/// Runs a plan against nodes, place by place.
fn run(terms: RaceTerms, candidates: Vec<Candidate>, nodes: &[Node], mut hedges: usize) -> Outcome {
    let mut plan = RacePlan::new(terms, candidates.clone());
    let (mut now, mut asked) = (Duration::ZERO, Vec::new());
    let mut under_way: BTreeMap<(Duration, usize), bool> = BTreeMap::new();
    for _ in 0..10_000 {
        let may_hedge = || {
            let may = hedges > 0;
            hedges = hedges.saturating_sub(1);
            may
        };
        match plan.next(now, may_hedge) {
            Step::Ask(place) => {
                asked.push(place);
                plan.began(place, now);
                match nodes[place] {
                    Node::Answers(after) => drop(under_way.insert((now + after, place), true)),
                    Node::Fails(after) => drop(under_way.insert((now + after, place), false)),
                    Node::Silent => {}
                }
            }
            Step::Wait(until) => {
                assert!(until > now, "a plan that waits for nothing does not end");
                match under_way.first_entry().filter(|entry| entry.key().0 <= until) {
                    Some(entry) => {
                        let ((at, place), came) = entry.remove_entry();
                        now = at;
                        plan.answered(candidates[place].index, came);
                    }
                    None => now = until,
                }
            }
            step => return Outcome { step, took: now, asked, around: plan.around() },
        }
    }
    panic!("the race does not end");
}

#[test]
fn while_the_holder_is_in_time_nobody_else_is_asked() {
    let mut nodes = [Node::Answers(MILLI); 12];
    nodes[0] = Node::Answers(19 * MILLI);
    let outcome = run(terms(4), fleet(12), &nodes, 1);
    assert_eq!((outcome.step, outcome.asked, outcome.around), (Step::Enough, vec![0], None));
}

#[test]
fn a_silent_a_failing_and_an_absent_holder_cost_one_round_trip_at_most() {
    let around = 5 * MILLI;
    for (holder, promising, begin, why) in [
        (Node::Silent, true, 20 * MILLI, Around::Late),
        (Node::Fails(4 * MILLI), true, 4 * MILLI, Around::Away),
        (Node::Silent, false, Duration::ZERO, Around::Away),
    ] {
        let mut nodes = [Node::Answers(around); 12];
        nodes[0] = holder;
        let mut candidates = fleet(12);
        candidates[0].promising = promising;
        let outcome = run(terms(4), candidates, &nodes, 1);
        assert_eq!((outcome.step, outcome.took, outcome.around), (Step::Enough, begin + around, Some(why)));
        assert_eq!(outcome.asked.len(), 7 + usize::from(promising), "k and three more");
    }
}

#[test]
fn others_that_are_late_are_replaced() {
    let mut nodes = [Node::Answers(5 * MILLI); 12];
    nodes[..8].fill(Node::Silent);
    // Of the seven that are asked first all are silent, and of the next seven four answer.
    let outcome = run(terms(4), fleet(12), &nodes, 1);
    assert_eq!((outcome.step, outcome.took), (Step::Enough, 45 * MILLI));
    assert_eq!(outcome.asked.len(), 12);
}

#[test]
fn what_waits_for_its_turn_is_not_late_and_not_replaced() {
    let mut candidates = fleet(12);
    candidates[0].promising = false;
    let terms = terms(4);
    let mut plan = RacePlan::new(terms, candidates);
    let asked: Vec<Step> = (0..7).map(|_| plan.next(Duration::ZERO, || true)).collect();
    assert_eq!(asked, (1..=7).map(Step::Ask).collect::<Vec<_>>());
    plan.began(1, Duration::ZERO);
    assert_eq!(plan.next(Duration::ZERO, || true), Step::Wait(20 * MILLI));
    plan.answered(ShardIndex(1), true);
    // The others stand in a queue of ours, as anybody who is asked instead would.
    let later = 500 * MILLI;
    assert_eq!(plan.next(later, || true), Step::Wait(terms.give_up_after));
    assert!((2..=7).all(|place| !plan.is_late(place, later)));
    plan.began(2, later);
    assert_eq!(plan.next(later, || true), Step::Wait(later + 20 * MILLI));
    assert!(plan.is_late(2, later + 20 * MILLI) && !plan.is_late(3, later + 20 * MILLI));
    assert_eq!(plan.next(later + 20 * MILLI, || true), Step::Ask(8), "what the node does not do is late");
}

#[test]
fn without_hedges_left_a_late_holder_gets_more_time_once_and_one_that_failed_is_read_around() {
    let mut nodes = [Node::Answers(5 * MILLI); 12];
    nodes[0] = Node::Answers(90 * MILLI);
    let outcome = run(terms(4), fleet(12), &nodes, 0);
    assert_eq!((outcome.took, outcome.asked), (90 * MILLI, vec![0]));
    nodes[0] = Node::Silent;
    assert_eq!(run(terms(4), fleet(12), &nodes, 0).took, 105 * MILLI, "it is read around nevertheless");
    nodes[0] = Node::Fails(MILLI);
    assert_eq!(run(terms(4), fleet(12), &nodes, 0).took, 6 * MILLI);
}

#[test]
fn nodes_that_promise_little_are_asked_when_they_are_needed_and_only_then() {
    let nodes = [Node::Answers(5 * MILLI); 12];
    let promising = |count: u8| (0..12).map(|index| candidate(index, (1..=count).contains(&index))).collect();
    let outcome = run(terms(4), promising(5), &nodes, 0);
    assert_eq!(outcome.asked, [1, 2, 3, 4, 5]);
    let outcome = run(terms(4), promising(2), &nodes, 0);
    assert_eq!(outcome.step, Step::Enough);
    assert_eq!(outcome.asked, [1, 2, 0, 3, 4], "two, and the holder, who alone would do");
}

/// Chance that is the same for the same seed.
fn chance(seed: u64, number: u64) -> u64 {
    let hash = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
    let (first, _) = hash.as_bytes().split_at(8);
    first.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// How long 10,000 reads take at the 99th percentile where one node in ten says nothing, and where none does. What was
/// learnt of a node in one read counts for those that come after it.
fn p99_of_reads(seed: u64, stalled: bool) -> Duration {
    let nodes_in_all = 40u64;
    let silent = |node: u64| stalled && chance(seed, node).is_multiple_of(10);
    let mut known_silent = BTreeSet::new();
    let mut took: Vec<Duration> = (0..10_000u64)
        .map(|read| {
            // A bundle's twelve shards lie on nodes in a row, from one by chance.
            let first = chance(seed, 1_000 + read) % nodes_in_all;
            let node = |place: usize| (first + place as u64) % nodes_in_all;
            let nodes: Vec<Node> = (0..12)
                .map(|place| {
                    let usual = 5 + chance(seed, read * 100 + place as u64 + 100_000) % 6;
                    let usual = Duration::from_millis(usual);
                    if silent(node(place)) { Node::Silent } else { Node::Answers(usual) }
                })
                .collect();
            let candidates: Vec<Candidate> = (0..12u8)
                .map(|index| candidate(index, !known_silent.contains(&node(usize::from(index)))))
                .collect();
            let outcome = run(terms(4), candidates, &nodes, 1);
            assert_eq!(outcome.step, Step::Enough);
            if outcome.around == Some(Around::Late) {
                known_silent.insert(node(0));
            }
            outcome.took
        })
        .collect();
    took.sort_unstable();
    took[9_900]
}

#[test]
fn with_a_tenth_of_the_nodes_silent_the_99th_percentile_stays_within_twice_the_healthy_one() {
    for seed in 0..8 {
        let (healthy, stalled) = (p99_of_reads(seed, false), p99_of_reads(seed, true));
        assert!(stalled <= healthy * 2, "seed {seed}: {stalled:?} instead of {healthy:?}");
    }
}

fn any_node() -> impl Strategy<Value = Node> {
    prop_oneof![
        (0..200u32).prop_map(|after| Node::Answers(MILLI * after)),
        (0..200u32).prop_map(|after| Node::Fails(MILLI * after)),
        Just(Node::Silent),
    ]
}

proptest! {
    #[test]
    fn whatever_nodes_do_a_range_that_can_be_had_is_had_and_none_is_asked_twice(
        need in 1usize..=8,
        world in prop::collection::vec((any_node(), any::<bool>()), 1..24),
        hedges in 0usize..2,
    ) {
        let (nodes, promising): (Vec<_>, Vec<_>) = world.into_iter().unzip();
        let candidates: Vec<_> = (0..).zip(promising).map(|(index, promising)| candidate(index, promising)).collect();
        let outcome = run(terms(need), candidates, &nodes, hedges);
        let answers = |place: &usize| matches!(nodes[*place], Node::Answers(_));
        let others = (1..nodes.len()).filter(answers).count();
        let unique: BTreeSet<_> = outcome.asked.iter().collect();
        prop_assert_eq!(unique.len(), outcome.asked.len());
        match outcome.step {
            Step::Enough => prop_assert!(answers(&0) || others >= need),
            _ => prop_assert!(!answers(&0) && others < need, "{:?}", outcome),
        }
    }
}
