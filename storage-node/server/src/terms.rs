//! Telling the coordinators what the node's terms are, and hearing where it stands: its absence, what is left of a drain, and
//! whether it is announced that it will be suspended.
//!
//! Always holds: what is shown of these is what the coordinator that leads said last; another's word, which may be old, is taken
//! only before there was any. Coordinators of an older version refuse to hear of it, and know of a rest by the heartbeat alone;
//! those that announce no suspension refuse to be asked for one, and none is shown.
//! Leaves to others: heartbeats (`link`), what the terms are (`lent`).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use firn_base::NodeId;
use firn_transport::AskError;
use firn_wire::{NodeStanding, NodeTerms, RefusalKind, RefusedRequest};
use tokio::time::{Instant, sleep, timeout};

use crate::shared::Shared;

const TELL_EVERY: Duration = Duration::from_secs(60);
// Somebody may be looking on.
const TELL_EVERY_LEAVING: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const TELL_WITHIN: Duration = Duration::from_secs(4);

// Less than whoever asks by the control socket waits.
const DECLARE_WITHIN: Duration = Duration::from_secs(8);

/// Tells them for as long as the node runs: at once when it begins to rest or ends, else now and then.
pub(crate) async fn keep_terms_told(shared: Arc<Shared>) {
    let mut told = None;
    loop {
        let rest = shared.lent.rest();
        let every = if shared.membership().is_draining() { TELL_EVERY_LEAVING } else { TELL_EVERY };
        let is_due = told.is_none_or(|(known, at): (_, Instant)| known != rest || at.elapsed() >= every);
        if is_due && shared.membership().state().is_some() {
            tell(&shared).await;
            told = Some((rest, Instant::now()));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn tell(shared: &Shared) {
    let figures = shared.lent.figures(&shared.environment);
    let terms = NodeTerms { rest_until: figures.rest_until, month_left: figures.month_left };
    let connected: Vec<(NodeId, Option<u64>)> = {
        let links = shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter(|(_, link)| link.connected).map(|(id, link)| (*id, link.leads)).collect()
    };
    let before = *shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut answers, mut reached) = (Vec::new(), Vec::new());
    for (coordinator, leads) in connected {
        match shared.client.tell_terms(coordinator, terms, TELL_WITHIN).await {
            Ok(standing) => {
                answers.push((leads, standing));
                reached.push((coordinator, leads));
            }
            // One of an older version, too: nor does it know of suspensions.
            Err(error) => {
                tracing::debug!(coordinator = %coordinator.short(), %error, "the terms were not heard");
            }
        }
    }
    // Not before all know the terms: a rest is told at once.
    let mut announced = Vec::new();
    for (coordinator, leads) in reached {
        match shared.client.suspension(coordinator, TELL_WITHIN).await {
            Ok(notice) => announced.push((leads, notice)),
            Err(error) => {
                tracing::debug!(coordinator = %coordinator.short(), %error, "whether it suspends the node is not known");
            }
        }
    }
    {
        let mut known = shared.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notice) = valid(announced, known.is_some()) {
            *known = Some(notice);
        }
    }
    let known = *shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
    // What was declared meanwhile is newer than what was answered before.
    if known == before
        && let Some(standing) = valid(answers, known.is_some())
    {
        hear(shared, standing);
    }
}

/// Which of the answers holds, each with the term in which whoever gave it leads; none if what is known does, should
/// anything be.
fn valid<T>(answers: Vec<(Option<u64>, T)>, is_known: bool) -> Option<T> {
    let (leads, answer) = answers.into_iter().max_by_key(|(leads, _)| *leads)?;
    (leads.is_some() || !is_known).then_some(answer)
}

fn hear(shared: &Shared, standing: NodeStanding) {
    if let Some(backlog) = standing.drain {
        let mut leave = shared.leave_watch.lock().unwrap_or_else(PoisonError::into_inner);
        leave.told(backlog, shared.elapsed());
    }
    *shared.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
}

/// Why nothing was declared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeclareAbsenceError {
    /// Nobody answered: it may have been declared or not.
    #[error("the coordinators did not answer: `status` says within a minute whether it is declared{0}")]
    Silent(String),
    /// They do not know what that is.
    #[error(
        "the coordinators of this archive are of a version that knows no absence: ask their operator to upgrade them"
    )]
    Outdated,
    /// They refuse it.
    #[error(transparent)]
    Refused(RefusedRequest),
}

/// Declares that the node may be away for so long from now on; for no time ends what was declared. The coordinators have
/// committed it when this returns.
pub(crate) async fn declare_absence(
    shared: &Shared,
    duration: Duration,
) -> Result<NodeStanding, DeclareAbsenceError> {
    match timeout(DECLARE_WITHIN, shared.client.declare_absence(duration)).await {
        Err(_) => Err(DeclareAbsenceError::Silent(String::new())),
        Ok(Ok(standing)) => {
            hear(shared, standing);
            Ok(standing)
        }
        Ok(Err(AskError::Refused(refused))) if refused.kind == RefusalKind::Malformed => {
            Err(DeclareAbsenceError::Outdated)
        }
        Ok(Err(AskError::Refused(refused))) => Err(DeclareAbsenceError::Refused(refused)),
        Ok(Err(error)) => Err(DeclareAbsenceError::Silent(format!(": {error}"))),
    }
}

/// Ends an absence, if one is declared. The archive is asked in any case: what is known of it here may be old, or nothing yet.
pub(crate) async fn end_absence(shared: &Shared) -> Result<(), String> {
    let known = *shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
    let is_known = known.is_some_and(|standing| standing.absent_until.is_some());
    match declare_absence(shared, Duration::ZERO).await {
        Ok(_) | Err(DeclareAbsenceError::Outdated) => Ok(()),
        // Nobody waits for one that is not of the archive.
        Err(DeclareAbsenceError::Refused(refused))
            if refused.kind == RefusalKind::NotAllowed && !is_known =>
        {
            Ok(())
        }
        Err(error) => Err(format!(
            "the node is not paused any more, but an absence that was declared may go on: {error}; run `resume` again"
        )),
    }
}

#[cfg(test)]
mod tests {
    use firn_base::Timestamp;

    use super::*;

    #[test]
    fn the_latest_leaders_word_holds_whoever_answers_last() {
        let standing = |millis| NodeStanding {
            absent_until: Some(Timestamp::from_millis(millis)),
            ..NodeStanding::default()
        };
        let (old, new, behind) = (standing(1), standing(2), NodeStanding::default());
        let answers = || vec![(None, behind), (Some(8), new), (Some(7), old), (None, behind)];
        assert_eq!(valid(answers(), true), Some(new));
        assert_eq!(valid(answers(), false), Some(new));
        // Nobody leads: better an old word than none, and what is known rather than that.
        assert_eq!(valid(vec![(None, behind)], false), Some(behind));
        assert_eq!(valid(vec![(None, behind)], true), None);
        assert_eq!(valid(Vec::<(Option<u64>, NodeStanding)>::new(), false), None);
    }
}
