//! Compaction: an operator's program has packed small bundles anew, and asks that the new ones take their place.
//!
//! Always holds: no bundle that goes is used by another one when the command is proposed, but by one that goes with it; nor when
//! it is applied, as long as this coordinator leads in one term from the look to the proposal, which is checked as far as it can be:
//! between the last check and the proposal another one may have led, and then such a bundle stays until what uses it goes. What is
//! proposed was checked as a commit is, but for who signed it: what is archived stays, also of publishers
//! that are accepted no more. Leaves to others: whether every record is moved (`apply`), erasing what goes (`purging`).

use std::sync::Arc;

use firn_base::{BundleId, PublicKey};
use firn_coordinator_logic::{first_used_by_others, plan_gathered_features, plan_gathering};
use firn_wire::{
    BUNDLES_PER_REQUEST_MAX, COMPACTED_BUNDLES_MAX, Command, CommandOutcome, CompactRequest,
    CoordinatorReply, OperatorRole, RefusalKind, RefusedRequest,
};

use super::commit::{check_dependencies, check_uploads, hint, own_uploads, publishers_ever, refusal};
use super::operators::admit_operator;
use crate::shared::{Shared, malformed};

pub(super) async fn compact(
    shared: &Arc<Shared>,
    operator: PublicKey,
    request: CompactRequest,
) -> Result<CoordinatorReply, RefusedRequest> {
    let CompactRequest { bundles, gathered } = request;
    let facts = shared.facts()?;
    let governance = shared.governance(&facts)?;
    let what = || format!("compact {} bundles", gathered.bundles.len());
    let by = admit_operator(shared, operator, OperatorRole::Content, what).await?;
    if bundles.is_empty() || bundles.len() > BUNDLES_PER_REQUEST_MAX {
        return Err(malformed(format!("a compaction has 1 to {BUNDLES_PER_REQUEST_MAX} new bundles")));
    }
    if gathered.bundles.len() > COMPACTED_BUNDLES_MAX {
        return Err(malformed(format!(
            "a compaction takes the place of at most {COMPACTED_BUNDLES_MAX} bundles"
        )));
    }
    let uploads = own_uploads(shared, &facts, operator, bundles)?;
    // Who publishes waits while the look below is taken. So what is used already is refused before that, and the picture, which
    // may have to be read first, is there.
    check_unused(shared, &gathered.bundles)?;
    let headers = uploads.iter().map(|(reservation, ..)| reservation.content_header.clone()).collect();
    check_dependencies(shared, headers, None).await?;
    let signers = publishers_ever(&governance);
    let going = gathered.bundles.clone();
    let plan = move || {
        let checked = check_uploads(uploads, &governance, &signers, true)?;
        let features = plan_gathered_features(&gathered, &checked);
        let command = plan_gathering(&gathered, checked).map_err(|error| malformed(error.to_string()))?;
        Ok::<_, RefusedRequest>((command, features))
    };
    let (command, features) = shared.environment.blocking(plan).await?;
    // What somebody has come to use meanwhile would have to stay beside what takes its place, and nobody would see it. So no commit
    // is proposed between this look and the command; those that were proposed before are applied once this, which changes
    // nothing, is.
    let alone = shared.commits.write().await;
    let term = shared.consensus.term();
    shared.carry_out(Command::ExpireReservations(Vec::new()), RefusalKind::Unavailable).await?;
    check_unused(shared, &going)?;
    // Whoever led meanwhile took commits that did not wait here.
    if shared.consensus.term() != term {
        return Err(RefusedRequest::new(
            RefusalKind::Unavailable,
            "another coordinator led meanwhile: compact again",
        ));
    }
    let outcome = shared.propose_as(by, command).await?;
    drop(alone);
    match outcome {
        CommandOutcome::Rejected(reason) => Err(refusal(&reason)),
        // No key became visible that was not.
        _ => {
            hint(shared, features).await;
            Ok(CoordinatorReply::Committed { bundles: Vec::new(), visible: 0, held: Vec::new() })
        }
    }
}

/// Refuses where other bundles than these use chunks of one of them.
fn check_unused(shared: &Shared, going: &[BundleId]) -> Result<(), RefusedRequest> {
    match shared.with_view(|view| first_used_by_others(view, going))? {
        None => Ok(()),
        Some(bundle) => {
            Err(malformed(format!("another bundle uses chunks of bundle {bundle} by now: compact again")))
        }
    }
}
