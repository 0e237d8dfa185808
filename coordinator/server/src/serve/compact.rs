//! Compaction: an operator's program has packed small bundles anew, and asks that the new ones take their place.
//!
//! Always holds: no bundle that goes is used by another one when the command is applied, but by one that goes with it or that
//! others have taken the place of: this looks in the picture, and says up to which bundle; `apply` reads those that came since,
//! whoever led meanwhile. What is proposed was checked as a commit is, but for who signed it: what is archived stays, also of publishers
//! that are accepted no more. Leaves to others: whether every record is moved (`apply`), erasing what goes (`purging`).

use std::sync::Arc;

use firn_base::PublicKey;
use firn_coordinator_logic::{check_unused, plan_gathered_features, plan_gathering};
use firn_wire::{
    BUNDLES_PER_REQUEST_MAX, COMPACTED_BUNDLES_MAX, CommandOutcome, CompactRequest, CoordinatorReply,
    OperatorRole, RefusedRequest,
};

use super::commit::{check_dependencies, check_uploads, hint, own_uploads, publishers_ever, refusal};
use super::operators::admit_operator;
use crate::shared::{Shared, disk, malformed};

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
    // First, for of what is used already nothing need be read.
    let looked_to = shared
        .with_view(|view| check_unused(view, &gathered.bundles))?
        .map_err(|used| malformed(used.to_string()))?;
    let headers = uploads.iter().map(|(reservation, ..)| reservation.content_header.clone()).collect();
    check_dependencies(shared, headers, None).await?;
    let signers = publishers_ever(&governance);
    let plan = move || {
        let checked = check_uploads(uploads, &governance, &signers, true)?;
        let features = plan_gathered_features(&facts, &gathered, &checked).map_err(|error| disk(&error))?;
        let command = plan_gathering(&gathered, checked, looked_to);
        let command = command.map_err(|error| malformed(error.to_string()))?;
        Ok::<_, RefusedRequest>((command, features))
    };
    let (command, features) = shared.environment.blocking(plan).await?;
    let outcome = shared.propose_as(by, command).await?;
    match outcome {
        CommandOutcome::Rejected(reason) => Err(refusal(&reason)),
        // No key became visible that was not.
        _ => {
            hint(shared, features).await;
            Ok(CoordinatorReply::Committed { bundles: Vec::new(), visible: 0, held: Vec::new() })
        }
    }
}
