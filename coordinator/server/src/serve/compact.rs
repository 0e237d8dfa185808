//! Compaction: an operator's program has packed small bundles anew, and asks that the new ones take their place.
//!
//! Always holds: no bundle that goes is used by another one when the command is applied, but by one that goes with it, as long as
//! the same coordinator leads; what is
//! proposed was checked as a commit is, but for who signed it: what is archived stays, also of publishers
//! that are accepted no more. Leaves to others: whether every record is moved (`apply`), erasing what goes (`purging`).

use std::sync::Arc;

use firn_base::PublicKey;
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
    shared.carry_out(Command::ExpireReservations(Vec::new()), RefusalKind::Unavailable).await?;
    if let Some(bundle) = shared.with_view(|view| first_used_by_others(view, &going))? {
        return Err(malformed(format!(
            "another bundle uses chunks of bundle {bundle} by now: compact again"
        )));
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
