//! Telling the coordinators what the node's terms are, and hearing where it stands: its absence, and what is left of a drain.
//!
//! Always holds: what is shown of either is what a coordinator said last. Coordinators of an older version refuse to hear of it, and
//! know of a rest by the heartbeat alone.
//! Leaves to others: heartbeats (`link`), what the terms are (`lent`).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use firn_base::NodeId;
use firn_transport::AskError;
use firn_wire::{NodeStanding, NodeTerms, RefusalKind};
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
    let connected: Vec<NodeId> = {
        let links = shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter(|(_, link)| link.connected).map(|(id, _)| *id).collect()
    };
    for coordinator in connected {
        match shared.client.tell_terms(coordinator, terms, TELL_WITHIN).await {
            Ok(standing) => hear(shared, standing),
            // One of an older version, too.
            Err(error) => {
                tracing::debug!(coordinator = %coordinator.short(), %error, "the terms were not heard");
            }
        }
    }
}

fn hear(shared: &Shared, standing: NodeStanding) {
    if let Some(backlog) = standing.drain {
        let mut leave = shared.leave_watch.lock().unwrap_or_else(PoisonError::into_inner);
        leave.told(backlog, shared.elapsed());
    }
    *shared.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
}

/// Declares that the node may be away for so long from now on; for no time ends what was declared. The coordinators have
/// committed it when this returns.
pub(crate) async fn declare_absence(shared: &Shared, duration: Duration) -> Result<NodeStanding, String> {
    let silent =
        || "the coordinators did not answer: `status` says within a minute whether it is declared".to_owned();
    match timeout(DECLARE_WITHIN, shared.client.declare_absence(duration)).await {
        Err(_) => Err(silent()),
        Ok(Ok(standing)) => {
            hear(shared, standing);
            Ok(standing)
        }
        Ok(Err(AskError::Refused(refused))) if refused.kind == RefusalKind::Malformed => {
            Err("the coordinators of this archive are of a version that knows no absence: ask their operator to upgrade them".to_owned())
        }
        Ok(Err(AskError::Refused(refused))) => Err(refused.sentence),
        Ok(Err(error)) => Err(format!("{}: {error}", silent())),
    }
}
