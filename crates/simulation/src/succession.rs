//! Coordinators that are replaced one after the other while any of them may lose its power or its network at any moment.
//!
//! Owns: the operator who replaces them, and the faults meanwhile. Always holds: what a writer was told is done is on every
//! coordinator that is left, replicas agree at equal positions of the log, those that were let go stop and no other does; a
//! step that does not come about in time is a violation. Leaves to others: the coordinators' machines (`council`).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use firn_base::NodeId;
use firn_client::Archive;
use firn_wire::{AdminReply, AdminRequest, MemberChange, MemberList};
use tokio::time::{Instant, sleep};

use crate::cast::{self, Cast};
use crate::chance::Chance;
use crate::council::{Council, CouncilOptions, run_apart};
use crate::machines::timing;
use crate::oracle::{Replicas, check_time};
use crate::scenario::open;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct SuccessionOutcome {
    /// Acts that were acknowledged.
    pub acknowledged: usize,
    /// The last term of the consensus.
    pub term: u64,
    /// Faults.
    pub faults: u64,
    /// Positions of the log at which states were compared.
    pub positions: usize,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

const FOUNDERS: usize = 3;
/// The first two founders are replaced by as many newcomers.
const REPLACED: usize = 2;

const OPERATOR: &str = "operator";
const ROUND_TRIP: Duration = Duration::from_millis(10);
const STEP_WITHIN: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const CALM: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs such a world on a thread of its own.
pub fn run_succession(seed: u64) -> SuccessionOutcome {
    run_apart(seed, move || Succession::new(seed).run()).unwrap_or_else(|why| SuccessionOutcome {
        acknowledged: 0,
        term: 0,
        faults: 0,
        positions: 0,
        violations: vec![why],
    })
}

/// What has become of the operator's work; none while it is not done.
type Work = Rc<RefCell<Option<Result<(), String>>>>;

struct Succession {
    council: Council,
    work: Work,
    chance: Chance,
    replicas: Replicas,
    looked_at: Duration,
    faults: u64,
    violations: Vec<String>,
}

impl Succession {
    fn new(seed: u64) -> Self {
        let options = CouncilOptions {
            seed,
            founders: FOUNDERS,
            newcomers: REPLACED,
            round_trip: ROUND_TRIP,
            timing: timing(),
        };
        let mut council = Council::new(options);
        let (work, cast) = (Work::default(), Rc::clone(&council.cast));
        let told = Rc::clone(&work);
        council.sim.client(OPERATOR, async move {
            let done = replace_all(&cast).await;
            *told.borrow_mut() = Some(done);
            Ok(())
        });
        Self {
            chance: council.cast.chance("succession"),
            council,
            work,
            replicas: Replicas::default(),
            looked_at: Duration::ZERO,
            faults: 0,
            violations: Vec::new(),
        }
    }

    fn run(mut self) -> Result<SuccessionOutcome, String> {
        self.council.until("the first acts are acknowledged", |council| council.done.borrow().len() > 5)?;
        while self.work.borrow().is_none() {
            let pause = Duration::from_millis(200 + self.chance.below(3000));
            self.run_for(pause)?;
            self.harm()?;
        }
        let done = self.work.borrow_mut().take();
        self.violations.extend(done.and_then(Result::err));
        self.run_for(CALM)?;
        let left: Vec<usize> = (REPLACED..FOUNDERS + REPLACED).collect();
        let have_all = |council: &Council| council.have_all(&left);
        if let Err(why) = self.council.until("all that are left have what was acknowledged", have_all) {
            self.violations.push(why);
        }
        self.judge_stopped(&left);
        let Council { done, .. } = &self.council;
        Ok(SuccessionOutcome {
            acknowledged: done.borrow().len(),
            term: self.council.term(),
            faults: self.faults,
            positions: self.replicas.positions(),
            violations: self.violations,
        })
    }

    /// Those that were let go have stopped, and nobody else has.
    fn judge_stopped(&mut self, left: &[usize]) {
        for (number, why) in self.council.stopped() {
            if left.contains(&number) || !why.contains("removed") {
                self.violations.push(format!("coordinator {number} stopped: {why}"));
            }
        }
    }

    fn run_for(&mut self, time: Duration) -> Result<(), String> {
        let until = self.council.sim.elapsed() + time;
        while self.council.sim.elapsed() < until {
            self.council.step()?;
            let now = self.council.sim.elapsed();
            if now >= self.looked_at + LOOK_EVERY {
                self.looked_at = now;
                let states = || self.council.stores.iter().map(|(_, state)| state);
                let mut found = self.replicas.look(states());
                found.extend(check_time(states(), self.council.cast.time(now)));
                self.violations.append(&mut found);
            }
        }
        Ok(())
    }

    /// One coordinator loses its power or its network for a while, or has the wrong time, as likely as not the leader.
    fn harm(&mut self) -> Result<(), String> {
        let stopped: BTreeSet<usize> = self.council.stopped().into_iter().map(|(number, _)| number).collect();
        let there: Vec<usize> = self
            .council
            .watches
            .borrow()
            .keys()
            .copied()
            .filter(|number| !stopped.contains(number))
            .collect();
        if there.is_empty() {
            return Ok(());
        }
        let drawn = there[self.chance.position(there.len())];
        let leader = self.council.leader().filter(|_| self.chance.per_mille(500));
        let (number, kind) = (leader.unwrap_or(drawn), self.chance.below(4));
        let host = cast::coordinator(number);
        let lasts = Duration::from_millis(200 + self.chance.below(4000));
        self.faults += 1;
        match kind {
            0 | 1 => {
                self.council.crash(number);
                self.run_for(lasts)?;
                self.council.sim.bounce(host);
            }
            2 => {
                let others: Vec<String> = (0..FOUNDERS + REPLACED)
                    .filter(|other| *other != number)
                    .map(cast::coordinator)
                    .collect();
                others.iter().for_each(|other| self.council.sim.partition(host.as_str(), other.as_str()));
                self.run_for(lasts)?;
                others.iter().for_each(|other| self.council.sim.repair(host.as_str(), other.as_str()));
            }
            _ => {
                self.council.cast.put_clock_off(&host, 86_400_000);
                self.run_for(lasts)?;
                self.council.cast.put_clock_off(&host, 0);
            }
        }
        Ok(())
    }
}

/// Replaces founders by newcomers, one after the other.
async fn replace_all(cast: &Cast) -> Result<(), String> {
    let operator = Operator { archive: open(cast, OPERATOR, "operator").await?, cast };
    let founders = cast.coordinators();
    for (round, old) in founders.into_iter().take(REPLACED).enumerate() {
        let host = cast::coordinator(FOUNDERS + round);
        let (id, address) = (cast.identity(&host).node_id(), cast::address(&host));
        let add = AdminRequest::ChangeMember(MemberChange::Add { id, address });
        operator.until("a newcomer is taken in", &add, |list| is_member(list, id)).await?;
        operator.sign().await?;
        let promote = AdminRequest::ChangeMember(MemberChange::Promote { id });
        operator.until("a newcomer has its vote", &promote, |list| has_vote(list, id)).await?;
        let remove = AdminRequest::ChangeMember(MemberChange::Remove { id: old });
        operator.until("a founder goes", &remove, |list| !is_member(list, old)).await?;
        operator.sign().await?;
    }
    Ok(())
}

fn is_member(list: &MemberList, id: NodeId) -> bool {
    list.members.iter().any(|member| member.id == id)
}

fn has_vote(list: &MemberList, id: NodeId) -> bool {
    list.members.iter().any(|member| member.id == id && member.votes)
}

struct Operator<'a> {
    archive: Archive,
    cast: &'a Cast,
}

impl Operator<'_> {
    /// Asks for `act` until the members are as they shall be: an answer that was lost says nothing.
    async fn until(
        &self,
        what: &str,
        act: &AdminRequest,
        condition: impl Fn(&MemberList) -> bool,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            if self.list().await.is_some_and(|list| condition(&list)) {
                return Ok(());
            }
            if begun.elapsed() > STEP_WITHIN {
                return Err(format!("within {STEP_WITHIN:?} it does not come about that {what}: {last}"));
            }
            if let Err(error) = self.archive.coordinators().administer(act.clone()).await {
                last = error.to_string();
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Signs the roster that names the members in force.
    async fn sign(&self) -> Result<(), String> {
        let begun = Instant::now();
        while self.list().await.is_none_or(|list| !list.gap.is_closed()) {
            if begun.elapsed() > STEP_WITHIN {
                return Err(format!("within {STEP_WITHIN:?} no roster names the members"));
            }
            let draft = self.archive.coordinators().administer(AdminRequest::DraftRoster).await;
            if let Ok(AdminReply::RosterDraft(roster)) = draft {
                let adopt = AdminRequest::AdoptRoster(self.cast.sign(&roster));
                // Whether it is in force, the list tells.
                let _ = self.archive.coordinators().administer(adopt).await;
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// The members as a leader sees them, whoever they are by now.
    async fn list(&self) -> Option<MemberList> {
        let _ = self.archive.coordinators().refresh_roster().await;
        match self.archive.coordinators().administer(AdminRequest::Members).await {
            Ok(AdminReply::Members(list)) if list.members.iter().any(|member| member.leader) => Some(list),
            _ => None,
        }
    }
}
