//! Which coordinators there shall be: whether a change of them is safe, and the roster that names them.
//!
//! Always holds: after a change a majority of the voters is online and has the log, so that losing one more costs
//! no write; nobody votes, and so nobody leads, whom the roster in force does not name; an identity that was a
//! coordinator once is never one again, because what it voted for may be forgotten, but for one that comes back by itself
//! ([`plan_readmission`]). Leaves to others: carrying it out, one change at a time (`coordinator/server`).

use std::collections::BTreeSet;

use firn_base::{NodeId, Timestamp};
use firn_wire::{ADDRESS_BYTES_MAX, CoordinatorEntry, MemberChange, Roster, RosterGap};

/// One member of the consensus, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberFacts {
    /// Its number.
    pub number: u64,
    /// Its identity.
    pub id: NodeId,
    /// Host and UDP port.
    pub address: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// Whether it answered the leader a moment ago; the leader itself is.
    pub online: bool,
    /// Entries of the leader's log that it lacks; none where the leader does not know.
    pub lag: Option<u64>,
    /// Whether its state was found to be another than the leader's at the same entry of the log.
    pub differs: bool,
}

/// What is to be done to the consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberPlan {
    /// Take in a learner.
    AddLearner {
        /// The number it gets.
        number: u64,
        /// Its identity.
        id: NodeId,
        /// Host and UDP port.
        address: String,
    },
    /// Take out a learner.
    RemoveLearner {
        /// Its number.
        number: u64,
    },
    /// Let exactly these vote; voters that are not among them take part no more.
    ChangeVoters {
        /// Their numbers.
        voters: BTreeSet<u64>,
    },
}

/// Why a change is not made, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberRefusal {
    /// Not the form of an address.
    #[error("`{0}` is no address: write HOST:PORT")]
    Address(String),
    /// It takes part already.
    #[error("{} takes part already", .0.short())]
    AlreadyMember(NodeId),
    /// It was a coordinator before.
    #[error(
        "{} was a coordinator of this archive before: what it has voted for may be forgotten, so it starts as a new \
         one, with an empty --data-dir and the ID that it prints then", .0.short()
    )]
    UsedBefore(NodeId),
    /// No more are taken in.
    #[error("an archive has at most {MEMBERS_MAX} coordinators: remove one first")]
    TooMany,
    /// No such member.
    #[error("no coordinator {} takes part: see `firn-coordinator member list`", .0.short())]
    Unknown(NodeId),
    /// It has a vote already.
    #[error("{} has a vote already", .0.short())]
    Votes(NodeId),
    /// It has no vote that another could take.
    #[error("{} has no vote: nothing of it is to be replaced, remove it", .0.short())]
    VotesNot(NodeId),
    /// It is not heard.
    #[error("{} does not answer: start it, or see why the others do not reach it", .0.short())]
    Offline(NodeId),
    /// It lacks too much of the log.
    #[error("{} has not caught up ({}): wait, `firn-coordinator member list` shows how far it is", id.short(), behind(*lag))]
    Behind {
        /// Which.
        id: NodeId,
        /// Entries that it lacks, if known.
        lag: Option<u64>,
    },
    /// Its state is not what the log makes of it, here.
    #[error(
        "the state of {} is not that of the leader at the same entry of the log: one of them errs, and it gets no vote; see \
         `firn-coordinator digest` on each, and rebuild the one that differs from the others with `firn-coordinator resync`",
        .0.short()
    )]
    Differs(NodeId),
    /// The roster does not name it.
    #[error(
        "the roster in force does not name {}, so nodes would refuse its orders: sign the next one first, with \
         `firn-coordinator roster sign`", .0.short()
    )]
    NotInRoster(NodeId),
    /// It is the last one.
    #[error("{} is the only coordinator with a vote: without it the archive has none", .0.short())]
    LastVoter(NodeId),
    /// Writes would stop.
    #[error(
        "of the {voters} coordinators that would vote, {ready} are online and have caught up, and {needed} are needed \
         to go on writing{}: bring them back, or remove those first that are gone for good",
        not_ready(missing)
    )]
    NoQuorum {
        /// How many would vote.
        voters: usize,
        /// How many of them are online and have caught up.
        ready: usize,
        /// A majority of them.
        needed: usize,
        /// The others.
        missing: Vec<NodeId>,
    },
}

/// Why a signed roster is not taken into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterRefusal {
    /// Another is as new or newer.
    #[error(
        "roster generation {in_force} is in force here, and generation {given} is not newer: draft it anew"
    )]
    NotNewer {
        /// The generation in force.
        in_force: u64,
        /// The generation given.
        given: u64,
    },
    /// It forgets a voter, or calls it by another number.
    #[error("the roster does not name {}, which has a vote: draft it anew", .0.short())]
    LacksVoter(NodeId),
    /// It names somebody who takes no part.
    #[error("the roster names {}, which takes no part any more: draft it anew", .0.short())]
    NamesStranger(NodeId),
    /// It forgets who was a coordinator.
    #[error("the roster neither names nor retires {}, which was a coordinator: draft it anew", .0.short())]
    Forgets(NodeId),
    /// It contradicts itself.
    #[error("the roster names {} twice, or names and retires it", .0.short())]
    Contradicts(NodeId),
}

/// Members at most: each one more makes every write wait for more disks.
pub const MEMBERS_MAX: usize = 9;

/// A member that lacks no more entries than this has caught up: a second or two of writes on their way.
pub const CAUGHT_UP_ENTRIES: u64 = 1_000;

fn behind(lag: Option<u64>) -> String {
    lag.map_or_else(
        || "its lag is not known yet".to_owned(),
        |lag| format!("it lacks {lag} entries of the log"),
    )
}

fn not_ready(missing: &[NodeId]) -> String {
    let names: Vec<_> = missing.iter().map(NodeId::short).collect();
    if names.is_empty() { String::new() } else { format!(" (not {})", names.join(", ")) }
}

/// What `change` asks to be done to `members` under `roster`, or why it is not safe.
pub fn plan_member_change(
    members: &[MemberFacts],
    roster: &Roster,
    change: &MemberChange,
) -> Result<MemberPlan, MemberRefusal> {
    match change {
        MemberChange::Add { id, address } => plan_add(members, roster, *id, address),
        MemberChange::Promote { id } => {
            let member = find(members, *id)?;
            check_promotable(member, roster)?;
            change_voters(members, voters(members).chain([member.number]).collect())
        }
        MemberChange::Remove { id } => {
            let member = find(members, *id)?;
            if !member.votes {
                return Ok(MemberPlan::RemoveLearner { number: member.number });
            }
            remove_voter(members, member)
        }
        MemberChange::Replace { old, new, address } => {
            let leaving = find(members, *old)?;
            if !leaving.votes {
                return Err(MemberRefusal::VotesNot(*old));
            }
            let Ok(coming) = find(members, *new) else { return plan_add(members, roster, *new, address) };
            check_promotable(coming, roster)?;
            let stay = voters(members).filter(|number| *number != leaving.number);
            change_voters(members, stay.chain([coming.number]).collect())
        }
        MemberChange::Readmit { id } => plan_readmission(members, roster, *id),
    }
}

/// The next step in taking back a coordinator that has lost its log or its state, and says nothing until it is taken in.
///
/// It may have voted in elections that are not over, and acknowledged entries that it does not have any more; so neither
/// its old votes nor its old entries may count together with what it says from now on. First it is taken out. That is
/// committed by a majority of the voters of before, of whom it is not one, since it is silent: whoever can still be elected
/// knows that it has no vote, and its entries are on a majority without it. Only then it is taken in, as anybody who is new.
pub fn plan_readmission(
    members: &[MemberFacts],
    roster: &Roster,
    id: NodeId,
) -> Result<MemberPlan, MemberRefusal> {
    let Some(named) = roster.coordinators.iter().find(|entry| entry.id == id) else {
        return Err(MemberRefusal::UsedBefore(id));
    };
    match find(members, id) {
        Ok(member) if member.votes => remove_voter(members, member),
        Ok(learner) => Ok(MemberPlan::RemoveLearner { number: learner.number }),
        Err(_) => Ok(MemberPlan::AddLearner { number: named.raft_id, id, address: named.address.clone() }),
    }
}

fn remove_voter(members: &[MemberFacts], member: &MemberFacts) -> Result<MemberPlan, MemberRefusal> {
    let rest: BTreeSet<_> = voters(members).filter(|number| *number != member.number).collect();
    if rest.is_empty() {
        return Err(MemberRefusal::LastVoter(member.id));
    }
    change_voters(members, rest)
}

fn find(members: &[MemberFacts], id: NodeId) -> Result<&MemberFacts, MemberRefusal> {
    members.iter().find(|member| member.id == id).ok_or(MemberRefusal::Unknown(id))
}

fn voters(members: &[MemberFacts]) -> impl Iterator<Item = u64> + '_ {
    members.iter().filter(|member| member.votes).map(|member| member.number)
}

fn has_caught_up(member: &MemberFacts) -> bool {
    member.lag.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES)
}

fn plan_add(
    members: &[MemberFacts],
    roster: &Roster,
    id: NodeId,
    address: &str,
) -> Result<MemberPlan, MemberRefusal> {
    let parts =
        address.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if parts.is_none() || address.len() > ADDRESS_BYTES_MAX || address.chars().any(char::is_control) {
        return Err(MemberRefusal::Address(address.chars().take(120).collect()));
    }
    if find(members, id).is_ok() {
        return Err(MemberRefusal::AlreadyMember(id));
    }
    // A member that was removed stays in the roster until the next one retires it.
    let mut named = roster.coordinators.iter().map(|entry| entry.id);
    if roster.retired.contains(&id) || named.any(|other| other == id) {
        return Err(MemberRefusal::UsedBefore(id));
    }
    if members.len() >= MEMBERS_MAX {
        return Err(MemberRefusal::TooMany);
    }
    Ok(MemberPlan::AddLearner { number: member_number(id), id, address: address.to_owned() })
}

fn check_promotable(member: &MemberFacts, roster: &Roster) -> Result<(), MemberRefusal> {
    if member.votes {
        return Err(MemberRefusal::Votes(member.id));
    }
    if !member.online {
        return Err(MemberRefusal::Offline(member.id));
    }
    if !has_caught_up(member) {
        return Err(MemberRefusal::Behind { id: member.id, lag: member.lag });
    }
    if member.differs {
        return Err(MemberRefusal::Differs(member.id));
    }
    // A leader must be believed, and whoever votes may lead.
    let mut named = roster.coordinators.iter().map(|entry| entry.id);
    if named.any(|id| id == member.id) { Ok(()) } else { Err(MemberRefusal::NotInRoster(member.id)) }
}

fn change_voters(members: &[MemberFacts], voters: BTreeSet<u64>) -> Result<MemberPlan, MemberRefusal> {
    let voting = members.iter().filter(|member| voters.contains(&member.number));
    let (ready, missing): (Vec<_>, Vec<_>) =
        voting.partition(|member| member.online && has_caught_up(member));
    let needed = voters.len() / 2 + 1;
    if ready.len() < needed {
        let missing = missing.iter().map(|member| member.id).collect();
        return Err(MemberRefusal::NoQuorum { voters: voters.len(), ready: ready.len(), needed, missing });
    }
    Ok(MemberPlan::ChangeVoters { voters })
}

/// The number of a coordinator that was not there at the founding: made of its identity, so that it is nobody
/// else's as long as identities are not used twice.
pub fn member_number(id: NodeId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..8]);
    // Founders are counted from 1.
    u64::from_le_bytes(first) | 1 << 63
}

/// What `roster` lacks of `members`, each of which is an identity.
pub fn roster_gap(roster: &Roster, members: &[NodeId]) -> RosterGap {
    let named: BTreeSet<_> = roster.coordinators.iter().map(|entry| entry.id).collect();
    let members: BTreeSet<_> = members.iter().copied().collect();
    RosterGap {
        generation: roster.generation,
        lacks: members.difference(&named).copied().collect(),
        still_names: named.difference(&members).copied().collect(),
    }
}

/// The roster that names `members` and follows on `roster`. Where it named a member before, its address stays.
pub fn next_roster(roster: &Roster, members: &[CoordinatorEntry], now: Timestamp) -> Roster {
    let named = |id| roster.coordinators.iter().find(move |entry| entry.id == id);
    let entry = |member: &CoordinatorEntry| named(member.id).unwrap_or(member).clone();
    let mut coordinators: Vec<_> = members.iter().map(entry).collect();
    coordinators.sort_by_key(|entry| entry.raft_id);
    let is_member = |id| members.iter().any(|member| member.id == id);
    let gone = roster.coordinators.iter().map(|entry| entry.id).filter(|id| !is_member(*id));
    let retired = roster.retired.iter().copied().chain(gone).collect();
    let generation = roster.generation.saturating_add(1);
    Roster { archive: roster.archive, generation, issued: now, coordinators, retired }
}

/// Checks that `next` may follow on `roster` while `members` take part; whoever signed it was checked.
pub fn check_next_roster(
    roster: &Roster,
    members: &[MemberFacts],
    next: &Roster,
) -> Result<(), RosterRefusal> {
    if next.generation <= roster.generation {
        return Err(RosterRefusal::NotNewer { in_force: roster.generation, given: next.generation });
    }
    let mut known = BTreeSet::new();
    let named = next.coordinators.iter().map(|entry| entry.id);
    if let Some(twice) = named.chain(next.retired.iter().copied()).find(|id| !known.insert(*id)) {
        return Err(RosterRefusal::Contradicts(twice));
    }
    let before = roster.coordinators.iter().map(|entry| entry.id).chain(roster.retired.iter().copied());
    if let Some(forgotten) = before.into_iter().find(|id| !known.contains(id)) {
        return Err(RosterRefusal::Forgets(forgotten));
    }
    let entry = |member: &MemberFacts| {
        next.coordinators.iter().any(|entry| entry.id == member.id && entry.raft_id == member.number)
    };
    if let Some(lacking) = members.iter().find(|member| member.votes && !entry(member)) {
        return Err(RosterRefusal::LacksVoter(lacking.id));
    }
    let is_member = |id| members.iter().any(|member| member.id == id);
    match next.coordinators.iter().find(|entry| !is_member(entry.id)) {
        Some(stranger) => Err(RosterRefusal::NamesStranger(stranger.id)),
        None => Ok(()),
    }
}
